"""The box around a COCO segmentation, without painting it: a mask is as large as its file claims."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

MOST_DIGITS = 7  # of 5 bits each: a run of more than 2^34 pixels is in no image

XYWH = tuple[float, float, float, float]


def mask_bounds(segmentation: Any, size: tuple[int, int]) -> XYWH:
    """(x, y, width, height) around polygons, or around run lengths as a list or compressed.

    `size` is (height, width) of the image, pixels. Polygons are bounded by their corners, as COCO's own boxes are.
    Raises ValueError for what is neither.
    """
    if isinstance(segmentation, list):
        return _polygon_bounds(segmentation)
    if not isinstance(segmentation, dict) or segmentation.get("size", list(size)) != list(size):
        raise ValueError("no segmentation of this image")
    counts = segmentation.get("counts")
    runs = _decompress(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
        raise ValueError("no run lengths")
    return _run_bounds(runs, *size)


def _polygon_bounds(polygons: Sequence[Any]) -> XYWH:
    """Of [[x1, y1, x2, y2, x3, y3, ...], ...]."""
    corners: list[float] = []
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError("no polygon")
        if not {*map(type, polygon)} <= {int, float}:
            raise ValueError("no numbers")
        corners += polygon
    points = np.array(corners, np.float64).reshape(-1, 2)  # of none at all, min raises ValueError
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return left, top, right - left, bottom - top


def _run_bounds(runs: Sequence[int], height: int, width: int) -> XYWH:
    """Of runs of background and object in turn, down one column after the other; zeros without an object."""
    if sum(runs) > height * width:
        raise ValueError("more pixels than the image has")
    edges = np.cumsum(runs)
    ends = edges[1::2]
    starts = edges[0::2][: len(ends)]
    starts, ends = starts[ends > starts], ends[ends > starts]
    if not len(ends):
        return 0.0, 0.0, 0.0, 0.0
    first, last = starts // height, (ends - 1) // height  # columns
    left, right = int(first.min()), int(last.max()) + 1
    if np.any(first != last):  # a run that goes on in the next column touches the bottom and the top
        return left, 0, right - left, height
    top, bottom = int((starts % height).min()), int(((ends - 1) % height).max()) + 1
    return left, top, right - left, bottom - top


def _decompress(text: str) -> list[int]:
    """Run lengths as COCO writes them (cocoapi, maskApi.c): digits of 5 bits from the lowest on, with a sixth bit
    for "more" and 48 added; from the fourth run on, the difference to the one two before."""
    runs: list[int] = []
    value = digits = 0
    for character in text:
        digit = ord(character) - 48
        if not 0 <= digit < 64 or digits == MOST_DIGITS:
            raise ValueError("no compressed run lengths")
        value |= (digit & 31) << 5 * digits
        digits += 1
        if not digit & 32:
            if digit & 16:  # negative
                value -= 1 << 5 * digits
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = digits = 0
    if digits:
        raise ValueError("compressed run lengths end in the middle")
    return runs
