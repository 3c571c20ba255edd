"""Task-aligned assignment against a slow reading of the paper, and its edges."""

import numpy as np
import pytest
import torch

from ssdlite import boxes as box_ops
from ssdlite.losses.assigners import assign_task_aligned
from ssdlite.structures import HeadOutput


def grid(cells: int = 6, stride: int = 16, sides=(12.0, 28.0)) -> torch.Tensor:
    """Priors of two sizes at each centre."""
    centers = (torch.arange(cells) + 0.5) * stride
    y, x = torch.meshgrid(centers, centers, indexing="ij")
    return torch.stack(
        [torch.stack([x, y, torch.full_like(x, s), torch.full_like(x, s)], -1) for s in sides], 2
    ).view(-1, 4)


def scene(seed: int, batch: int = 3, objects: int = 5, classes: int = 3):
    torch.manual_seed(seed)
    priors = grid()
    output = HeadOutput(
        torch.randn(batch, len(priors), classes + 1), torch.randn(batch, len(priors), 4) * 2, priors, "sigmoid"
    )
    corners = torch.rand(batch, objects, 2) * 80
    boxes = torch.cat([corners, corners + 4 + torch.rand(batch, objects, 2) * 40], dim=-1)
    labels = torch.randint(0, classes + 1, (batch, objects))
    return output, boxes, labels, torch.rand(batch, objects) < 0.2


def slow(output, boxes, labels, ignore, candidates):
    """One image in float64 NumPy, object by object, without the greedy pass for objects that lose all."""
    priors = output.priors.double()
    predicted = box_ops.decode(output.deltas.double(), priors)
    overlap = box_ops.iou(boxes.double(), predicted).numpy()
    scores = output.logits.double().sigmoid().numpy()
    centers, boxes = priors[:, :2].numpy(), boxes.double().numpy()
    alignment = np.zeros_like(overlap)
    chosen = np.zeros(overlap.shape, bool)
    for m, (box, label) in enumerate(zip(boxes, labels.tolist(), strict=True)):
        if label == 0 or ignore[m]:
            continue
        near = np.all((centers > box[:2]) & (centers < box[2:]), axis=1)
        distance = ((centers - (box[:2] + box[2:]) / 2) ** 2).sum(axis=1)
        near |= distance <= distance.min() + 1e-9
        alignment[m] = np.where(near, scores[:, label] * overlap[m] ** 6, 0)
        best = np.argsort(-alignment[m], kind="stable")[:candidates]
        chosen[m, best[alignment[m, best] > 0]] = True
    owner = np.where(chosen, overlap, -1).argmax(axis=0)
    positive = chosen.any(axis=0)
    return alignment, overlap, owner, positive


@pytest.mark.parametrize("seed", range(8))
def test_equals_the_paper_where_no_object_loses_all_its_priors(seed):
    output, boxes, labels, ignore = scene(seed)
    result = assign_task_aligned(output, boxes, labels, ignore, candidates=7)
    compared = 0
    for image in range(len(boxes)):
        one = output._replace(logits=output.logits[image], deltas=output.deltas[image])
        alignment, overlap, owner, positive = slow(one, boxes[image], labels[image], ignore[image], 7)
        best_owners = {m: owner[a.argmax()] for m, a in enumerate(alignment) if a.max() > 0}
        if any(m != found for m, found in best_owners.items()):
            continue  # the greedy pass moves something
        compared += 1
        found = result.labels[image].numpy()
        expected = np.where(positive, labels[image].numpy()[owner], 0)
        assert ((found == expected) | (found == -1)).all()
        for m in best_owners:
            mine = positive & (owner == m)
            quality = alignment[m] / alignment[m, mine].max() * overlap[m, mine].max()
            assert np.allclose(result.quality[image].numpy()[mine], quality[mine], atol=1e-4)
    assert compared


def test_by_hand():
    """Two priors at one place predict an object with IoU 1 and .5; a third one, elsewhere, does not count."""
    priors = torch.tensor([[50.0, 50, 20, 20], [50, 50, 10, 20], [90, 90, 20, 20]])
    output = HeadOutput(torch.zeros(1, 3, 2), torch.zeros(1, 3, 4), priors, "sigmoid")
    boxes, labels = torch.tensor([[[40.0, 40, 60, 60]]]), torch.tensor([[1]])
    result = assign_task_aligned(output, boxes, labels, torch.zeros(1, 1).bool(), score_power=1, overlap_power=2)
    assert result.labels.tolist() == [[1, 1, 0]]
    assert result.quality[0].tolist() == pytest.approx(
        [1, 0.25, 0]
    )  # t = .5 and .125, scaled to the IoU of the best
    one = assign_task_aligned(output, boxes, labels, torch.zeros(1, 1).bool(), candidates=1)
    assert one.labels.tolist() == [[1, 0, 0]]


def test_scores_decide_between_equal_boxes():
    priors = torch.tensor([[50.0, 50, 20, 20]] * 2)
    logits = torch.tensor([[[0.0, -1, 3], [0, 3, -1]]])
    output = HeadOutput(logits, torch.zeros(1, 2, 4), priors, "sigmoid")
    boxes = torch.tensor([[[40.0, 40, 60, 60]]])
    for label, expected in ((1, [0, 1]), (2, [2, 0])):
        result = assign_task_aligned(output, boxes, torch.tensor([[label]]), torch.zeros(1, 1).bool(), candidates=1)
        assert result.labels[0].tolist() == expected


def test_an_object_smaller_than_a_cell_has_the_nearest_priors():
    output, *_ = scene(0, batch=1)
    output = output._replace(deltas=torch.zeros_like(output.deltas))
    boxes = torch.tensor([[[1.0, 1, 5, 5]]])  # no centre lies in it
    result = assign_task_aligned(output, boxes, torch.tensor([[2]]), torch.zeros(1, 1).bool())
    assert result.labels[0].nonzero().flatten().tolist() == [0, 1]


def test_two_objects_at_one_place_have_a_prior_each():
    priors = torch.tensor([[50.0, 50, 20, 20], [50, 50, 20, 24]])
    output = HeadOutput(torch.zeros(1, 2, 3), torch.zeros(1, 2, 4), priors, "sigmoid")
    boxes = torch.tensor([[[40.0, 40, 60, 60], [40, 41, 60, 59]]])
    result = assign_task_aligned(output, boxes, torch.tensor([[1, 2]]), torch.zeros(1, 2).bool())
    assert sorted(result.labels[0].tolist()) == [1, 2]


def test_empty_images_padding_and_ignored_regions():
    output, boxes, labels, _ = scene(3)
    nothing = assign_task_aligned(output, boxes, torch.zeros_like(labels), torch.zeros_like(labels).bool())
    assert nothing.labels.eq(0).all() and nothing.quality.eq(0).all()
    crowd = assign_task_aligned(
        output, boxes * 0 + torch.tensor([0, 0, 96, 96.0]), torch.ones_like(labels), torch.ones_like(labels).bool()
    )
    assert crowd.labels.eq(-1).all() and crowd.quality.eq(0).all()


def test_predictions_that_overflow_are_no_candidates():
    output, boxes, labels, ignore = scene(4)
    result = assign_task_aligned(output._replace(deltas=output.deltas * 1e6), boxes, labels, ignore)
    assert result.quality.isfinite().all()


def test_nothing_has_a_gradient():
    output, boxes, labels, ignore = scene(5)
    output = output._replace(logits=output.logits.requires_grad_(), deltas=output.deltas.requires_grad_())
    assert not assign_task_aligned(output, boxes, labels, ignore).quality.requires_grad
