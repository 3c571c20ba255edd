"""Verification that an exported file computes what the network does, on real images.

The reference is the network in float64. PyTorch in float32 differs from it by a rounding error, which is large if
the network is ill-conditioned. Therefore one rule applies to every quantity:

    |file − float64| ≤ 5 · max |PyTorch float32 − float64| + floor      (floors: `Tolerance`)

Logits, deltas and corner maps are read from inside the file if they are not its outputs, because scores hide
errors.

A corner network selects corners before it has boxes, and a network in float16 or int8 has errors far above
rounding. For both, decoding and suppression are verified against the maps that the file itself computes, within the
floors above. The maps are held to the same rule, or in float16 and int8 to a share of their size
(`reference.NOISE`), as are boxes and scores of a file whose maps cannot be read. The effect on accuracy is measured
by `verify_export`.

For a file with suppression, each detection must be one of the reference's boxes by this rule, and the set must be
one that greedy suppression can give: no two of a class overlap too much, and every box that was left out is
overlapped by a better one or exceeded a limit. That defines the result up to ties, whose order differs between
runtimes. Detections are compared with clipped boxes, and overlaps are computed from the boxes before clipping.
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

from ssdlite.export.metadata import CORNER_MAPS, OUTPUT_NAMES, HeadKind
from ssdlite.export.onnx.graph import add_outputs
from ssdlite.export.onnxruntime import OnnxPredictor, OnnxSession
from ssdlite.export.predictor import FilePredictor
from ssdlite.export.verify.choices import Matches, check_pairs, check_selection, match_detections
from ssdlite.export.verify.reference import NOISE, Candidates, Reference, Tolerance, row_errors, row_noise
from ssdlite.models.detector import Detector
from ssdlite.models.network import Network
from ssdlite.structures import Detections

logger = logging.getLogger(__name__)


BATCH_SIZES = (1, 4)


LARGEST_NOISE = {"boxes": 0.02, "scores": 0.05}
"""Largest errors of a float16 or int8 file whose maps cannot be read: boxes in input sides, and scores.

A trained network in float16 had .0055 and .011."""


UNITS = {"boxes": " px", "priors": " px"}


@dataclass(frozen=True)
class Difference:
    """Largest difference of one quantity from the reference."""

    quantity: str  # logits, deltas, priors, boxes, scores or a corner map; or "noise of" one of them
    largest: float
    allowed: float
    image: int  # index of the image with that difference
    batch_size: int  # of the run with that difference
    pytorch: float | None = None  # largest difference of PyTorch in float32; None if that is not part of the bound

    @property
    def passed(self) -> bool:
        """True if the difference is within its bound."""
        return self.largest <= self.allowed < math.inf  # infinite where PyTorch itself overflows

    def __str__(self) -> str:
        where = f"in image {self.image} at batch {self.batch_size}"
        if self.quantity.startswith("noise"):
            return f"{self.quantity} is {self.largest:.2g} of their size (allowed {self.allowed:.2g}) {where}"
        unit = UNITS.get(self.quantity, "")
        own = "" if self.pytorch is None else f"PyTorch in float32: {self.pytorch:.2g}, "
        return f"{self.quantity} differ by {self.largest:.2g}{unit} ({own}allowed {self.allowed:.2g}) {where}"


@dataclass(frozen=True)
class Verification:
    """Result of `verify_file`."""

    head: HeadKind
    num_images: int
    batch_sizes: tuple[int, ...]
    differences: tuple[Difference, ...]  # the largest of each quantity
    problems: tuple[str, ...]  # of suppression, a phrase each
    num_detections: int  # in all images together

    @property
    def passed(self) -> bool:
        """True if all differences are within their bounds and suppression has no problems."""
        return not self.problems and all(difference.passed for difference in self.differences)

    @property
    def worst(self) -> Difference:
        """Difference that is nearest to its bound, or exceeds it the most."""
        ratios = {d: np.nan_to_num(d.largest / d.allowed, nan=np.inf) for d in self.differences}
        return max(self.differences, key=lambda d: (not d.passed, ratios[d]))

    @property
    def summary(self) -> str:
        """Worst difference or problem, as a phrase."""
        if self.worst.passed and self.problems:
            more = f", and {len(self.problems) - 1} more" if len(self.problems) > 1 else ""
            return self.problems[0] + more
        return str(self.worst)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a JSON file; infinity becomes None."""
        differences = [
            {name: None if value in (math.inf, -math.inf) else value for name, value in asdict(difference).items()}
            for difference in self.differences
        ]
        return {**asdict(self), "differences": differences, "passed": self.passed}


