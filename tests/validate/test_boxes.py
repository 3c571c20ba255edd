from __future__ import annotations

import numpy as np
import pytest

from ssdlite.data.formats.layout import CocoSource, VocSource
from ssdlite.data.records import RawObject, make_record
from ssdlite.validate.problems import Contents
from ssdlite.validate.rules import inspect_boxes, looks_other, other_corners


def contents_of(corners, *, coco=True, size=(40, 60), tmp="."):
    source = CocoSource(tmp, tmp) if coco else VocSource(tmp, ("train",))
    contents = Contents(source)
    contents.sizes = np.array([size], np.int64)
    for position, box in enumerate(corners):
        contents.add_object(0, 0, box, False, position)
    return contents


@pytest.mark.parametrize("coco", [True, False])
def test_verdicts_are_those_of_the_reader(tmp_path, coco):
    """Ten thousand boxes in and around a tiny image, whole and fractional, some of them not finite."""
    rng = np.random.default_rng(0)
    corners = rng.integers(-6, 12, (10_000, 4)) / rng.choice([1, 1, 3], (10_000, 1))
    corners[rng.random(corners.shape) < 0.01] = np.nan
    corners[rng.random(corners.shape) < 0.01] = np.inf
    contents = contents_of(corners.tolist(), coco=coco, size=(5, 7))
    verdicts = inspect_boxes(contents, contents.sizes)
    assert (np.sum(verdicts, axis=0) == 1).all() and all(verdict.any() for verdict in verdicts)
    for index, box in enumerate(contents.boxes().tolist()):
        item = RawObject(tuple(box), 0, False, False, None, "")
        with np.errstate(invalid="ignore"):
            record = make_record(tmp_path, 1, (5, 7), [item], {0: 1}, [])
        assert len(record.boxes) == verdicts.kept[index], box


def test_boxes_without_objects_or_size():
    assert all(len(verdict) == 0 for verdict in inspect_boxes(contents_of([]), np.array([[40, 60]])))
    unknown = contents_of([(-5, 1, 900, 9)], size=(0, 0))
    assert inspect_boxes(unknown, unknown.sizes).clipped.tolist() == [True]  # the left side is known to be over
    assert not looks_other(contents_of([]), np.array([[40, 60]]))


def test_coco_boxes_written_as_corners():
    """(30, 10, 50, 30) as x, y, width, height would reach to x = 80 of 60."""
    boxes = [(30, 10, 50, 30), (5, 5, 20, 20), (40, 20, 58, 39)]
    as_read = [(x, y, x + width, y + height) for x, y, width, height in boxes]
    contents = contents_of([*as_read, (31, 10, 31 + 49, 10 + 30)])
    assert looks_other(contents, contents.sizes)
    assert other_corners(contents)[:3].tolist() == [list(box) for box in boxes]


def test_voc_boxes_written_with_sides():
    """(30, 10, 20, 8): a box of 20 x 8 pixels, whose last ones are 49 and 17."""
    contents = contents_of([(30, 10, 20, 8), (40, 20, 11, 12), (31, 10, 20, 8), (2, 2, 9, 9)], coco=False)
    assert looks_other(contents, contents.sizes)
    assert other_corners(contents)[0].tolist() == [30, 10, 49, 17]


def test_good_boxes_look_like_nothing_else():
    """Many COCO boxes would be fine corners as well; that alone is no sign."""
    coco = contents_of([(5, 5, 5 + 20, 5 + 20)] * 50)
    voc = contents_of([(5, 5, 20, 20)] * 50, coco=False)
    for contents in (coco, voc):
        assert not looks_other(contents, contents.sizes)


def test_careless_boxes_look_like_nothing_else():
    """A tenth reaches out of the image, but they would be wrong in the other form as well."""
    contents = contents_of([(30, 10, 70, 30)] * 10 + [(30, 10, 50, 30)] * 10)
    assert not looks_other(contents, contents.sizes)
