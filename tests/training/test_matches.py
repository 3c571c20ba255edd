"""How objects and priors find each other, on priors and boxes that can be counted by hand."""

from functools import partial

import numpy as np
import pytest
import torch

from ssdlite.losses.assigners import assign_atss
from ssdlite.losses.matching import assign_iou
from ssdlite.losses.recipes import count_matches
from ssdlite.structures import Batch, HeadOutput

# Three priors of 10 x 10 in a row, and one far away.
PRIORS = torch.tensor([[5.0, 5, 10, 10], [7, 5, 10, 10], [30, 5, 10, 10], [90, 90, 10, 10]])


def batch_of(*images: list[tuple[tuple[float, float, float, float], int, bool]]) -> Batch:
    """Of (box, label, ignore), padded to the most objects of an image."""
    M = max(map(len, images))
    boxes, labels = torch.zeros(len(images), M, 4), torch.zeros(len(images), M, dtype=torch.long)
    ignore = torch.zeros(len(images), M, dtype=torch.bool)
    for i, objects in enumerate(images):
        for j, (box, label, ignored) in enumerate(objects):
            boxes[i, j], labels[i, j], ignore[i, j] = torch.tensor(box), label, ignored
    pixels = torch.zeros(len(images), 3, 1, 1, dtype=torch.uint8)
    return Batch(
        pixels, boxes, labels, ignore, [*range(len(images))], [(1, 1)] * len(images), [*range(len(images))]
    )


def answer(batch: Batch) -> HeadOutput:
    B, P = len(batch.images), len(PRIORS)
    return HeadOutput(torch.zeros(B, P, 3), torch.zeros(B, P, 4), PRIORS, level_sizes=(P,))


def test_counted_by_hand():
    batch = batch_of(
        [((0, 0, 10, 10), 1, False), ((25, 0, 35, 3), 2, False)],  # IoU 1 and 2/3; .3, forced
        [((0, 0, 10, 10), 1, True), ((50, 50, 60, 60), 2, False)],  # to be ignored; out of reach
        [],
    )
    matches = count_matches(assign_iou, answer(batch), batch)
    assert matches.num_priors.tolist() == [2, 1, 0]
    assert matches.best_iou == pytest.approx(np.array([1, 0.3, 0]))


def test_follows_the_assignment_that_is_in_use():
    batch = batch_of([((0, 0, 10, 10), 1, False)])
    strict = count_matches(partial(assign_iou, iou_threshold=0.7), answer(batch), batch)
    assert strict.num_priors.tolist() == [1] and strict.best_iou == pytest.approx(1)
    # ATSS asks for the mean and the standard deviation of 1, 2/3, 0 and 0: .42 + .50.
    assert count_matches(assign_atss, answer(batch), batch).num_priors.tolist() == [1]
    assert count_matches(assign_iou, answer(batch), batch).num_priors.tolist() == [2]


def test_without_objects():
    for batch in (batch_of([], []), batch_of([((0, 0, 10, 10), 1, True)])):
        matches = count_matches(assign_iou, answer(batch), batch)
        assert matches.num_priors.shape == matches.best_iou.shape == (0,)
