"""Base class of both detectors: normalisation, backbone, and freezing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal, TypeAlias, TypeGuard

import torch
from torch import Tensor, nn

from ssdlite.models.backbones import MOBILENET_V2, load_backbone
from ssdlite.models.variants import Dialect
from ssdlite.structures import ScoreActivation


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
"""The first stages of the backbone, all of it, or the norms of the whole network."""


class Network(nn.Module):
    """A backbone behind its normalisation, for one input size; the base of all detectors.

    Args:
        dialect: a row of `architecture.DIALECTS`.
        num_classes: K, without background.
        input_size: (height, width) in pixels.
        width: multiplier of all channels, as torchvision's `width_mult`.
        backbone: a name in `backbones.BACKBONES`.
    """

    score_activation: ScoreActivation
    """Activation from logits to scores."""

    parts: ClassVar[Mapping[str, str]] = {"backbone": "backbone", "extras": "extras", "head": "head"}
    """Its children that learn, and what each counts as when parts learn at different rates."""

    def __init__(
        self,
        dialect: Dialect,
        *,
        num_classes: int,
        input_size: tuple[int, int],
        width: float = 1.0,
        backbone: str = MOBILENET_V2,
    ) -> None:
        super().__init__()
        self.dialect = dialect
        self.num_classes = num_classes
        self.input_size = input_size
        self.width = width
        self.frozen: list[nn.Module] = []
        self.normalize = Normalize(dialect.mean, dialect.std)
        self.backbone = load_backbone(backbone)(width, dialect.tap)

    def freeze(self, parts: Iterable[FreezablePart]) -> None:
        """Keep `parts` as they are: no gradients, and norms that neither learn nor gather statistics."""
        for part in parts:
            match part:
                case "early":
                    frozen = self.backbone.early_stages
                case "backbone":
                    frozen = [self.backbone]
                case "norms":
                    frozen = [module for module in self.modules() if is_norm(module)]
            for module in frozen:
                module.requires_grad_(False)
            self.frozen += frozen
        self.train(self.training)

    def train(self, mode: bool = True) -> Network:
        """Set the mode as for any module, but what is frozen stays in evaluation mode."""
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    def _set_norms(self) -> None:
        """Give all norms the constants of the dialect."""
        for module in self.modules():
            if is_norm(module):
                module.eps, module.momentum = self.dialect.norm_eps, self.dialect.norm_momentum


def is_norm(module: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    """Return whether a module is a BatchNorm."""
    return isinstance(module, nn.BatchNorm2d)


def scaled(channels: int, width: float) -> int:
    """`channels` at `width`, rounded to the nearest multiple of 8 as MobileNetV2's own are."""
    return max(8, int(channels * width + 4) // 8 * 8)
