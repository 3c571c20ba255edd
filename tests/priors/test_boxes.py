"""The objects in input pixels, without an image."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ssdlite.data.transforms import augment, build_augmentation
from ssdlite.priors.fit import draw_boxes, input_boxes, spread
from ssdlite.structures import DataSplit, Record

SIZE = (96, 128)


def record(size, boxes, ignored=()) -> Record:
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    ignore = np.isin(np.arange(len(boxes)), ignored)
    labels, areas = np.ones(len(boxes), np.int64), np.ones(len(boxes), np.float32)
    return Record(Path("absent.png"), 1, size, boxes, labels, ignore, ignore & False, areas)


def make(*records) -> DataSplit:
    return DataSplit(list(records), ("thing",), (1,))


def test_boxes_are_stretched_and_those_to_be_ignored_left_out():
    split = make(record((192, 512), [[0, 0, 512, 192], [128, 96, 256, 144], [0, 0, 9, 9]], ignored=[2]))
    (boxes,) = input_boxes(split, SIZE)
    assert boxes.tolist() == [[0, 0, 128, 96], [32, 48, 64, 72]]  # a quarter across, half down


@pytest.mark.parametrize("augmentation", ["ssd", "light"])
def test_draws_are_those_of_the_training(augmentation):
    """An image of 512 pixels is cut to the same whole pixels as the picture that stands in for it."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 300, (12, 8, 2))
    records = [record((384, 512), np.concatenate([c, c + rng.uniform(9, 84, (8, 2))], 1), [3]) for c in corners]
    found = draw_boxes(make(*records), SIZE, augmentation, seed=5)
    assert len(found) == 12
    pipeline = build_augmentation(augmentation, SIZE)
    for index, (boxes, one) in enumerate(zip(found, records, strict=True)):
        image = np.zeros((*one.size, 3), np.uint8)
        targets = augment(pipeline, image, one.boxes, one.labels, one.ignore, seed=5 + index)[1]
        np.testing.assert_array_equal(boxes, targets.boxes[~targets.ignore].numpy())
    plain = input_boxes(make(*records), SIZE)
    assert not all(np.array_equal(*pair) for pair in zip(found, plain, strict=True))


@pytest.mark.parametrize("augmentation", ["flip", "none"])
def test_mirrors_change_no_size(augmentation):
    split = make(record((96, 128), [[1, 2, 30, 40]]))
    assert draw_boxes(split, SIZE, augmentation)[0].tolist() == [[1, 2, 30, 40]]


@pytest.mark.parametrize("augmentation", ["ssd", "light", "none"])
def test_images_without_objects_have_none(augmentation):
    split = make(record((96, 128), []), record((96, 128), [[1, 1, 9, 9]], ignored=[0]))
    assert [boxes.shape for boxes in draw_boxes(split, SIZE, augmentation)] == [(0, 4), (0, 4)]
    assert draw_boxes(make(), SIZE, augmentation) == [] and input_boxes(make(), SIZE) == []


def test_images_from_all_over_the_split():
    split = make(*(replace(record((96, 128), []), image_id=number) for number in range(10)))
    assert [one.image_id for one in spread(split, 4).records] == [0, 2, 5, 7]
    assert spread(split, 10) is split and len(spread(make(), 4)) == 0
