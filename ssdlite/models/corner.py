"""The corner network: pixels in, maps of top-left and bottom-right corners out (Law & Deng 2018), kept light.

Corner pooling carries to a corner what lies inside its object (sec. 3.3 of the paper).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import ClassVar, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from ssdlite.models.backbones import MOBILENET_V2
from ssdlite.models.layers import replace_relu6, replace_strided
from ssdlite.models.network import Network, scaled
from ssdlite.models.variants import Dialect
from ssdlite.structures import CornerOutput, ScoreActivation


def top_pool(features: Tensor) -> Tensor:
    """(B, channels, h, w): in each cell the maximum of the cell and all below it."""
    return _pool(features, -2, forwards=True)


def bottom_pool(features: Tensor) -> Tensor:
    """(B, channels, h, w): in each cell the maximum of the cell and all above it."""
    return _pool(features, -2, forwards=False)


def left_pool(features: Tensor) -> Tensor:
    """(B, channels, h, w): in each cell the maximum of the cell and all to the right of it."""
    return _pool(features, -1, forwards=True)


def right_pool(features: Tensor) -> Tensor:
    """(B, channels, h, w): in each cell the maximum of the cell and all to the left of it."""
    return _pool(features, -1, forwards=False)


def _pool(features: Tensor, dim: int, *, forwards: bool) -> Tensor:
    size = features.shape[dim]
    # Concatenated, because ONNX's converter knows no way down for the Pad of opset 18.
    nothing = torch.full_like(features.narrow(dim, 1, size - 1), -torch.inf)
    padded = torch.cat([features, nothing] if forwards else [nothing, features], dim=dim)
    return F.max_pool2d(padded, (size, 1) if dim == -2 else (1, size), stride=1)


CORNER_STRIDE = 8
"""Pixels between the cells of the maps, where CornerNet has 4. On the drawn set of the quick start, 300 steps gave
an AP50 of .715 in 136 s of one core, against .436 in 218 s at 4. Objects whose corners share a cell get lost."""


CORNER_CHANNELS = 96  # at width 1; CornerNet's have 256


CORNER_PRIOR = 0.1
"""Probability of a corner in each cell before training: the bias of −2.19 in CornerNet's code."""


OUTPUT_STD = 0.03  # of the last convolutions, as in the other detector


Pool: TypeAlias = Callable[[Tensor], Tensor]


def separable(in_channels: int, out_channels: int) -> nn.Sequential:
    """Depthwise 3×3 and 1×1, each with norm and ReLU6."""
    return nn.Sequential(
        Conv2dNormActivation(in_channels, in_channels, 3, groups=in_channels, activation_layer=nn.ReLU6),
        Conv2dNormActivation(in_channels, out_channels, 1, activation_layer=nn.ReLU6),
    )


class Neck(nn.Module):
    """A map of one stride that knows what the deeper ones know (Lin et al. 2017, Feature Pyramid Networks, sec. 3).

    From stride 32 down to `stride`, each map is brought to `channels` by a 1×1, the deeper one is added at twice
    its size, and a separable convolution blends the two.
    """

    def __init__(self, in_channels: dict[int, int], channels: int, stride: int) -> None:
        super().__init__()
        self.strides = sorted((s for s in in_channels if s >= stride), reverse=True)
        self.lateral = nn.ModuleList(
            Conv2dNormActivation(in_channels[s], channels, 1, activation_layer=None) for s in self.strides
        )
        self.blend = nn.ModuleList(separable(channels, channels) for _ in self.strides[1:])

    def forward(self, pyramid: dict[int, Tensor]) -> Tensor:
        """Maps by stride -> (B, channels, h, w) of the least stride."""
        merged = self.lateral[0](pyramid[self.strides[0]])
        for stride, lateral, blend in zip(self.strides[1:], self.lateral[1:], self.blend, strict=True):
            finer = lateral(pyramid[stride])
            merged = blend(finer + F.interpolate(merged, finer.shape[-2:], mode="nearest"))
        return merged


