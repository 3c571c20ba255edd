"""SSDLite: pixels in, class logits and box deltas with their priors out.

The heads and extra levels are SSD's, with every 3×3 convolution made depthwise separable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from ssdlite.models.backbones import MOBILENET_V2
from ssdlite.models.layers import replace_relu6, replace_strided
from ssdlite.models.network import Network, scaled
from ssdlite.models.priors import generate_priors, level_map_sizes
from ssdlite.models.variants import Dialect, PriorLevel
from ssdlite.structures import HeadOutput, ScoreActivation

FOREGROUND_PRIOR = 0.1
"""Share of priors taken for objects before training, of all classes together. Lin et al. 2017 (sec. 3.3) take .01 a
class for a loss over all priors; with three mined negatives a positive that would only have to be unlearnt."""


def extra_level(in_channels: int, mid_channels: int, out_channels: int, activation: bool) -> nn.Sequential:
    """(B, in, H, W) -> (B, out, ⌈H/2⌉, ⌈W/2⌉): 1×1, depthwise 3×3 of stride 2, 1×1."""
    return nn.Sequential(
        Conv2dNormActivation(in_channels, mid_channels, 1, activation_layer=nn.ReLU6),
        Conv2dNormActivation(
            mid_channels, mid_channels, 3, stride=2, groups=mid_channels, activation_layer=nn.ReLU6
        ),
        Conv2dNormActivation(mid_channels, out_channels, 1, activation_layer=nn.ReLU6 if activation else None),
    )


def predictor(in_channels: int, out_channels: int, depthwise_bias: bool) -> nn.Sequential:
    """Depthwise 3×3 with norm and ReLU6, then a 1×1 with bias."""
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=depthwise_bias),
        nn.BatchNorm2d(in_channels),
        nn.ReLU6(inplace=True),
        nn.Conv2d(in_channels, out_channels, 1),
    )


class SSDLiteHead(nn.Module):
    """Class logits and box deltas of every prior, from one feature map a level."""

    def __init__(
        self, in_channels: Sequence[int], priors_per_cell: Sequence[int], num_logits: int, dialect: Dialect
    ) -> None:
        super().__init__()
        self.num_logits = num_logits
        self.classification = nn.ModuleList()
        self.regression = nn.ModuleList()
        last = len(in_channels) - 1
        for level, (channels, cells) in enumerate(zip(in_channels, priors_per_cell, strict=True)):
            for branch, columns in ((self.classification, num_logits), (self.regression, 4)):
                if level == last and dialect.last_head_pointwise:
                    branch.append(nn.Sequential(nn.Conv2d(channels, cells * columns, 1)))
                else:
                    branch.append(predictor(channels, cells * columns, dialect.head_depthwise_bias))

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Maps (B, channels, h, w) of each level -> logits (B, P, C) and deltas (B, P, 4)."""
        return self.join(*self.maps(features))

    def maps(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Maps (B, channels, h, w) of each level -> logits (B, priors of a cell · C, h, w) and deltas (B, priors
        of a cell · 4, h, w) a level."""
        logits = [predict(level) for predict, level in zip(self.classification, features, strict=True)]
        deltas = [predict(level) for predict, level in zip(self.regression, features, strict=True)]
        return logits, deltas

    def join(self, logit_maps: Sequence[Tensor], delta_maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Outputs of `maps` -> logits (B, P, C) and deltas (B, P, 4), in the order of the priors."""
        return (
            torch.cat([_flatten(level, self.num_logits) for level in logit_maps], dim=1),
            torch.cat([_flatten(level, 4) for level in delta_maps], dim=1),
        )

    @torch.no_grad()
    def reset_biases(self, activation: ScoreActivation, class_prior: float) -> None:
        """Boxes start at their priors; each class starts at `class_prior`, background at the rest, .5 or more."""
        for predict in self.regression:
            predict[-1].bias.zero_()  # type: ignore[index]
        num_classes = self.num_logits - 1
        nothing = max(1 - class_prior * num_classes, 0.5)
        background = math.log(nothing / (1 - nothing))
        for predict in self.classification:
            bias = predict[-1].bias.view(-1, self.num_logits)  # type: ignore[index]
            if activation == "softmax":
                bias[:, 0], bias[:, 1:] = background + math.log(num_classes), 0
            else:
                bias[:, 0], bias[:, 1:] = background, math.log(class_prior / (1 - class_prior))


def _flatten(prediction: Tensor, columns: int) -> Tensor:
    """(B, priors·columns, h, w) -> (B, h·w·priors, columns), in the order of the priors."""
    return prediction.permute(0, 2, 3, 1).reshape(prediction.shape[0], -1, columns)


INIT_STD = 0.03  # of all convolutions outside the backbone, as TensorFlow's and torchvision's SSDLite


class Detector(Network):
    """MobileNetV2-SSDLite for one input size. Does the same in training and in evaluation.

    Args:
        dialect: a row of `architecture.DIALECTS`.
        num_classes: K, without background; the head gives C = K + 1 logits, background first.
        input_size: (height, width) in pixels. Feature maps and priors follow from it.
        width: multiplier of all channels, as torchvision's `width_mult`.
        backbone: a name in `backbones.BACKBONES`.
        prior_levels: the priors of each map, in place of the dialect's; as many levels.
        score_activation: from logits to scores, as the loss recipe has it; None takes the dialect's own.
        class_prior: probability of each class at every prior before training; None takes `FOREGROUND_PRIOR`, spread
            over all classes.
    """

    priors: Tensor

    def __init__(
        self,
        dialect: Dialect,
        *,
        num_classes: int,
        input_size: tuple[int, int],
        width: float = 1.0,
        backbone: str = MOBILENET_V2,
        prior_levels: Sequence[PriorLevel] | None = None,
        score_activation: ScoreActivation | None = None,
        class_prior: float | None = None,
    ) -> None:
        super().__init__(dialect, num_classes=num_classes, input_size=input_size, width=width, backbone=backbone)
        self.score_activation = score_activation or dialect.score_activation
        channels = list(self.backbone.out_channels)
        self.extras = nn.ModuleList()
        for mid, out in zip(dialect.extra_mid_channels, dialect.extra_channels, strict=True):
            mid, out = (scaled(count, width) for count in (mid, out))
            self.extras.append(extra_level(channels[-1], mid, out, dialect.extra_activation))
            channels.append(out)
        self.prior_levels = tuple(prior_levels or dialect.prior_levels)
        assert len(self.prior_levels) == len(dialect.prior_levels)
        priors_per_cell = [level.priors_per_cell for level in self.prior_levels]
        self.head = SSDLiteHead(channels, priors_per_cell, num_classes + 1, dialect)
        replace_strided(self, dialect.padding)
        replace_relu6(self)
        self._initialize(class_prior or FOREGROUND_PRIOR / num_classes)
        # Derived from the levels and the size, so it is no part of the state; a buffer, so it moves along.
        priors = generate_priors(self.prior_levels, self.map_sizes, input_size, dialect.clamp_priors)
        self.register_buffer("priors", priors, persistent=False)
        self.level_sizes = tuple(
            height * width * cells for (height, width), cells in zip(self.map_sizes, priors_per_cell, strict=True)
        )

    @property
    def map_sizes(self) -> list[tuple[int, int]]:
        """(height, width) of each level."""
        return level_map_sizes(self.input_size, len(self.prior_levels))

    def forward(self, images: Tensor) -> HeadOutput:
        """(B, 3, H, W) pixels 0..255 RGB, uint8 or float -> logits (B, P, C), deltas (B, P, 4), priors (P, 4)."""
        return self.join(*self.maps(images))

    def maps(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """(B, 3, H, W) pixels 0..255 RGB -> the head's maps of each level, see `SSDLiteHead.maps`."""
        assert images.shape[-2:] == self.input_size, f"{tuple(images.shape)} is not of size {self.input_size}"
        features = list(self.backbone(self.normalize(images)))
        for extra in self.extras:
            features.append(extra(features[-1]))
        return self.head.maps(features)

    def join(self, logit_maps: Sequence[Tensor], delta_maps: Sequence[Tensor]) -> HeadOutput:
        """Return the outputs of `maps` as one row per prior, with the priors."""
        logits, deltas = self.head.join(logit_maps, delta_maps)
        return HeadOutput(logits, deltas, self.priors, self.score_activation, self.level_sizes)

    def _initialize(self, class_prior: float) -> None:
        self._set_norms()
        for part in (self.extras, self.head):
            for module in part.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.normal_(module.weight, std=INIT_STD)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
        self.head.reset_biases(self.score_activation, class_prior)
