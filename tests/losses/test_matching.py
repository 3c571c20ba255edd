"""Assignment: bipartite first, then the threshold, then ignored regions."""

import numpy as np
import pytest
import torch

from ssdlite import boxes as box_ops
from ssdlite.losses.matching import (
    IGNORED_COVER,
    TIE,
    _match_in_rounds,
    assign_iou,
    distance_to_edge,
    match_greedily,
)
from ssdlite.models.detector import Detector
from ssdlite.models.variants import PYTORCH_SSD
from ssdlite.structures import Assignment, HeadOutput


def squares(*centers_and_sides) -> torch.Tensor:
    """(cx, cy, side) -> cxcywh."""
    return torch.tensor([[x, y, side, side] for x, y, side in centers_and_sides], dtype=torch.float32)


def assign(priors, boxes, labels, ignore, **options) -> Assignment:
    nothing = torch.zeros(len(boxes), len(priors), 2)
    return assign_iou(HeadOutput(nothing, nothing, priors), boxes, labels, ignore, **options)


def run(priors, boxes, labels=None, ignore=None, **options):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(1, -1, 4)
    labels = torch.ones(1, boxes.shape[1], dtype=torch.int64) if labels is None else torch.tensor([labels])
    ignore = torch.zeros_like(labels, dtype=torch.bool) if ignore is None else torch.tensor([ignore])
    result = assign(priors, boxes, labels, ignore, **options)
    return result.labels[0].tolist(), result.boxes[0]


def slow_greedy(iou: torch.Tensor) -> torch.Tensor:
    """Take the largest remaining pair, again and again."""
    iou = iou.clone()
    claims = torch.full(iou.shape[:1], -1)
    for _ in range(len(iou)):
        value, position = iou.flatten().max(dim=0)
        if value <= 0:
            break
        row, column = divmod(int(position), iou.shape[1])
        claims[row] = column
        iou[row], iou[:, column] = 0, 0
    return claims


def corners_of(priors: torch.Tensor) -> np.ndarray:
    return box_ops.cxcywh_to_xyxy(priors).numpy()


def slow_assign(priors, boxes, labels, ignore, threshold, background_below, all_ties) -> tuple[list[int], list]:
    """The docstring of `assign_iou` as loops over one image, in float32 so that ties are the same ties."""
    corners, boxes = corners_of(priors), boxes.numpy()
    labels, ignore = labels.tolist(), ignore.tolist()

    def sizes(box):
        return max(box[2] - box[0], np.float32(0)) * max(box[3] - box[1], np.float32(0))

    def common(box, other):
        return sizes(np.concatenate([np.maximum(box[:2], other[:2]), np.minimum(box[2:], other[2:])]))

    objects = [m for m in range(len(boxes)) if labels[m] > 0 and not ignore[m]]
    iou = np.zeros((len(boxes), len(corners)), np.float32)
    for m in objects:
        for p, corner in enumerate(corners):
            shared = common(boxes[m], corner)
            iou[m, p] = shared / (sizes(boxes[m]) + sizes(corner) - shared)
    owner: dict[int, int] = {}
    pairs = sorted((-iou[m, p], m, p) for m in objects for p in range(len(corners)) if iou[m, p] > 0)
    for _, m, p in pairs:
        if p not in owner and m not in owner.values():
            owner[p] = m
    found_labels, found_boxes = [], []
    for p, corner in enumerate(corners):
        best = int(iou[:, p].argmax())
        tied = all_ties and iou[best].max() > 0 and iou[best, p] >= iou[best].max() * np.float32(1 - TIE)
        if p not in owner and (iou[best, p] >= np.float32(threshold) or tied):
            owner[p] = best
        regions = [m for m in range(len(boxes)) if ignore[m] and labels[m] > 0]
        covered = any(common(boxes[m], corner) >= np.float32(IGNORED_COVER) * sizes(corner) for m in regions)
        undecided = background_below is not None and iou[best, p] >= np.float32(background_below)
        found_labels.append(labels[owner[p]] if p in owner else -1 if covered or undecided else 0)
        found_boxes.append(boxes[owner[p]] if p in owner else corner)
    return found_labels, found_boxes


