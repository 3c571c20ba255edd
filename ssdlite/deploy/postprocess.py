"""The numpy twin of `model.decode`, for files that end before suppression."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ssdlite.box_arrays import FRAME
from ssdlite.deploy.metadata import Selection
from ssdlite.structures import Detections, ScoreActivation


def join_levels(maps: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """(B, priors of a cell · columns, h, w) of each level -> (B, P, columns), in the order of the priors."""
    rows = [
        level.transpose(0, 2, 3, 1).reshape(len(level), math.prod(level.shape[1:]) // columns, columns)
        for level in maps
    ]
    return np.concatenate(rows, axis=1)


def decode_boxes(
    deltas: np.ndarray, priors: np.ndarray, variances: tuple[float, float], input_size: tuple[int, int]
) -> np.ndarray:
    """(..., P, 4) deltas and (P, 4) cxcywh -> (..., P, 4) xyxy, input pixels; see `model.decode.decode_output`."""
    center_variance, size_variance = variances
    centers = priors[..., :2] + deltas[..., :2] * np.float32(center_variance) * priors[..., 2:]
    with np.errstate(over="ignore"):  # an infinite side ends at the frame
        sizes = priors[..., 2:] * np.exp(deltas[..., 2:] * np.float32(size_variance))
    boxes = np.concatenate([centers - sizes / 2, centers + sizes / 2], axis=-1)
    sides = _sides(input_size)
    return boxes.clip(-FRAME * sides, sides + FRAME * sides)


def class_scores(logits: np.ndarray, activation: ScoreActivation) -> np.ndarray:
    """(..., C) logits, background first -> (..., K) scores of the classes."""
    if activation == "sigmoid":
        with np.errstate(over="ignore"):  # a score of 0
            return (1 / (1 + np.exp(-logits)))[..., 1:]
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (exponentials / exponentials.sum(axis=-1, keepdims=True))[..., 1:]


def select_detections(
    boxes: np.ndarray, scores: np.ndarray, selection: Selection, input_size: tuple[int, int]
) -> Detections:
    """(P, 4) and (P, K) of one image -> its detections, clipped to the `input_size` (height, width) of `boxes`."""
    clipped = boxes.clip(0, _sides(input_size))
    is_seen = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for index in range(scores.shape[1]):
        column = scores[:, index]
        candidates = np.flatnonzero(is_seen & (column > selection.score_threshold))
        order = np.argsort(-column[candidates], kind="stable")[: selection.candidates_per_class]
        candidates = candidates[order]
        kept = candidates[suppress(boxes[candidates], selection.iou_threshold)]
        found.append((clipped[kept], column[kept], np.full(len(kept), index + 1, np.int64)))
    all_boxes, all_scores, all_labels = (np.concatenate(parts) for parts in zip(*found, strict=True))
    best = np.argsort(-all_scores, kind="stable")[: selection.max_detections]
    return Detections(all_boxes[best], all_scores[best], all_labels[best])


def suppress(boxes: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Greedy suppression of (N, 4) xyxy boxes, best first -> positions of those kept, best first.

    A box goes when its IoU with one that was kept before it is above `iou_threshold`.
    """
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    kept = []
    left = np.arange(len(boxes))
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        sides = np.minimum(boxes[best, 2:], boxes[left, 2:]) - np.maximum(boxes[best, :2], boxes[left, :2])
        common = sides.clip(min=0).prod(axis=1)
        # Without a division, boxes of no area overlap nothing.
        left = left[common <= iou_threshold * (areas[best] + areas[left] - common)]
    return np.array(kept, np.int64)


def _sides(input_size: tuple[int, int]) -> np.ndarray:
    """The limits of x1, y1, x2, y2."""
    height, width = input_size
    return np.array([width, height, width, height], np.float32)
