"""ATSS against the paper's algorithm written as loops, and scenes small enough to follow by hand."""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ssdlite.losses import assigners
from ssdlite.losses.assigners import _threshold, assign_atss
from ssdlite.losses.matching import IGNORED_COVER
from ssdlite.structures import Assignment, HeadOutput

SIZE = 96


def grid(*levels: tuple[int, list[tuple[float, float]]]) -> HeadOutput:
    """(stride, [(width, height), ...]) a level -> priors at the centres of the cells of SIZE pixels.

    No two have the same size, so that no two overlap a small object by the same.
    """
    priors = [
        torch.tensor(
            [[(x + 0.5) * stride, (y + 0.5) * stride, *shape] for y in cells for x in cells for shape in shapes]
        )
        for stride, shapes in levels
        for cells in [range(SIZE // stride)]
    ]
    sizes = tuple(len(level) for level in priors)
    everything = torch.cat(priors)
    everything[:, 2:] *= 1 + 0.05 * torch.rand(len(everything), 1, generator=torch.Generator().manual_seed(0))
    return HeadOutput(torch.zeros(1, sum(sizes), 3), torch.zeros(1, sum(sizes), 4), everything, level_sizes=sizes)


ONE_SHAPE = grid((8, [(16, 16)]), (16, [(32, 32)]), (32, [(64, 64)]))
MANY_SHAPES = grid(
    (8, [(14, 14), (20, 10), (10, 20)]),
    (16, [(30, 30), (42, 21), (21, 42), (36, 36)]),
    (32, [(60, 60), (80, 40), (40, 80), (70, 70)]),
)
TWO_CELLS = HeadOutput(  # two shapes at (20, 20), two at (60, 20): one level
    torch.zeros(1, 4, 3),
    torch.zeros(1, 4, 4),
    torch.tensor([[20.0, 20, 20, 20], [20, 20, 30, 10], [60, 20, 20, 20], [60, 20, 30, 10]]),
    level_sizes=(4,),
)


def overlap(box: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Common area and IoU of two boxes."""
    width, height = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
    common = max(width, 0.0) * max(height, 0.0)
    union = np.prod(box[2:] - box[:2]) + np.prod(other[2:] - other[:2]) - common
    return common, common / union


def slow_atss(output: HeadOutput, boxes, labels, ignore, candidates: int) -> np.ndarray:
    """Algorithm 1 for one image, then the two steps that are not in it -> labels (P,)."""
    priors = output.priors.double().numpy()
    corners = np.concatenate([priors[:, :2] - priors[:, 2:] / 2, priors[:, :2] + priors[:, 2:] / 2], axis=1)
    boxes, labels, ignore = boxes.double().numpy(), labels.numpy(), ignore.numpy()
    learnable = [m for m in range(len(boxes)) if labels[m] > 0 and not ignore[m]]
    iou = np.array([[overlap(box, corner)[1] for corner in corners] for box in boxes])
    owner, owned_iou = np.full(len(priors), -1), np.zeros(len(priors))
    for m in learnable:
        center = (boxes[m, :2] + boxes[m, 2:]) / 2
        chosen, start = [], 0
        for size in output.level_sizes:
            level = range(start, start + size)
            nearest = sorted(level, key=lambda p: (((priors[p, :2] - center) ** 2).sum(), -iou[m, p]))
            chosen += nearest[:candidates]
            start += size
        threshold = iou[m, chosen].mean() + iou[m, chosen].std(ddof=1)
        for p in chosen:
            inside = (priors[p, :2] > boxes[m, :2]).all() and (priors[p, :2] < boxes[m, 2:]).all()
            if iou[m, p] >= threshold and inside and iou[m, p] > owned_iou[p]:
                owner[p], owned_iou[p] = m, iou[m, p]
    reserved = {max(np.flatnonzero(owner == m), key=lambda p: iou[m, p]) for m in learnable if (owner == m).any()}
    orphans = [m for m in learnable if not (owner == m).any()]
    pairs = [(iou[m, p], m, p) for m in orphans for p in range(len(priors)) if p not in reserved and iou[m, p] > 0]
    placed: set[int] = set()
    for _, m, p in sorted(pairs, key=lambda pair: (-pair[0], pair[1], pair[2])):
        if m not in placed and p not in reserved:
            owner[p] = m
            placed.add(m)
            reserved.add(p)
    result = np.where(owner >= 0, labels[owner] if len(labels) else 0, 0)
    for p in np.flatnonzero(owner < 0):
        regions = [boxes[m] for m in range(len(boxes)) if ignore[m] and labels[m] > 0]
        if any(overlap(box, corners[p])[0] >= IGNORED_COVER * priors[p, 2] * priors[p, 3] for box in regions):
            result[p] = -1
    return result


def scene(batch: int, num_objects: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Objects of 4 to 60 pixels, labelled with their number; about a sixth ignored, about a sixth padding."""
    generator = torch.Generator().manual_seed(seed)
    sizes = 4 + 56 * torch.rand(batch, num_objects, 2, generator=generator) ** 2
    corners = torch.rand(batch, num_objects, 2, generator=generator) * (SIZE - sizes)
    lot = torch.rand(batch, num_objects, generator=generator)
    labels = torch.arange(1, num_objects + 1).repeat(batch, 1) * (lot > 1 / 6)
    boxes = torch.cat([corners, corners + sizes], dim=-1) * (labels > 0).unsqueeze(-1)
    return boxes, labels, lot > 5 / 6


def one_image(output: HeadOutput, boxes, labels=None, ignore=None, candidates=9) -> tuple[list[int], Assignment]:
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(1, -1, 4)
    labels = torch.arange(1, boxes.shape[1] + 1)[None] if labels is None else torch.tensor([labels])
    ignore = torch.zeros_like(labels).bool() if ignore is None else torch.tensor([ignore])
    result = assign_atss(output, boxes, labels, ignore, candidates=candidates)
    return result.labels[0].tolist(), result


@pytest.mark.parametrize("output", [ONE_SHAPE, MANY_SHAPES], ids=["one shape", "many shapes"])
@pytest.mark.parametrize("num_objects", [0, 1, 6, 15])
@pytest.mark.parametrize("candidates", [3, 9, 1000])
def test_equals_the_papers_algorithm(output, num_objects, candidates):
    boxes, labels, ignore = scene(3, num_objects, seed=num_objects)
    result = assign_atss(output, boxes, labels, ignore, candidates=candidates)
    for image in range(3):
        expected = slow_atss(output, boxes[image], labels[image], ignore[image], candidates)
        assert result.labels[image].tolist() == expected.tolist()
        for prior in np.flatnonzero(expected > 0):
            assert result.boxes[image, prior].equal(boxes[image, expected[prior] - 1])


def test_the_scenes_hold_what_they_are_to_test():
    boxes, labels, ignore = scene(3, 15, seed=15)
    found = assign_atss(MANY_SHAPES, boxes, labels, ignore).labels
    assert (found == -1).any() and (found == 0).any() and ((labels > 0) & ignore).any() and (labels == 0).any()
    for image in range(3):
        assert set(found[image].tolist()) - {-1, 0} == set(labels[image, ~ignore[image]].tolist()) - {0}


def test_by_hand():
    # One level of 3 priors in a row; IoU 1, ⅓ and 0: mean .4444, deviation .5092, threshold .95.
    priors = torch.tensor([[10.0, 10, 20, 20], [20, 10, 20, 20], [40, 10, 20, 20]])
    output = HeadOutput(torch.zeros(1, 3, 2), torch.zeros(1, 3, 4), priors, level_sizes=(3,))
    labels, result = one_image(output, [[0, 0, 20, 20]])
    assert labels == [1, 0, 0]
    assert result.boxes[0, 1].tolist() == [10, 0, 30, 20]  # the prior itself


def copies(count: int) -> HeadOutput:
    """One prior of (20, 8) px at (10, 10), several times."""
    priors = torch.tensor([[10.0, 10, 20, 8]]).repeat(count, 1)
    return HeadOutput(torch.zeros(1, count, 2), torch.zeros(1, count, 4), priors, level_sizes=(count,))


def test_equal_overlaps_pass_their_own_mean():
    """Seven of IoU .4: the deviation is 0, but in float32 their mean is a little more than .4."""
    assert one_image(copies(7), [[0, 0, 20, 20]])[0] == [1] * 7


def test_equally_near_priors_are_chosen_by_overlap():
    flat, square = [5, 15, 35, 25], [10, 10, 30, 30]
    assert one_image(TWO_CELLS, [flat], candidates=1)[0] == [0, 1, 0, 0]
    assert one_image(TWO_CELLS, [square], candidates=1)[0] == [1, 0, 0, 0]


def test_priors_alike_in_distance_and_overlap_count_together():
    assert one_image(TWO_CELLS, [[10, 10, 70, 30]], candidates=1)[0] == [1, 0, 1, 0]


@pytest.mark.parametrize("shift", [(1, 0), (-1, 0), (0, 1), (0, -1)])
def test_a_centre_on_the_border_is_not_inside(shift):
    for distance, expected in ((9.5, 3), (10, 1)):  # one prior is what no object goes without
        x, y = (distance * step for step in shift)
        assert sum(one_image(copies(3), [[x, y, 20 + x, 20 + y]])[0]) == expected


def test_a_prior_of_two_objects_goes_to_the_larger_overlap_and_the_other_gets_its_next_best():
    near, exact = [10, 10, 32, 30], [10, 10, 30, 30]
    for boxes, expected in (([near, exact], [2, 1, 0, 0]), ([exact, near], [1, 2, 0, 0])):
        assert one_image(TWO_CELLS, boxes, candidates=1)[0] == expected


def test_an_object_keeps_its_only_prior_before_others_are_helped():
    # Both centres lie on (20, 20). The small one wins nothing; the best prior of the large one is not for it.
    labels, _ = one_image(TWO_CELLS, [[10, 10, 30, 30], [11, 11, 29, 29]], candidates=1)
    assert labels == [1, 2, 0, 0]


def test_a_small_object_between_the_centres_gets_its_best_prior():
    labels, _ = one_image(TWO_CELLS, [[24, 21, 28, 25]])
    assert labels == [0, 1, 0, 0]  # IoU 16/300 and not 16/400


def test_an_object_that_overlaps_no_prior_takes_none():
    assert one_image(TWO_CELLS, [[80, 80, 90, 90]])[0] == [0, 0, 0, 0]


def test_ignored_regions_and_padding():
    boxes = [[0, 0, 40, 40], [50, 10, 70, 30], [0, 0, 0, 0]]
    labels, _ = one_image(TWO_CELLS, boxes, labels=[1, 2, 0], ignore=[True, False, False])
    assert labels == [-1, -1, 2, 0]


@pytest.mark.parametrize("num_objects", [0, 2])
def test_images_without_objects_are_background(num_objects):
    boxes, labels = torch.zeros(2, num_objects, 4), torch.zeros(2, num_objects, dtype=torch.int64)
    result = assign_atss(ONE_SHAPE, boxes, labels, labels.bool())
    assert result.labels.shape == (2, len(ONE_SHAPE.priors)) and result.labels.eq(0).all()
    assert result.quality is None


def test_inputs_are_not_changed():
    inputs = scene(2, 6, seed=0)
    before = [tensor.clone() for tensor in (*inputs, MANY_SHAPES.priors)]
    assign_atss(MANY_SHAPES, *inputs)
    assert all(old.equal(new) for old, new in zip(before, (*inputs, MANY_SHAPES.priors), strict=True))


def test_levels_that_do_not_sum_to_the_priors_are_refused():
    with pytest.raises(AssertionError, match="levels of"):
        assign_atss(ONE_SHAPE._replace(level_sizes=()), *scene(1, 1, seed=0))


def test_needs_no_values_on_the_host():
    """A tensor on `meta` has none, so whatever would wait for them on a GPU raises here."""
    output = MANY_SHAPES._replace(priors=MANY_SHAPES.priors.to("meta"))
    for num_objects in (0, 4):
        result = assign_atss(output, *(tensor.to("meta") for tensor in scene(2, num_objects, seed=0)))
        assert result.labels.shape == (2, len(output.priors))


def test_equal_overlaps_pass_their_own_mean_without_float64_too():
    """Which sums of the overlaps themselves would miss: of seven thirds the mean is one bit more than a third."""
    values = torch.rand(2000, 1, generator=torch.Generator().manual_seed(0))
    for count in (1, 2, 3, 7, 45, 54):
        equal = values.expand(-1, count)
        for has_float64 in (True, False):
            assert (values >= _threshold(equal, has_float64=has_float64)).all()
    plain = values.expand(-1, 7).mean(dim=1, keepdim=True)
    assert (values < plain).any()


def test_the_threshold_without_float64_is_that_with_it():
    overlaps = torch.rand(500, 45, generator=torch.Generator().manual_seed(1))
    narrow, wide = (_threshold(overlaps, has_float64=has_float64) for has_float64 in (False, True))
    torch.testing.assert_close(narrow, wide, rtol=1e-6, atol=1e-6)
    assert narrow.dtype == wide.dtype == torch.float32


def test_it_needs_no_float64_where_there_is_none(monkeypatch):
    """On tensors without values that lie on a GPU, as those of Metal can be made where it is only."""
    assert not assigners._has_float64(torch.device("mps"))
    monkeypatch.setattr(assigners, "_has_float64", lambda device: False)
    with FakeTensorMode(), NoFloat64():
        tensors = [torch.zeros(*shape, device="cuda") for shape in ((2, 30, 4), (2, 30, 4), (30, 4), (2, 3, 4))]
        labels = torch.ones(2, 3, dtype=torch.int64, device="cuda")
        output = HeadOutput(*tensors[:3], level_sizes=(20, 10))
        assert assign_atss(output, tensors[3], labels, labels > 1).labels.shape == (2, 30)
        with pytest.raises(TypeError, match="float64"):
            tensors[0].double()


class NoFloat64(TorchDispatchMode):
    """Refuses what Metal does not have: float64 anywhere but on a CPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor) and value.dtype is torch.float64 and value.device.type != "cpu":
                raise TypeError(f"{func} makes a float64 on {value.device}")
        return result
