"""Layers of the networks: a lean ReLU6, convolutions of stride 2, and the walk over all layers by what they do.

The walk is what name tables and transfers go through.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ssdlite.models.variants import Dialect


class LeanReLU6(nn.ReLU6):
    """min(max(x, 0), 6) of any shape and type, whose backward needs the result alone.

    PyTorch's in-place one computes into a new tensor and copies that back; its other one keeps its input as well,
    which nothing else needs. Training 16 images of 300x300 on a CPU, this saves an eighth of the network's time.
    """

    def forward(self, features: Tensor) -> Tensor:
        return _ReLU6.apply(features) if self.training else F.relu6(features)


class _ReLU6(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        result = features.clamp(0, 6)
        ctx.save_for_backward(result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (result,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradient, result, 0, 6)


def replace_relu6(module: nn.Module) -> None:
    """Make every ReLU6 inside `module` a LeanReLU6."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.ReLU6:
                setattr(parent, name, LeanReLU6())


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
        """Take over the weights of `conv`."""
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


NUM_BLOCKS = 17  # inverted residuals of MobileNetV2


LAST_CONVOLUTION = 18  # position in torchvision's `features`


Role: TypeAlias = Literal["expand", "depthwise", "project"]


ROLES: tuple[Role, ...] = ("expand", "depthwise", "project")


Part: TypeAlias = Literal["stem", "block", "last", "extra", "classification", "regression"]


Kind: TypeAlias = Literal["top_left", "bottom_right"]


CornerPart: TypeAlias = Literal["neck", "top_left", "bottom_right", "heatmap"]


@dataclass(frozen=True)
class AnyLayer:
    """A convolution with the norm after it, by what it does and by its names in a network.

    Part, index and role together name it among all layers of a network.
    """

    part: Part | CornerPart
    index: int  # block 1..17, extra level 0..3, head level 0..5, map of the neck or place in a branch; else 0
    role: Role  # within its part; the stem, the last and a lateral count as `expand`
    conv: str
    norm: str | None  # the heads' last convolution has none
    has_bias: bool


@dataclass(frozen=True)
class Layer(AnyLayer):
    """Layer of a Detector or of a backbone."""

    part: Part


def backbone_layers() -> list[Layer]:
    """Return the layers of a MobileNetV2."""
    found = [Layer("stem", 0, "expand", "backbone.features.0.0", "backbone.features.0.1", False)]
    for block in range(1, NUM_BLOCKS + 1):
        prefix = f"backbone.features.{block}.conv"
        for position, role in enumerate(ROLES[1:] if block == 1 else ROLES):
            if role == "project":  # torchvision's linear convolution is not wrapped
                conv, norm = f"{prefix}.{position}", f"{prefix}.{position + 1}"
            else:
                conv, norm = f"{prefix}.{position}.0", f"{prefix}.{position}.1"
            found.append(Layer("block", block, role, conv, norm, False))
    last = f"backbone.features.{LAST_CONVOLUTION}"
    found.append(Layer("last", 0, "expand", f"{last}.0", f"{last}.1", False))
    return found


def layers(dialect: Dialect, backbone: Sequence[Layer] | None = None) -> list[Layer]:
    """Return all layers of a Detector of `dialect`, from the input to the heads; `backbone` are the first of them,
    by default MobileNetV2's."""
    found = backbone_layers() if backbone is None else list(backbone)
    for level in range(len(dialect.extra_channels)):
        for position, role in enumerate(ROLES):
            prefix = f"extras.{level}.{position}"
            found.append(Layer("extra", level, role, f"{prefix}.0", f"{prefix}.1", False))
    last_level = len(dialect.prior_levels) - 1
    for part in ("classification", "regression"):
        for level in range(last_level + 1):
            prefix = f"head.{part}.{level}"
            if level == last_level and dialect.last_head_pointwise:
                found.append(Layer(part, level, "project", f"{prefix}.0", None, True))
                continue
            bias = dialect.head_depthwise_bias
            found.append(Layer(part, level, "depthwise", f"{prefix}.0", f"{prefix}.1", bias))
            found.append(Layer(part, level, "project", f"{prefix}.3", None, True))
    return found


def corner_layers(num_maps: int, backbone: Sequence[Layer]) -> list[AnyLayer]:
    """Return all layers of a CornerDetector with a backbone of these layers, whose neck joins `num_maps` maps."""
    found: list[AnyLayer] = [*backbone]
    for level in range(num_maps):
        found.append(_normed("neck", level, "expand", f"neck.lateral.{level}"))
    for level in range(num_maps - 1):
        found += _separable("neck", level, f"neck.blend.{level}")
    kinds: tuple[Kind, ...] = get_args(Kind)
    for kind, part in enumerate(kinds):
        found += _separable(part, 0, f"{part}.spread")
        found.append(_normed(part, 1, "project", f"{part}.pooled"))
        found.append(_normed(part, 2, "project", f"{part}.bypass"))
        found += _separable(part, 3, f"{part}.refine")
        found.append(AnyLayer(part, 4, "project", f"{part}.embedding", None, True))
        found.append(AnyLayer(part, 5, "project", f"{part}.offset", None, True))
        found.append(AnyLayer("heatmap", kind, "project", f"{part}.heatmap", None, True))
    return found


def _normed(part: CornerPart, index: int, role: Role, prefix: str) -> AnyLayer:
    return AnyLayer(part, index, role, f"{prefix}.0", f"{prefix}.1", False)


def _separable(part: CornerPart, index: int, prefix: str) -> list[AnyLayer]:
    return [
        _normed(part, index, "depthwise", f"{prefix}.0"),
        _normed(part, index, "project", f"{prefix}.1"),
    ]
