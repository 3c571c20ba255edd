"""Whether scores can be believed: of the detections that score about .8, are about 80 % right?

Guo et al. 2017, "On Calibration of Modern Neural Networks", with "right" for a detection as in Küppers et al. 2020:
an object of its class at the IoU threshold that no better detection took.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssdlite.evaluation.judgement import NEUTRAL, RIGHT, Judgement
from ssdlite.structures import Detections


@dataclass(frozen=True, eq=False)
class Calibration:
    """The detections in bins of equal width by their score; bin b holds edges[b] < score <= edges[b + 1]."""

    edges: np.ndarray  # (bins + 1,) float64 from 0 to 1
    counts: np.ndarray  # (bins,) int64: detections
    scores: np.ndarray  # (bins,) float64: their mean score; NaN where there are none
    precision: np.ndarray  # (bins,) float64: the share of them that is right; NaN where there are none
    error: float  # expected calibration error: mean of |scores - precision| over all detections; NaN without any


def calibration_bins(scores: np.ndarray, outcomes: np.ndarray, num_bins: int = 10) -> Calibration:
    """From the (D,) scores in 0..1 and the (D,) outcomes of detections; NEUTRAL ones are left out."""
    counted = outcomes != NEUTRAL
    scores, is_right = scores[counted].astype(np.float64), outcomes[counted] == RIGHT
    edges = np.linspace(0, 1, num_bins + 1)
    which = np.searchsorted(edges[1:-1], scores)
    counts = np.bincount(which, minlength=num_bins)
    mean_scores = _means(np.bincount(which, scores, num_bins), counts)
    precision = _means(np.bincount(which, is_right, num_bins), counts)
    gaps = np.nan_to_num(np.abs(mean_scores - precision))
    error = float((gaps * counts).sum() / counts.sum()) if len(scores) else math.nan
    return Calibration(edges, counts, mean_scores, precision, error)


def calibration(
    detections: Sequence[Detections],
    judgements: Sequence[Judgement],
    *,
    score_threshold: float = 0.0,
    num_bins: int = 10,
) -> Calibration:
    """Of all classes together, for the detections that score at least `score_threshold`.

    The many detections of low score are nearly all wrong, and rightly have low scores; a detector that keeps them
    has a small error whatever its confident detections are worth.
    """
    scores = np.concatenate([np.zeros(0, np.float32), *(found.scores for found in detections)])
    outcomes = np.concatenate([np.zeros(0, np.int64), *(judged.outcome for judged in judgements)])
    kept = scores >= score_threshold
    return calibration_bins(scores[kept], outcomes[kept], num_bins)


def _means(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
