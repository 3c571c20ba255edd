"""What a network computes in float64, what its file may then choose, and how far it may be off; see `verify`."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from ssdlite.deploy.metadata import CORNER_MAPS, OUTPUT_NAMES
from ssdlite.deploy.pairs import Margins, possible_pairs
from ssdlite.model.decode import decode_output
from ssdlite.structures import CornerOutput

ROUNDING_FACTOR = 5  # two float32 programs sum in different orders; their errors are of one size, not equal


@dataclass(frozen=True)
class Tolerance:
    """What a file may be off by beyond rounding."""

    raw: float = 1e-5  # logits, deltas, corner maps, and priors in pixels
    boxes: float = 0.1  # pixels of the network input
    scores: float = 1e-3

    def of(self, quantity: str) -> float:
        return {"boxes": self.boxes, "scores": self.scores}.get(quantity, self.raw)


class Candidates(NamedTuple):
    """What a file can give for one image, before suppression."""

    boxes: np.ndarray  # (P, 4) xyxy, input pixels
    scores: np.ndarray  # (P, K)
    is_optional: np.ndarray  # (P,) bool: a pair of corners that may be there or not


@dataclass(frozen=True, eq=False)
class Reference:
    """What a network computes for some images, and how far a file of it may be off."""

    values: dict[str, np.ndarray]
    """(N, ...) in float64: corner maps, or all outputs before suppression and the priors."""
    allowed: dict[str, float]

    @property
    def has_corners(self) -> bool:
        return "heatmaps" in self.values

    @classmethod
    def compute(cls, detector: nn.Module, images: np.ndarray, tolerance: Tolerance) -> Reference:
        exact = _run(copy.deepcopy(detector).cpu().double(), images)
        rounded = _run(copy.deepcopy(detector).cpu().float(), images)
        allowed = {name: tolerance.of(name) for name in OUTPUT_NAMES["decoded"]}
        for name in exact:
            rounding = float(row_errors(rounded[name], exact[name]).max())
            allowed[name] = ROUNDING_FACTOR * rounding + tolerance.of(name)
        return cls(exact, allowed)

    def candidates(self) -> list[Candidates | None]:
        """Of each image, for a network with priors."""
        certain = np.zeros(self.values["boxes"].shape[1], bool)
        return [
            Candidates(boxes, scores, certain)
            for boxes, scores in zip(self.values["boxes"], self.values["scores"], strict=True)
        ]


def corner_candidates(
    maps: dict[str, np.ndarray], input_size: tuple[int, int], tolerance: Tolerance
) -> list[Candidates | None]:
    """Of each image, for a file that has computed these corner maps (N, ...); None where everything ties."""
    margins = Margins(tolerance.raw, tolerance.raw, tolerance.raw)
    pairs = [
        possible_pairs(heatmaps, embeddings, offsets, input_size, margins, tolerance.raw)
        for heatmaps, embeddings, offsets in zip(
            *(maps[name].astype(np.float64) for name in CORNER_MAPS), strict=True
        )
    ]
    return [found and Candidates(found.boxes, found.scores, ~found.is_certain) for found in pairs]


@torch.inference_mode()
def _run(detector: nn.Module, images: np.ndarray) -> dict[str, np.ndarray]:
    """Each output for (N, 3, H, W) images, with N rows: corner maps, or all else together with the priors."""
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


def row_errors(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(N, ...) -> (N,), the largest absolute difference in each row; infinite where it is not a number."""
    errors = np.abs(values - reference).reshape(len(values), -1).max(axis=1, initial=0)
    return np.nan_to_num(errors, nan=np.inf)
