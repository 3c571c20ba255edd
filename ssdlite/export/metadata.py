"""Metadata of exported files, written and read: `metadata_props`, or a sidecar JSON where a format has none.

Everything that is read from a file is checked.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from ssdlite.boxes_np import CENTER_VARIANCE, SIZE_VARIANCE
from ssdlite.errors import CheckpointError
from ssdlite.io import one_line, read_json, write_text
from ssdlite.structures import ResizeAlignment, ScoreActivation

PROPERTIES = ("names", "ssdlite", "ssdlite.priors")
"""Keys of the metadata."""


SCHEMA = 2
"""Version of the metadata. Schema 1 had no `precision` and no inputs but float32 NCHW, and held data set paths."""


WeightPrecision: TypeAlias = Literal["fp32", "fp16"]
"""Precision of the weights in a file that is not ONNX."""


HeadKind: TypeAlias = Literal["nms", "decoded", "raw", "raw-levels"]
"""Outputs of the graph: detections; boxes and scores; logits and deltas; logits and deltas of each level."""


SuppressionKind: TypeAlias = Literal["op", "tensor"]
"""Suppression by ONNX's NonMaxSuppression, or by arithmetic on tensors."""


InputForm: TypeAlias = Literal["float-nchw", "float-nhwc", "uint8-nchw", "uint8-nhwc"]


Precision: TypeAlias = Literal["fp32", "fp16", "int8"]


OUTPUT_NAMES: dict[HeadKind, tuple[str, ...]] = {
    "nms": ("detection_boxes", "detection_scores", "detection_labels", "num_detections"),
    "decoded": ("boxes", "scores"),
    "raw": ("logits", "deltas"),
}
"""Output names of the heads with a fixed number of outputs; `output_names` gives those of every head."""


CORNER_MAPS = ("heatmaps", "embeddings", "offsets")
"""Maps that a corner head computes before decoding; no file has them as outputs."""


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
"""Axes and data type of each input form."""


def output_names(head: HeadKind, num_levels: int) -> tuple[str, ...]:
    """Return the names of the outputs in order; with 'raw-levels', the logits of all levels come first."""
    if head == "raw-levels":
        return tuple(f"{name}_{level}" for name in OUTPUT_NAMES["raw"] for level in range(num_levels))
    return OUTPUT_NAMES[head]


@dataclass(frozen=True)
class FileForm:
    """Options of an exported file that do not depend on its network."""

    head: HeadKind = "nms"
    suppression: SuppressionKind = "op"  # has an effect with head 'nms' only
    input: InputForm = "float-nchw"
    precision: Precision = "fp32"


@dataclass(frozen=True)
class ExportMetadata:
    """Description of a network and its training that is written into the exported file."""

    class_names: tuple[str, ...]
    config: Mapping[str, Any]  # options without paths, which have no meaning on another machine
    dialect: str
    width: float
    metrics: Mapping[str, Any]  # metrics of the checkpoint, or {}
    version: str  # version of ssdlite


@dataclass(frozen=True)
class Selection:
    """Options by which detections are selected from all boxes; see `models.decode.Decoder`.

    Both thresholds are exclusive: a score must be above, and an IoU that suppresses too.
    """

    score_threshold: float
    iou_threshold: float
    candidates_per_class: int
    max_detections: int
    candidates: int | None = None  # boxes of all classes together that enter suppression, the best; None: all


class Level(NamedTuple):
    """Size of a feature map and the number of priors in each of its cells."""

    height: int  # cells
    width: int
    priors: int  # per cell


@dataclass(frozen=True, eq=False)
class NetworkFacts:
    """Facts about a network that its exported file holds."""

    input_size: tuple[int, int]  # (height, width), pixels
    resize_alignment: ResizeAlignment
    score_activation: ScoreActivation | None = None  # of the logits; None for corners
    priors: np.ndarray | None = None  # (P, 4) cxcywh, input pixels; None for corners
    levels: tuple[Level, ...] = ()


