"""The proof that an exported file computes what the network does, on real images.

The reference is the network in float64. PyTorch in float32 misses it by some rounding error, which is large where
the network is ill-conditioned, so one rule holds for every quantity:

    |file − float64| ≤ 5 · max |PyTorch float32 − float64| + floor      (floors: `Tolerance`)

A network that finds corners makes choices before there is a box. The rule holds for its maps, which the file
computes too; and the boxes are judged by the file's own maps, pair by pair: each that is given must be one that
they can mean, and none that they must mean may be missing, see `pairs`.

For a file with suppression, each detection must be one of the reference's boxes by this rule, and the set must be
one that greedy suppression can give: no two of a class overlap too much, and every box left out is overlapped by a
better one or did not fit in. That defines the result up to ties, whose order no two runtimes share. Detections are
compared with clipped boxes; what overlaps is judged by the boxes as they were before.
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from torch import nn

from ssdlite.deploy.graph import add_outputs
from ssdlite.deploy.metadata import CORNER_MAPS, HeadKind
from ssdlite.deploy.pairs import check_pairs
from ssdlite.deploy.reference import Candidates, Reference, Tolerance, corner_candidates, row_errors
from ssdlite.deploy.runtime import OnnxPredictor
from ssdlite.deploy.selection import Matches, check_selection, match_detections
from ssdlite.structures import Detections

logger = logging.getLogger(__name__)

BATCH_SIZES = (1, 4)
UNITS = {"boxes": " px"}


@dataclass(frozen=True)
class Difference:
    """How far one quantity is from the reference at its worst."""

    quantity: str  # logits, deltas, priors, boxes or scores
    largest: float
    allowed: float
    image: int  # where: position in the images, at batch size
    batch_size: int

    @property
    def passed(self) -> bool:
        return self.largest <= self.allowed < math.inf  # infinite where PyTorch itself overflows

    def __str__(self) -> str:
        unit = UNITS.get(self.quantity, "")
        return (
            f"{self.quantity} differ by {self.largest:.2g}{unit} (allowed {self.allowed:.2g}) "
            f"in image {self.image} at batch {self.batch_size}"
        )


@dataclass(frozen=True)
class Verification:
    """The result of `verify_onnx`."""

    head: HeadKind
    num_images: int
    batch_sizes: tuple[int, ...]
    differences: tuple[Difference, ...]  # one a quantity, at its worst
    problems: tuple[str, ...]  # of suppression
    num_detections: int | None  # in all images; None unless `head` is nms

    @property
    def passed(self) -> bool:
        return not self.problems and all(difference.passed for difference in self.differences)

    @property
    def worst(self) -> Difference:
        """What comes nearest to its limit, or exceeds it the most."""
        return max(self.differences, key=lambda d: np.nan_to_num(d.largest / d.allowed, nan=np.inf))

    @property
    def summary(self) -> str:
        """What differs most, in one phrase."""
        if self.worst.passed and self.problems:
            more = f", and {len(self.problems) - 1} more" if len(self.problems) > 1 else ""
            return self.problems[0] + more
        return str(self.worst)

    def to_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        return {**asdict(self), "passed": self.passed}


def verify_onnx(
    path: Path, detector: nn.Module, images: np.ndarray, tolerance: Tolerance | None = None
) -> Verification:
    """Compare the file at `path`, run by onnxruntime, with `detector` on `images` (N, 3, H, W) uint8, N > 0.

    Runs at batch 1 and 4, or at the one size that the file is fixed to. `detector` is not changed.
    Raises CheckpointError if the file cannot be loaded.
    """
    assert len(images) > 0, "nothing to verify on"
    predictor, tolerance = OnnxPredictor(path), tolerance or Tolerance()
    batch_sizes = BATCH_SIZES if predictor.batch_size is None else (predictor.batch_size,)
    reference = Reference.compute(detector, images, tolerance)
    differences: dict[str, Difference] = {}
    problems: list[str] = []
    if reference.has_corners:
        maps = _corner_maps(path, images)
        errors = {name: row_errors(maps[name], reference.values[name]) for name in CORNER_MAPS}
        _record(differences, errors, reference, np.arange(len(images)), batch_sizes[0])
        candidates = corner_candidates(maps, predictor.input_size, tolerance)
        if unclear := sum(candidate is None for candidate in candidates):
            logger.warning(
                "the choice of boxes was not verified on %d of %d images: they are too uniform to tell one corner "
                "from another.",
                *(unclear, len(images)),
            )
    else:
        candidates = reference.candidates()
    # Repeated as needed, so that the largest batch is full.
    order = np.arange(max(len(images), *batch_sizes)) % len(images)
    num_detections = None
    for batch_size in batch_sizes:
        outputs = predictor.run(images[order], batch_size)
        errors, found = _compare(predictor, outputs, reference, [candidates[image] for image in order], order)
        _record(differences, errors, reference, order, batch_size)
        problems += [f"{problem} at batch {batch_size}" for problem in found]
        if predictor.card.head == "nms":
            num_detections = int(outputs["num_detections"][: len(images)].sum())
    if num_detections == 0:
        logger.warning("suppression was verified on nothing: no detections in %d images.", len(images))
    return Verification(
        head=predictor.card.head,
        num_images=len(images),
        batch_sizes=batch_sizes,
        differences=tuple(differences.values()),
        problems=tuple(problems),
        num_detections=num_detections,
    )


def _corner_maps(path: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """What the file at `path` computes before it decodes."""
    with tempfile.TemporaryDirectory() as folder:
        probed = Path(folder) / path.name
        onnx.save(add_outputs(onnx.load(path), CORNER_MAPS), probed)
        predictor = OnnxPredictor(probed)
        return predictor.run(images, predictor.batch_size or 1, CORNER_MAPS)


def _record(
    differences: dict[str, Difference],
    errors: dict[str, np.ndarray],
    reference: Reference,
    order: np.ndarray,
    batch_size: int,
) -> None:
    """Keep the largest of each quantity's errors (N,) of the images in `order`."""
    for name, error_N in errors.items():
        worst = int(np.argmax(error_N))
        difference = Difference(name, float(error_N[worst]), reference.allowed[name], int(order[worst]), batch_size)
        if name not in differences or difference.largest > differences[name].largest:
            differences[name] = difference


