"""`box_arrays` computes what `boxes` does."""

import numpy as np
import pytest
import torch

from ssdlite import boxes
from ssdlite.boxes_np import area, coverage, intersection, iou


def test_hand_worked():
    ours = np.array([[0, 0, 10, 10]], np.float32)
    others = np.array([[0, 0, 10, 5], [5, 5, 15, 15], [10, 0, 20, 10], [2, 2, 4, 4]], np.float32)
    assert intersection(ours, others).tolist() == [[50, 25, 0, 4]]  # those that only touch have nothing in common
    assert iou(ours, others) == pytest.approx(np.array([[50 / 100, 25 / 175, 0, 4 / 100]]))
    assert coverage(ours, others) == pytest.approx(np.array([[0.5, 0.25, 0, 0.04]]))
    assert coverage(others, ours) == pytest.approx(np.array([[1, 0.25, 0, 1]]).T)


def test_equals_the_tensors():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 100, (40, 2, 2))
    made = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)
    made[3] = made[3, [2, 3, 0, 1]]  # inverted
    ours, others = made[:15], made[15:]
    tensors = torch.from_numpy(ours.astype(np.float64)), torch.from_numpy(others.astype(np.float64))
    assert iou(ours, others) == pytest.approx(boxes.iou(*tensors).numpy())
    assert intersection(ours, others) == pytest.approx(boxes.intersection(*tensors).numpy())
    assert area(ours) == pytest.approx(boxes.area(tensors[0]).numpy())


def test_boxes_without_area_overlap_nothing():
    points = np.array([[5, 5, 5, 5], [7, 7, 3, 3]], np.float32)
    assert not iou(points, points).any() and not coverage(points, points).any()


def test_no_boxes():
    none, one = np.zeros((0, 4), np.float32), np.zeros((1, 4), np.float32)
    assert iou(none, one).shape == (0, 1) and coverage(one, none).shape == (1, 0)