def verify_onnx(
    path: Path, detector: Network, images: np.ndarray, tolerance: Tolerance | None = None
) -> Verification:
    """Run `verify_file` on the .onnx at `path`, with its inner values.

    Raises CheckpointError if the file cannot be loaded.
    """
    predictor = OnnxPredictor(path)
    inner_names = OUTPUT_NAMES["raw"] if isinstance(detector, Detector) else CORNER_MAPS
    inside = None if predictor.metadata.is_raw else _probe(path, inner_names)
    return verify_file(predictor, detector, images, inside=inside, tolerance=tolerance)


def verify_file(
    predictor: FilePredictor,
    detector: Network,
    images: np.ndarray,
    *,
    inside: FilePredictor | None = None,
    tolerance: Tolerance | None = None,
) -> Verification:
    """Compare a file in its runtime with `detector`, which is not changed, on `images` (N, 3, H, W) uint8, N > 0.

    Runs at batch size 1 and 4, or at the one that the file is fixed to. `inside` computes the values of the file
    before decoding, if they are not among its outputs; suppression and corners cannot be verified without it.
    """
    assert len(images) > 0, "verification needs at least one image"
    comparison = _Comparison(predictor, Reference.compute(detector, images, tolerance or Tolerance()))
    batch_sizes = BATCH_SIZES if predictor.batch_size is None else (predictor.batch_size,)
    # Images are repeated as needed to fill the largest batch.
    order = np.arange(max(len(images), *batch_sizes)) % len(images)
    num_detections = 0
    for batch_size in batch_sizes:
        outputs = predictor.run(images[order], batch_size)
        inner = inside.run(images[order], batch_size) if inside else None
        comparison.add(outputs, inner, order, batch_size)
        found = list(predictor.select(outputs))[: len(images)]
        num_detections = sum(len(detections.scores) for detections in found)
    if num_detections == 0 and predictor.metadata.head == "nms":
        logger.warning("suppression was not verified: the %d images have no detections.", len(images))
    if comparison.unclear:
        logger.warning(
            "the selection of boxes was not verified on %d of %d images: they are too uniform to tell one corner "
            "from another.",
            *(len(comparison.unclear), len(images)),
        )
    return Verification(
        head=predictor.metadata.head,
        num_images=len(images),
        batch_sizes=batch_sizes,
        differences=tuple(comparison.differences.values()),
        problems=tuple(comparison.problems),
        num_detections=num_detections,
    )


def _probe(path: Path, names: Sequence[str]) -> FilePredictor:
    """Return a predictor for a copy of the file at `path` whose outputs are its inner values `names`."""
    with tempfile.TemporaryDirectory() as folder:
        probed = Path(folder) / path.name
        onnx.save(add_outputs(onnx.load(path), names), probed)
        return FilePredictor(OnnxSession(probed, names=names))


