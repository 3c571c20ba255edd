"""The constants of each dialect: one row, no code.

A dialect is a published SSDLite on MobileNetV2. All share the backbone's table and the six-level pyramid and
differ in the numbers below. Channel counts are those of width 1; everything else is derived.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, NamedTuple

from ssdlite.structures import ResizeAlignment, ScoreActivation


class PriorShape(NamedTuple):
    """A prior of every cell, or density² of them."""

    scale: float  # √(w·h), in units of the input's shorter side: w = scale·√aspect, h = scale/√aspect
    aspect: float  # w / h
    density: int = 1
    """Priors of this shape along each side of a cell, which stand density times as close as the cells (Zhang et al.
    2017, FaceBoxes, sec. 3.3): what an object that is smaller than a cell needs to have one near enough."""


@dataclass(frozen=True)
class PriorLevel:
    """The priors of every cell of one feature map.

    In a cell they come shape by shape, and of one shape row by row from the top left.
    """

    shapes: tuple[PriorShape, ...]
    stride: int | Literal["even", "rounded"] = "even"
    """Pixels between the centres of cells. even: input size / map size, so that centres are spread evenly; rounded:
    the same to the nearest whole pixel."""

    @property
    def priors_per_cell(self) -> int:
        return sum(shape.density**2 for shape in self.shapes)


def level_of(
    shapes: Sequence[tuple[float, float]], stride: int | Literal["even", "rounded"] = "even"
) -> PriorLevel:
    """Return a level of (scale, aspect) pairs, one prior of each in a cell."""
    return PriorLevel(tuple(PriorShape(*shape) for shape in shapes), stride)


@dataclass(frozen=True)
class Dialect:
    """Constants by which published SSDLite networks differ."""

    name: str
    tap: Literal["expansion", "output"]
    """The stride-16 map: the expansion inside the block that goes to stride 32 (576 channels, after ReLU6), or
    the output of the block before it (96 channels, linear)."""
    padding: Literal["symmetric", "same"]
    """Padding of convolutions of stride 2: (1, 1), or TensorFlow's SAME, which is (0, 1) on even sides."""
    score_activation: ScoreActivation
    resize_alignment: ResizeAlignment  # of the images that it was trained on
    mean: tuple[float, float, float]  # subtracted from 0..255 RGB
    std: tuple[float, float, float]
    extra_channels: tuple[int, ...]  # outputs of the extra levels, at width 1
    extra_mid_channels: tuple[int, ...]  # their 1×1 bottlenecks
    extra_activation: bool  # ReLU6 after the last norm of an extra level, or linear
    head_depthwise_bias: bool
    last_head_pointwise: bool  # the 1×1 map's heads are a plain 1×1 convolution
    norm_eps: float
    norm_momentum: float
    prior_levels: tuple[PriorLevel, ...]
    clamp_priors: bool  # clamp centre and size to the image, in centre form


def _ssd_level(
    scale: float, next_scale: float, stride: int | Literal["even", "rounded"] = "even", third: float = 1 / 3
) -> PriorLevel:
    """The six priors of an SSD cell: s, √(s·s'), then 2:1, 1:2, 3:1, 1:3 (Liu et al. 2016, sec. 2.2)."""
    middle = (scale * next_scale) ** 0.5
    shapes = ((scale, 1.0), (middle, 1.0), (scale, 2.0), (scale, 1 / 2), (scale, 3.0), (scale, third))
    return level_of(shapes, stride)


_REDUCED_LEVEL = level_of(((0.1, 1.0), (0.2, 2.0), (0.2, 0.5)))  # reduce_boxes_in_lowest_layer


_TENSORFLOW_SCALES = (0.35, 0.5, 0.65, 0.8, 0.95, 1.0)