@pytest.mark.parametrize("options", [(0.5, None, False), (0.7, 0.3, False), (0.6, 0.4, True)])
@pytest.mark.parametrize("seed", range(8))
def test_equals_its_docstring_read_as_loops(seed, options):
    """Whole pixels, and priors of equal area at one place: half of these scenes have ties of a best prior."""
    generator = torch.Generator().manual_seed(seed)
    priors = torch.tensor(
        [[x, y, *shape] for y in (16.0, 48, 80) for x in (16.0, 48, 80) for shape in ((32, 32), (64, 16), (16, 64))]
    )
    sides = torch.randint(4, 60, (3, 7, 2), generator=generator)
    corners = torch.randint(0, 60, (3, 7, 2), generator=generator)
    labels = torch.randint(0, 5, (3, 7), generator=generator)
    boxes = torch.cat([corners, corners + sides], dim=-1).float()
    ignore = torch.rand(3, 7, generator=generator) < 0.2 * (seed % 2)
    result = assign(
        priors, boxes, labels, ignore, iou_threshold=options[0], background_below=options[1], all_ties=options[2]
    )
    for image in range(3):
        expected_labels, expected_boxes = slow_assign(priors, boxes[image], labels[image], ignore[image], *options)
        assert result.labels[image].tolist() == expected_labels
        assert np.array_equal(result.boxes[image].numpy(), np.stack(expected_boxes))


@pytest.mark.parametrize("match", [match_greedily, _match_in_rounds], ids=["one by one", "in rounds"])
@pytest.mark.parametrize("seed", range(10))
def test_greedy_matching_takes_the_largest_pair_again_and_again(seed, match):
    torch.manual_seed(seed)
    iou = torch.rand(3, 12, 40) * (torch.rand(3, 12, 40) > 0.6)
    iou[:, :, 8:] *= 0.5  # twelve objects want eight priors
    expected = torch.stack([slow_greedy(image) for image in iou])
    assert match(iou).equal(expected)


@pytest.mark.parametrize("match", [match_greedily, _match_in_rounds], ids=["one by one", "in rounds"])
def test_equal_priors_are_taken_in_their_order(match):
    torch.manual_seed(0)
    iou = torch.randint(0, 4, (4, 12, 15)) / 4  # hardly a pair without its equals
    assert match(iou).equal(torch.stack([slow_greedy(image) for image in iou]))


def draw_overlaps(number: int, generator: torch.Generator) -> torch.Tensor:
    """Up to 3 images, 24 objects and 40 priors: many ties, few pairs, a chain of all objects, or close values."""

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    batch, objects, priors = draw(1, 4), draw(1, 25), draw(1, 41)
    shape = batch, objects, priors
    match number % 4:
        case 0:
            return torch.randint(0, draw(2, 6), shape, generator=generator) / 4
        case 1:
            return torch.rand(shape, generator=generator) * (torch.rand(shape, generator=generator) > 0.7)
        case 2:  # each object that finds its prior taken by the one before takes that of the one after
            ranks = torch.arange(objects, 0, -1)[:, None] + torch.arange(priors, 0, -1)
            return (ranks / (objects + priors)).expand(shape).contiguous()
        case _:
            return 1e-6 * torch.randint(0, 300, shape, generator=generator)


def test_rounds_equal_the_heap():
    generator = torch.Generator().manual_seed(0)
    for number in range(1000):
        overlaps = draw_overlaps(number, generator)
        assert _match_in_rounds(overlaps).equal(match_greedily(overlaps)), number


