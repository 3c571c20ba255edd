"""What an exported file says about itself, in the `metadata_props` of ONNX.

names            JSON list of the class names (the key that YOLO-style tools look for too)
ssdlite          one JSON object: see `to_properties`
ssdlite.priors   JSON list of (P, 4) cxcywh, input pixels; for the head 'raw' only
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from ssdlite.box_arrays import CENTER_VARIANCE, SIZE_VARIANCE
from ssdlite.errors import CheckpointError
from ssdlite.structures import ResizeAlignment, ScoreActivation

SCHEMA = 1

HeadKind: TypeAlias = Literal["nms", "decoded", "raw"]

OUTPUT_NAMES: dict[HeadKind, tuple[str, ...]] = {
    "nms": ("detection_boxes", "detection_scores", "detection_labels", "num_detections"),
    "decoded": ("boxes", "scores"),
    "raw": ("logits", "deltas"),
}

CORNER_MAPS = ("heatmaps", "embeddings", "offsets")
"""What a corner head gives before decoding; no file has them as outputs."""

BOX_FORMATS: dict[HeadKind, str] = {
    "nms": "xyxy input pixels, clipped",
    "decoded": "xyxy input pixels, to be clipped after suppression",
    "raw": "deltas",
}


@dataclass(frozen=True)
class ExportMetadata:
    """Where a network comes from; written into the file as it stands."""

    class_names: tuple[str, ...]
    config: Mapping[str, Any]  # the resolved options
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


@dataclass(frozen=True, eq=False)
class ModelCard:
    """The metadata of a file, read back."""

    class_names: tuple[str, ...]
    document: dict[str, Any]  # the object under 'ssdlite'
    head: HeadKind
    input_size: tuple[int, int]  # (height, width), pixels
    resize_alignment: ResizeAlignment  # of images that are brought to that size
    score_activation: ScoreActivation | None  # of the logits; None unless `head` is raw
    selection: Selection
    variances: tuple[float, float] | None  # of centre and size; None for a network without priors
    priors: np.ndarray | None  # (P, 4) float32 cxcywh, input pixels; None unless `head` is raw


def to_properties(
    metadata: ExportMetadata,
    head: HeadKind,
    input_size: tuple[int, int],
    selection: Selection,
    priors: np.ndarray | None,
    *,
    resize_alignment: ResizeAlignment,
    score_activation: ScoreActivation | None,
) -> dict[str, str]:
    """The strings to put into a file of `head`.

    Its network has `priors` (P, 4) cxcywh, input pixels, and logits that become scores by `score_activation`; or it
    has corners, and both are None.
    """
    assert head != "raw" or priors is not None
    document = {
        "schema": SCHEMA,
        "head": head,
        "detector": "corner" if priors is None else "ssdlite",
        "input": {
            "size": list(input_size),  # height, width
            "resize_alignment": resize_alignment,  # of the bilinear resize to that size
            "layout": "NCHW",
            "dtype": "float32",
            "color": "RGB",
            "range": [0, 255],
        },
        "output": {
            "box_format": BOX_FORMATS[head],
            # Raw logits have a column for background in front; everything else counts classes from 0.
            "score_activation": score_activation if head == "raw" else "none",
            "score_threshold": selection.score_threshold,
            "iou_threshold": selection.iou_threshold,
            "candidates_per_class": selection.candidates_per_class,
            "max_detections": selection.max_detections,
            **({} if priors is None else {"variances": [CENTER_VARIANCE, SIZE_VARIANCE]}),
        },
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
    if head == "raw" and priors is not None:
        # numpy prints the shortest decimals that give the float32 back; Python's float prints twice as many.
        rows = [[float(str(value)) for value in row] for row in priors.astype(np.float32)]
        properties["ssdlite.priors"] = json.dumps(rows)
    return properties


def from_properties(properties: Mapping[str, str], source: str) -> ModelCard:
    """Read what `to_properties` wrote. Raises CheckpointError that names `source` if it is not all there."""
    if "ssdlite" not in properties or "names" not in properties:
        raise CheckpointError(
            f"{source} was not exported by ssdlite: it names no classes and no sizes; "
            "write it with 'ssdlite export-onnx'."
        )
    try:
        document = json.loads(properties["ssdlite"])
        output = document["output"]
        height, width = document["input"]["size"]
        variances = output["variances"] if document.get("detector") != "corner" else None
        if type(document["schema"]) is not int:
            raise ValueError("no schema")
        if document["schema"] != SCHEMA:
            raise CheckpointError(
                f"{source} has metadata of schema {document['schema']}, but this ssdlite reads {SCHEMA}; "
                "export the checkpoint again."
            )
        card = ModelCard(
            class_names=_read_names(properties),
            document=document,
            head=document["head"],
            input_size=(height, width),
            resize_alignment=document["input"].get("resize_alignment", "half_pixel"),  # older files do not say
            score_activation=output["score_activation"] if document["head"] == "raw" else None,
            selection=Selection(
                output["score_threshold"],
                output["iou_threshold"],
                output["candidates_per_class"],
                output["max_detections"],
            ),
            variances=None if variances is None else (variances[0], variances[1]),
            priors=_read_priors(properties) if document["head"] == "raw" else None,
        )
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError):
        raise CheckpointError(f"{source} has damaged metadata; export the checkpoint again.") from None
    if part := _damaged_part(card):
        raise CheckpointError(f"{source} has damaged metadata ({part}); export the checkpoint again.")
    return card


def _damaged_part(card: ModelCard) -> str | None:
    """The first part of the metadata that prediction could not follow, if there is one."""
    chosen = card.selection
    numbers = [chosen.score_threshold, chosen.iou_threshold, *(card.variances or ())]
    counts = [*card.input_size, chosen.candidates_per_class, chosen.max_detections]
    activations = get_args(ScoreActivation) if card.head == "raw" else (None,)
    sound = {
        "head": isinstance(card.head, str) and card.head in OUTPUT_NAMES,
        "sizes and counts": all(type(count) is int and 0 < count < 2**31 for count in counts),
        "thresholds and variances": all(type(n) in (int, float) and abs(n) < math.inf for n in numbers),
        "resize_alignment": card.resize_alignment in get_args(ResizeAlignment),
        "score_activation": card.score_activation in activations,
        "variances": card.variances is not None or card.head != "raw",
        "priors": card.priors is None or bool(np.isfinite(card.priors).all()),
        "config": isinstance(card.document.get("config"), dict),
    }
    return next((name for name, is_sound in sound.items() if not is_sound), None)


def _read_names(properties: Mapping[str, str]) -> tuple[str, ...]:
    names = json.loads(properties["names"])
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError("names are no list of text")
    return tuple(names)


def _read_priors(properties: Mapping[str, str]) -> np.ndarray:
    return np.array(json.loads(properties["ssdlite.priors"]), np.float32).reshape(-1, 4)