class CornerBranch(nn.Module):
    """The corners of one kind: corner pooling and a way past it, then three predictions (CornerNet, fig. 7)."""

    def __init__(self, channels: int, num_classes: int, vertical_pool: Pool, horizontal_pool: Pool) -> None:
        super().__init__()
        self.pools = vertical_pool, horizontal_pool
        self.spread = separable(channels, 2 * channels)
        self.pooled = Conv2dNormActivation(channels, channels, 1, activation_layer=None)
        self.bypass = Conv2dNormActivation(channels, channels, 1, activation_layer=None)
        self.refine = separable(channels, channels)
        self.heatmap = nn.Conv2d(channels, num_classes, 1)
        self.embedding = nn.Conv2d(channels, 1, 1)
        self.offset = nn.Conv2d(channels, 2, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, channels, h, w) -> heatmap (B, K, h, w), embedding (B, h, w) and offset (B, 2, h, w)."""
        both = self.spread(features)
        half = both.shape[1] // 2  # slices, because a Split of the newest opset cannot be written in older ones
        vertical, horizontal = (
            pool(part) for pool, part in zip(self.pools, (both[:, :half], both[:, half:]), strict=True)
        )
        merged = F.relu6(self.pooled(vertical + horizontal) + self.bypass(features))
        refined = self.refine(merged)
        return self.heatmap(refined), self.embedding(refined).squeeze(1), self.offset(refined)


class CornerDetector(Network):
    """MobileNetV2 with two corner branches for one input size. Does the same in training and in evaluation.

    Args:
        dialect: a row of `architecture.DIALECTS`; its backbone, normalisation and norms, none of its priors.
        num_classes: K; there is no background.
        input_size: (height, width) in pixels, of any parity.
        width: multiplier of all channels, as torchvision's `width_mult`.
        backbone: a name in `backbones.BACKBONES`.
        stride: 4, 8 or 16 pixels between the cells of the maps.
    """

    score_activation: ScoreActivation = "sigmoid"
    parts: ClassVar[Mapping[str, str]] = {
        "backbone": "backbone",
        "neck": "extras",
        "top_left": "head",
        "bottom_right": "head",
    }

    def __init__(
        self,
        dialect: Dialect,
        *,
        num_classes: int,
        input_size: tuple[int, int],
        width: float = 1.0,
        backbone: str = MOBILENET_V2,
        stride: int = CORNER_STRIDE,
    ) -> None:
        super().__init__(dialect, num_classes=num_classes, input_size=input_size, width=width, backbone=backbone)
        channels = scaled(CORNER_CHANNELS, width)
        self.neck = Neck(self.backbone.pyramid_channels, channels, stride)
        self.top_left = CornerBranch(channels, num_classes, top_pool, left_pool)
        self.bottom_right = CornerBranch(channels, num_classes, bottom_pool, right_pool)
        replace_strided(self, dialect.padding)
        replace_relu6(self)
        self._initialize()

    def forward(self, images: Tensor) -> CornerOutput:
        """(B, 3, H, W) pixels 0..255 RGB, uint8 or float -> maps of ⌈H/stride⌉ × ⌈W/stride⌉ cells."""
        height, width = self.input_size
        assert images.shape[-2:] == (height, width), f"{tuple(images.shape)} is not of size {self.input_size}"
        features = self.neck(self.backbone.pyramid(self.normalize(images)))
        kinds = zip(self.top_left(features), self.bottom_right(features), strict=True)
        heatmaps, embeddings, offsets = (torch.stack(pair, dim=1) for pair in kinds)
        return CornerOutput(heatmaps, embeddings, offsets, (height, width))

    @torch.no_grad()
    def _initialize(self) -> None:
        self._set_norms()
        for branch in (self.top_left, self.bottom_right):
            starts = {
                branch.heatmap: math.log(CORNER_PRIOR / (1 - CORNER_PRIOR)),
                branch.embedding: 0.0,
                branch.offset: 0.5,  # the middle of the cell
            }
            for predict, start in starts.items():
                nn.init.normal_(predict.weight, std=OUTPUT_STD)
                assert predict.bias is not None
                nn.init.constant_(predict.bias, start)
