"""The comparison behind `check_parity.py`: priors, encodings, logits and final detections, with tolerances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ssdlite import boxes as box_ops
from ssdlite.build.load import LoadedModel
from ssdlite.data.images import image_size, read_image
from ssdlite.inference.images import Finder
from ssdlite.models.detector import Detector
from ssdlite.structures import Detections

SHAPES = ((0, 1, 2), (0, 2, 3, 4, 5, 1))
"""TensorFlow's j-th prior of a cell is our SHAPES[...][j], on level 0 and above. Said here once more: what is to be
checked must not be taken from the importer."""
UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
"""COCO's, of which we have no columns. Said here once more as well."""
NETWORK_LIMIT = 1e-3
TFJS_LIMIT = 1e-4
LEAST_OVERLAP = 0.75  # of partners; suppression allows two of one image .6


class Check(NamedTuple):
    """The largest difference of one kind, and where it was found."""

    what: str
    difference: float
    limit: float
    image: str

    @property
    def passed(self) -> bool:
        return self.difference <= self.limit  # not so for NaN


class Tolerance(NamedTuple):
    """Bounds within which detections are the same."""

    threshold: float  # those with scores above it are compared
    band: float  # around the threshold, where a detection need not have a partner
    overlap: float  # 1 - IoU
    score: float


SAME_PIXELS = Tolerance(threshold=0.025, band=1e-3, overlap=0.01, score=1e-3)
SAME_CLASSES = Tolerance(threshold=0.1, band=1e-3, overlap=1e-3, score=1e-4)
"""Bounds for TensorFlow.js. The list of the smooth noise ends at .09, those of the other images below."""
RESIZED = Tolerance(threshold=0.3, band=0.05, overlap=0.05, score=0.05)
"""Bounds for images that each side resizes: ours rounds the pixels to 8 bits, TensorFlow does not. Over coco128
that moves a score by .001 (median), one in twenty by more than .02; those of the images compared by .011 at
most."""


@dataclass(frozen=True, eq=False)
class Reference:
    """TensorFlow's answers to N images. Priors in its order, boxes y1, x1, y2, x2 in 0..1, encodings y, x, h, w."""

    kept: np.ndarray  # (Q,) those of the priors that are stored
    checksums: np.ndarray  # (N,) of the pixels of images that are not resized
    anchors: np.ndarray  # (Q, 4)
    encodings: np.ndarray  # (N, Q, 4)
    logits: np.ndarray  # (N, Q, M)
    detections: dict[str, np.ndarray]  # file name -> (D, 5): box, score; or (D, 6): COCO's id, box, score
    columns: np.ndarray | None = None  # (Q, M) those of the 91 columns that `logits` holds of each prior; None: all


def read_reference(path: Path) -> Reference:
    with np.load(path) as stored:
        found = {name.removeprefix("detections/"): stored[name] for name in stored.files if "/" in name}
        arrays = {name: stored[name] for name in stored.files if "/" not in name}
    return Reference(detections=found, **arrays)


def reference_order(detector: Detector) -> np.ndarray:
    """(P,): the positions of our priors in the order of TensorFlow's."""
    parts, start = [], 0
    for index, (height, width) in enumerate(detector.map_sizes):
        shapes = SHAPES[min(index, 1)]
        cells = np.arange(height * width)[:, None] * len(shapes)
        parts.append(start + (cells + np.array(shapes)).ravel())
        start += height * width * len(shapes)
    return np.concatenate(parts)


@torch.inference_mode()
def check_network(
    detector: Detector, reference: Reference, images: Sequence[Path], limit: float = NETWORK_LIMIT
) -> list[Check]:
    """Priors in pixels, box encodings and class logits against those of TensorFlow."""
    pixels = torch.from_numpy(np.stack([read_image(path) for path in images])).permute(0, 3, 1, 2)
    output = detector(pixels)
    kept = reference_order(detector)[reference.kept]
    height, width = detector.input_size
    priors = box_ops.cxcywh_to_xyxy(output.priors).numpy()[kept][:, [1, 0, 3, 2]]
    anchors = reference.anchors * np.array([height, width, height, width], np.float32)
    names = [path.name for path in images]
    return [
        _largest("priors, pixels", abs(priors - anchors)[None], ["any"], NETWORK_LIMIT),
        _largest(
            "box encodings",
            abs(output.deltas.numpy()[:, kept][..., [1, 0, 3, 2]] - reference.encodings),
            names,
            limit,
        ),
        _largest("class logits", _logit_differences(output.logits.numpy()[:, kept], reference), names, limit),
    ]