# Sandler et al. 2018 as TensorFlow's Object Detection API ships it (ssdlite_mobilenet_v2_coco), with PyTorch's
# symmetric padding. Momentum is torchvision's and mmdetection's .03: TensorFlow's .0003 needs 10^5 steps.
PAPER = Dialect(
    name="paper",
    tap="expansion",
    padding="symmetric",
    score_activation="softmax",
    resize_alignment="half_pixel",
    mean=(127.5, 127.5, 127.5),
    std=(127.5, 127.5, 127.5),
    extra_channels=(512, 256, 256, 128),
    extra_mid_channels=(256, 128, 128, 64),
    extra_activation=True,
    head_depthwise_bias=False,
    last_head_pointwise=False,
    norm_eps=1e-3,
    norm_momentum=0.03,
    prior_levels=(_REDUCED_LEVEL, *(_ssd_level(*pair) for pair in pairwise(_TENSORFLOW_SCALES))),
    clamp_priors=False,
)


# The Object Detection API's own: its checkpoints give their old answers with SAME padding, sigmoid scores of all
# columns, and .3333 for a third. Priors of a cell are in our order, which is not its own (`importers.tensorflow`).
TENSORFLOW = replace(
    PAPER,
    name="tensorflow",
    padding="same",
    score_activation="sigmoid",
    resize_alignment="asymmetric",
    prior_levels=(
        _REDUCED_LEVEL,
        *(_ssd_level(*pair, third=0.3333) for pair in pairwise(_TENSORFLOW_SCALES)),
    ),
)


# qfgaohao/pytorch-ssd, mb2-ssd-lite, and its Jetson fork: sizes in pixels of 300, MobileNetV1's config.
PYTORCH_SSD = Dialect(
    name="pytorch-ssd",
    tap="expansion",
    padding="symmetric",
    score_activation="softmax",
    resize_alignment="half_pixel",
    mean=(127.0, 127.0, 127.0),
    std=(128.0, 128.0, 128.0),
    extra_channels=(512, 256, 256, 64),
    extra_mid_channels=(256, 128, 128, 64),
    extra_activation=False,
    head_depthwise_bias=True,
    last_head_pointwise=True,
    norm_eps=1e-5,
    norm_momentum=0.1,
    prior_levels=(
        _ssd_level(60 / 300, 105 / 300, stride=16),
        _ssd_level(105 / 300, 150 / 300, stride=32),
        _ssd_level(150 / 300, 195 / 300, stride=64),
        _ssd_level(195 / 300, 240 / 300),
        _ssd_level(240 / 300, 285 / 300),
        _ssd_level(285 / 300, 330 / 300),
    ),
    clamp_priors=True,
)


# lufficc/SSD, mobilenet_v2_ssd320: pytorch-ssd's network on the linear tap, the same sizes in pixels of 320, and a
# mean without a std.
LUFFICC = replace(
    PYTORCH_SSD,
    name="lufficc",
    tap="output",
    mean=(123.0, 117.0, 104.0),
    std=(1.0, 1.0, 1.0),
    prior_levels=(
        _ssd_level(60 / 320, 105 / 320, stride=16),
        _ssd_level(105 / 320, 150 / 320, stride=32),
        _ssd_level(150 / 320, 195 / 320, stride=64),
        _ssd_level(195 / 320, 240 / 320, stride="rounded"),
        _ssd_level(240 / 320, 285 / 320),
        _ssd_level(285 / 320, 330 / 320),
    ),
)


# mmdetection, ssdlite_mobilenetv2_scratch_600e_coco. Its background column is the last one: `importers.mmdetection`
# brings it to the front.
MMDETECTION = replace(
    PAPER,
    name="mmdetection",
    tap="output",
    mean=(123.675, 116.28, 103.53),
    std=(58.395, 57.12, 57.375),
    prior_levels=(
        _ssd_level(48 / 320, 100 / 320, stride=16),
        _ssd_level(100 / 320, 150 / 320, stride=32),
        _ssd_level(150 / 320, 202 / 320, stride=64),
        _ssd_level(202 / 320, 253 / 320, stride="rounded"),
        _ssd_level(253 / 320, 304 / 320),
        _ssd_level(304 / 320, 320 / 320),
    ),
)


DIALECTS = {dialect.name: dialect for dialect in (PAPER, TENSORFLOW, PYTORCH_SSD, LUFFICC, MMDETECTION)}
