from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from ssdlite.data.formats.base import Annotations, make_split
from ssdlite.data.formats.coco import CocoAnnotations, CocoSource
from ssdlite.data.formats.problems import StrictProblems
from ssdlite.data.formats.voc import VocAnnotations, VocSource
from ssdlite.validate.rules import inspect_boxes, looks_other, other_corners


def annotations_of(corners, *, coco=True, size=(40, 60)) -> Annotations:
    place = Path("a")
    if coco:
        annotations = CocoAnnotations(CocoSource(place, place))
        annotations.document = {"annotations": [{"id": position} for position in range(len(corners))]}
    else:
        annotations = VocAnnotations(VocSource(place, ("train",)))
    annotations.label_of("cat")
    annotations.add_image(place, 1, size)
    for position, box in enumerate(corners):
        annotations.add_object(0, 0, box, position=position)
    return annotations


def clipped_by_hand(box, height, width) -> list[float] | None:
    """The box as training should have it, None where it should be left out."""
    x1, y1, x2, y2 = (
        np.float32(min(max(side, 0), end)) for side, end in zip(box, [width, height] * 2, strict=True)
    )
    return [x1, y1, x2, y2] if all(map(math.isfinite, box)) and x2 > x1 and y2 > y1 else None


@pytest.mark.parametrize("coco", [True, False])
def test_boxes_that_training_keeps_are_those_of_the_check(coco):
    """Ten thousand boxes in and around a tiny image, whole and fractional, some of them not finite."""
    rng = np.random.default_rng(0)
    corners = rng.integers(-6, 12, (10_000, 4)) / rng.choice([1, 1, 3], (10_000, 1))
    corners[rng.random(corners.shape) < 0.01] = np.nan
    corners[rng.random(corners.shape) < 0.01] = np.inf
    annotations = annotations_of(corners.tolist(), coco=coco, size=(5, 7))
    states = inspect_boxes(annotations, annotations.sizes)
    assert (np.sum(states, axis=0) == 1).all() and all(state.any() for state in states)
    by_hand = [clipped_by_hand(box, 5, 7) for box in annotations.boxes().tolist()]
    assert states.kept.tolist() == [box is not None for box in by_hand]
    (record,) = make_split(annotations, StrictProblems()).records
    assert record.boxes.tolist() == [box for box in by_hand if box is not None]


def test_boxes_without_objects_or_size():
    assert all(len(state) == 0 for state in inspect_boxes(annotations_of([]), np.array([[40, 60]])))
    unknown = annotations_of([(-5, 1, 900, 9)], size=(0, 0))
    assert inspect_boxes(unknown, unknown.sizes).clipped.tolist() == [True]  # the left side is known to be over
    assert not looks_other(annotations_of([]), np.array([[40, 60]]))


def test_coco_boxes_written_as_corners():
    """(30, 10, 50, 30) as x, y, width, height would reach to x = 80 of 60."""
    boxes = [(30, 10, 50, 30), (5, 5, 20, 20), (40, 20, 58, 39)]
    as_read = [(x, y, x + width, y + height) for x, y, width, height in boxes]
    annotations = annotations_of([*as_read, (31, 10, 31 + 49, 10 + 30)])
    assert looks_other(annotations, annotations.sizes)
    assert other_corners(annotations)[:3].tolist() == [list(box) for box in boxes]


def test_voc_boxes_written_with_sides():
    """(30, 10, 20, 8): a box of 20 x 8 pixels, whose last ones are 49 and 17."""
    annotations = annotations_of([(30, 10, 20, 8), (40, 20, 11, 12), (31, 10, 20, 8), (2, 2, 9, 9)], coco=False)
    assert looks_other(annotations, annotations.sizes)
    assert other_corners(annotations)[0].tolist() == [30, 10, 49, 17]


def test_good_boxes_look_like_nothing_else():
    """Many COCO boxes would be fine corners as well; that alone is no sign."""
    coco = annotations_of([(5, 5, 5 + 20, 5 + 20)] * 50)
    voc = annotations_of([(5, 5, 20, 20)] * 50, coco=False)
    for found in (coco, voc):
        assert not looks_other(found, found.sizes)


def test_careless_boxes_look_like_nothing_else():
    """A tenth reaches out of the image, but they would be wrong in the other form as well."""
    annotations = annotations_of([(30, 10, 70, 30)] * 10 + [(30, 10, 50, 30)] * 10)
    assert not looks_other(annotations, annotations.sizes)
