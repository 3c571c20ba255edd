"""Convolutions of stride 2: TensorFlow's padding, and a way around bfloat16 on CPUs."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Padding = Literal["symmetric", "same"]


class StridedConv2d(nn.Conv2d):
    """A 3×3 of stride 2: (B, in, h, w) -> (B, out, ⌈h/2⌉, ⌈w/2⌉), in the type of its input.

    `same` pads as TensorFlow does: an even side gets its zero at the end only, so that the taps sit one pixel
    further than with PyTorch's symmetric padding; an odd side gets one at either end.

    A depthwise one has its gradients in float32 where autocast would use bfloat16 on a CPU. There PyTorch 2.15's
    backward in bfloat16 is four to nine times slower (96 columns of 150×150, batch 16: 199 ms against 25), and on
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
        narrow = features.device.type == "cpu" and features.dtype is torch.bfloat16
        if self.groups == 1 or not narrow or not torch.is_grad_enabled():
            return super().forward(features)
        return _NarrowDepthwise.apply(features, self.weight, self.bias, self.padding[0])


class _NarrowDepthwise(torch.autograd.Function):
    """A depthwise convolution of stride 2 in bfloat16 with its gradients in float32."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.padding, ctx.bias_sizes = padding, None if bias is None else list(bias.shape)
        bias = None if bias is None else bias.to(features.dtype)
        return F.conv2d(features, weight.to(features.dtype), bias, 2, padding, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        features, weight = ctx.saved_tensors
        of_features, of_weight, of_bias = torch.ops.aten.convolution_backward(
            gradient.float(),
            features.float(),
            weight,
            ctx.bias_sizes,
            [2, 2],
            [ctx.padding, ctx.padding],
            [1, 1],
            False,
            [0, 0],
            len(weight),
            list(ctx.needs_input_grad[:3]),
        )
        return None if of_features is None else of_features.to(features.dtype), of_weight, of_bias, None


def replace_strided(module: nn.Module, padding: Padding) -> None:
    """Make every convolution of stride 2 inside `module` a StridedConv2d; parameters and their names stay."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Conv2d and child.stride == (2, 2):
                setattr(parent, name, StridedConv2d(child, padding))
