"""The layers of a network by what they do: what a name table has to name, and what a transfer goes through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from ssdlite.model.architecture import Dialect

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
    """One of a Detector, or of the backbone that all networks have."""

    part: Part


def backbone_layers() -> list[Layer]:
    """Those that every network has."""
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


def layers(dialect: Dialect) -> list[Layer]:
    """All layers of a Detector of `dialect`, from the input to the heads."""
    found = backbone_layers()
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


def corner_layers(num_maps: int) -> list[AnyLayer]:
    """All layers of a CornerDetector whose neck joins `num_maps` maps."""
    found: list[AnyLayer] = [*backbone_layers()]
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
