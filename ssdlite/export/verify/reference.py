"""Reference of a verification: outputs in float64, candidates that a file may choose, and bounds of its errors."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from ssdlite.boxes_np import CENTER_VARIANCE, SIZE_VARIANCE
from ssdlite.export.metadata import CORNER_MAPS, OUTPUT_NAMES, Precision
from ssdlite.export.runtime import class_scores, decode_boxes
from ssdlite.export.verify.choices import Margins, possible_pairs
from ssdlite.models.decode import decode_output
from ssdlite.models.network import Network
from ssdlite.structures import CornerOutput, ScoreActivation

ROUNDING_FACTOR = 5  # float32 programs sum in different orders, so their errors are similar but not equal


NOISE: dict[Precision, float] = {"fp16": 0.02, "int8": 0.5}
"""Largest error of the maps of a float16 or int8 network, as a share of their size (root mean squares).

A fine-tuned network has .006 in fp16 and .03 to .05 in int8, a random one .3 in int8; swapped channels give more
than .5. The effect of smaller errors on accuracy is measured by AP."""


@dataclass(frozen=True)
class Tolerance:
    """Errors that a file may have in addition to rounding."""

    raw: float = 1e-5  # logits, deltas, corner maps, and priors in pixels
    boxes: float = 0.1  # pixels of the network input
    scores: float = 1e-3

    def of(self, quantity: str) -> float:
        """Return the tolerance of a quantity by its name."""
        return {"boxes": self.boxes, "scores": self.scores}.get(quantity, self.raw)


class Candidates(NamedTuple):
    """Boxes and scores that a file can give for one image, before suppression."""

    boxes: np.ndarray  # (P, 4) xyxy, input pixels
    scores: np.ndarray  # (P, K)
    is_optional: np.ndarray  # (P,) bool: pairs of corners that rounding may add or remove


@dataclass(frozen=True, eq=False)
class Reference:
    """Outputs of a network for some images, and bounds of the errors that a file of it may have."""

    values: dict[str, np.ndarray]
    """(N, ...) in float64: corner maps, or all outputs before suppression and the priors."""
    rounding: dict[str, float]
    """Largest difference of PyTorch in float32 from `values`, by name."""
    tolerance: Tolerance
    input_size: tuple[int, int]  # (height, width), pixels
    activation: ScoreActivation

    @property
    def inner_names(self) -> tuple[str, ...]:
        """Names of the values that the network computes before decoding."""
        return CORNER_MAPS if "heatmaps" in self.values else OUTPUT_NAMES["raw"]

    @classmethod
    def compute(cls, detector: Network, images: np.ndarray, tolerance: Tolerance) -> Reference:
        """Run copies of `detector` in float64 and float32 on `images` (N, 3, H, W)."""
        exact = _run(copy.deepcopy(detector).cpu().double(), images)
        rounded = _run(copy.deepcopy(detector).cpu().float(), images)
        rounding = {name: float(row_errors(rounded[name], exact[name]).max()) for name in exact}
        return cls(exact, rounding, tolerance, detector.input_size, detector.score_activation)

    def allowed(self, name: str) -> float:
        """Return the largest error that a float32 file may have in the quantity `name`."""
        return ROUNDING_FACTOR * self.rounding.get(name, 0) + self.tolerance.of(name)

    def candidates(self, inner: dict[str, np.ndarray] | None, order: np.ndarray) -> list[Candidates | None]:
        """Return the candidates of the images in `order`, from the reference or from the `inner` values of a file.

        An image is None if too many of its corners tie.
        """
        if inner is None:
            boxes, scores = self.values["boxes"][order], self.values["scores"][order]
        elif "heatmaps" in inner:
            return _corner_candidates(inner, self.input_size, self.tolerance)
        else:
            variances = (CENTER_VARIANCE, SIZE_VARIANCE)
            deltas = inner["deltas"].astype(np.float64)
            boxes = decode_boxes(deltas, self.values["priors"][0], variances, self.input_size)
            scores = class_scores(inner["logits"].astype(np.float64), self.activation)
        certain = np.zeros(boxes.shape[1], bool)
        return [Candidates(*pair, certain) for pair in zip(boxes, scores, strict=True)]


def _corner_candidates(
    maps: dict[str, np.ndarray], input_size: tuple[int, int], tolerance: Tolerance
) -> list[Candidates | None]:
    """Return the candidates of each image from the corner maps (N, ...) of a file."""
    margins = Margins(tolerance.raw, tolerance.raw, tolerance.raw)
    pairs = [
        possible_pairs(heatmaps, embeddings, offsets, input_size, margins, tolerance.raw)
        for heatmaps, embeddings, offsets in zip(
            *(maps[name].astype(np.float64) for name in CORNER_MAPS), strict=True
        )
    ]
    return [found and Candidates(found.boxes, found.scores, ~found.is_certain) for found in pairs]


@torch.inference_mode()
def _run(detector: Network, images: np.ndarray) -> dict[str, np.ndarray]:
    """Return the values of (N, 3, H, W) images by name, with N rows: corner maps, or all outputs and the priors."""
    detector.eval()
    parts: dict[str, list[torch.Tensor]] = {}
    for image in torch.from_numpy(images).split(1):  # float64 takes much memory
        output = detector(image)
        if isinstance(output, CornerOutput):
            values = {name: getattr(output, name) for name in CORNER_MAPS}
        else:
            boxes, scores = decode_output(output, (images.shape[2], images.shape[3]))
            values = {"logits": output.logits, "deltas": output.deltas, "boxes": boxes, "scores": scores}
            values["priors"] = output.priors[None]
        for name, value in values.items():
            parts.setdefault(name, []).append(value)
    return {name: torch.cat(part).double().numpy() for name, part in parts.items()}


def row_noise(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return (N,): the error of each row of (N, ...), as a share of the size of all (root mean squares).

    See `NOISE`; infinite where a value is NaN.
    """
    axes = tuple(range(1, reference.ndim))
    size = np.sqrt(np.mean(np.square(reference)))
    errors = np.sqrt(np.mean(np.square(values - reference), axis=axes)) / max(size, np.finfo(np.float64).tiny)
    return np.nan_to_num(errors, nan=np.inf)


def row_errors(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return (N,): the largest absolute difference in each row of (N, ...); infinite where a value is NaN."""
    errors = np.abs(values - reference).reshape(len(values), -1).max(axis=1, initial=0)
    return np.nan_to_num(errors, nan=np.inf)
