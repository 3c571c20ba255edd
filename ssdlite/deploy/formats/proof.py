"""The proof that a file answers as the network does, on real images; the rule is that of `deploy.proof.verify`.

What the file gives is compared, and the boxes and scores that come of it:

    |file − float64| ≤ 5 · max |PyTorch float32 − float64| + floor

A file with weights in float16 is another network by a little; its floors say how little.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ssdlite.deploy.card import ModelCard
from ssdlite.deploy.formats.kinds import WeightPrecision
from ssdlite.deploy.predictor import FilePredictor, select
from ssdlite.deploy.proof.reference import ROUNDING_FACTOR, Reference, Tolerance, row_errors
from ssdlite.model.network import Network

BATCH_SIZES = (1, 4)
UNITS = {"boxes": " px", "priors": " px"}

TOLERANCES: dict[WeightPrecision, Tolerance] = {
    "fp32": Tolerance(),
    # Measured on the pedestrian network at 300x300: logits .36, deltas .13, boxes 1.6 px, scores .005.
    "fp16": Tolerance(raw=1.0, boxes=5.0, scores=0.02),
}


@dataclass(frozen=True)
class Deviation:
    """How far one quantity is from float64 at its worst."""

    quantity: str  # logits, deltas, priors, boxes or scores
    largest: float
    allowed: float
    pytorch: float  # how far PyTorch itself is, in float32
    image: int  # where: position in the images
    batch_size: int

    @property
    def passed(self) -> bool:
        return self.largest <= self.allowed < math.inf

    def __str__(self) -> str:
        unit = UNITS.get(self.quantity, "")
        return (
            f"{self.quantity} differ by {self.largest:.2g}{unit} (PyTorch itself by {self.pytorch:.2g}, allowed "
            f"{self.allowed:.2g}) in image {self.image} at batch {self.batch_size}"
        )


@dataclass(frozen=True)
class Proof:
    """The result of `prove`."""

    num_images: int
    batch_sizes: tuple[int, ...]
    deviations: tuple[Deviation, ...]  # one a quantity, at its worst
    num_detections: int  # that the file gives for all images
    num_expected: int  # that the network gives in float64; ties at the threshold may fall either way

    @property
    def passed(self) -> bool:
        return all(deviation.passed for deviation in self.deviations)

    @property
    def worst(self) -> Deviation:
        """What comes nearest to its limit, or exceeds it the most."""
        return max(self.deviations, key=lambda d: np.nan_to_num(d.largest / d.allowed, nan=np.inf))

    def to_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        return {**asdict(self), "passed": self.passed}


def prove(predictor: FilePredictor, detector: Network, images: np.ndarray, precision: WeightPrecision) -> Proof:
    """Compare `predictor` with `detector`, which is not changed, on `images` (N, 3, H, W) uint8, N > 0.

    Runs at batch 1 and 4, or at the one size that the file is fixed to.
    """
    assert len(images) > 0, "nothing to compare on"
    tolerance = TOLERANCES[precision]
    reference = Reference.compute(detector, images, tolerance)
    reference.allowed["priors"] = Tolerance().of("priors")  # whatever the weights are, these are exact
    batch_sizes = BATCH_SIZES if predictor.batch_size is None else (predictor.batch_size,)
    worst: dict[str, Deviation] = {}
    answers: tuple[np.ndarray, np.ndarray] | None = None
    for batch_size in batch_sizes:
        outputs = predictor.run(images, batch_size)
        answers = predictor.decode(outputs)
        compared = {**outputs, "boxes": answers[0], "scores": answers[1]}
        if predictor.card.priors is not None:
            compared["priors"] = predictor.card.priors[None]
        for name, values in compared.items():
            deviation = _deviation(name, values, reference, tolerance, batch_size)
            if name not in worst or deviation.largest > worst[name].largest:
                worst[name] = deviation
    assert answers is not None
    exact = (reference.values["boxes"], reference.values["scores"])
    return Proof(
        num_images=len(images),
        batch_sizes=batch_sizes,
        deviations=tuple(worst.values()),
        num_detections=_count(answers, predictor.card),
        num_expected=_count(exact, predictor.card),
    )


def _deviation(
    name: str, values: np.ndarray, reference: Reference, tolerance: Tolerance, batch_size: int
) -> Deviation:
    allowed = reference.allowed[name]
    errors = row_errors(values, reference.values[name])
    image = int(np.argmax(errors))
    rounding = 0.0 if name == "priors" else (allowed - tolerance.of(name)) / ROUNDING_FACTOR
    return Deviation(name, float(errors[image]), allowed, rounding, image, batch_size)


def _count(answers: tuple[np.ndarray, np.ndarray], card: ModelCard) -> int:
    chosen = (
        select(boxes, scores, card.selection, card.input_size) for boxes, scores in zip(*answers, strict=True)
    )
    return sum(len(detections.scores) for detections in chosen)
