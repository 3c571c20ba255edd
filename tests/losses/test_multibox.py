"""MultiboxLoss against a plain double-precision reading of the formula, and its edge cases."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ssdlite import boxes as box_ops
from ssdlite.losses.recipes import BoxLoss, MultiboxLoss
from ssdlite.losses.reduction import mine_hard_negatives
from ssdlite.structures import Assignment, HeadOutput
from tests.losses.cases import PRIORS, gradcheck, sample


def seed_formula(output: HeadOutput, assignment: Assignment, ratio=3) -> tuple[float, float]:
    """Liu et al.'s loss as the seed computes it, image by image in float64 NumPy."""
    logits, deltas = output.logits.double().numpy(), output.deltas.double().numpy()
    labels = assignment.labels.numpy()
    targets = box_ops.encode(assignment.boxes.double(), output.priors.double()).numpy()
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    classification = box = 0.0
    for image in range(len(labels)):
        positive = labels[image] > 0
        background = -log_p[image, :, 0]
        negatives = np.argsort(-np.where(positive, -np.inf, background), kind="stable")
        count = min(ratio * positive.sum(), (~positive).sum())
        for prior in [*np.flatnonzero(positive), *negatives[:count]]:
            classification -= log_p[image, prior, labels[image, prior]]
        difference = np.abs(deltas[image, positive] - targets[image, positive])
        box += np.where(difference < 1, 0.5 * difference**2, difference - 0.5).sum()
    total = (labels > 0).sum()
    return classification / total, box / total


@pytest.mark.parametrize("positives", [[1], [3, 1], [5, 2, 1, 7], [20, 2]])
def test_equals_the_seeds_formula_where_there_are_positives(positives):
    output, assignment = sample(positives)
    terms = MultiboxLoss()(output, assignment)
    classification, box = seed_formula(output, assignment)
    assert terms["classification"].item() == pytest.approx(classification, rel=1e-5)
    assert terms["box"].item() == pytest.approx(box, rel=1e-5)


def test_by_hand():
    # Two priors, one class. Prior 0 is the object (logits 0, ln 3: p = .75), prior 1 background (p_bg = .5).
    output = HeadOutput(torch.tensor([[[0.0, np.log(3)], [0, 0]]]), torch.zeros(1, 2, 4), PRIORS[:2])
    shifted = PRIORS[:2] + torch.tensor([1.8 * 0.1 * 2, 0, 0, 0])  # Δcx = .36 / 18 / .1 = .2
    assignment = Assignment(torch.tensor([[1, 0]]), box_ops.cxcywh_to_xyxy(shifted)[None])
    terms = MultiboxLoss()(output, assignment)
    assert terms["classification"].item() == pytest.approx(-np.log(0.75) - np.log(0.5))
    assert terms["box"].item() == pytest.approx(0.5 * 0.2**2, rel=1e-4)


def test_c1_c2_a_batch_without_objects_teaches_background():
    output, assignment = sample([0, 0])
    logits = output.logits.requires_grad_()
    terms = MultiboxLoss(min_negatives=3)(output, assignment)
    assert terms["box"].item() == 0
    worst = -logits.log_softmax(-1)[..., 0].topk(3, dim=1).values
    expected = (-logits.log_softmax(-1)[..., 0]).topk(3, dim=1).values.sum()
    assert terms["classification"].item() == pytest.approx(expected.item(), rel=1e-6), worst
    sum(terms.values()).backward()
    assert (logits.grad.abs().sum(-1) > 0).sum(dim=1).tolist() == [3, 3]


def test_c2_an_image_without_objects_counts_beside_one_with_objects():
    output, assignment = sample([2, 0])
    logits = output.logits.requires_grad_()
    MultiboxLoss(min_negatives=3)(output, assignment)["classification"].backward()
    assert (logits.grad.abs().sum(-1) > 0).sum(dim=1).tolist() == [2 + 6, 3]


def test_c3_inputs_are_not_changed():
    output, assignment = sample([2, 1])
    tensors = (*output[:3], *assignment[:2])
    before = [tensor.clone() for tensor in tensors]
    MultiboxLoss()(output, assignment)
    assert all(old.equal(new) for old, new in zip(before, tensors, strict=True))