@pytest.mark.parametrize("size", [1, 2, 5, 17])
def test_a_chain_needs_as_many_rounds_as_objects(size):
    """All objects want the same priors in the same order: the last one is turned down by all others."""
    ranks = torch.arange(size, 0, -1)[:, None] * 100 + torch.arange(size, 0, -1)
    overlaps = (ranks / (101 * size))[None]
    assert _match_in_rounds(overlaps).tolist() == [list(range(size))]


@pytest.mark.parametrize("match", [match_greedily, _match_in_rounds], ids=["one by one", "in rounds"])
@pytest.mark.parametrize("shape", [(0, 3, 5), (2, 0, 5)])
def test_matching_of_nothing(shape, match):
    assert match(torch.zeros(shape)).shape == shape[:2]


def test_depth_by_hand():
    box, points = torch.tensor([[[10.0, 20, 30, 60]]]), torch.tensor([[15.0, 40], [20, 57], [30, 40], [35, 40]])
    assert distance_to_edge(box, points).tolist() == [[[5, 3, 0, -5]]]


@pytest.mark.parametrize("match", [match_greedily, _match_in_rounds], ids=["one by one", "in rounds"])
def test_more_objects_than_priors(match):
    iou = torch.tensor([[[0.9], [0.8], [0.0]]])
    assert match(iou).tolist() == [[0, -1, -1]]


@pytest.mark.parametrize("match", [match_greedily, _match_in_rounds], ids=["one by one", "in rounds"])
def test_ties_go_to_the_first_object_and_both_get_a_prior(match):
    iou = torch.tensor([[[0.5, 0.4], [0.5, 0.4]]])
    assert match(iou).tolist() == [[0, 1]]


def test_c11_no_object_loses_its_prior_to_another():
    priors = squares((10, 10, 10), (30, 10, 10), (100, 100, 10))
    # Both overlap prior 0 best; the nearer takes it, the other its next best.
    labels, boxes = run(priors, [[6, 5, 16, 15], [10, 5, 22, 15]], labels=[1, 2])
    assert labels == [1, 0, 0]  # the second object overlaps no other prior
    labels, boxes = run(squares((10, 10, 10), (22, 10, 12)), [[6, 5, 16, 15], [9, 5, 18, 15]], labels=[1, 2])
    assert labels == [1, 2]
    assert boxes.tolist() == [[6, 5, 16, 15], [9, 5, 18, 15]]


def test_c11_every_small_object_is_matched_on_the_real_grid():
    """The seed lost 10.7 % of twenty random 12 px squares an image."""
    detector = Detector(PYTORCH_SSD, num_classes=1, input_size=(300, 300), width=0.25)
    torch.manual_seed(0)
    corners = torch.rand(16, 20, 2) * 288
    boxes = torch.cat([corners, corners + 12], dim=-1)
    labels = torch.arange(1, 21).repeat(16, 1)
    result = assign(detector.priors, boxes, labels, torch.zeros_like(labels, dtype=torch.bool))
    for image in result.labels:
        assert set(image.tolist()) == set(range(21))


def test_c12_an_object_that_overlaps_no_prior_takes_none():
    labels, boxes = run(squares((10, 10, 10)), [[80, 80, 90, 90]])
    assert labels == [0]
    assert boxes.tolist() == [[5, 5, 15, 15]]  # the prior itself


def test_c13_images_without_objects_are_background():
    priors = squares((10, 10, 10), (30, 10, 10))
    result = assign(priors, torch.zeros(2, 1, 4), torch.zeros(2, 1, dtype=torch.int64), torch.zeros(2, 1).bool())
    assert result.labels.eq(0).all()
    assert box_ops.encode(result.boxes, priors).abs().max() < 1e-5


@pytest.mark.parametrize(("threshold", "expected"), [(0.5, [1, 1]), (0.51, [0, 1])])
def test_c15_an_overlap_of_exactly_the_threshold_is_positive(threshold, expected):
    # The object is half of prior 0 (IoU exactly .5) and all of prior 1.
    priors = torch.tensor([[10.0, 10, 20, 20], [5, 10, 10, 20]])
    assert run(priors, [[0, 0, 10, 20]], iou_threshold=threshold)[0] == expected