def _logit_differences(logits: np.ndarray, reference: Reference) -> np.ndarray:
    """(N, Q, C) of ours against the columns that are stored; 0 where we have none."""
    if reference.columns is None:
        return abs(logits - reference.logits)
    is_used = ~np.isin(reference.columns, UNUSED_IDS)
    ours = np.take_along_axis(logits, _our_columns(reference.columns)[None], axis=2)
    return abs(ours - reference.logits) * is_used


def _our_columns(ids: np.ndarray) -> np.ndarray:
    """Our labels 1..80 of COCO's ids 1..90; 0 is 0."""
    return ids - np.searchsorted(UNUSED_IDS, ids)


def _largest(what: str, differences: np.ndarray, names: Sequence[str], limit: float) -> Check:
    of_images = differences.reshape(len(names), -1).max(axis=1)
    worst = int(of_images.argmax())
    return Check(what, float(of_images[worst]), limit, names[worst])


def check_detections(
    program: str, model: LoadedModel, images: Sequence[Path], reference: Reference, tolerance: Tolerance
) -> list[Check]:
    """Compare the detections of `ssdlite predict` with TensorFlow's final ones."""
    finder = Finder(model.predictor, model.input_size, model.alignment)
    checks: list[list[Check]] = []
    for path in images:
        (found,) = finder([read_image(path)])
        expected = _to_detections(reference.detections[path.name.removesuffix(".png")], image_size(path))
        checks.append(compare_detections(program, path.name, found, expected, tolerance))
    return [max(kind, key=_severity) for kind in zip(*checks, strict=True)]


def _severity(check: Check) -> float:
    return float("inf") if np.isnan(check.difference) else check.difference


def _to_detections(rows: np.ndarray, size: tuple[int, int]) -> Detections:
    """(D, 5) or (D, 6) of the reference -> pixels of an image of `size` (height, width), clipped to it."""
    height, width = size
    *_, y1, x1, y2, x2, scores = rows.T
    boxes = np.stack([x1, y1, x2, y2], axis=1).clip(0, 1) * np.array([width, height, width, height], np.float32)
    labels = _our_columns(rows[:, 0].astype(int)) if rows.shape[1] == 6 else np.ones(len(rows), int)
    return Detections(boxes.astype(np.float32), scores, labels.astype(np.int64))


def compare_detections(
    program: str, image: str, found: Detections, expected: Detections, tolerance: Tolerance
) -> list[Check]:
    """Partners are of one class and chosen by overlap, best first; a pair that hardly overlaps is none.

    Three checks: how many have no partner, and of those that have the largest 1 - IoU and difference of scores.
    """
    found, expected = (_above(tolerance.threshold - tolerance.band, each) for each in (found, expected))
    overlaps = box_ops.iou(torch.from_numpy(found.boxes), torch.from_numpy(expected.boxes)).numpy()
    overlaps[found.labels[:, None] != expected.labels] = 0
    pairs = _pair(overlaps)
    alone = [
        score
        for side, detections in enumerate((found, expected))
        for position, score in enumerate(detections.scores)
        if score > tolerance.threshold + tolerance.band and position not in {pair[side] for pair in pairs}
    ]
    overlap = max((1 - float(overlaps[pair]) for pair in pairs), default=0.0)
    score = max((abs(float(found.scores[i] - expected.scores[j])) for i, j in pairs), default=0.0)
    return [
        Check(f"{program}: unmatched", len(alone), 0, image),
        Check(f"{program}: 1 - IoU", overlap, tolerance.overlap, image),
        Check(f"{program}: score", score, tolerance.score, image),
    ]


def _above(threshold: float, detections: Detections) -> Detections:
    kept = detections.scores > threshold
    return Detections(*(array[kept] for array in detections))


def _pair(overlaps: np.ndarray) -> list[tuple[int, int]]:
    """IoU (found, expected) -> pairs, each row and column in one at most."""
    pairs: list[tuple[int, int]] = []
    left = overlaps.copy()
    while left.size and left.max() > LEAST_OVERLAP:
        row, column = (int(index) for index in np.unravel_index(left.argmax(), left.shape))
        pairs.append((row, column))
        left[row], left[:, column] = 0, 0
    return pairs


def as_table(checks: Sequence[Check]) -> str:
    lines = [f"{'':<28}{'largest difference':>20}{'limit':>10}  {'':<6}image"]
    for check in checks:
        verdict = "ok" if check.passed else "FAILS"
        image = check.image if check.difference else ""
        lines.append(f"{check.what:<28}{check.difference:>20.2g}{check.limit:>10.2g}  {verdict:<6}{image}".rstrip())
    return "\n".join(lines)