def to_properties(
    metadata: ExportMetadata, form: FileForm, facts: NetworkFacts, selection: Selection
) -> dict[str, str]:
    """Return the metadata of a file: property name -> text."""
    is_raw = form.head in ("raw", "raw-levels")
    assert not is_raw or facts.priors is not None
    layout, dtype = LAYOUTS[form.input]
    output: dict[str, Any] = {
        "box_format": BOX_FORMATS[form.head],
        # Raw logits have a leading column for the background; all other outputs count classes from 0.
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
        # JavaScript's JSON parser rejects NaN.
        "ssdlite": json.dumps(document, ensure_ascii=False, allow_nan=False),
    }
    if is_raw and facts.priors is not None:
        # numpy prints the shortest decimals that give the float32 back; Python prints twice as many for a float.
        rows = [[float(str(value)) for value in row] for row in facts.priors.astype(np.float32)]
        properties["ssdlite.priors"] = json.dumps(rows)
    return properties


@dataclass(frozen=True, eq=False)
class FileMetadata:
    """Metadata that was read from a file."""

    class_names: tuple[str, ...]
    document: dict[str, Any]  # object of the property 'ssdlite'
    head: HeadKind
    precision: Precision
    input_form: InputForm
    input_size: tuple[int, int]  # (height, width), pixels
    resize_alignment: ResizeAlignment  # how images are resized to that size
    score_activation: ScoreActivation | None  # of the logits; None unless `is_raw`
    selection: Selection
    variances: tuple[float, float] | None  # of centre and size; None for a network without priors
    priors: np.ndarray | None  # (P, 4) float32 cxcywh, input pixels; None unless `is_raw`
    levels: tuple[Level, ...]  # in the order of the priors; () unless `is_raw`

    @property
    def is_raw(self) -> bool:
        """True for the heads whose outputs are logits and deltas."""
        return self.head in ("raw", "raw-levels")

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return output_names(self.head, len(self.levels))


def from_properties(properties: Mapping[str, str], source: str) -> FileMetadata:
    """Read the metadata that `to_properties` writes, of this schema or an earlier one.

    Raises CheckpointError, with `source` in its message, if it is incomplete, damaged or of a later schema.
    """
    if "ssdlite" not in properties or "names" not in properties:
        raise CheckpointError(
            f"{source} was not exported by ssdlite: it has no metadata of classes and sizes; "
            "export the checkpoint with 'ssdlite export-onnx'."
        )
    try:
        metadata = _read(properties, source)
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError):
        raise CheckpointError(f"{source} has damaged metadata; export the checkpoint again.") from None
    if part := _damaged_part(metadata):
        raise CheckpointError(f"{source} has damaged metadata ({part}); export the checkpoint again.")
    return metadata


def _read(properties: Mapping[str, str], source: str) -> FileMetadata:
    document = json.loads(properties["ssdlite"])
    given, output, head = document["input"], document["output"], document["head"]
    if type(document["schema"]) is not int:
        raise ValueError("no schema")
    if not 1 <= document["schema"] <= SCHEMA:
        raise CheckpointError(
            f"{source} has metadata of schema {document['schema']}, but this ssdlite reads 1 to {SCHEMA}; "
            "export the checkpoint again."
        )
    height, width = given["size"]
    variances = output["variances"] if document.get("detector") != "corner" else None
    forms = {form: name for name, form in LAYOUTS.items()}
    is_raw = head in ("raw", "raw-levels")
    return FileMetadata(
        class_names=_read_names(properties),
        document=document,
        head=head,
        precision=document.get("precision", "fp32"),
        input_form=forms[given.get("layout", "NCHW"), given.get("dtype", "float32")],
        input_size=(height, width),
        resize_alignment=given.get("resize_alignment", "half_pixel"),  # the oldest files have no entry
        score_activation=output["score_activation"] if is_raw else None,
        selection=Selection(
            output["score_threshold"],
            output["iou_threshold"],
            output["candidates_per_class"],
            output["max_detections"],
            output.get("candidates"),
        ),
        variances=None if variances is None else (variances[0], variances[1]),
        priors=_read_priors(properties) if is_raw else None,
        levels=tuple(Level(*level) for level in output.get("levels", ())) if is_raw else (),
    )