class _Comparison:
    """Comparison of the outputs of one file with the reference."""

    def __init__(self, predictor: FilePredictor, reference: Reference) -> None:
        self.predictor = predictor
        self.reference = reference
        self.inner_names = reference.inner_names
        self.precision = predictor.metadata.precision
        self.by_own_maps = self.inner_names == CORNER_MAPS or self.precision != "fp32"
        self.differences: dict[str, Difference] = {}
        self.problems: list[str] = []
        self.unclear: set[int] = set()  # images whose selection of boxes is not verified

    def add(
        self,
        outputs: dict[str, np.ndarray],
        inner: dict[str, np.ndarray] | None,
        order: np.ndarray,
        batch_size: int,
    ) -> None:
        """Compare the outputs for the images in `order`, and the `inner` values that they are decoded from."""
        metadata, reference = self.predictor.metadata, self.reference
        if metadata.is_raw:
            inner = dict(zip(self.inner_names, self.predictor.join(outputs), strict=True))
            assert metadata.priors is not None  # users of a raw file decode with them
            errors = row_errors(metadata.priors[None], reference.values["priors"])
            self._record("priors", errors, reference.allowed("priors"), order, batch_size)
        for name, values in (inner or {}).items():
            self._compare(name, values, order, batch_size)
        if metadata.head == "nms" or self.inner_names == CORNER_MAPS:
            candidates = reference.candidates(inner if self.by_own_maps else None, order)
            self._compare_chosen(outputs, candidates, order, batch_size)
        elif self.precision == "fp32" or inner is None:
            for name, values in zip(OUTPUT_NAMES["decoded"], self.predictor.decode(outputs), strict=True):
                self._compare(name, values, order, batch_size)
                if self.precision != "fp32":
                    errors = row_errors(values, reference.values[name][order])
                    self._record(name, errors, self._largest_noise(name), order, batch_size)
        else:
            candidates = reference.candidates(inner, order)
            answers = zip(OUTPUT_NAMES["decoded"], self.predictor.decode(outputs), self._limits, strict=True)
            for index, (name, values, allowed) in enumerate(answers):
                expected = np.stack([candidate[index] for candidate in candidates if candidate])
                self._record(name, row_errors(values, expected), allowed, order, batch_size)

    def _compare(self, name: str, values: np.ndarray, order: np.ndarray, batch_size: int) -> None:
        """Compare one quantity with the reference."""
        expected = self.reference.values[name][order]
        if self.precision == "fp32":
            self._record(name, row_errors(values, expected), self.reference.allowed(name), order, batch_size)
        else:
            noise = row_noise(values, expected)
            self._record(f"noise of {name}", noise, NOISE[self.precision], order, batch_size)

    def _largest_noise(self, name: str) -> float:
        """Return the largest allowed error of boxes or scores of a reduced precision file without readable maps."""
        return LARGEST_NOISE[name] * (max(self.reference.input_size) if name == "boxes" else 1)

    @property
    def _limits(self) -> tuple[float, float]:
        """Bounds of boxes and scores, without a share for rounding if the file's own maps are the reference."""
        source = self.reference.tolerance.of if self.by_own_maps else self.reference.allowed
        return source("boxes"), source("scores")

    def _record(self, name: str, errors: np.ndarray, allowed: float, order: np.ndarray, batch_size: int) -> None:
        """Record the largest of the errors (N,) of a quantity on the images in `order`."""
        worst = int(np.argmax(errors))
        rounding = None if self.by_own_maps else self.reference.rounding.get(name)
        difference = Difference(name, float(errors[worst]), allowed, int(order[worst]), batch_size, rounding)
        if name not in self.differences or difference.largest > self.differences[name].largest:
            self.differences[name] = difference

    def _compare_chosen(
        self,
        outputs: dict[str, np.ndarray],
        candidates: Sequence[Candidates | None],
        order: np.ndarray,
        batch_size: int,
    ) -> None:
        """Check that detections, or pairs of corners, are candidates, and that their selection is valid."""
        suppressed = self.predictor.metadata.head == "nms"
        answers = self.predictor.select(outputs) if suppressed else _given_pairs(outputs)
        errors = np.zeros((2, len(order)))
        for row, (found, candidate) in enumerate(zip(answers, candidates, strict=True)):
            image = int(order[row])
            if candidate is None:
                self.unclear.add(image)
                continue
            if suppressed:
                matches, wrong = _compare_detections(found, candidate, self.predictor, self._limits)
            else:
                boxes, scores, is_optional = candidate
                matches = match_detections(found, boxes, scores, *self._limits)
                wrong = list(check_pairs(found, boxes, scores, is_optional, self._limits))
            errors[:, row] = matches.box_errors.max(initial=0), matches.score_errors.max(initial=0)
            self.problems += [f"{problem} in image {image} at batch {batch_size}" for problem in wrong]
        for name, error_N, allowed in zip(("boxes", "scores"), errors, self._limits, strict=True):
            self._record(name, np.nan_to_num(error_N, nan=np.inf), allowed, order, batch_size)


def _given_pairs(outputs: dict[str, np.ndarray]) -> Iterator[Detections]:
    """Yield the boxes with a score in the outputs of head `decoded`, image by image."""
    for boxes, scores in zip(outputs["boxes"], outputs["scores"], strict=True):
        rows, columns = np.nonzero(scores)
        yield Detections(boxes[rows], scores[rows, columns], columns + 1)


def _compare_detections(
    found: Detections, candidate: Candidates, predictor: FilePredictor, limits: tuple[float, float]
) -> tuple[Matches, list[str]]:
    """Compare the detections of one image after suppression; return their matches and a phrase per problem."""
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
    selection = predictor.metadata.selection
    wrong = check_selection(matches.priors, found.labels, boxes, scores, is_optional, selection, limits[1])
    return matches, [*problems, *wrong]
