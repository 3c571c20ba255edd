"""Overlap of boxes in NumPy, in float64: what `ssdlite.boxes` is to tensors.

Judging needs no tensors, and an overlap of exactly the threshold must not depend on rounding.
"""

from __future__ import annotations

import numpy as np


def area(boxes: np.ndarray) -> np.ndarray:
    """(N, 4) xyxy -> (N,) in pixels²; 0 for inverted boxes."""
    return np.clip(boxes[:, 2:].astype(np.float64) - boxes[:, :2], 0, None).prod(axis=1)


def intersection(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N, 4) and (M, 4) -> (N, M), the common area of each pair in pixels²."""
    ours, theirs = boxes.astype(np.float64)[:, None], others.astype(np.float64)[None]
    sides = np.minimum(ours[..., 2:], theirs[..., 2:]) - np.maximum(ours[..., :2], theirs[..., :2])
    return np.clip(sides, 0, None).prod(axis=-1)


def iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of each pair: (N, 4) and (M, 4) -> (N, M) in 0..1; 0 for a pair without area."""
    common = intersection(boxes, others)
    union = area(boxes)[:, None] + area(others)[None] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def coverage(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How much of each box lies in each other: (N, 4) and (M, 4) -> (N, M) in 0..1; 0 for a box without area."""
    common, own = intersection(boxes, others), area(boxes)[:, None]
    return np.divide(common, own, out=np.zeros_like(common), where=own > 0)
