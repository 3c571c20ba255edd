"""Priors that are fitted: sizes by k-means, densities by what the objects need, within a bound."""

import numpy as np
import pytest
import torch

from ssdlite import boxes as box_ops
from ssdlite.models.priors import generate_priors, level_map_sizes
from ssdlite.models.variants import PAPER, PYTORCH_SSD, TENSORFLOW, PriorLevel, PriorShape
from ssdlite.priors.fit import measure_fit
from ssdlite.priors.search import Grids, cluster, fit_priors

SIZE = (96, 128)
MAPS = level_map_sizes(SIZE, 6)
NUM_OWN = 6 * 8 * 3 + (3 * 4 + 2 * 2 + 3) * 6  # of paper


def anywhere(count, low, high, seed=0) -> np.ndarray:
    """Boxes of sides between `low` and `high` all over the input."""
    rng = np.random.default_rng(seed)
    sides = rng.uniform(low, high, (count, 2))
    corners = rng.uniform(0, 1, (count, 2)) * (np.array([SIZE[1], SIZE[0]]) - sides)
    return np.concatenate([corners, corners + sides], axis=1)


def place(levels) -> torch.Tensor:
    return generate_priors(levels, MAPS, SIZE, clamp=False)


def count(levels) -> int:
    return len(place(levels))


def test_k_means_of_two_kinds():
    """Each centre is the geometric mean of its kind: 8 x 8 with 8 x 32, 100 x 100 alone."""
    sizes = np.array([[8, 8], [8, 32], [100, 100], [100, 100]])
    assert cluster(sizes, 2) == pytest.approx(np.array([[8, 16], [100, 100]]))


def test_k_means_with_a_centre_for_each_is_the_sizes_themselves():
    sizes = np.array([[5, 9], [30, 10], [12, 12]])
    assert cluster(np.concatenate([sizes, sizes]), 8) == pytest.approx(sizes[[0, 2, 1]])
    assert cluster(sizes[:1], 3) == pytest.approx(sizes[:1])


@pytest.mark.parametrize("density", [1, 2, 3])
@pytest.mark.parametrize("levels", [TENSORFLOW.prior_levels, PYTORCH_SSD.prior_levels])
def test_reached_is_what_all_priors_of_the_shape_say(levels, density):
    """Also for centres that a fixed stride puts beyond the input."""
    boxes = anywhere(300, 4, 60)
    grids = Grids(levels, SIZE, boxes, iou_threshold=0.5)
    for index in (0, 1, 2):
        shape = PriorShape(0.2, 1.5, density)
        alone = PriorLevel((shape,), levels[index].stride)
        priors = box_ops.cxcywh_to_xyxy(generate_priors([alone], [MAPS[index]], SIZE, clamp=False))
        iou = box_ops.iou(torch.from_numpy(boxes).float(), priors).amax(dim=1).numpy()
        assert grids.reached(index, shape).tolist() == (iou >= 0.5).tolist()
        assert 0 < (iou >= 0.5).sum() < 300


def test_a_prior_belongs_to_the_map_whose_stride_is_a_third_of_it():
    grids = Grids(PAPER.prior_levels, (320, 320), np.zeros((0, 4)), 0.5)  # strides 16, 32, 64, ...
    assert [grids.home(side, side) for side in (6, 48, 66, 70, 96, 192)] == [0, 0, 0, 1, 1, 2]
    assert grids.home(12, 192) == 0 and grids.home(24, 384) == 1  # by their area


def test_small_objects_get_dense_priors_of_their_size():
    """12 pixels on cells of 16: one centre a cell is up to 8 away, and .5 needs less than 2.2 at the same size."""
    boxes = anywhere(400, 11, 13)
    before = measure_fit([boxes], place(PAPER.prior_levels)).total
    fitted = fit_priors(boxes, PAPER.prior_levels, SIZE, max_priors=4000)
    after = measure_fit([boxes], place(fitted)).total
    assert before.share_reached < 0.2 and after.share_reached >= 0.98
    new = [shape for shape in fitted[0].shapes if shape not in PAPER.prior_levels[0].shapes]
    assert max(shape.density for shape in new) >= 3
    assert all(9 < shape.scale * 96 < 14 for shape in new)
    assert fitted[1:] == sorted_levels(PAPER.prior_levels)[1:]  # with few objects nothing is dropped


def sorted_levels(levels):
    return tuple(PriorLevel(tuple(sorted(level.shapes)), level.stride) for level in levels)


@pytest.mark.parametrize("bound", [NUM_OWN, NUM_OWN + 100, 2 * NUM_OWN, 6 * NUM_OWN])
def test_the_bound_holds_and_more_priors_reach_more(bound):
    boxes = anywhere(400, 6, 14)
    fitted = fit_priors(boxes, PAPER.prior_levels, SIZE, max_priors=bound)
    assert count(fitted) <= bound
    shares = [measure_fit([boxes], place(levels)).total.share_reached for levels in (PAPER.prior_levels, fitted)]
    assert shares[1] >= shares[0]
    if bound == NUM_OWN:
        assert fitted == sorted_levels(PAPER.prior_levels)
    if bound == 6 * NUM_OWN:
        assert shares[1] > 0.9


def test_many_objects_drop_what_none_of_them_needs():
    fitted = fit_priors(anywhere(1200, 26, 34), PAPER.prior_levels, SIZE, max_priors=4000)
    assert all(level.shapes for level in fitted)
    assert fitted[5].shapes == PAPER.prior_levels[5].shapes[:1]  # 91 pixels and more
    assert count(fitted) < 4000


def test_nothing_to_fit_to_leaves_the_priors():
    for boxes in (np.zeros((0, 4)), np.array([[3.0, 3, 3.5, 9]])):  # less than a pixel wide is never learnt
        assert fit_priors(boxes, PAPER.prior_levels, SIZE, max_priors=4000) == PAPER.prior_levels


def test_the_same_objects_give_the_same_priors():
    boxes = anywhere(300, 5, 40)
    first, second = (fit_priors(boxes, PAPER.prior_levels, SIZE, max_priors=2000, seed=3) for _ in range(2))
    assert first == second


def test_more_objects_than_are_looked_at(monkeypatch):
    monkeypatch.setattr("ssdlite.priors.search.MAX_OBJECTS", 50)
    boxes = anywhere(500, 11, 13)
    few = fit_priors(boxes, PAPER.prior_levels, SIZE, max_priors=3000)
    assert few == fit_priors(boxes[::10], PAPER.prior_levels, SIZE, max_priors=3000)


def test_a_thread_of_a_box_has_a_shape_that_options_allow():
    boxes = np.array([[10.0, 0, 11, 96], [30.0, 0, 31, 96]])
    shapes = [
        shape for level in fit_priors(boxes, PAPER.prior_levels, SIZE, max_priors=9000) for shape in level.shapes
    ]
    assert all(0.01 <= shape.aspect <= 100 and shape.scale > 0 for shape in shapes)
