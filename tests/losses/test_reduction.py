"""Weighted means: mmdetection's documented values, the alignment of weights, and nothing to sum."""

import pytest
import torch

from ssdlite.losses.reduction import align_left, mean_over_processes, weighted_mean

ERRORS = torch.tensor([1.0, 1, 2])  # |0 − 1|, |2 − 1|, |3 − 1|
WEIGHT = torch.tensor([1.0, 0, 1])


def test_documented_values():
    assert weighted_mean(ERRORS, WEIGHT).item() == 1.0  # (1 + 0 + 2) / 3
    assert weighted_mean(ERRORS, WEIGHT, avg_factor=2).item() == 1.5
    assert weighted_mean(ERRORS, WEIGHT, avg_factor=torch.tensor(2)).item() == 1.5


def test_wrong_copy_the_plain_mean_divides_by_n_and_not_by_the_sum_of_weights():
    wrong = (ERRORS * WEIGHT).sum() / WEIGHT.sum()
    assert wrong.item() == 1.5
    assert weighted_mean(ERRORS, WEIGHT).item() == 1.0
    assert weighted_mean(ERRORS).item() == pytest.approx(4 / 3)


def test_a_weight_of_priors_covers_their_coordinates():
    loss = torch.arange(8.0).reshape(1, 2, 4)
    weight = torch.tensor([[0.0, 2.0]])
    assert weighted_mean(loss, weight).item() == 2 * (4 + 5 + 6 + 7) / 8
    assert weighted_mean(loss, weight, avg_factor=4).item() == 11
    # Where torch's own alignment would be silent and wrong: (4,) on (4, 4).
    square = torch.eye(4) * 3
    assert weighted_mean(square + 1, torch.tensor([1.0, 0, 0, 0]), avg_factor=1).item() == 7


@pytest.mark.parametrize("shape", [(3,), (2, 4), (1, 2, 4, 1)])
def test_a_weight_that_does_not_fit_is_refused(shape):
    with pytest.raises(AssertionError, match="a weight of shape"):
        align_left(torch.ones(shape), torch.ones(1, 2, 4))


@pytest.mark.parametrize("avg_factor", [None, 0, 0.0, 5, torch.tensor(0.0)])
@pytest.mark.parametrize("shape", [(0,), (0, 4), (2, 0, 4)])
def test_nothing_to_sum_gives_0_and_a_gradient(shape, avg_factor):
    loss = torch.zeros(shape, requires_grad=True)
    mean = weighted_mean(loss, torch.ones(shape[:1]), avg_factor)
    mean.backward()
    assert mean.item() == 0 and loss.grad is not None


def test_a_batch_without_positives_gives_0_and_no_gradient():
    loss = torch.ones(2, 3, requires_grad=True)
    mean = weighted_mean(loss, torch.zeros(2, 3), avg_factor=torch.tensor(0))
    mean.backward()
    assert mean.item() == 0 and loss.grad.eq(0).all()


def test_gradients_match_numerical_ones():
    torch.manual_seed(0)
    loss, weight = torch.rand(2, 3, 4).double().requires_grad_(), torch.rand(2, 3).double().requires_grad_()
    for factor in (None, 2.5, torch.tensor(2.5)):
        assert torch.autograd.gradcheck(lambda a, b, factor=factor: weighted_mean(a, b, factor), (loss, weight))


def test_in_one_process_the_count_is_its_own_mean():
    assert mean_over_processes(torch.tensor(3), at_least=1).item() == 3
    assert mean_over_processes(torch.tensor(0), at_least=1).item() == 1
    assert mean_over_processes(torch.tensor(3), at_least=1).dtype == torch.float32


def test_needs_no_values_on_the_host():
    """A tensor on `meta` has none, so whatever would wait for them on a GPU raises here."""
    loss, weight, total = (torch.ones(shape, device="meta") for shape in ((2, 3, 4), (2, 3), ()))
    assert weighted_mean(loss, weight, mean_over_processes(total, at_least=1)).shape == ()
