"""SSDLite's extra levels and heads: SSD's, with every 3×3 convolution made depthwise separable."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from ssdlite.model.architecture import Dialect
from ssdlite.structures import ScoreActivation

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
        """The same -> logits (B, priors of a cell · C, h, w) and deltas (B, priors of a cell · 4, h, w) a level."""
        logits = [predict(level) for predict, level in zip(self.classification, features, strict=True)]
        deltas = [predict(level) for predict, level in zip(self.regression, features, strict=True)]
        return logits, deltas

    def join(self, logit_maps: Sequence[Tensor], delta_maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """What `maps` gives -> logits (B, P, C) and deltas (B, P, 4), in the order of the priors."""
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