def test_c15_priors_in_an_ignored_region_are_neither_object_nor_background():
    priors = squares((10, 10, 10), (30, 10, 10), (60, 10, 10))
    labels, _ = run(priors, [[0, 0, 30, 20], [25, 5, 35, 15]], labels=[1, 2], ignore=[True, False])
    assert labels == [-1, 2, 0]  # inside; half inside but a real object's own; outside


def test_an_object_below_the_threshold_still_gets_its_best_prior():
    labels, _ = run(squares((10, 10, 20), (40, 40, 20)), [[8, 8, 12, 12]])
    assert labels == [1, 0]


def test_padding_is_never_assigned():
    priors = squares((10, 10, 10))
    labels, _ = run(priors, [[0, 0, 0, 0], [5, 5, 15, 15]], labels=[0, 3])
    assert labels == [3]


def test_images_of_a_batch_do_not_touch_each_other():
    priors = squares((10, 10, 10), (30, 10, 10))
    boxes = torch.tensor([[[5.0, 5, 15, 15]], [[25, 5, 35, 15]]])
    labels = torch.tensor([[1], [2]])
    result = assign(priors, boxes, labels, torch.zeros(2, 1).bool())
    assert result.labels.tolist() == [[1, 0], [0, 2]]


def test_between_the_two_thresholds_a_prior_takes_no_part():
    # Overlaps with the object: 1, 1/2, 1/4, none.
    priors = torch.tensor([[10.0, 10, 20, 20], [5, 10, 10, 20], [2.5, 10, 5, 20], [90, 90, 5, 5]])
    labels, boxes = run(priors, [[0, 0, 20, 20]], iou_threshold=0.7, background_below=0.3)
    assert labels == [1, -1, 0, 0]
    assert boxes[1].tolist() == [0, 0, 10, 20]  # the prior itself
    assert run(priors, [[0, 0, 20, 20]], iou_threshold=0.7)[0] == [1, 0, 0, 0]
    assert run(priors, [[0, 0, 20, 20]], iou_threshold=0.7, background_below=0.7)[0] == [1, 0, 0, 0]


def test_all_ties_makes_every_best_prior_positive():
    priors = squares((10, 10, 20), (30, 10, 20), (80, 10, 20))
    between = [[15, 5, 25, 15]]  # overlaps the first two alike, by far less than the threshold
    assert sorted(run(priors, between)[0]) == [0, 0, 1]
    assert run(priors, between, all_ties=True)[0] == [1, 1, 0]


def test_all_ties_of_no_overlap_are_none():
    """Known wrong copy: with a best overlap of 0 every prior ties, and all become positive."""
    priors = squares((10, 10, 10), (30, 10, 10))
    assert run(priors, [[80, 80, 90, 90]], all_ties=True)[0] == [0, 0]
    assert run(priors, [[80, 80, 90, 90], [5, 5, 15, 15]], labels=[1, 2], all_ties=True)[0] == [2, 0]


@pytest.mark.parametrize("side", [300, 512])
def test_ties_on_the_real_grid_are_found_in_spite_of_rounding(side):
    """A square midway between four cells overlaps the same prior of each alike."""
    detector = Detector(PYTORCH_SSD, num_classes=1, input_size=(side, side), width=0.25)
    priors = detector.priors[: detector.level_sizes[0]].view(*detector.map_sizes[0], -1, 4)
    square = priors[..., 0, :]
    size = square[0, 0, 2]
    for row, column in ((3, 4), (7, 9), (11, 5)):
        center = (square[row, column, :2] + square[row + 1, column + 1, :2]) / 2
        box = torch.cat([center - size / 2, center + size / 2])
        labels, _ = run(detector.priors, [box.tolist()], iou_threshold=1.0, all_ties=True)
        assert sum(labels) == 4
