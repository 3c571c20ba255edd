"""Curves over the score threshold (precision, recall, F1, and the threshold to run at), and the calibration of
scores.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ssdlite.evaluation.matching import IGNORED, TRUE_POSITIVE, ImageMatches
from ssdlite.structures import DataSplit, Detections

RULE = (
    "the threshold, in steps of .001, with the highest mean F1 over the classes that have objects; of a range of "
    "equally good ones the middle"
)
"""Rule by which `recommend_threshold` chooses, as a sentence."""


STEPS = np.arange(1, 1000) / 1000


PRECISION_GOALS = (0.5, 0.8, 0.9, 0.95, 0.99)


class ThresholdPoint(NamedTuple):
    """Counts, precision and recall of the detections that score at least a threshold."""

    threshold: float
    precision: float  # right / (right + wrong); NaN where nothing is kept
    recall: float  # right / objects; NaN without objects
    f1: float  # harmonic mean of the two; NaN without objects and detections
    right: int  # detections, and objects that they found
    wrong: int  # detections
    missed: int  # objects


@dataclass(frozen=True, eq=False)
class Curve:
    """One class, or all together, at every threshold that makes a difference.

    The arrays are (T,), one entry for each distinct score, the highest first, so that recall rises.
    """

    scores: np.ndarray  # float64: the thresholds
    right: np.ndarray  # int64: detections with that score or a higher one that found an object
    wrong: np.ndarray  # int64: and those that did not
    num_objects: int

    @property
    def precision(self) -> np.ndarray:
        """(T,) in 0..1."""
        return self.right / np.maximum(self.right + self.wrong, 1)

    @property
    def recall(self) -> np.ndarray:
        """(T,) in 0..1; NaN without objects."""
        return self.right / self.num_objects if self.num_objects else np.full(len(self.right), np.nan)

    @property
    def f1(self) -> np.ndarray:
        """(T,) in 0..1."""
        return 2 * self.right / np.maximum(self.right + self.wrong + self.num_objects, 1)

    def counts_at(self, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Right and wrong detections that score at least as much as each of (S,) thresholds: twice (S,) int64."""
        kept = np.searchsorted(-self.scores, -thresholds, side="right")
        return np.append(0, self.right)[kept], np.append(0, self.wrong)[kept]

    def at(self, threshold: float) -> ThresholdPoint:
        """Return the counts at any threshold, also between the scores."""
        right, wrong = (int(count[0]) for count in self.counts_at(np.array([threshold])))
        return ThresholdPoint(
            threshold,
            precision=_ratio(right, right + wrong),
            recall=_ratio(right, self.num_objects),
            f1=_ratio(2 * right, right + wrong + self.num_objects),
            right=right,
            wrong=wrong,
            missed=self.num_objects - right,
        )

    def best(self) -> ThresholdPoint | None:
        """The score with the highest F1, of equals the highest score; None without objects or detections."""
        return self.at(float(self.scores[self.f1.argmax()])) if self.num_objects and len(self.scores) else None

    def reaching(self, precision: float) -> ThresholdPoint | None:
        """The score of the highest recall among those of at least that precision; None where it is not reached."""
        reached = np.flatnonzero((self.precision >= precision) & (self.right > 0))
        return self.at(float(self.scores[reached[-1]])) if len(reached) else None

    def thinned(self, most: int = 200) -> Curve:
        """At most so many of the points, evenly spread over the right and wrong detections; both ends stay."""
        if len(self.scores) <= most:
            return self
        # Evenly along the precision-recall plot, where most of the low scores lie on top of each other.
        way = np.hypot(np.diff(self.precision), np.diff(self.right) / max(self.right[-1], 1))
        walked = np.append(0, np.cumsum(way))
        kept = np.unique(np.searchsorted(walked, np.linspace(0, walked[-1], most)))
        return Curve(self.scores[kept], self.right[kept], self.wrong[kept], self.num_objects)


