"""The layers of a Detector by what they do: what a name table has to name, and what a transfer goes through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from ssdlite.model.architecture import Dialect

NUM_BLOCKS = 17  # inverted residuals of MobileNetV2
LAST_CONVOLUTION = 18  # position in torchvision's `features`

Role: TypeAlias = Literal["expand", "depthwise", "project"]
ROLES: tuple[Role, ...] = ("expand", "depthwise", "project")


@dataclass(frozen=True)
class Layer:
    """A convolution with the norm after it, by what it does and by its names in a Detector."""

    part: Literal["stem", "block", "last", "extra", "classification", "regression"]
    index: int  # block 1..17, extra level 0..3, head level 0..5; else 0
    role: Role  # within its part; the stem and the last count as `expand`
    conv: str
    norm: str | None  # the heads' last convolution has none
    has_bias: bool


def layers(dialect: Dialect) -> list[Layer]:
    """All layers of a Detector of `dialect`, from the input to the heads."""
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