def test_c4_fewer_negatives_than_wanted_are_all_taken_once():
    output, assignment = sample([20])
    terms = MultiboxLoss()(output, assignment)
    expected = F.cross_entropy(output.logits[0], assignment.labels[0], reduction="sum") / 20
    assert terms["classification"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_c5_ties_are_broken_by_index():
    chosen = mine_hard_negatives(
        torch.ones(1, 8), torch.tensor([[0, 1, 1, 1, 1, 1, 1, 1]]).bool(), torch.tensor([1]), 3.0, 0
    )
    assert chosen[0].tolist() == [False, True, True, True, False, False, False, False]


def test_ignored_priors_take_no_part():
    output, assignment = sample([3])
    labels = assignment.labels.clone()
    labels[labels == 0] = -1
    logits = output.logits.requires_grad_()
    terms = MultiboxLoss()(output, assignment._replace(labels=labels))
    terms["classification"].backward()
    assert (logits.grad.abs().sum(-1) > 0).equal(labels > 0)


def test_c9_half_precision_outputs_are_judged_in_float32():
    output, assignment = sample([3, 2])
    rounded = HeadOutput(output.logits.bfloat16(), output.deltas.bfloat16(), PRIORS)
    same = HeadOutput(rounded.logits.float(), rounded.deltas.float(), PRIORS)
    found, expected = MultiboxLoss()(rounded, assignment), MultiboxLoss()(same, assignment)
    assert all(found[name].dtype == torch.float32 and found[name].equal(expected[name]) for name in found)


def test_c10_a_box_without_width_gives_a_finite_loss_and_gradient():
    output, assignment = sample([3])
    boxes = assignment.boxes.clone()
    boxes[..., 2] = boxes[..., 0]
    deltas = output.deltas.requires_grad_()
    loss = sum(MultiboxLoss()(output, assignment._replace(boxes=boxes)).values())
    loss.backward()
    assert loss.isfinite() and deltas.grad.isfinite().all()


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_gradients_match_numerical_ones(activation):
    output, assignment = sample([2, 0], num_classes=2, activation=activation)
    assert gradcheck(MultiboxLoss(), output, assignment)


def test_box_weight_scales_the_box_term():
    output, assignment = sample([3])
    single, double = MultiboxLoss()(output, assignment), MultiboxLoss(box=BoxLoss(weight=2))(output, assignment)
    assert double["box"].item() == pytest.approx(2 * single["box"].item())
    assert double["classification"].equal(single["classification"])


def test_sigmoid_scores_are_learnt_by_binary_cross_entropies_of_all_columns():
    """Of a positive and of the negatives with the largest sums, background's own column included."""
    output, assignment = sample([3, 1], activation="sigmoid")
    wanted = F.one_hot(assignment.labels, 5).float()
    losses = F.binary_cross_entropy_with_logits(output.logits, wanted, reduction="none").sum(dim=-1)
    expected = 0.0
    for image, positives in enumerate((3, 1)):
        positive = assignment.labels[image] > 0
        hardest = losses[image, ~positive].topk(3 * positives).values
        expected += (losses[image, positive].sum() + hardest.sum()).item()
    terms = MultiboxLoss()(output, assignment)
    assert terms["classification"].item() == pytest.approx(expected / 4, rel=1e-5)
    assert terms["box"].equal(MultiboxLoss()(*sample([3, 1]))["box"])  # boxes know nothing of scores


def test_sigmoid_by_hand():
    # One prior with an object: p = (.25, .75) for (background, object): -ln(1 - .25) - ln(.75).
    output = HeadOutput(
        torch.tensor([[[-np.log(3), np.log(3)]]]).float(), torch.zeros(1, 1, 4), PRIORS[:1], "sigmoid"
    )
    assignment = Assignment(torch.tensor([[1]]), box_ops.cxcywh_to_xyxy(PRIORS[:1])[None])
    assert MultiboxLoss()(output, assignment)["classification"].item() == pytest.approx(-2 * np.log(0.75))


def test_sigmoid_of_certain_logits_is_finite():
    output, assignment = sample([2, 0], activation="sigmoid")
    logits = (output.logits.sign() * 1e4).requires_grad_()
    loss = MultiboxLoss()(output._replace(logits=logits), assignment)["classification"]
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()


def test_sigmoid_without_objects_teaches_background():
    output, assignment = sample([0, 0], activation="sigmoid")
    logits = output.logits.requires_grad_()
    MultiboxLoss(min_negatives=3)(output, assignment)["classification"].backward()
    touched = logits.grad[logits.grad.abs().sum(-1) > 0]
    assert len(touched) == 6
    assert (touched[:, 0] < 0).all() and (touched[:, 1:] > 0).all()  # background rises, every class falls


def test_label_smoothing_blends_the_target_with_all_columns():
    output, assignment = sample([25])  # no negatives, so no mining
    log_p = output.logits[0].log_softmax(dim=-1)
    own = log_p.gather(1, assignment.labels[0].unsqueeze(1)).squeeze(1)
    expected = -(0.9 * own + 0.1 * log_p.mean(dim=1)).sum() / 25
    found = MultiboxLoss(label_smoothing=0.1)(output, assignment)["classification"]
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_negatives_are_ranked_without_smoothing():
    output, assignment = sample([2, 1])
    logits = output.logits.requires_grad_()
    plain, smooth = (MultiboxLoss(label_smoothing=share)(output, assignment) for share in (0.0, 0.9))
    chosen = []
    for terms in (plain, smooth):
        (gradient,) = torch.autograd.grad(terms["classification"], logits)
        chosen.append(gradient.abs().sum(dim=-1) > 0)
    assert chosen[0].equal(chosen[1])


def test_weights_of_one_are_no_weights():
    output, assignment = sample([3, 1])
    plain, weighted = MultiboxLoss()(output, assignment), MultiboxLoss(weights=[1.0] * 4)(output, assignment)
    assert all(plain[name].equal(weighted[name]) for name in plain)


def test_a_weight_counts_for_the_priors_that_learn_its_class():
    output, assignment = sample([25])
    losses = F.cross_entropy(output.logits[0], assignment.labels[0], reduction="none")
    expected = (losses * torch.where(assignment.labels[0] == 2, 3.0, 1.0)).sum() / 25
    terms = MultiboxLoss(weights=[1, 3, 1, 1])(output, assignment)
    assert terms["classification"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert terms["box"].equal(MultiboxLoss()(output, assignment)["box"])
