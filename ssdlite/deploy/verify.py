"""The proof that an exported file computes what the network does, on real images.

The reference is the network in float64. PyTorch in float32 misses it by some rounding error, which is large where
the network is ill-conditioned, so one rule holds for every quantity:

    |file − float64| ≤ 5 · max |PyTorch float32 − float64| + floor      (floors: `Tolerance`)

For a file with suppression, each detection must be one of the reference's boxes by this rule, and the set must be
one that greedy suppression can give: no two of a class overlap too much, and every box left out is overlapped by a
better one or did not fit in. That defines the result up to ties, whose order no two runtimes share. Detections are
compared with clipped boxes; what overlaps is judged by the boxes as they were before.
"""

from __future__ import annotations

import copy
import logging
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ssdlite.deploy.metadata import OUTPUT_NAMES, HeadKind
from ssdlite.deploy.runtime import OnnxPredictor
from ssdlite.deploy.selection import check_selection, match_detections
from ssdlite.model.decode import decode_output
from ssdlite.structures import Detections

logger = logging.getLogger(__name__)

ROUNDING_FACTOR = 5  # two float32 programs sum in different orders; their errors are of one size, not equal
BATCH_SIZES = (1, 4)
UNITS = {"boxes": " px"}


@dataclass(frozen=True)
class Tolerance:
    """What a file may be off by beyond rounding."""

    raw: float = 1e-5  # logits, deltas, and priors in pixels
    boxes: float = 0.1  # pixels of the network input
    scores: float = 1e-3

    def of(self, quantity: str) -> float:
        return {"boxes": self.boxes, "scores": self.scores}.get(quantity, self.raw)


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
    reference = _Reference.compute(detector, images, tolerance)
    # Repeated as needed, so that the largest batch is full.
    order = np.arange(max(len(images), *batch_sizes)) % len(images)
    differences: dict[str, Difference] = {}
    problems: list[str] = []
    num_detections = None
    for batch_size in batch_sizes:
        outputs = predictor.run(images[order], batch_size)
        errors, found = _compare(predictor, outputs, reference, order)
        for name, error_N in errors.items():
            worst = int(np.argmax(error_N))
            difference = Difference(
                name, float(error_N[worst]), reference.allowed[name], int(order[worst]), batch_size
            )
            if name not in differences or difference.largest > differences[name].largest:
                differences[name] = difference
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


@dataclass(frozen=True, eq=False)
class _Reference:
    values: dict[str, np.ndarray]  # of all priors and images, in float64
    allowed: dict[str, float]

    @classmethod
    def compute(cls, detector: nn.Module, images: np.ndarray, tolerance: Tolerance) -> _Reference:
        exact = _run(copy.deepcopy(detector).cpu().double(), images)
        rounded = _run(copy.deepcopy(detector).cpu().float(), images)
        allowed = {
            name: ROUNDING_FACTOR * float(_errors(rounded[name], exact[name]).max()) + tolerance.of(name)
            for name in exact
        }
        return cls(exact, allowed)


@torch.inference_mode()
def _run(detector: nn.Module, images: np.ndarray) -> dict[str, np.ndarray]:
    """Each output for (N, 3, H, W) images, and the priors, with N rows."""
    detector.eval()
    parts = []
    for image in torch.from_numpy(images).split(1):  # float64 takes much memory
        output = detector(image)
        decoded = decode_output(output, (images.shape[2], images.shape[3]))
        parts.append((output.logits, output.deltas, *decoded, output.priors[None]))
    names = (*OUTPUT_NAMES["raw"], *OUTPUT_NAMES["decoded"], "priors")
    columns = (torch.cat(part).double().numpy() for part in zip(*parts, strict=True))
    return dict(zip(names, columns, strict=True))


def _errors(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(N, ...) -> (N,), the largest absolute difference in each row; infinite where it is not a number."""
    errors = np.abs(values - reference).reshape(len(values), -1).max(axis=1, initial=0)
    return np.nan_to_num(errors, nan=np.inf)


def _compare(
    predictor: OnnxPredictor, outputs: dict[str, np.ndarray], reference: _Reference, order: np.ndarray
) -> tuple[dict[str, np.ndarray], list[str]]:
    """(N,) errors a quantity of the images in `order`, and what is wrong with the suppression."""
    if predictor.card.priors is not None:  # whoever reads a raw file decodes with them
        outputs = {**outputs, "priors": predictor.card.priors[None].repeat(len(order), axis=0)}
    if predictor.card.head != "nms":
        return {name: _errors(value, reference.values[name][order]) for name, value in outputs.items()}, []
    limits = reference.allowed["boxes"], reference.allowed["scores"]
    errors: dict[str, list[float]] = {"boxes": [], "scores": []}
    problems: list[str] = []
    height, width = predictor.input_size
    image_end = np.array([width, height, width, height])
    for image, found in zip(order, predictor.select(outputs), strict=True):
        boxes, scores = reference.values["boxes"][image], reference.values["scores"][image]
        sides = (np.minimum(boxes, image_end)[:, 2:] - boxes[:, :2].clip(min=0)).min(axis=1)  # negative outside
        scores = np.where(sides[:, None] < -limits[0], 0, scores)
        is_optional = np.abs(sides) <= limits[0]
        if empty := int((found.boxes[:, 2:] <= found.boxes[:, :2]).any(axis=1).sum()):
            problems.append(f"{empty} detections have no area in image {image}")
        known = (found.labels >= 1) & (found.labels <= scores.shape[1])
        if not known.all():
            problems.append(f"{(~known).sum()} detections have no class in image {image}")
            found = Detections(*(part[known] for part in found))
        matches = match_detections(found, boxes.clip(0, image_end), scores, *limits)
        errors["boxes"].append(matches.box_errors.max(initial=0))
        errors["scores"].append(matches.score_errors.max(initial=0))
        selection = predictor.card.selection
        wrong = check_selection(matches.priors, found.labels, boxes, scores, is_optional, selection, limits[1])
        problems += [f"{problem} in image {image}" for problem in wrong]
    return {name: np.nan_to_num(error_N, nan=np.inf) for name, error_N in errors.items()}, problems
