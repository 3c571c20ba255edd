"""Options of the network: head, backbone, priors, and the weights that it starts from."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from ssdlite.config.section import Section, _distinct, _expand_home, _square, _words
from ssdlite.errors import ConfigError
from ssdlite.io import spelt_path
from ssdlite.models.backbones import MOBILENET_V2, require_backbone

Side = Annotated[int, Field(ge=64, le=4096)]


class PriorShapeConfig(Section):
    """A prior of every cell of a map, or density² of them."""

    scale: Annotated[float, Field(gt=0, le=100)]
    """√(width·height), in units of the input's shorter side."""
    aspect: Annotated[float, Field(ge=0.01, le=100)]
    """Width over height."""
    density: Annotated[int, Field(ge=1, le=4)] = 1
    """Priors along each side of a cell: 2 gives four of this shape, half a cell apart. It is for objects smaller
    than a cell, which else are too far from the nearest centre."""


NUM_MAPS = 6  # of every dialect, from stride 16 on


MAX_PER_CELL = 256  # priors; SSD has 6


def _shapes(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if not isinstance(value, list | tuple) or not all(isinstance(level, list | tuple) and level for level in value):
        raise ValueError("must be dialect, auto, or lists of shapes such as {scale: 0.1, aspect: 1, density: 2}")
    if len(value) != NUM_MAPS:
        raise ValueError(
            f"needs a list of shapes for each of the {NUM_MAPS} maps, and there are {len(value)} lists"
        )
    return value


def _bounded(levels: list[list[PriorShapeConfig]]) -> list[list[PriorShapeConfig]]:
    most = max(sum(shape.density**2 for shape in level) for level in levels)
    if most > MAX_PER_CELL:
        raise ValueError(f"must have {MAX_PER_CELL} priors in a cell at most, and there are {most} in one")
    return levels


PriorsConfig = Annotated[
    Annotated[Literal["dialect", "auto"], Tag("word")]
    | Annotated[list[list[PriorShapeConfig]], AfterValidator(_bounded), Tag("shapes")],
    Discriminator(lambda value: "word" if isinstance(value, str) else "shapes"),
    BeforeValidator(_shapes),
]


STARTS = ("auto", "coco", "pedestrian", "imagenet", "none")


def _start(value: Any) -> Any:
    if not isinstance(value, str) or value in STARTS:
        return value
    return spelt_path(str(_expand_home(value)), STARTS)


def _backbone(name: str) -> str:
    try:
        require_backbone(name)
    except ConfigError as error:
        raise ValueError(str(error).removeprefix("model.backbone: ")) from None
    return name


class ModelConfig(Section):
    """Architecture of the network, and the weights that it starts from."""

    head: Literal["ssdlite", "corner"] = "ssdlite"
    """ssdlite: classes and boxes at priors; corner: a light CornerNet on the same backbone, with loss=corner."""
    dialect: Literal["auto", "paper", "tensorflow", "pytorch-ssd", "lufficc", "mmdetection"] = "auto"
    """Whose constants: auto (those that the start was trained with, or paper), paper (TensorFlow's SSDLite with
    symmetric padding and softmax), tensorflow (the Object Detection API), pytorch-ssd (qfgaohao, Jetson), lufficc
    (SSD) or mmdetection. A training writes what auto stood for into its config.yaml."""
    backbone: Annotated[str, AfterValidator(_backbone)] = MOBILENET_V2
    """Name of the backbone; there is one, mobilenet_v2."""
    width: Annotated[float, Field(gt=0, le=4)] = 1.0
    """Width multiplier of the backbone and of the extra layers."""
    input_size: Annotated[tuple[Side, Side], BeforeValidator(_square)] = (320, 320)
    """Network input, pixels: [height, width], or one number for a square."""
    priors: PriorsConfig = "dialect"
    """dialect: those of its published network; auto: fitted to the objects when a training starts, which then keeps
    them; or the shapes of each map, six lists from stride 16 on, as `ssdlite fit-priors CONFIG --write FILE` writes
    them."""
    weights: Annotated[
        Literal["auto", "coco", "pedestrian", "imagenet", "none"] | Path, BeforeValidator(_start)
    ] = "auto"
    """Start. coco, pedestrian, imagenet: pretrained networks of width 1, fetched once; auto: coco, or imagenet
    where that cannot be had, or scratch with a warning; none: scratch; FILE: a checkpoint of ours or an imported
    one, of any dialect and with any classes. A file that is called coco is given as ./coco."""
    freeze: Annotated[
        list[Literal["early", "backbone", "norms"]], BeforeValidator(_words), AfterValidator(_distinct)
    ] = []  # noqa: RUF012
    """Parts that do not learn, their norms' statistics included. early: the backbone's first seven stages, up to
    stride 8, which are half of a step's work; backbone: all of it; norms: every BatchNorm."""

    @model_validator(mode="after")
    def _priors_have_a_use(self) -> ModelConfig:
        if self.head == "corner" and self.priors != "dialect":
            raise ValueError("priors has no effect with head=corner, which has none; leave it at dialect")
        return self


def require_start(config: ModelConfig) -> None:
    """Raise ConfigError where a training cannot start from `weights`. Nothing is fetched.

    Pretrained networks are of width 1. A path where there is no file is taken for a misspelt word.
    """
    if config.weights in ("coco", "pedestrian", "imagenet") and config.backbone != MOBILENET_V2:
        raise ConfigError(f"there are weights '{config.weights}' for {MOBILENET_V2} only; set model.weights=none.")
    if config.weights in ("coco", "pedestrian", "imagenet") and config.width != 1:
        raise ConfigError(f"there are weights '{config.weights}' for model.width=1.0 only; set model.weights=none.")
    if isinstance(config.weights, Path) and not config.weights.exists():
        near = difflib.get_close_matches(str(config.weights), STARTS, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else "."
        raise ConfigError(
            f"model.weights is {', '.join(STARTS)} or a checkpoint, but there is no file {config.weights}{hint}"
        )