def class_curves(
    split: DataSplit, detections: Sequence[Detections], matches: Sequence[ImageMatches]
) -> dict[str, Curve]:
    """Class name -> its curve."""
    scores = _joined((found.scores for found in detections), np.float64)
    labels = _joined((found.labels for found in detections), np.int64)
    outcomes = _joined((matched.outcome for matched in matches), np.int64)
    objects = _joined((record.labels[~(record.ignore | record.crowd)] for record in split.records), np.int64)
    counts = np.bincount(objects, minlength=len(split.class_names) + 1)
    return {
        name: make_curve(scores[labels == label], outcomes[labels == label], int(counts[label]))
        for label, name in enumerate(split.class_names, start=1)
    }


def make_curve(scores: np.ndarray, outcomes: np.ndarray, num_objects: int) -> Curve:
    """The curve of D detections: (D,) scores and (D,) outcomes in any order. IGNORED ones are left out."""
    counted = outcomes != IGNORED
    scores, outcomes = scores[counted], outcomes[counted]
    order = np.argsort(-scores, kind="stable")
    scores, is_right = scores[order].astype(np.float64), outcomes[order] == TRUE_POSITIVE
    last = np.flatnonzero(np.diff(scores, append=-np.inf))  # of each run of equal scores
    return Curve(scores[last], np.cumsum(is_right)[last], np.cumsum(~is_right)[last], num_objects)


def pool(curves: Iterable[Curve]) -> Curve:
    """Return one curve of all classes together, in which every detection and every object counts alike."""
    curves = list(curves)
    scores = np.unique(_joined((curve.scores for curve in curves), np.float64))[::-1]
    counts = [curve.counts_at(scores) for curve in curves]
    zero = np.zeros(len(scores), np.int64)
    return Curve(
        scores,
        sum((right for right, _ in counts), zero),
        sum((wrong for _, wrong in counts), zero),
        sum(curve.num_objects for curve in curves),
    )


def recommend_threshold(curves: Mapping[str, Curve]) -> float:
    """One threshold for all classes, see `RULE`; .5 where no threshold finds anything."""
    with_objects = [curve for curve in curves.values() if curve.num_objects]
    if not with_objects:
        return 0.5
    mean_f1 = np.mean([_f1_at(curve, STEPS) for curve in with_objects], axis=0)
    best = np.flatnonzero(mean_f1 >= mean_f1.max() - 1e-12)
    plateau = np.split(best, np.flatnonzero(np.diff(best) > 1) + 1)[-1]  # the highest, should there be several
    return float(STEPS[plateau[(len(plateau) - 1) // 2]])


def _f1_at(curve: Curve, thresholds: np.ndarray) -> np.ndarray:
    right, wrong = curve.counts_at(thresholds)
    return 2 * right / (right + wrong + curve.num_objects)


def _joined(arrays: Iterable[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *arrays]).astype(dtype)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


@dataclass(frozen=True, eq=False)
class Calibration:
    """The detections in bins of equal width by their score; bin b holds edges[b] < score <= edges[b + 1]."""

    edges: np.ndarray  # (bins + 1,) float64 from 0 to 1
    counts: np.ndarray  # (bins,) int64: detections
    scores: np.ndarray  # (bins,) float64: their mean score; NaN where there are none
    precision: np.ndarray  # (bins,) float64: the share of them that is right; NaN where there are none
    error: float  # expected calibration error: mean of |scores - precision| over all detections; NaN without any


def calibration_bins(scores: np.ndarray, outcomes: np.ndarray, num_bins: int = 10) -> Calibration:
    """Return bins of the (D,) scores in 0..1 and the (D,) outcomes of detections; IGNORED ones are left out."""
    counted = outcomes != IGNORED
    scores, is_right = scores[counted].astype(np.float64), outcomes[counted] == TRUE_POSITIVE
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
    matches: Sequence[ImageMatches],
    *,
    score_threshold: float = 0.0,
    num_bins: int = 10,
) -> Calibration:
    """Return the calibration of all classes together, for the detections that score at least `score_threshold`.

    The many detections of low score are nearly all wrong, and rightly have low scores; a detector that keeps them
    has a small error whatever its confident detections are worth.
    """
    scores = np.concatenate([np.zeros(0, np.float32), *(found.scores for found in detections)])
    outcomes = np.concatenate([np.zeros(0, np.int64), *(matched.outcome for matched in matches)])
    kept = scores >= score_threshold
    return calibration_bins(scores[kept], outcomes[kept], num_bins)


def _means(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
