"""Assignment by blocks of images is that of the whole batch."""

from functools import partial

import pytest
import torch

from ssdlite.losses import matching
from ssdlite.losses.assigners import assign_atss, assign_task_aligned
from ssdlite.losses.matching import assign_iou
from ssdlite.structures import HeadOutput
from tests.losses.cases import PRIORS

ASSIGNERS = {
    "iou": assign_iou,
    "iou with a band and ties": partial(assign_iou, iou_threshold=0.7, background_below=0.3, all_ties=True),
    "atss": partial(assign_atss, candidates=3),
    "task-aligned": assign_task_aligned,
}


def scene(batch: int, num_objects: int) -> tuple[HeadOutput, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Image 0 has no object, others up to `num_objects`, with padding between them too; some are ignored."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, 25, 5, generator=generator)
    output = HeadOutput(logits, torch.randn(batch, 25, 4, generator=generator), PRIORS, "sigmoid", (15, 10))
    corners = torch.rand(batch, num_objects, 2, generator=generator) * 70
    sides = 4 + torch.rand(batch, num_objects, 2, generator=generator) * 40
    counts = torch.arange(batch).unsqueeze(1) % (num_objects + 1)
    labels = torch.randint(0, 5, (batch, num_objects), generator=generator)
    labels = labels * (torch.arange(num_objects) < counts)
    boxes = torch.cat([corners, corners + sides], dim=-1) * (labels > 0).unsqueeze(-1)
    return output, boxes, labels, torch.rand(batch, num_objects, generator=generator) < 0.3


@pytest.mark.parametrize("name", ASSIGNERS)
@pytest.mark.parametrize("pairs", [1, 25 * 7])
def test_equals_the_whole_batch(name, pairs, monkeypatch):
    inputs = scene(9, 6)
    whole = ASSIGNERS[name](*inputs)
    assert {-1, 0} < set(whole.labels.flatten().tolist())
    monkeypatch.setattr(matching, "BLOCK", pairs)
    found = ASSIGNERS[name](*inputs)
    assert found.labels.equal(whole.labels) and found.boxes.equal(whole.boxes)
    assert (found.quality is None) == (whole.quality is None)
    if whole.quality is not None:
        torch.testing.assert_close(found.quality, whole.quality)


def test_a_batch_without_images():
    for assign in (assign_iou, assign_task_aligned):
        assert assign(*scene(0, 1)).labels.shape == (0, 25)


@pytest.mark.parametrize("name", ASSIGNERS)
def test_images_without_objects(name, monkeypatch):
    monkeypatch.setattr(matching, "BLOCK", 1)
    output, boxes, labels, ignore = scene(3, 2)
    assert ASSIGNERS[name](output, boxes * 0, labels * 0, ignore).labels.eq(0).all()


def test_what_a_block_is():
    labels = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0], [2, 0, 2, 0], [1, 1, 1, 1], [3, 0, 0, 0]])
    # At most 6 objects: 1 and 1 fit with each other, three times 3 do not; 4 and 1 would be twice 4.
    assert list(matching._chunks(labels, 6)) == [(0, 2, 1), (2, 3, 3), (3, 4, 4), (4, 5, 1)]
    assert list(matching._chunks(labels, 100)) == [(0, 5, 4)]


def test_whole_batches_have_no_gradient_either():
    output, *targets = scene(3, 2)
    output = output._replace(priors=output.priors.clone().requires_grad_())
    assert not assign_iou(output, *targets).boxes.requires_grad
