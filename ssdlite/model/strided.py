"""Convolutions of stride 2: TensorFlow's padding, and a way around bfloat16 on CPUs."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Padding = Literal["symmetric", "same"]


class StridedConv2d(nn.Conv2d):
    """A 3×3 of stride 2: (B, in, h, w) -> (B, out, ⌈h/2⌉, ⌈w/2⌉), in the type of its input.

    `same` pads as TensorFlow does: an even side gets its zero at the end only, so that the taps sit one pixel
    further than with PyTorch's symmetric padding; an odd side gets one at either end.

    A depthwise one computes in float32 when autocast would use bfloat16 on a CPU. There PyTorch 2.15's backward in
    bfloat16 is three to nine times slower than in float32 (48 columns of 80×80, batch 32: 47 ms against 15), and on
    a 1×1 map its weight gradient is uninitialised memory, NaN sooner or later.
    """

    def __init__(self, conv: nn.Conv2d, padding: Padding) -> None:
        """As `conv`, whose weights it takes over."""
        assert conv.kernel_size == (3, 3) and conv.stride == (2, 2) and conv.padding == (1, 1)
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            3,
            stride=2,
            padding=1 if padding == "symmetric" else 0,
            groups=conv.groups,
            bias=conv.bias is not None,
        )
        self.same = padding == "same"
        self.load_state_dict(conv.state_dict())

    def forward(self, features: Tensor) -> Tensor:
        if self.same:
            height, width = features.shape[-2:]
            features = F.pad(features, (width % 2, 1, height % 2, 1))
        if self.groups == 1 or features.device.type != "cpu" or features.dtype is not torch.bfloat16:
            return super().forward(features)
        with torch.autocast("cpu", enabled=False):
            return super().forward(features.float()).to(torch.bfloat16)


def replace_strided(module: nn.Module, padding: Padding) -> None:
    """Make every convolution of stride 2 inside `module` a StridedConv2d; parameters and their names stay."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Conv2d and child.stride == (2, 2):
                setattr(parent, name, StridedConv2d(child, padding))