def _compare(
    predictor: OnnxPredictor,
    outputs: dict[str, np.ndarray],
    reference: Reference,
    candidates: Sequence[Candidates | None],
    order: np.ndarray,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """(N,) errors a quantity of the images in `order`, and what is wrong with the choice of boxes."""
    if predictor.card.head != "nms" and not reference.has_corners:
        if predictor.card.priors is not None:  # whoever reads a raw file decodes with them
            outputs = {**outputs, "priors": predictor.card.priors[None].repeat(len(order), axis=0)}
        return {name: row_errors(value, reference.values[name][order]) for name, value in outputs.items()}, []
    limits = reference.allowed["boxes"], reference.allowed["scores"]
    errors: dict[str, list[float]] = {"boxes": [], "scores": []}
    problems: list[str] = []
    suppressed = predictor.card.head == "nms"
    answers = predictor.select(outputs) if suppressed else _given_pairs(outputs)
    for image, found, candidate in zip(order, answers, candidates, strict=True):
        if candidate is None:
            for error in errors.values():
                error.append(0.0)
            continue
        boxes, scores, is_optional = candidate
        if suppressed:
            matches, wrong = _compare_detections(found, candidate, predictor, limits)
        else:
            matches = match_detections(found, boxes, scores, *limits)
            wrong = list(check_pairs(found, boxes, scores, is_optional, limits))
        errors["boxes"].append(matches.box_errors.max(initial=0))
        errors["scores"].append(matches.score_errors.max(initial=0))
        problems += [f"{problem} in image {image}" for problem in wrong]
    return {name: np.nan_to_num(error_N, nan=np.inf) for name, error_N in errors.items()}, problems


def _given_pairs(outputs: dict[str, np.ndarray]) -> Iterator[Detections]:
    """What scores in a file of head `decoded`, image by image."""
    for boxes, scores in zip(outputs["boxes"], outputs["scores"], strict=True):
        rows, columns = np.nonzero(scores)
        yield Detections(boxes[rows], scores[rows, columns], columns + 1)


def _compare_detections(
    found: Detections, candidate: Candidates, predictor: OnnxPredictor, limits: tuple[float, float]
) -> tuple[Matches, list[str]]:
    """Of one image, after suppression."""
    boxes, scores, is_optional = candidate
    problems = []
    height, width = predictor.input_size
    image_end = np.array([width, height, width, height])
    sides = (np.minimum(boxes, image_end)[:, 2:] - boxes[:, :2].clip(min=0)).min(axis=1)  # negative outside
    scores = np.where(sides[:, None] < -limits[0], 0, scores)
    is_optional = is_optional | (np.abs(sides) <= limits[0])
    if empty := int((found.boxes[:, 2:] <= found.boxes[:, :2]).any(axis=1).sum()):
        problems.append(f"{empty} detections have no area")
    known = (found.labels >= 1) & (found.labels <= scores.shape[1])
    if not known.all():
        problems.append(f"{(~known).sum()} detections have no class")
        found = Detections(*(part[known] for part in found))
    matches = match_detections(found, boxes.clip(0, image_end), scores, *limits)
    selection = predictor.card.selection
    wrong = check_selection(matches.priors, found.labels, boxes, scores, is_optional, selection, limits[1])
    return matches, [*problems, *wrong]
