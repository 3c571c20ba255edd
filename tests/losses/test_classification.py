"""Classification losses against torch, torchvision and numbers by hand; degenerate equalities; wrong copies."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision import ops

from ssdlite.losses.classification import (
    quality_focal,
    sigmoid_cross_entropy,
    sigmoid_focal,
    softmax_cross_entropy,
    varifocal,
)

LN3 = math.log(3)  # σ(ln 3) = .75


def bce(logits, targets):
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def sample(*shape, seed=0):
    torch.manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64) * 3


def hard_targets(*shape, seed=1):
    torch.manual_seed(seed)
    return (torch.rand(shape) < 0.3).double()


def qualities(*shape, seed=1):
    torch.manual_seed(seed)
    return torch.rand(shape, dtype=torch.float64) * (torch.rand(shape) < 0.5)


# --- softmax ---


def test_softmax_by_hand():
    logits = torch.tensor([[[0.0, LN3], [0, LN3], [5, 5]]])
    labels = torch.tensor([[1, 0, -1]])
    assert softmax_cross_entropy(logits, labels)[0].tolist() == pytest.approx([-math.log(0.75), math.log(4), 0])


def test_softmax_smoothing_and_class_weights_by_hand():
    logits, labels = torch.tensor([[0.0, LN3]]), torch.tensor([1])
    weights = torch.tensor([2.0, 5.0])
    rare, likely = math.log(4), -math.log(0.75)  # −log p of columns 0 and 1
    smoothed = softmax_cross_entropy(logits, labels, label_smoothing=0.2)
    assert smoothed.item() == pytest.approx(0.8 * likely + 0.1 * (rare + likely))
    weighted = softmax_cross_entropy(logits, labels, class_weights=weights)
    assert weighted.item() == pytest.approx(5 * likely)  # not divided by 5
    both = softmax_cross_entropy(logits, labels, class_weights=weights, label_smoothing=0.2)
    assert both.item() == pytest.approx(0.8 * 5 * likely + 0.1 * (2 * rare + 5 * likely))
    assert both.item() != pytest.approx(5 * smoothed.item())  # it is not the label's weight on all of it


def test_softmax_equals_numpy():
    logits, labels = sample(2, 9, 5), torch.randint(-1, 5, (2, 9))
    log_p = logits.numpy() - np.log(np.exp(logits.numpy()).sum(-1, keepdims=True))
    expected = -np.take_along_axis(log_p, labels.clamp(min=0).numpy()[..., None], -1)[..., 0]
    np.testing.assert_allclose(softmax_cross_entropy(logits, labels), expected * (labels >= 0).numpy(), rtol=1e-12)


@pytest.mark.parametrize("loss", [softmax_cross_entropy, sigmoid_cross_entropy])
@pytest.mark.parametrize("ignore_index", [-1, -100, 255])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_wrong_copy_an_ignored_label_is_never_a_column(loss, ignore_index, smoothing):
    """Neither the last column, where -1 would point, nor that of background."""
    logits = sample(1, 3, 4).requires_grad_()
    labels = torch.tensor([[ignore_index, 2, ignore_index]])
    losses = loss(logits, labels, ignore_index=ignore_index, label_smoothing=smoothing)
    losses.sum().backward()
    assert losses[0, [0, 2]].tolist() == [0, 0] and losses[0, 1] > 0
    assert logits.grad[0, [0, 2]].eq(0).all() and logits.grad[0, 1].ne(0).all()
    alone = loss(logits[0, 1], torch.tensor(2), label_smoothing=smoothing).item()
    # In float64, but for the last digits: one row may take other instructions than three.
    assert losses[0, 1].item() == pytest.approx(alone, rel=1e-14)


# --- sigmoid, all columns ---


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_sigmoid_equals_the_sum_of_binary_cross_entropies(smoothing):
    logits, labels = sample(2, 9, 5), torch.randint(0, 5, (2, 9))
    targets = F.one_hot(labels, 5).double() * (1 - smoothing) + smoothing / 2
    expected = bce(logits, targets).sum(dim=-1)
    torch.testing.assert_close(sigmoid_cross_entropy(logits, labels, label_smoothing=smoothing), expected)


def test_sigmoid_by_hand():
    logits = torch.tensor([[-LN3, LN3]])  # p = (.25, .75)
    assert sigmoid_cross_entropy(logits, torch.tensor([1])).item() == pytest.approx(-2 * math.log(0.75))
    assert sigmoid_cross_entropy(logits, torch.tensor([0])).item() == pytest.approx(2 * math.log(4))


# --- focal ---


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("alpha", [0.25, 0.9, None])
def test_focal_equals_torchvision(alpha, gamma):
    logits, targets = sample(2, 9, 5), hard_targets(2, 9, 5)
    expected = ops.sigmoid_focal_loss(logits, targets, alpha=-1 if alpha is None else alpha, gamma=gamma)
    torch.testing.assert_close(sigmoid_focal(logits, targets, alpha=alpha, gamma=gamma), expected)


def test_focal_by_hand():
    logits = torch.tensor([LN3, LN3])  # p = .75
    found = sigmoid_focal(logits, torch.tensor([1.0, 0.0]))
    assert found.tolist() == pytest.approx([-0.25 * 0.25**2 * math.log(0.75), 0.75 * 0.75**2 * math.log(4)])


def test_focal_without_focus_is_cross_entropy():
    logits, targets = sample(4, 3), hard_targets(4, 3)
    assert sigmoid_focal(logits, targets, alpha=None, gamma=0).equal(bce(logits, targets))
    torch.testing.assert_close(sigmoid_focal(logits, targets, alpha=0.5, gamma=0), bce(logits, targets) / 2)


def test_focal_alpha_of_each_class():
    logits, targets = sample(2, 6, 3), hard_targets(2, 6, 3)
    alphas = [0.1, 0.5, 0.8]
    found = sigmoid_focal(logits, targets, alpha=torch.tensor(alphas).double())
    for column, alpha in enumerate(alphas):
        expected = sigmoid_focal(logits[..., column], targets[..., column], alpha=alpha)
        torch.testing.assert_close(found[..., column], expected)


def test_wrong_copies_of_focal():
    logits, targets = sample(40), hard_targets(40)
    p, cross_entropy = logits.sigmoid(), bce(logits, targets)
    p_t = torch.where(targets > 0, p, 1 - p)
    alpha_t = torch.where(targets > 0, 0.25, 0.75)
    right = -alpha_t * (1 - p_t) ** 2 * p_t.log()
    found = sigmoid_focal(logits, targets)
    torch.testing.assert_close(found, right)
    reduced = torch.exp(-cross_entropy.mean())
    weighted = torch.exp(-alpha_t * cross_entropy)
    wrong_copies = {
        "p_t of a cross-entropy already reduced": alpha_t * (1 - reduced) ** 2 * cross_entropy,
        "p_t of a cross-entropy already weighted": (1 - weighted) ** 2 * alpha_t * cross_entropy,
        "(1 − p)^γ for negatives": alpha_t * (1 - p) ** 2 * cross_entropy,
        "γ times, not to the power of γ": alpha_t * (1 - p_t) * 2 * cross_entropy,
        "α for negatives too": 0.25 * (1 - p_t) ** 2 * cross_entropy,
    }
    for name, wrong in wrong_copies.items():
        assert (wrong.sum() / right.sum() - 1).abs() > 0.05, name


def test_wrong_copy_a_detached_modulator_has_another_gradient():
    logits, targets = sample(40).requires_grad_(), hard_targets(40)
    miss = (targets - logits.sigmoid()).abs()
    wrong = miss.detach() ** 2 * bce(logits, targets)
    found = sigmoid_focal(logits, targets, alpha=None)
    torch.testing.assert_close(wrong, found)
    slopes = [torch.autograd.grad(loss.sum(), logits)[0] for loss in (wrong, found)]
    assert (slopes[0] / slopes[1] - 1).abs().max() > 0.1


# --- qualities ---


def test_quality_focal_by_hand():
    # p = .75, q = .5: .25² · (−.5 ln .75 − .5 ln .25)
    found = quality_focal(torch.tensor([LN3]), torch.tensor([0.5]))
    assert found.item() == pytest.approx(-0.0625 * 0.5 * (math.log(0.75) + math.log(0.25)))


def test_quality_focal_degenerates():
    logits, quality, targets = sample(9, 4), qualities(9, 4), hard_targets(9, 4)
    assert quality_focal(logits, quality, beta=0).equal(bce(logits, quality))
    torch.testing.assert_close(quality_focal(logits, targets), sigmoid_focal(logits, targets, alpha=None))


def test_varifocal_by_hand():
    found = varifocal(torch.tensor([LN3, LN3]), torch.tensor([0.5, 0.0]))
    positive = -0.5 * 0.5 * (math.log(0.75) + math.log(0.25))
    negative = 0.75 * 0.75**2 * math.log(4)
    assert found.tolist() == pytest.approx([positive, negative])


def test_varifocal_equals_numpy_and_does_not_focus_positives():
    logits, quality = sample(9, 4), qualities(9, 4)
    p, q = 1 / (1 + np.exp(-logits.numpy())), quality.numpy()
    positive = -q * (q * np.log(p) + (1 - q) * np.log(1 - p))
    negative = -0.6 * p**1.5 * np.log(1 - p)
    found = varifocal(logits, quality, alpha=0.6, gamma=1.5)
    np.testing.assert_allclose(found, np.where(q > 0, positive, negative), rtol=1e-10)


def test_varifocal_degenerates():
    logits, targets = sample(9, 4), hard_targets(9, 4)
    torch.testing.assert_close(varifocal(logits, targets, alpha=1, gamma=0), bce(logits, targets))
    nothing = torch.zeros_like(logits)
    torch.testing.assert_close(varifocal(logits, nothing, alpha=0.75), sigmoid_focal(logits, nothing, alpha=0.25))


# --- all ---

TARGETS = {sigmoid_focal: hard_targets, quality_focal: qualities, varifocal: qualities}
FOCUSED = [
    (sigmoid_focal, {"alpha": 0.25, "gamma": 2.0}),
    (sigmoid_focal, {"alpha": None, "gamma": 0.0}),
    (sigmoid_focal, {"alpha": 0.25, "gamma": 0.5}),
    (quality_focal, {"beta": 2.0}),
    (quality_focal, {"beta": 0.5}),
    (varifocal, {}),
    (varifocal, {"gamma": 0.5}),
]


@pytest.mark.parametrize(("loss", "options"), FOCUSED)
def test_focused_gradients_match_numerical_ones(loss, options):
    logits, targets = sample(3, 4).requires_grad_(), TARGETS[loss](3, 4)
    assert torch.autograd.gradcheck(lambda x: loss(x, targets, **options), logits)


@pytest.mark.parametrize("loss", [softmax_cross_entropy, sigmoid_cross_entropy])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_gradients_match_numerical_ones(loss, smoothing):
    logits, labels = sample(2, 3, 4).requires_grad_(), torch.tensor([[0, 3, -1], [-1, 1, 2]])
    assert torch.autograd.gradcheck(lambda x: loss(x, labels, label_smoothing=smoothing), logits)


@pytest.mark.parametrize(("loss", "options"), FOCUSED)
def test_certain_and_perfect_logits_have_finite_gradients(loss, options):
    """Where torchvision's focal loss with γ below 1 is NaN."""
    logits = torch.tensor([1e4, -1e4, 20, -20, 0, 1e4, -1e4, 20, -20, 0]).requires_grad_()
    targets = torch.tensor([1.0] * 5 + [0] * 5)
    if loss is quality_focal:
        targets[4] = 0.5  # just what is predicted
    losses = loss(logits, targets, **options)
    losses.sum().backward()
    assert losses.isfinite().all() and logits.grad.isfinite().all()
    assert losses[1] > 1e3 and losses[0] == 0


