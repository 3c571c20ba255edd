"""The Detector: pixels in, class logits and box deltas with their priors out."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ssdlite.model.activation import replace_relu6
from ssdlite.model.architecture import Dialect, PriorLevel
from ssdlite.model.head import FOREGROUND_PRIOR, SSDLiteHead, extra_level
from ssdlite.model.network import Network, scaled
from ssdlite.model.priors import generate_priors, level_map_sizes
from ssdlite.model.strided import replace_strided
from ssdlite.structures import HeadOutput, ScoreActivation

INIT_STD = 0.03  # of all convolutions outside the backbone, as TensorFlow's and torchvision's SSDLite


class Detector(Network):
    """MobileNetV2-SSDLite for one input size. Does the same in training and in evaluation.

    Args:
        dialect: a row of `architecture.DIALECTS`.
        num_classes: K, without background; the head gives C = K + 1 logits, background first.
        input_size: (height, width) in pixels. Feature maps and priors follow from it.
        width: multiplier of all channels, as torchvision's `width_mult`.
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
        prior_levels: Sequence[PriorLevel] | None = None,
        score_activation: ScoreActivation | None = None,
        class_prior: float | None = None,
    ) -> None:
        super().__init__(dialect, num_classes=num_classes, input_size=input_size, width=width)
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
        assert images.shape[-2:] == self.input_size, f"{tuple(images.shape)} is not of size {self.input_size}"
        features = list(self.backbone(self.normalize(images)))
        for extra in self.extras:
            features.append(extra(features[-1]))
        logits, deltas = self.head(features)
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
