"""Large images in tiles: where they lie, and one set of detections from those of all of them.

An object of 20 pixels in a photograph of 4000 is less than two at the network's input. In a tile of 600 pixels it
is ten. The whole image is looked at as well, for objects that are larger than a tile.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ssdlite.boxes_np import area, intersection
from ssdlite.structures import Detections

OVERLAP = 0.2
"""Default overlap of neighbouring tiles, as a share of their side: an object of up to that size is whole in one."""


LEAST_SIDE, MOST_OVERLAP = 16, 0.9  # pixels, and a share of the side, as `ssdlite predict --help` has them
"""Smaller tiles, or tiles that overlap more, are so many that nobody lives to see the end."""


COVERED = 0.6
"""A box that a tile's edge cut off goes where another of its class covers this share of it: they are one object."""


EDGE = 2.0  # pixels: a box that ends this near to the edge of a tile may have been cut off by it


class Tiling(NamedTuple):
    """Options by which large images are cut into tiles."""

    side: int  # of a tile, pixels
    overlap: float = OVERLAP  # of neighbours, as a share of the side
    iou_threshold: float = 0.5  # of two boxes of a class that overlap more, the weaker goes


def tile_positions(size: tuple[int, int], tiling: Tiling) -> np.ndarray:
    """(T, 4) int xyxy: the tiles of an image of `size` (height, width), row by row, evenly spread over it.

    None (T = 0) for an image that one tile would cover, since it is looked at as a whole anyway.
    """
    height, width = size
    if max(size) <= tiling.side:
        return np.zeros((0, 4), int)
    tiles = [
        (x, y, min(x + tiling.side, width), min(y + tiling.side, height))
        for y in _starts(height, tiling)
        for x in _starts(width, tiling)
    ]
    return np.array(tiles, int)


def merge_tiles(
    parts: Sequence[Detections], tiles: np.ndarray, size: tuple[int, int], iou_threshold: float
) -> Detections:
    """The detections of the parts of an image as those of the image, best first.

    Args:
        parts: those of each part, in its own pixels.
        windows: (T, 4) xyxy: where each part lies in the image of `size` (height, width).
        iou_threshold: greedy suppression within a class, as in the network's own decoder. Boxes that a tile's edge
            within the image cut off come last, whatever they score, and also go where a box that was kept covers
            `COVERED` of them; one that nothing else covers stays.
    """
    boxes = np.concatenate([part.boxes + np.tile(tile[:2], 2) for part, tile in zip(parts, tiles, strict=True)])
    boxes = boxes.astype(np.float32, copy=False)
    scores, labels = (np.concatenate([part[field] for part in parts]) for field in (1, 2))
    is_cut = np.concatenate(
        [_ends_at_edge(part.boxes, tile, size) for part, tile in zip(parts, tiles, strict=True)]
    )
    order = np.lexsort((-scores, is_cut))  # whole boxes first, and the best of each kind first
    kept: list[int] = []
    for label in np.unique(labels):
        kept += _suppress(boxes, order[labels[order] == label], is_cut, iou_threshold)
    best = np.array(kept, int)[np.argsort(-scores[kept], kind="stable")]
    return Detections(boxes[best], scores[best], labels[best])


def _starts(length: int, tiling: Tiling) -> list[int]:
    """Return the first pixels of the tiles along a side of `length` pixels."""
    if length <= tiling.side:
        return [0]
    stride = tiling.side * (1 - tiling.overlap)
    count = math.ceil((length - tiling.side) / stride) + 1
    return [round(start) for start in np.linspace(0, length - tiling.side, count)]


def _ends_at_edge(boxes: np.ndarray, tile: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(D,) bool: the box reaches an edge of its window that is not one of the image."""
    height, width = size
    x1, y1, x2, y2 = tile.tolist()
    inner_low = np.array([x1 > 0, y1 > 0])
    inner_high = np.array([x2 < width, y2 < height])
    at_low = (boxes[:, :2] <= EDGE) & inner_low
    at_high = (boxes[:, 2:] >= np.array([x2 - x1, y2 - y1]) - EDGE) & inner_high
    return (at_low | at_high).any(axis=1)


def _suppress(boxes: np.ndarray, order: np.ndarray, is_cut: np.ndarray, iou_threshold: float) -> list[int]:
    """The rows of `boxes` that are kept among `order`, which are of one class."""
    kept: list[int] = []
    areas = area(boxes)
    left = order
    while len(left):
        best, left = left[0], left[1:]
        kept.append(int(best))
        common = intersection(boxes[best][None], boxes[left])[0]
        # Without a division, boxes of no area overlap nothing.
        is_same = common > iou_threshold * (areas[best] + areas[left] - common)
        is_same |= is_cut[left] & (areas[left] > 0) & (common >= COVERED * areas[left])
        left = left[~is_same]
    return kept
