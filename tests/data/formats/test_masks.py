"""The box around a segmentation; the reference is pycocotools, which paints it."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from ssdlite.data.formats.coco import mask_bounds

SIZE = (7, 9)


def masks(count: int = 200) -> list[np.ndarray]:
    """Of all densities, with and without pixels at the edges."""
    rng = np.random.default_rng(0)
    drawn = [rng.random(SIZE) < rng.choice([0.02, 0.1, 0.5, 0.95]) for _ in range(count)]
    return [np.zeros(SIZE, bool), np.ones(SIZE, bool), np.eye(*SIZE, dtype=bool), *drawn]


def test_run_lengths_compressed_and_not() -> None:
    for mask in masks():
        encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
        expected = coco_mask.toBbox(encoded).tolist()
        compressed = {"size": list(SIZE), "counts": encoded["counts"].decode()}
        assert list(mask_bounds(compressed, SIZE)) == expected, mask
        flat = np.concatenate([[False], mask.ravel(order="F")])
        ends = [0, *np.flatnonzero(np.diff(flat)).tolist(), mask.size]
        assert list(mask_bounds({"counts": np.diff(ends).tolist()}, SIZE)) == expected, mask


def test_long_runs_are_written_in_many_digits() -> None:
    mask = np.zeros((4000, 5000), np.uint8, order="F")
    mask[1000:3000, 7:4000] = 1
    encoded = coco_mask.encode(mask)
    compressed = {"size": [4000, 5000], "counts": encoded["counts"].decode()}
    assert list(mask_bounds(compressed, (4000, 5000))) == [7, 1000, 3993, 2000]


def test_polygons_are_bounded_by_their_corners() -> None:
    assert mask_bounds([[1, 2, 5.5, 2, 3, 8]], SIZE) == (1, 2, 4.5, 6)
    assert mask_bounds([[1, 2, 5.5, 2, 3, 8], [0, 0, 1, 0, 1, 9]], SIZE) == (0, 0, 5.5, 9)


@pytest.mark.parametrize(
    "segmentation",
    [
        *(None, [], {}, "x", 5, [5], [[]], [[1, 2, 3, 4]], [[1, 2, 3, 4, 5]], [[1, 2, 3, 4, 5, "6"]]),
        *([[1, 2, 3, 4, 5, True]], {"counts": None}, {"counts": [64]}, {"counts": [-1, 2]}, {"counts": [1.0]}),
        *({"counts": [True]}, {"counts": "~~~"}, {"counts": "P"}, {"counts": "\x00"}, {"counts": "oooooooooo"}),
        *({"counts": [1, 2], "size": [9, 7]}, {"counts": [1, 2], "size": 5}),
    ],
)
def test_what_is_no_segmentation(segmentation: object) -> None:
    with pytest.raises(ValueError):
        mask_bounds(segmentation, SIZE)


def test_a_polygon_of_any_size_takes_no_time() -> None:
    """Painted, these would be gigabytes: pycocotools ends in a segmentation fault."""
    assert mask_bounds([[0, 0, 1e9, 0, 1e9, 1e9]], SIZE) == (0, 0, 1e9, 1e9)
