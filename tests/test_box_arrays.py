"""`box_arrays` computes what `boxes` does."""

import numpy as np
import torch

from ssdlite import box_arrays, boxes


def test_overlaps_equal_those_of_the_tensors():
    generator = np.random.default_rng(0)
    ours, theirs = (generator.uniform(0, 100, (count, 4)) for count in (40, 30))
    for corners in (ours, theirs):
        corners[:-3, 2:] += corners[:-3, :2]  # some stay inverted
    ours[0] = theirs[0] = [5, 5, 5, 9]  # no area
    tensors = torch.from_numpy(ours), torch.from_numpy(theirs)
    np.testing.assert_allclose(box_arrays.iou(ours, theirs), boxes.iou(*tensors).numpy(), rtol=1e-12)
    np.testing.assert_allclose(box_arrays.intersection(ours, theirs), boxes.intersection(*tensors).numpy())
    np.testing.assert_allclose(box_arrays.area(ours), boxes.area(tensors[0]).numpy())
    assert box_arrays.iou(ours, theirs)[0, 0] == 0


def test_hand_worked():
    first, second = np.array([[0.0, 0, 10, 10]]), np.array([[5.0, 0, 15, 10]])
    assert box_arrays.iou(first, second) == [[50 / 150]]
    assert box_arrays.iou(first[:0], second).shape == (0, 1)
