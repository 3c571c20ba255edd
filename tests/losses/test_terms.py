"""The box term with each loss, class weights, and targets by class."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss

from ssdlite import boxes as box_ops
from ssdlite.losses.recipes import BoxLoss, balance_classes, class_weights, one_hot_objects, weight_of
from tests.losses.cases import sample


def test_smooth_l1_is_summed_over_coordinates_of_the_positives():
    output, assignment = sample([3, 2])
    weight = (assignment.labels > 0).float()
    deltas, targets = output.deltas, box_ops.encode(assignment.boxes, output.priors)
    expected = F.smooth_l1_loss(deltas[weight > 0], targets[weight > 0], beta=0.25, reduction="sum")
    found = BoxLoss("smooth_l1", weight=2.0, beta=0.25)(output, assignment, weight, torch.tensor(5.0))
    assert found.item() == pytest.approx(2 * expected.item() / 5, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "reference"),
    [("giou", generalized_box_iou_loss), ("diou", distance_box_iou_loss), ("ciou", complete_box_iou_loss)],
)
def test_overlap_losses_judge_the_decoded_box(name, reference):
    output, assignment = sample([3, 2])
    weight = (assignment.labels > 0).float() * 0.5
    boxes = box_ops.decode(output.deltas, output.priors)
    expected = 0.5 * reference(boxes[weight > 0], assignment.boxes[weight > 0], reduction="sum")
    found = BoxLoss(name)(output, assignment, weight, torch.tensor(4.0))
    assert found.item() == pytest.approx(expected.item() / 4, rel=1e-4)


@pytest.mark.parametrize("name", ["smooth_l1", "giou", "diou", "ciou"])
def test_what_is_not_positive_may_be_anything(name):
    output, assignment = sample([2, 0])
    weight = (assignment.labels > 0).float()
    deltas = output.deltas.masked_fill(weight.unsqueeze(-1) == 0, 1e6).requires_grad_()  # exp overflows
    loss = BoxLoss(name)(output._replace(deltas=deltas), assignment, weight, torch.tensor(2.0))
    loss.backward()
    assert loss.isfinite() and deltas.grad.isfinite().all()
    assert (deltas.grad.abs().sum(dim=-1) > 0).equal(weight > 0)


@pytest.mark.parametrize("name", ["giou", "diou", "ciou"])
def test_a_positive_that_overflows_has_a_finite_loss(name):
    output, assignment = sample([2])
    deltas = (output.deltas * 1e4).requires_grad_()
    loss = BoxLoss(name)(
        output._replace(deltas=deltas), assignment, (assignment.labels > 0).float(), torch.tensor(2.0)
    )
    loss.backward()
    assert loss.isfinite() and deltas.grad.isfinite().all()


@pytest.mark.parametrize("name", ["smooth_l1", "giou", "diou", "ciou"])
def test_no_positives_give_zero_with_a_gradient(name):
    output, assignment = sample([0])
    deltas = output.deltas.requires_grad_()
    loss = BoxLoss(name)(output, assignment, torch.zeros(1, 25), torch.tensor(1.0))
    loss.backward()
    assert loss.item() == 0 and deltas.grad.eq(0).all()


def test_balanced_weights_go_with_the_root_of_the_count_and_average_one():
    weights = balance_classes([400, 100, 1])
    assert weights[1] / weights[0] == pytest.approx(2)
    assert weights[2] / weights[0] == pytest.approx(20)
    assert np.dot(weights, [400, 100, 1]) / 501 == pytest.approx(1)


def test_balanced_weights_of_equal_empty_and_absent_classes():
    assert balance_classes([7, 7]) == pytest.approx([1, 1])
    assert balance_classes([0, 0]) == [1, 1]
    assert all(np.isfinite(balance_classes([0, 9])))


def test_the_weight_of_a_prior():
    labels = torch.tensor([[0, 1, 2, -1]])
    assert weight_of(labels, None).tolist() == [[1, 1, 1, 0]]
    assert weight_of(labels, class_weights([3, 5])).tolist() == [[1, 3, 5, 0]]


def test_values_stand_in_the_column_of_their_class():
    targets = one_hot_objects(torch.tensor([[0, 1, 3, -1]]), torch.tensor([[0.1, 0.2, 0.3, 0.4]]), 3)
    assert targets[0].tolist() == [[0, 0, 0], [pytest.approx(0.2), 0, 0], [0, 0, pytest.approx(0.3)], [0, 0, 0]]
