"""How priors fit, in numbers that can be worked out by hand, and against the assignment that training uses."""

import json

import numpy as np
import pytest
import torch

from ssdlite import boxes as box_ops
from ssdlite.losses.matching import assign_iou
from ssdlite.models.priors import generate_priors, level_map_sizes
from ssdlite.models.variants import TENSORFLOW, PriorLevel, PriorShape
from ssdlite.priors.fit import SHAPE_NAMES, SIZE_NAMES, measure_fit
from ssdlite.structures import HeadOutput

NONE = np.zeros((0, 4), np.float32)


def squares(*centers, side=16) -> np.ndarray:
    return np.array(
        [[x - side / 2, y - side / 2, x + side / 2, y + side / 2] for x, y in centers], np.float32
    ).reshape(-1, 4)


def grid(density) -> torch.Tensor:
    """Squares of 16 pixels on 4 x 4 cells of 16."""
    return generate_priors([PriorLevel((PriorShape(0.25, 1.0, density),))], [(4, 4)], (64, 64), clamp=False)


@pytest.mark.parametrize(("density", "away"), [(1, 8), (2, 4), (4, 2)])
def test_an_object_midway_between_centres(density, away):
    """It is `away` pixels from the nearest both across and down: (16 - away)² of its 256 pixels are common."""
    fit = measure_fit([squares((32, 32))], grid(density))
    common = (16 - away) ** 2
    assert fit.best_iou == pytest.approx([common / (512 - common)])  # .143, .391 and .620
    assert fit.total.share_reached == (density == 4)


def test_matched_forced_and_unmatched_by_hand():
    """Priors at 8 and 24. Two objects stand on the first one: one is matched and the other gets what is left, which
    overlaps it by nothing. One is 8 pixels beside the second prior, 8·16 / (512 - 128) = 1/3: forced."""
    priors = torch.tensor([[8.0, 8, 16, 16], [24, 8, 16, 16]])
    fit = measure_fit([squares((8, 8), (8, 8)), squares((32, 8)), NONE], priors)
    assert fit.best_iou == pytest.approx([1, 1, 1 / 3]) and fit.learnt_iou == pytest.approx([1, 0, 1 / 3])
    assert fit.positives.tolist() == [1, 0, 1]
    row = fit.total
    assert (row.num_objects, row.num_matched, row.num_forced, row.num_unmatched) == (3, 1, 1, 1)
    assert row.share_reached == pytest.approx(2 / 3) and row.mean_iou == pytest.approx(7 / 9)
    assert row.mean_positives == pytest.approx(2 / 3) and fit.num_images == 3


def test_an_object_that_lost_its_prior_is_forced_to_a_worse_one():
    """Both are best at the prior at 8; one is 2 pixels off and left with the prior at 24: 2·16 / (512 - 32)."""
    priors = torch.tensor([[8.0, 8, 16, 16], [24, 8, 16, 16]])
    fit = measure_fit([squares((10, 8), (8, 8))], priors)
    assert fit.best_iou == pytest.approx([14 / 18, 1]) and fit.learnt_iou == pytest.approx([2 / 30, 1])
    assert (fit.total.share_reached, fit.total.num_matched, fit.total.num_forced) == (1, 1, 1)


def test_counts_are_those_of_the_assignment():
    size = (96, 128)
    priors = generate_priors(TENSORFLOW.prior_levels, level_map_sizes(size, 6), size, clamp=False)
    generator = torch.Generator().manual_seed(0)
    output = HeadOutput(torch.zeros(1, len(priors), 2), torch.zeros(1, len(priors), 4), priors)
    for number in range(40):
        count = 1 + number % 20
        centers = torch.rand(count, 2, generator=generator) * torch.tensor([128.0, 96.0])
        sizes = 1 + 60 * torch.rand(count, 2, generator=generator) ** 2
        boxes = torch.cat([centers - sizes / 2, centers + sizes / 2], dim=1)
        if number % 4 == 0:  # all want the same priors
            boxes = boxes[:1].repeat(count, 1)
        labels = torch.arange(1, count + 1)  # the label says which object it is
        learnt = assign_iou(output, boxes[None], labels[None], torch.zeros(1, count, dtype=torch.bool)).labels[0]
        fit = measure_fit([boxes.numpy()], priors)
        assert fit.positives.tolist() == torch.bincount(learnt, minlength=count + 1)[1:].tolist()
        iou = box_ops.iou(boxes, box_ops.cxcywh_to_xyxy(priors))
        expected = torch.where(learnt == labels[:, None], iou, 0).amax(dim=1)
        assert fit.learnt_iou == pytest.approx(expected.numpy(), abs=1e-6)
        assert fit.best_iou == pytest.approx(iou.amax(dim=1).numpy(), abs=1e-6)


def test_another_threshold():
    fit = measure_fit([squares((32, 32))], grid(2), iou_threshold=0.35)
    assert (fit.total.share_reached, fit.total.num_matched) == (1, 1)
    assert fit.positives.tolist() == [4]  # all four around it, at the same distance


def test_rows_by_size_and_shape():
    sizes = [(7.9, 7.9), (8, 8), (16, 64), (300, 260), (20, 60.1), (60, 20)]
    boxes = np.array([[0, 0, width, height] for width, height in sizes], np.float32)
    fit = measure_fit([boxes], grid(1))
    assert tuple(row.name for row in fit.by_size) == SIZE_NAMES
    assert [row.num_objects for row in fit.by_size] == [1, 1, 0, 3, 0, 0, 1]
    assert tuple(row.name for row in fit.by_shape) == SHAPE_NAMES
    assert [row.num_objects for row in fit.by_shape] == [2, 0, 3, 0, 1]
    for rows in (fit.by_size, fit.by_shape):
        for count in ("num_objects", "num_matched", "num_forced", "num_unmatched"):
            assert sum(getattr(row, count) for row in rows) == getattr(fit.total, count)
    empty = fit.by_size[2]
    assert (empty.share_reached, empty.mean_iou, empty.mean_positives) == (None, None, None)


@pytest.mark.parametrize("boxes", [[], [NONE], [NONE, NONE]])
def test_no_objects_have_no_figures(boxes):
    fit = measure_fit(boxes, grid(1))
    assert fit.total.num_objects == 0 and fit.total.share_reached is None
    assert fit.num_images == len(boxes)
    assert json.loads(json.dumps(fit.to_dict()))["total"]["mean_iou"] is None


def test_of_many_images_some_are_measured_from_all_over():
    boxes = [squares(*[(8, 8)] * (index % 2)) for index in range(10)]
    fit = measure_fit(boxes, grid(1), max_images=3)  # those at 0, 3 and 6
    assert (fit.num_images, fit.total_images, fit.total.num_objects) == (3, 10, 1)
    assert fit.to_dict()["images_in_all"] == 10
