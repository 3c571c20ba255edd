"""Confusion matrix of a detector, with a row and a column for the background, and its false positives image by
image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ssdlite.boxes_np import iou
from ssdlite.evaluation.matching import FALSE_POSITIVE, TRUE_POSITIVE, ImageMatches
from ssdlite.structures import DataSplit, Detections, Record

BACKGROUND = "background"


@dataclass(frozen=True, eq=False)
class Confusion:
    """Objects in rows, detections in columns, as in scikit-learn; the last of both is background.

    `counts[i, j]` objects of class i were found as class j, `counts[i, -1]` were not found, and `counts[-1, j]`
    detections of class j found nothing. The diagonal is what is right, a row sums to the objects of its class, a
    column to its detections that count. `counts[-1, -1]` is 0: nobody counts what is rightly not found.
    """

    counts: np.ndarray  # (K + 1, K + 1) int64
    names: tuple[str, ...]  # (K + 1): the class names, then BACKGROUND; should a class bear that name, both do
    score_threshold: float
    iou_threshold: float

    def shares(self) -> np.ndarray:
        """(K + 1, K + 1): each row divided by its sum; NaN in rows without objects (or false detections)."""
        sums = self.counts.sum(axis=1, keepdims=True)
        return np.where(sums > 0, self.counts / np.maximum(sums, 1), np.nan)


def confusion_matrix(
    split: DataSplit,
    detections: Sequence[Detections],
    matches: Sequence[ImageMatches],
    *,
    score_threshold: float,
    iou_threshold: float = 0.5,
) -> Confusion:
    """The matrix of the detections that score at least `score_threshold`.

    First every object goes with the detection of its own class that found it (`matches`, at the same
    `iou_threshold`), so that the diagonal agrees with precision and recall. Then the pairs of what is left,
    whatever their classes, are matched in the order of their IoU down to `iou_threshold`, each object and each
    detection once. What remains of either goes with background. Ignored objects and what they excuse do not appear.
    """
    K = len(split.class_names)
    counts = np.zeros((K + 1, K + 1), np.int64)
    for record, found, matched in zip(split.records, detections, matches, strict=True):
        truth, given = _pairs(record, found, matched, score_threshold, iou_threshold)
        np.add.at(counts, (truth - 1, given - 1), 1)  # 0, background, is then -1: the last
    return Confusion(counts, (*split.class_names, BACKGROUND), score_threshold, iou_threshold)


def _pairs(
    record: Record, found: Detections, matched: ImageMatches, score_threshold: float, iou_threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Labels of objects and of the detections that go with them, 0 for background; twice (number of pairs,)."""
    kept = found.scores >= score_threshold
    right = np.flatnonzero(kept & (matched.outcome == TRUE_POSITIVE))
    wrong = np.flatnonzero(kept & (matched.outcome == FALSE_POSITIVE))
    left = np.setdiff1d(np.flatnonzero(~(record.ignore | record.crowd)), matched.matched[right])
    rows, columns = _greedy(iou(found.boxes[wrong], record.boxes[left]), iou_threshold)
    confused, misnamed = wrong[rows], left[columns]
    invented, missed = np.setdiff1d(wrong, confused), np.setdiff1d(left, misnamed)
    background = np.zeros(len(invented) + len(missed), np.int64)
    truth = [
        record.labels[matched.matched[right]],
        record.labels[misnamed],
        background[: len(invented)],
        record.labels[missed],
    ]
    given = [
        found.labels[right],
        found.labels[confused],
        found.labels[invented],
        background[len(invented) :],
    ]
    return np.concatenate(truth), np.concatenate(given)


def _greedy(overlap: np.ndarray, iou_threshold: float) -> tuple[list[int], list[int]]:
    """Rows and columns of the (D, N) pairs that are taken, the greatest overlap first, each row and column once."""
    rows, columns = np.nonzero(overlap >= iou_threshold)
    order = np.argsort(-overlap[rows, columns], kind="stable")
    taken: dict[int, int] = {}
    used: set[int] = set()
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in taken and column not in used:
            taken[row] = column
            used.add(column)
    return list(taken), list(taken.values())


THRESHOLDS = np.arange(1, 100) / 100


@dataclass(frozen=True, eq=False)
class FalsePositives:
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


def false_positives(
    split: DataSplit, detections: Sequence[Detections], matches: Sequence[ImageMatches], *, score_threshold: float
) -> FalsePositives:
    """The rates at all thresholds and at `score_threshold`."""
    false = [
        found.scores[matched.outcome == FALSE_POSITIVE] for found, matched in zip(detections, matches, strict=True)
    ]
    in_empty = [scores for record, scores in zip(split.records, false, strict=True) if not len(record.labels)]
    hit = [bool((scores >= score_threshold).any()) for scores in in_empty]
    here = np.array([score_threshold])
    return FalsePositives(
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
