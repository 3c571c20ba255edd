"""Whether a set of detections is one that greedy suppression can give, whatever the order of ties.

Greedy suppression is defined by two properties of the kept set: no two of a class overlap too much, and every box
left out is overlapped by a kept one of its class that scores better (or there was no room left). Both can be
checked with a margin, which comparing two lists rank by rank cannot: one tie shifts all that follows.

Boxes are taken as they compete, before clipping.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ssdlite.box_arrays import iou
from ssdlite.deploy.metadata import Selection
from ssdlite.structures import Detections

IOU_MARGIN = 0.01  # what 0.1 px change in the IoU of boxes of some 20 px


class Matches(NamedTuple):
    """The box of the reference that each detection is."""

    priors: np.ndarray  # (D,) int64
    box_errors: np.ndarray  # (D,) pixels, of the worst coordinate
    score_errors: np.ndarray  # (D,)


def match_detections(
    found: Detections, boxes: np.ndarray, scores: np.ndarray, allowed_box: float, allowed_score: float
) -> Matches:
    """Find each detection of an image among all `boxes` (P, 4) and the `scores` (P, K) of its class.

    Nearest is what is least, relative to what is allowed, in box and score together.
    """
    box_errors_DP = np.abs(found.boxes[:, None] - boxes[None]).max(axis=2)
    score_errors_DP = np.abs(found.scores[:, None] - scores.T[found.labels - 1])
    priors = (box_errors_DP / allowed_box + score_errors_DP / allowed_score).argmin(axis=1)
    rows = np.arange(len(priors))
    return Matches(priors, box_errors_DP[rows, priors], score_errors_DP[rows, priors])


def check_selection(
    priors: np.ndarray,
    labels: np.ndarray,
    boxes: np.ndarray,
    scores: np.ndarray,
    is_optional: np.ndarray,
    selection: Selection,
    score_margin: float,
) -> Iterator[str]:
    """What is wrong with keeping `priors` (D,) as `labels` (D,) in an image of `boxes` (P, 4), `scores` (P, K).

    `is_optional` (P,) are boxes that hardly touch the image, or pairs of corners that may be none: they may be left
    out, or be kept and suppress others without being reported.
    """
    kept_scores, kept_boxes = scores[priors, labels - 1], boxes[priors]
    floors = _score_floors(scores, selection)
    lowest_floors = _score_floors(np.where(is_optional[:, None], 0, scores), selection)
    if (low := kept_scores < lowest_floors[labels - 1] - score_margin).any():
        yield f"{low.sum()} detections score too low"
    overlaps = iou(kept_boxes, kept_boxes) * (labels[:, None] == labels[None])
    np.fill_diagonal(overlaps, 0)
    if (doubles := (overlaps > selection.iou_threshold + IOU_MARGIN).any(axis=1)).any():
        yield f"{doubles.sum()} detections should have suppressed each other"
    optional_priors, optional_columns = np.nonzero(is_optional[:, None] & (scores > floors - score_margin))
    if len(priors) >= min(selection.max_detections, scores.size):
        floors = np.maximum(floors, kept_scores.min(initial=np.inf))
    due_priors, due_columns = np.nonzero(~is_optional[:, None] & (scores > floors + score_margin))
    priors, labels = np.append(priors, optional_priors), np.append(labels, optional_columns + 1)
    may_suppress = (
        (labels[None] == due_columns[:, None] + 1)
        & (scores[priors, labels - 1][None] >= scores[due_priors, due_columns][:, None] - score_margin)
        & (iou(boxes[due_priors], boxes[priors]) > selection.iou_threshold - IOU_MARGIN)
    )
    is_kept = (labels[None] == due_columns[:, None] + 1) & (priors[None] == due_priors[:, None])
    if missing := int((~(may_suppress | is_kept).any(axis=1)).sum()):
        yield f"{missing} detections are missing"


def _score_floors(scores: np.ndarray, selection: Selection) -> np.ndarray:
    """(K,): the score that a box of each class must exceed to take part in suppression."""
    floors = np.full(scores.shape[1], selection.score_threshold)
    if selection.candidates_per_class < len(scores):
        position = len(scores) - selection.candidates_per_class
        floors = np.maximum(floors, np.partition(scores, position, axis=0)[position])
    if selection.candidates is not None and selection.candidates < scores.size:
        competing = np.where(scores >= floors, scores, 0).ravel()
        floors = np.maximum(floors, np.partition(competing, -selection.candidates)[-selection.candidates])
    return floors