@pytest.mark.parametrize(("loss", "options"), FOCUSED)
@pytest.mark.parametrize("shape", [(0, 4), (2, 0, 4), (2, 3, 0)])
def test_focused_losses_of_nothing(loss, options, shape):
    logits = torch.zeros(shape, requires_grad=True)
    losses = loss(logits, torch.zeros(shape), **options)
    losses.sum().backward()
    assert losses.shape == shape and logits.grad is not None


@pytest.mark.parametrize("loss", [softmax_cross_entropy, sigmoid_cross_entropy])
@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 3)])
def test_cross_entropies_of_nothing(loss, shape):
    logits = torch.zeros(*shape, 4, requires_grad=True)
    losses = loss(logits, torch.zeros(shape, dtype=torch.int64))
    losses.sum().backward()
    assert losses.shape == shape and logits.grad is not None


@pytest.mark.parametrize("loss", [softmax_cross_entropy, sigmoid_cross_entropy])
def test_cross_entropies_without_positives(loss):
    """All background, and all ignored."""
    logits = sample(1, 3, 4)
    background = loss(logits, torch.zeros(1, 3, dtype=torch.int64))
    assert (background > 0).all()
    assert loss(logits, torch.full((1, 3), -1)).eq(0).all()


@pytest.mark.parametrize("loss", [softmax_cross_entropy, sigmoid_cross_entropy, *TARGETS])
def test_needs_no_values_on_the_host(loss):
    """A tensor on `meta` has none, so whatever would wait for them on a GPU raises here."""
    logits = torch.ones(2, 3, 4, device="meta", requires_grad=True)
    targets = torch.ones(2, 3, 4) if loss in TARGETS else torch.ones(2, 3, dtype=torch.int64)
    loss(logits, targets.to("meta")).sum().backward()
    assert logits.grad.shape == (2, 3, 4)
