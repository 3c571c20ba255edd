"""Depthwise convolutions of stride 2, kept out of bfloat16 on CPUs."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class StridedDepthwise(nn.Conv2d):
    """A depthwise 3×3 of stride 2 that computes in float32 when autocast would use bfloat16 on a CPU.

    There PyTorch 2.15's backward in bfloat16 is three to nine times slower than in float32 (48 columns of 80×80,
    batch 32: 47 ms against 15), and on a 1×1 map its weight gradient is uninitialised memory, NaN sooner or later.
    """

    def forward(self, features: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, channels, ⌈h/2⌉, ⌈w/2⌉), in the type of `features`."""
        if features.device.type != "cpu" or features.dtype is not torch.bfloat16:
            return super().forward(features)
        with torch.autocast("cpu", enabled=False):
            return super().forward(features.float()).to(torch.bfloat16)


def guard_strided(module: nn.Module) -> None:
    """Replace every depthwise convolution of stride 2 inside `module`; parameters and their names stay."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Conv2d and child.groups > 1 and child.stride == (2, 2):
                setattr(parent, name, _guarded(child))


def _guarded(conv: nn.Conv2d) -> StridedDepthwise:
    guarded = StridedDepthwise(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        stride=2,
        padding=conv.padding,  # type: ignore[arg-type]
        groups=conv.groups,
        bias=conv.bias is not None,
    )
    guarded.load_state_dict(conv.state_dict())
    return guarded
