"""The Detector: pixels in, class logits and box deltas with their priors out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias, TypeGuard

import torch
from torch import Tensor, nn

from ssdlite.model.architecture import Dialect
from ssdlite.model.backbone import Backbone
from ssdlite.model.head import SSDLiteHead, extra_level
from ssdlite.model.priors import generate_priors
from ssdlite.model.strided import replace_strided
from ssdlite.structures import HeadOutput

INIT_STD = 0.03  # of all convolutions outside the backbone, as TensorFlow's and torchvision's SSDLite


class Normalize(nn.Module):
    """0..255 RGB -> what the backbone was trained on. Its constants travel with the weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return (images.to(self.mean.dtype) - self.mean) / self.std


FreezablePart: TypeAlias = Literal["early", "backbone", "norms"]
"""The first stages of the MobileNetV2, all of it, or the norms of the whole network."""

EARLY_STAGES = 7  # of the backbone's 19: up to the last map of stride 8


class Detector(nn.Module):
    """MobileNetV2-SSDLite for one input size. Does the same in training and in evaluation.

    Args:
        dialect: a row of `architecture.DIALECTS`.
        num_classes: K, without background; the head gives C = K + 1 logits, background first.
        input_size: (height, width) in pixels. Feature maps and priors follow from it.
        width: multiplier of all channels, as torchvision's `width_mult`.
    """

    priors: Tensor

    def __init__(
        self, dialect: Dialect, *, num_classes: int, input_size: tuple[int, int], width: float = 1.0
    ) -> None:
        super().__init__()
        self.dialect = dialect
        self.num_classes = num_classes
        self.input_size = input_size
        self.width = width
        self.frozen: list[nn.Module] = []
        self.normalize = Normalize(dialect.mean, dialect.std)
        self.backbone = Backbone(width, dialect.tap)
        channels = list(self.backbone.out_channels)
        self.extras = nn.ModuleList()
        for mid, out in zip(dialect.extra_mid_channels, dialect.extra_channels, strict=True):
            mid, out = (_scaled(count, width) for count in (mid, out))
            self.extras.append(extra_level(channels[-1], mid, out, dialect.extra_activation))
            channels.append(out)
        priors_per_cell = [len(level.shapes) for level in dialect.prior_levels]
        self.head = SSDLiteHead(channels, priors_per_cell, num_classes + 1, dialect)
        replace_strided(self, dialect.padding)
        self._initialize(dialect)
        # Derived from the dialect and the size, so it is no part of the state; a buffer, so it moves along.
        priors = generate_priors(dialect.prior_levels, self.map_sizes, input_size, dialect.clamp_priors)
        self.register_buffer("priors", priors, persistent=False)

    @property
    def map_sizes(self) -> list[tuple[int, int]]:
        """(height, width) of each level. Every stride is a 3×3 convolution, n -> ⌈n/2⌉ with either padding."""
        sizes = []
        height, width = self.input_size
        for halvings in range(1, 6 + len(self.extras)):
            height, width = (height + 1) // 2, (width + 1) // 2
            if halvings >= 4:  # the first map that is read has stride 16
                sizes.append((height, width))
        return sizes

    def forward(self, images: Tensor) -> HeadOutput:
        """(B, 3, H, W) pixels 0..255 RGB, uint8 or float -> logits (B, P, C), deltas (B, P, 4), priors (P, 4)."""
        assert images.shape[-2:] == self.input_size, f"{tuple(images.shape)} is not of size {self.input_size}"
        features = list(self.backbone(self.normalize(images)))
        for extra in self.extras:
            features.append(extra(features[-1]))
        logits, deltas = self.head(features)
        return HeadOutput(logits, deltas, self.priors, self.dialect.score_activation)

    def freeze(self, parts: Iterable[FreezablePart]) -> None:
        """Keep `parts` as they are: no gradients, and norms that neither learn nor gather statistics."""
        for part in parts:
            match part:
                case "early":
                    frozen = list(self.backbone.features[:EARLY_STAGES])
                case "backbone":
                    frozen = [self.backbone]
                case "norms":
                    frozen = [module for module in self.modules() if _is_norm(module)]
            for module in frozen:
                module.requires_grad_(False)
            self.frozen += frozen
        self.train(self.training)

    def train(self, mode: bool = True) -> Detector:
        """As for any module, but what is frozen stays in evaluation mode."""
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    def _initialize(self, dialect: Dialect) -> None:
        for module in self.modules():
            if _is_norm(module):
                module.eps, module.momentum = dialect.norm_eps, dialect.norm_momentum
        for part in (self.extras, self.head):
            for module in part.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.normal_(module.weight, std=INIT_STD)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
        self.head.reset_biases(dialect.score_activation)


def _is_norm(module: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    return isinstance(module, nn.BatchNorm2d)


def _scaled(channels: int, width: float) -> int:
    """`channels` at `width`, rounded to the nearest multiple of 8 as MobileNetV2's own are."""
    return max(8, int(channels * width + 4) // 8 * 8)
