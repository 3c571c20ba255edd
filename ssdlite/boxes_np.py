"""Boxes in NumPy, for what runs without PyTorch; and the constants of the encoding, which both need.

`boxes` are xyxy pixels. All functions broadcast over leading dimensions and compute in float64: whether an overlap
reaches a threshold exactly must not depend on rounding.
"""

from __future__ import annotations

import numpy as np

CENTER_VARIANCE = 0.1


SIZE_VARIANCE = 0.2
"""The variances of SSD's code: they scale the deltas to about unit variance."""


FRAME = 1
"""Largest distance that a predicted box reaches beyond the image before suppression, in sides of the image.

Far enough to leave overlaps alone: of a trained network's boxes that score above 1e-4 on 130 images, none reached
further than .31. It makes every coordinate finite: sizes that overflow have overlaps (inf - inf is no number), and
what rounding does to a box is bounded."""


def area(boxes: np.ndarray) -> np.ndarray:
    """(..., 4) -> (...) in pixels²; 0 for inverted boxes."""
    return (boxes[..., 2:].astype(np.float64) - boxes[..., :2]).clip(min=0).prod(axis=-1)


def intersection(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(..., N, 4) and (..., M, 4) -> (..., N, M), the common area of each pair in pixels²."""
    boxes, others = boxes[..., :, None, :].astype(np.float64), others[..., None, :, :]
    low, high = np.maximum(boxes[..., :2], others[..., :2]), np.minimum(boxes[..., 2:], others[..., 2:])
    return (high - low).clip(min=0).prod(axis=-1)


def iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of each pair: (..., N, 4) and (..., M, 4) -> (..., N, M) in 0..1.

    As `boxes.iou`: no epsilon, and a pair without any area has overlap 0.
    """
    common = intersection(boxes, others)
    union = area(boxes)[..., :, None] + area(others)[..., None, :] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def coverage(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return how much of each box lies in each other: (..., N, 4) and (..., M, 4) -> (..., N, M) in 0..1.

    0 for a box without area.
    """
    common, own = intersection(boxes, others), area(boxes)[..., :, None]
    return np.divide(common, own, out=np.zeros_like(common), where=own > 0)
