"""How often a detector reports what is not there, image by image: what an operator feels most."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssdlite.evaluation.judgement import WRONG, Judgement
from ssdlite.structures import DataSplit, Detections

THRESHOLDS = np.arange(1, 100) / 100


@dataclass(frozen=True, eq=False)
class FalseAlarms:
    """False detections of any kind, in all images and in those without any object (not even an ignored one)."""

    num_images: int
    num_empty: int
    thresholds: np.ndarray  # (S,) float64, scores .01 to .99
    per_image: np.ndarray  # (S,) float64: false detections an image at each; NaN without images
    per_empty_image: np.ndarray  # (S,) float64: the same over images without objects; NaN without any
    threshold: float  # the operating threshold, and the figures at it:
    per_image_here: float
    per_empty_image_here: float
    share_of_empty_hit: float  # images without objects that have a false detection; NaN without any


def false_alarms(
    split: DataSplit, detections: Sequence[Detections], judgements: Sequence[Judgement], *, score_threshold: float
) -> FalseAlarms:
    """The rates at all thresholds and at `score_threshold`."""
    false = [found.scores[judged.outcome == WRONG] for found, judged in zip(detections, judgements, strict=True)]
    in_empty = [scores for record, scores in zip(split.records, false, strict=True) if not len(record.labels)]
    hit = [bool((scores >= score_threshold).any()) for scores in in_empty]
    here = np.array([score_threshold])
    return FalseAlarms(
        num_images=len(false),
        num_empty=len(in_empty),
        thresholds=THRESHOLDS,
        per_image=_rate(false, THRESHOLDS),
        per_empty_image=_rate(in_empty, THRESHOLDS),
        threshold=score_threshold,
        per_image_here=float(_rate(false, here)[0]),
        per_empty_image_here=float(_rate(in_empty, here)[0]),
        share_of_empty_hit=sum(hit) / len(hit) if hit else math.nan,
    )


def _rate(scores: Sequence[np.ndarray], thresholds: np.ndarray) -> np.ndarray:
    """Mean number of each image's `scores` that reach each of (S,) thresholds -> (S,)."""
    if not scores:
        return np.full(len(thresholds), np.nan)
    joined = np.sort(np.concatenate(scores).astype(np.float64))
    return (len(joined) - np.searchsorted(joined, thresholds, side="left")) / len(scores)
