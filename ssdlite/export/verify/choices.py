"""Validity of selected boxes within rounding: results that greedy suppression can give, and pairs of corners."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ssdlite.boxes_np import FRAME, iou
from ssdlite.export.metadata import Selection
from ssdlite.models.decode import MAX_EMBEDDING_DISTANCE, NUM_CORNERS, NUM_PAIRS
from ssdlite.structures import Detections

MOST_CORNERS, MOST_PAIRS = 2000, 4000
"""Numbers above which an image is not checked: in a uniform image all cells of the maps are equally high peaks."""


class Margins(NamedTuple):
    """Largest error of each map."""

    heatmaps: float  # logits
    embeddings: float
    offsets: float  # cells


class Pairs(NamedTuple):
    """Possible pairs of corners in one image, and a last row with scores of 0 for "no pair"."""

    boxes: np.ndarray  # (P, 4) float64 xyxy, input pixels
    scores: np.ndarray  # (P, K) float64, 0 outside the column of the class
    is_certain: np.ndarray  # (P,) bool: present whatever rounding does


class _Corners(NamedTuple):
    logits: np.ndarray  # (k,)
    labels: np.ndarray  # (k,) 0..K-1
    points: np.ndarray  # (k, 2) x and y, in cells
    embeddings: np.ndarray  # (k,)
    is_certain: np.ndarray  # (k,) bool


def possible_pairs(
    heatmaps: np.ndarray,
    embeddings: np.ndarray,
    offsets: np.ndarray,
    input_size: tuple[int, int],
    margins: Margins,
    score_margin: float,
) -> Pairs | None:
    """Return the pairs of corners that decoding can find in one image, given errors up to `margins`.

    The maps are (2, K, h, w), (2, h, w) and (2, 2, h, w). Return None if there are too many corners or pairs for a
    meaningful comparison.
    """
    first, second = (_corners(heatmaps[k], embeddings[k], offsets[k], margins.heatmaps) for k in (0, 1))
    if max(len(first.labels), len(second.labels)) > MOST_CORNERS:
        return None
    distances = np.abs(first.embeddings[:, None] - second.embeddings[None])
    sides = (second.points[None] - first.points[:, None]).min(axis=2)
    slack = MAX_EMBEDDING_DISTANCE - distances
    can_be = first.labels[:, None] == second.labels[None]
    can_be &= (slack >= -2 * margins.embeddings) & (sides > -2 * margins.offsets)
    must_be = can_be & (slack >= 2 * margins.embeddings) & (sides > 2 * margins.offsets)
    must_be &= first.is_certain[:, None] & second.is_certain[None]

    ones, others = np.nonzero(can_be)
    agreement = 1 - np.minimum(distances[ones, others] / MAX_EMBEDDING_DISTANCE, 1) ** 2
    pair_scores = np.sqrt(_sigmoid(first.logits[ones]) * _sigmoid(second.logits[others])) * agreement
    is_certain = must_be[ones, others]
    if len(ones) > NUM_PAIRS:
        ranked = np.sort(pair_scores)[::-1]
        is_certain &= pair_scores > ranked[NUM_PAIRS] + score_margin
        # Pairs that are only possible must not displace certain ones.
        certain = np.sort(pair_scores[must_be[ones, others]])[::-1]
        floor = certain[NUM_PAIRS - 1] if len(certain) >= NUM_PAIRS else -np.inf
        kept = pair_scores >= floor - score_margin
        ones, others, pair_scores, is_certain = ones[kept], others[kept], pair_scores[kept], is_certain[kept]
    if len(ones) > MOST_PAIRS:
        return None
    rows, columns = heatmaps.shape[2:]
    limits = np.array([input_size[1], input_size[0]] * 2, np.float64)
    cell = limits / [columns, rows, columns, rows]
    boxes = np.concatenate([first.points[ones], second.points[others]], axis=1) * cell
    scores = np.zeros((len(ones) + 1, heatmaps.shape[1]))
    scores[np.arange(len(ones)), first.labels[ones]] = pair_scores
    boxes = np.concatenate([boxes.clip(-FRAME * limits, limits + FRAME * limits), np.zeros((1, 4))])
    return Pairs(boxes, scores, np.append(is_certain, False))


def check_pairs(
    found: Detections, boxes: np.ndarray, scores: np.ndarray, is_optional: np.ndarray, limits: tuple[float, float]
) -> Iterator[str]:
    """Yield a phrase for pairs that are missing or superfluous in the output of a file for one image; see `Pairs`.

    `limits` are the largest errors of a box, in pixels, and of a score.
    """
    allowed_box, allowed_score = limits
    numbers, columns = np.nonzero(scores)
    if len(found.scores) > len(numbers):
        yield f"{len(found.scores) - len(numbers)} pairs are superfluous"
    due = ~is_optional[numbers]
    numbers, columns = numbers[due], columns[due]
    is_there = found.labels[None] == columns[:, None] + 1
    is_there &= np.abs(found.boxes[None] - boxes[numbers][:, None]).max(axis=2) <= allowed_box
    is_there &= np.abs(found.scores[None] - scores[numbers, columns][:, None]) <= allowed_score
    missing = max(int((~is_there.any(axis=1)).sum()), len(numbers) - len(found.scores))
    if missing:
        yield f"{missing} pairs are missing"


def _corners(heatmap: np.ndarray, embeddings: np.ndarray, offsets: np.ndarray, margin: float) -> _Corners:
    """Return the corners of one kind that may be among the best NUM_CORNERS.

    The maps are (K, h, w), (h, w) and (2, h, w).
    """
    heights = np.nan_to_num(heatmap - _highest_neighbours(heatmap), nan=-np.inf)
    logits, is_peak = heatmap[heights >= -2 * margin], heights[heights >= -2 * margin] > 2 * margin
    labels, rows, columns = np.nonzero(heights >= -2 * margin)
    is_certain = is_peak.copy()
    if len(logits) > NUM_CORNERS:
        is_certain &= logits > np.sort(logits)[::-1][NUM_CORNERS] + 2 * margin
    sure = np.sort(logits[is_peak])[::-1]
    floor = sure[NUM_CORNERS - 1] if len(sure) >= NUM_CORNERS else -np.inf
    kept = logits >= floor - 2 * margin
    labels, rows, columns = labels[kept], rows[kept], columns[kept]
    points = np.stack([columns, rows], axis=1) + offsets[:, rows, columns].T
    return _Corners(logits[kept], labels, points, embeddings[rows, columns], is_certain[kept])


def _highest_neighbours(heatmap: np.ndarray) -> np.ndarray:
    """Return the largest of the up to eight neighbours of each cell, (K, h, w)."""
    height, width = heatmap.shape[1:]
    padded = np.pad(heatmap, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    shifts = [(y, x) for y in range(3) for x in range(3) if (y, x) != (1, 1)]
    return np.max([padded[:, y : y + height, x : x + width] for y, x in shifts], axis=0)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-logits))


IOU_MARGIN = 0.01  # change of the IoU of boxes of about 20 px by an error of 0.1 px


class Matches(NamedTuple):
    """Nearest box of the reference for each detection, and the errors."""

    priors: np.ndarray  # (D,) int64
    box_errors: np.ndarray  # (D,) largest error of a coordinate, pixels
    score_errors: np.ndarray  # (D,)


def match_detections(
    found: Detections, boxes: np.ndarray, scores: np.ndarray, allowed_box: float, allowed_score: float
) -> Matches:
    """Find the nearest of all `boxes` (P, 4) and `scores` (P, K) for each detection of an image.

    The distance is the error of the box plus that of the score, each divided by its allowed error.
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
    """Yield a phrase for each reason why greedy suppression cannot have kept these boxes in one image.

    Args:
        priors, labels: (D,) positions and classes of the boxes that were kept.
        boxes, scores: (P, 4) and (P, K), all boxes before suppression.
        is_optional: (P,) bool; boxes that hardly touch the image, or uncertain pairs of corners. They may be
            missing, or may have been kept and have suppressed others without being in the result.
    """
    kept_scores, kept_boxes = scores[priors, labels - 1], boxes[priors]
    floors = _score_floors(scores, selection)
    lowest_floors = _score_floors(np.where(is_optional[:, None], 0, scores), selection)
    if (low := kept_scores < lowest_floors[labels - 1] - score_margin).any():
        yield f"{low.sum()} detections have scores that are too low"
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
    """Return (K,): the score that a box of each class must exceed to enter suppression."""
    floors = np.full(scores.shape[1], selection.score_threshold)
    if selection.candidates_per_class < len(scores):
        position = len(scores) - selection.candidates_per_class
        floors = np.maximum(floors, np.partition(scores, position, axis=0)[position])
    if selection.candidates is not None and selection.candidates < scores.size:
        competing = np.where(scores >= floors, scores, 0).ravel()
        floors = np.maximum(floors, np.partition(competing, -selection.candidates)[-selection.candidates])
    return floors