def _damaged_part(metadata: FileMetadata) -> str | None:
    """Return the name of the first invalid part of the metadata, or None."""
    chosen = metadata.selection
    numbers = [chosen.score_threshold, chosen.iou_threshold, *(metadata.variances or ())]
    counts = [*metadata.input_size, chosen.candidates_per_class, chosen.max_detections]
    counts += [] if chosen.candidates is None else [chosen.candidates]
    counts += [count for level in metadata.levels for count in level]
    are_counts = all(type(count) is int and 0 < count < 2**31 for count in counts)
    activations = get_args(ScoreActivation) if metadata.is_raw else (None,)
    valid = {
        "head": isinstance(metadata.head, str) and metadata.head in get_args(HeadKind),
        "precision": metadata.precision in get_args(Precision),
        "sizes and counts": are_counts,
        "thresholds and variances": all(type(n) in (int, float) and 0 <= n < math.inf for n in numbers),
        "resize_alignment": metadata.resize_alignment in get_args(ResizeAlignment),
        "score_activation": metadata.score_activation in activations,
        "variances": metadata.variances is not None or not metadata.is_raw,
        "priors": metadata.priors is None or bool(np.isfinite(metadata.priors).all()),
        "levels": are_counts and _levels_fit(metadata),
        "config": isinstance(metadata.document.get("config"), dict),
    }
    return next((name for name, is_valid in valid.items() if not is_valid), None)


def _levels_fit(metadata: FileMetadata) -> bool:
    """Tell whether the levels have as many priors as there are. Files of schema 1 have no levels."""
    if metadata.priors is None or (metadata.head == "raw" and not metadata.levels):
        return True
    return sum(math.prod(level) for level in metadata.levels) == len(metadata.priors)


def _read_names(properties: Mapping[str, str]) -> tuple[str, ...]:
    names = json.loads(properties["names"])
    if not isinstance(names, list) or not names or not all(map(_is_name, names)) or len(set(names)) < len(names):
        raise ValueError("names are no list of different names")
    return tuple(names)


def _is_name(name: object) -> bool:
    """Tell whether `name` is text of one line. Raises UnicodeEncodeError, a ValueError, for a lone surrogate."""
    return isinstance(name, str) and bool(name.strip()) and not {*name} & {*"\r\n"} and bool(name.encode())


def _read_priors(properties: Mapping[str, str]) -> np.ndarray:
    return np.array(json.loads(properties["ssdlite.priors"]), np.float32).reshape(-1, 4)


def sidecar_path(path: Path) -> Path:
    """Return the path of the sidecar of the file at `path`: its name with .json appended."""
    return path.with_name(f"{path.name}.json")


def write_sidecar(path: Path, facts: Mapping[str, Any], properties: Mapping[str, str]) -> None:
    """Write the sidecar of the file at `path`: a JSON object with one line per key."""
    parts = {**facts, **{name: json.loads(text) for name, text in properties.items()}}
    lines = (f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in parts.items())
    write_text(sidecar_path(path), "{\n" + ",\n".join(lines) + "\n}\n")


def read_metadata(path: Path) -> FileMetadata:
    """Read the sidecar of the file at `path`. Raises CheckpointError if it is missing or damaged."""
    sidecar = sidecar_path(path)
    try:
        parts = read_json(sidecar)
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} needs the file {sidecar.name} beside it, which has its classes and sizes; copy that file too."
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{sidecar} cannot be read: {one_line(str(error))}.") from None
    if not isinstance(parts, dict):
        raise CheckpointError(f"{sidecar} is not a JSON object; export the checkpoint again.")
    properties = {name: json.dumps(value) for name, value in parts.items() if name in PROPERTIES}
    return from_properties(properties, source=str(sidecar))
