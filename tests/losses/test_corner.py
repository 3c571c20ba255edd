"""CornerNet's loss terms against the formulas in float64 NumPy, and their edge cases."""

import numpy as np
import pytest
import torch

from ssdlite.losses.corner import CornerCriterion, corner_offset, heatmap_focal, pull_push
from ssdlite.structures import CornerOutput

F64 = torch.float64


def reference_focal(logits, targets, ignored=None, alpha=2, beta=4):
    """Law & Deng 2018, eq. 1, as it is written."""
    p, y = 1 / (1 + np.exp(-logits.numpy())), targets.numpy()
    total = 0.0
    for index in np.ndindex(*p.shape):
        if y[index] == 1:
            total -= (1 - p[index]) ** alpha * np.log(p[index])
        elif ignored is None or not ignored[index]:
            total -= (1 - y[index]) ** beta * p[index] ** alpha * np.log(1 - p[index])
    return total / max(1, (y == 1).sum())


@pytest.fixture
def maps():
    torch.manual_seed(0)
    logits, targets = torch.randn(2, 3, 4, 5, dtype=F64) * 3, torch.rand(2, 3, 4, 5, dtype=F64)
    targets[0, 1, 2, 3] = targets[1, 0, 0, 0] = targets[1, 2, 3, 4] = 1
    return logits, targets


@pytest.mark.parametrize("exponents", [(2, 4), (1, 3), (0, 0)])
def test_the_heatmap_loss_is_the_formula(maps, exponents):
    logits, targets = maps
    found = heatmap_focal(logits, targets, *exponents).item()
    assert found == pytest.approx(reference_focal(logits, targets, None, *exponents))


def test_by_hand():
    """p = ½ at a peak, and p = ½ where y = ½: (½)² ln 2 + (½)⁴ (½)² ln 2."""
    found = heatmap_focal(torch.zeros(2), torch.tensor([1.0, 0.5])).item()
    assert found == pytest.approx((1 / 4 + 1 / 64) * np.log(2))


def test_with_exponents_of_zero_it_is_binary_cross_entropy(maps):
    logits, targets = maps
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, (targets == 1).to(F64), reduction="sum")
    assert heatmap_focal(logits, targets, 0, 0).item() == pytest.approx(expected.item() / 3)


def test_ignored_cells_count_only_as_peaks(maps):
    logits, targets = maps
    ignored = torch.zeros(2, 1, 4, 5, dtype=torch.bool)
    ignored[0, 0, 2], ignored[1, 0, 1] = True, True
    expected = reference_focal(logits, targets, ignored.expand_as(logits))
    assert heatmap_focal(logits, targets, ignored=ignored).item() == pytest.approx(expected)
    assert expected < reference_focal(logits, targets)


def test_without_peaks_negatives_are_not_divided():
    """Three cells of p = ½ and y = 0: 3 · (½)² ln 2."""
    found = heatmap_focal(torch.zeros(1, 1, 1, 3), torch.zeros(1, 1, 1, 3)).item()
    assert found == pytest.approx(3 / 4 * np.log(2))


def test_extreme_logits_have_a_loss_and_a_gradient():
    """Where the sigmoid is 0 in float32, its logarithm is the logit; a clamped one would be flat."""
    logits = torch.tensor([-200.0, 200.0], requires_grad=True)
    loss = heatmap_focal(logits, torch.tensor([1.0, 0.0]))
    loss.backward()
    assert loss.item() == pytest.approx(400)
    torch.testing.assert_close(logits.grad, torch.tensor([-1.0, 1.0]))


def test_the_gradient_of_the_heatmap_loss(maps):
    logits, targets = maps
    assert torch.autograd.gradcheck(lambda x: heatmap_focal(x, targets), logits.requires_grad_())


def reference_pull_push(first, second, present):
    """Law & Deng 2018, eq. 4 and 5, image by image and pair by pair."""
    pull, push = [], []
    for tl, br in ((a[m], b[m]) for a, b, m in zip(first, second, present, strict=True)):
        count, means = len(tl), (tl + br) / 2
        pull.append(sum((a - m) ** 2 + (b - m) ** 2 for a, b, m in zip(tl, br, means, strict=True)) / max(1, count))
        pairs = [(k, j) for k in range(count) for j in range(count) if j != k]
        total = sum(max(0, 1 - abs(means[k] - means[j])) for k, j in pairs)
        push.append(total / max(1, count * (count - 1)))
    return np.mean(pull), np.mean(push)


@pytest.mark.parametrize("counts", [[3], [5, 0, 1], [2, 4, 5], [1], [0]])
def test_pull_and_push_are_the_formulas(counts):
    torch.manual_seed(1)
    first, second = torch.randn(2, len(counts), 5, dtype=F64)
    present = torch.arange(5) < torch.tensor(counts)[:, None]
    expected = reference_pull_push(first.numpy(), second.numpy(), present.numpy())
    pull, push = pull_push(first, second, present)
    assert (pull.item(), push.item()) == pytest.approx(expected)


def test_pull_and_push_by_hand():
    """Means 1 and 1.25: (1 + 1 + 0 + 0)/2 and twice .75 over two ordered pairs."""
    pull, push = pull_push(torch.tensor([[0.0, 1.25]]), torch.tensor([[2.0, 1.25]]), torch.ones(1, 2).bool())
    assert (pull.item(), push.item()) == (1.0, 0.75)


def test_one_object_pushes_nothing():
    pull, push = pull_push(torch.zeros(1, 1), torch.ones(1, 1), torch.ones(1, 1).bool())
    assert (pull.item(), push.item()) == (0.5, 0.0)


