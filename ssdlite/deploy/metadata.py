"""What an exported file says about itself, in the `metadata_props` of ONNX: the words, and writing them.

names            JSON list of the class names (the key that YOLO-style tools look for too)
ssdlite          one JSON object: see `to_properties`
ssdlite.priors   JSON list of (P, 4) cxcywh, input pixels; for the heads 'raw' and 'raw-levels' only

`card` reads it back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from ssdlite.box_arrays import CENTER_VARIANCE, SIZE_VARIANCE
from ssdlite.structures import ResizeAlignment, ScoreActivation

PROPERTIES = ("names", "ssdlite", "ssdlite.priors")
"""The keys above."""

SCHEMA = 2
"""1 had neither `precision` nor other inputs than float32 NCHW, and held the paths of its data set."""

HeadKind: TypeAlias = Literal["nms", "decoded", "raw", "raw-levels"]
"""Where the graph ends: with detections, with boxes and scores, with logits and deltas, or with those by level."""

SuppressionKind: TypeAlias = Literal["op", "tensor"]
"""ONNX's NonMaxSuppression, or plain arithmetic."""

InputForm: TypeAlias = Literal["float-nchw", "float-nhwc", "uint8-nchw", "uint8-nhwc"]

Precision: TypeAlias = Literal["fp32", "fp16", "int8"]

OUTPUT_NAMES: dict[HeadKind, tuple[str, ...]] = {
    "nms": ("detection_boxes", "detection_scores", "detection_labels", "num_detections"),
    "decoded": ("boxes", "scores"),
    "raw": ("logits", "deltas"),
}
"""Of the heads whose outputs are as many for every network; `output_names` knows all."""

CORNER_MAPS = ("heatmaps", "embeddings", "offsets")
"""What a corner head gives before decoding; no file has them as outputs."""

BOX_FORMATS: dict[HeadKind, str] = {
    "nms": "xyxy input pixels, clipped",
    "decoded": "xyxy input pixels, to be clipped after suppression",
    "raw": "deltas",
    "raw-levels": "deltas",
}

LAYOUTS: dict[InputForm, tuple[str, str]] = {
    "float-nchw": ("NCHW", "float32"),
    "float-nhwc": ("NHWC", "float32"),
    "uint8-nchw": ("NCHW", "uint8"),
    "uint8-nhwc": ("NHWC", "uint8"),
}
"""Axes and type of the input."""


def output_names(head: HeadKind, num_levels: int) -> tuple[str, ...]:
    """The outputs of a file of `head`, in their order: by level, the logits of all levels come first."""
    if head == "raw-levels":
        return tuple(f"{name}_{level}" for name in OUTPUT_NAMES["raw"] for level in range(num_levels))
    return OUTPUT_NAMES[head]


@dataclass(frozen=True)
class FileForm:
    """What can be chosen of a file, apart from its network."""

    head: HeadKind = "nms"
    suppression: SuppressionKind = "op"  # for the head 'nms'
    input: InputForm = "float-nchw"
    precision: Precision = "fp32"


@dataclass(frozen=True)
class ExportMetadata:
    """Where a network comes from; written into the file as it stands."""

    class_names: tuple[str, ...]
    config: Mapping[str, Any]  # options that mean something on another machine: no paths
    dialect: str
    width: float
    metrics: Mapping[str, Any]  # of the checkpoint, or {}
    version: str  # of ssdlite


@dataclass(frozen=True)
class Selection:
    """How detections are chosen among all boxes; see `model.decode.Decoder`. Both thresholds are exclusive."""

    score_threshold: float
    iou_threshold: float
    candidates_per_class: int
    max_detections: int
    candidates: int | None = None  # the best of all classes together that take part; None: all


class Level(NamedTuple):
    """A feature map, of which every cell has the same number of priors."""

    height: int  # cells
    width: int
    priors: int  # of a cell


@dataclass(frozen=True, eq=False)
class NetworkFacts:
    """What a file has to say about its network."""

    input_size: tuple[int, int]  # (height, width), pixels
    resize_alignment: ResizeAlignment
    score_activation: ScoreActivation | None = None  # of the logits; None for corners
    priors: np.ndarray | None = None  # (P, 4) cxcywh, input pixels; None for corners
    levels: tuple[Level, ...] = ()


def to_properties(
    metadata: ExportMetadata, form: FileForm, facts: NetworkFacts, selection: Selection
) -> dict[str, str]:
    """The strings to put into a file."""
    is_raw = form.head in ("raw", "raw-levels")
    assert not is_raw or facts.priors is not None
    layout, dtype = LAYOUTS[form.input]
    output: dict[str, Any] = {
        "box_format": BOX_FORMATS[form.head],
        # Raw logits have a column for background in front; everything else counts classes from 0.
        "score_activation": facts.score_activation if is_raw else "none",
        "score_threshold": selection.score_threshold,
        "iou_threshold": selection.iou_threshold,
        "candidates_per_class": selection.candidates_per_class,
        "max_detections": selection.max_detections,
    }
    if form.head == "nms":
        output |= {"suppression": form.suppression, "candidates": selection.candidates}
    if facts.priors is not None:
        output["variances"] = [CENTER_VARIANCE, SIZE_VARIANCE]
    if is_raw:
        output["levels"] = [list(level) for level in facts.levels]  # height, width, priors of a cell
    document = {
        "schema": SCHEMA,
        "head": form.head,
        "precision": form.precision,
        "detector": "corner" if facts.priors is None else "ssdlite",
        "input": {
            "size": list(facts.input_size),  # height, width
            "resize_alignment": facts.resize_alignment,  # of the bilinear resize to that size
            "layout": layout,
            "dtype": dtype,
            "color": "RGB",
            "range": [0, 255],  # the normalisation is in the graph
        },
        "output": output,
        "dialect": metadata.dialect,
        "width": metadata.width,
        "version": metadata.version,
        "metrics": dict(metadata.metrics),
        "config": dict(metadata.config),
    }
    properties = {
        "names": json.dumps(list(metadata.class_names), ensure_ascii=False),
        # JavaScript's parser knows no NaN.
        "ssdlite": json.dumps(document, ensure_ascii=False, allow_nan=False),
    }
    if is_raw and facts.priors is not None:
        # numpy prints the shortest decimals that give the float32 back; Python's float prints twice as many.
        rows = [[float(str(value)) for value in row] for row in facts.priors.astype(np.float32)]
        properties["ssdlite.priors"] = json.dumps(rows)
    return properties
