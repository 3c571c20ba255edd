"""Reading what an exported file says about itself; nothing that it says is believed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from ssdlite.deploy.metadata import (
    LAYOUTS,
    SCHEMA,
    HeadKind,
    InputForm,
    Level,
    Precision,
    Selection,
    output_names,
)
from ssdlite.errors import CheckpointError
from ssdlite.structures import ResizeAlignment, ScoreActivation


@dataclass(frozen=True, eq=False)
class ModelCard:
    """The metadata of a file, read back."""

    class_names: tuple[str, ...]
    document: dict[str, Any]  # the object under 'ssdlite'
    head: HeadKind
    precision: Precision
    input_form: InputForm
    input_size: tuple[int, int]  # (height, width), pixels
    resize_alignment: ResizeAlignment  # of images that are brought to that size
    score_activation: ScoreActivation | None  # of the logits; None unless `head` is raw or raw-levels
    selection: Selection
    variances: tuple[float, float] | None  # of centre and size; None for a network without priors
    priors: np.ndarray | None  # (P, 4) float32 cxcywh, input pixels; None unless `head` is raw or raw-levels
    levels: tuple[Level, ...]  # in the order of the priors; () unless `head` is raw or raw-levels

    @property
    def is_raw(self) -> bool:
        return self.head in ("raw", "raw-levels")

    @property
    def output_names(self) -> tuple[str, ...]:
        return output_names(self.head, len(self.levels))


def from_properties(properties: Mapping[str, str], source: str) -> ModelCard:
    """Read what `metadata.to_properties` wrote, now or with schema 1.

    Raises CheckpointError that names `source` if it is not all there.
    """
    if "ssdlite" not in properties or "names" not in properties:
        raise CheckpointError(
            f"{source} was not exported by ssdlite: it names no classes and no sizes; "
            "write it with 'ssdlite export-onnx'."
        )
    try:
        card = _read(properties, source)
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError):
        raise CheckpointError(f"{source} has damaged metadata; export the checkpoint again.") from None
    if part := _damaged_part(card):
        raise CheckpointError(f"{source} has damaged metadata ({part}); export the checkpoint again.")
    return card


def _read(properties: Mapping[str, str], source: str) -> ModelCard:
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
    return ModelCard(
        class_names=_read_names(properties),
        document=document,
        head=head,
        precision=document.get("precision", "fp32"),
        input_form=forms[given.get("layout", "NCHW"), given.get("dtype", "float32")],
        input_size=(height, width),
        resize_alignment=given.get("resize_alignment", "half_pixel"),  # the oldest files do not say
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


def _damaged_part(card: ModelCard) -> str | None:
    """The first part of the metadata that prediction could not follow, if there is one."""
    chosen = card.selection
    numbers = [chosen.score_threshold, chosen.iou_threshold, *(card.variances or ())]
    counts = [*card.input_size, chosen.candidates_per_class, chosen.max_detections]
    counts += [] if chosen.candidates is None else [chosen.candidates]
    counts += [count for level in card.levels for count in level]
    are_counts = all(type(count) is int and 0 < count < 2**31 for count in counts)
    activations = get_args(ScoreActivation) if card.is_raw else (None,)
    sound = {
        "head": isinstance(card.head, str) and card.head in get_args(HeadKind),
        "precision": card.precision in get_args(Precision),
        "sizes and counts": are_counts,
        "thresholds and variances": all(type(n) in (int, float) and 0 <= n < math.inf for n in numbers),
        "resize_alignment": card.resize_alignment in get_args(ResizeAlignment),
        "score_activation": card.score_activation in activations,
        "variances": card.variances is not None or not card.is_raw,
        "priors": card.priors is None or bool(np.isfinite(card.priors).all()),
        "levels": are_counts and _levels_fit(card),
        "config": isinstance(card.document.get("config"), dict),
    }
    return next((name for name, is_sound in sound.items() if not is_sound), None)


def _levels_fit(card: ModelCard) -> bool:
    """Whether the maps have all the priors. Files of schema 1 do not speak of maps, and have none as outputs."""
    if card.priors is None or (card.head == "raw" and not card.levels):
        return True
    return sum(math.prod(level) for level in card.levels) == len(card.priors)


def _read_names(properties: Mapping[str, str]) -> tuple[str, ...]:
    names = json.loads(properties["names"])
    if not isinstance(names, list) or not names or not all(map(_is_name, names)) or len(set(names)) < len(names):
        raise ValueError("names are no list of different names")
    return tuple(names)


def _is_name(name: object) -> bool:
    """Whether it can be printed on one line. Raises UnicodeEncodeError, a ValueError, for half a character."""
    return isinstance(name, str) and bool(name.strip()) and not {*name} & {*"\r\n"} and bool(name.encode())


def _read_priors(properties: Mapping[str, str]) -> np.ndarray:
    return np.array(json.loads(properties["ssdlite.priors"]), np.float32).reshape(-1, 4)