def test_the_gradients_of_pull_and_push():
    torch.manual_seed(2)
    first, second = torch.randn(2, 3, 4, dtype=F64)
    present = torch.arange(4) < torch.tensor([4, 1, 0])[:, None]
    inputs = first.requires_grad_(), second.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: pull_push(a, b, present), inputs)


def test_offsets_by_hand():
    """½·.5² + ½·1² for one object, |2| − ½ for the other, and nothing for the absent one; over 2."""
    offsets = torch.tensor([[[0.5, 1.0], [2.0, 0.0], [torch.nan, 9.0]]])
    present = torch.tensor([[True, True, False]])
    assert corner_offset(offsets, torch.zeros(1, 3, 2), present).item() == pytest.approx((0.625 + 1.5) / 2)


def test_the_gradient_of_offsets():
    torch.manual_seed(3)
    offsets, targets = torch.randn(2, 2, 3, 2, dtype=F64) * 2
    present = torch.tensor([[True, True, False], [True, False, False]])
    assert torch.autograd.gradcheck(lambda x: corner_offset(x, targets, present), offsets.requires_grad_())


def random_output(batch=2, classes=3, cells=(8, 12)) -> CornerOutput:
    torch.manual_seed(4)
    shapes = ((batch, 2, classes, *cells), (batch, 2, *cells), (batch, 2, 2, *cells))
    maps = (torch.randn(shape, requires_grad=True) for shape in shapes)
    return CornerOutput(*maps, (cells[0] * 8, cells[1] * 8))


BOXES = torch.tensor([[[5.0, 9, 60, 50], [20, 6, 80, 44]], [[10, 10, 33, 33], [0, 0, 0, 0]]])
LABELS = torch.tensor([[1, 3], [2, 0]])
IGNORE = torch.zeros(2, 2, dtype=torch.bool)


def test_the_criterion_reads_the_maps_at_the_corners():
    output = random_output()
    terms = CornerCriterion(pull_weight=0.5, push_weight=0.25, offset_weight=2)(output, BOXES, LABELS, IGNORE)
    assert list(terms) == ["heatmap", "pull", "push", "offset"]
    points = {(0, 0): [(1, 0), (0, 2)], (0, 1): [(6, 7), (5, 10)], (1, 0): [(1, 1)], (1, 1): [(4, 4)]}
    at = {
        (b, kind): output.embeddings[b, kind, [p[0] for p in ps], [p[1] for p in ps]]
        for (b, kind), ps in points.items()
    }
    pulls, pushes = zip(
        *(pull_push(at[b, 0][None], at[b, 1][None], torch.ones(1, len(at[b, 0])).bool()) for b in (0, 1)),
        strict=True,
    )
    torch.testing.assert_close(terms["pull"], 0.5 * sum(pulls) / 2)
    torch.testing.assert_close(terms["push"], 0.25 * sum(pushes) / 2)
    offset = 0.0
    for (b, kind), cells in points.items():
        for m, (row, column) in enumerate(cells):
            corner = BOXES[b, m, 2 * kind : 2 * kind + 2] / 8 - torch.tensor([column, row])
            offset += torch.nn.functional.smooth_l1_loss(
                output.offsets[b, kind, :, row, column], corner, reduction="sum"
            )
    torch.testing.assert_close(terms["offset"], 2 * offset / 3)
    targets = CornerCriterion().draw(output, BOXES, LABELS, IGNORE)
    kinds = (reference_focal(output.heatmaps[:, k].detach(), targets.heatmaps[:, k]) for k in (0, 1))
    assert terms["heatmap"].item() == pytest.approx(sum(kinds), rel=1e-5)


@pytest.mark.parametrize("count", [0, 2])
def test_a_batch_without_objects_learns_emptiness_only(count):
    output = random_output()
    empty = torch.zeros(2, count, 4), torch.zeros(2, count, dtype=torch.int64), torch.zeros(2, count).bool()
    terms = CornerCriterion()(output, *empty)
    assert terms["pull"] == terms["push"] == terms["offset"] == 0 and terms["heatmap"] > 0
    sum(terms.values()).backward()
    assert (output.heatmaps.grad > 0).all() and not output.embeddings.grad.any() and not output.offsets.grad.any()


def test_ignored_objects_teach_nothing_where_they_are():
    output = random_output()
    terms = CornerCriterion()(output, BOXES, LABELS, torch.tensor([[True, False], [True, False]]))
    sum(terms.values()).backward()
    inside = output.heatmaps.grad[1, :, :, 1:5, 1:5]
    assert not inside.any() and output.heatmaps.grad[1].any()
    assert not output.embeddings.grad[1].any() and output.offsets.grad[0].any() and not output.offsets.grad[1].any()


def test_half_precision_is_computed_in_float32():
    output = random_output()
    half = CornerOutput(*(part.detach().bfloat16() for part in output[:3]), output.input_size)
    same = CornerOutput(*(part.float() for part in half[:3]), output.input_size)
    for ours, theirs in zip(
        *(CornerCriterion()(o, BOXES, LABELS, IGNORE).values() for o in (half, same)), strict=True
    ):
        assert ours.dtype == torch.float32 and ours.equal(theirs)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.0])
def test_certain_logits_have_a_finite_gradient_whatever_the_power(alpha):
    logits = torch.tensor([200.0, -200, 120, -120], requires_grad=True)
    loss = heatmap_focal(logits, torch.tensor([1.0, 0, 0.5, 0.5]), alpha=alpha)
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()
