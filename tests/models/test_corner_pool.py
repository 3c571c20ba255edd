"""Corner pooling against hand-worked rows, a flipped cummax, and its gradient."""

import pytest
import torch

from ssdlite.models.corner import bottom_pool, left_pool, right_pool, top_pool

POOLS = {"top": (top_pool, -2, True), "bottom": (bottom_pool, -2, False)}
POOLS |= {"left": (left_pool, -1, True), "right": (right_pool, -1, False)}


def scan(features, dim, backwards):
    """The same by torch.cummax."""
    if backwards:
        return features.flip(dim).cummax(dim).values.flip(dim)
    return features.cummax(dim).values


def test_rows_and_columns_by_hand():
    """To the right and below there is less and less; CornerNet's figure 3 reads a row from right to left."""
    row = torch.tensor([[[[2.0, 1, 3, 0, 2]]]])
    assert left_pool(row).flatten().tolist() == [3, 3, 3, 2, 2]
    assert right_pool(row).flatten().tolist() == [2, 2, 3, 3, 3]
    assert top_pool(row.mT).flatten().tolist() == [3, 3, 3, 2, 2]
    assert bottom_pool(row.mT).flatten().tolist() == [2, 2, 3, 3, 3]
    assert top_pool(row).equal(row) and bottom_pool(row).equal(row)  # one row has nothing above or below


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", POOLS)
def test_is_the_running_maximum(name, dtype):
    pool, dim, backwards = POOLS[name]
    torch.manual_seed(0)
    features = torch.randn(2, 3, 7, 10).to(dtype).contiguous(memory_format=torch.channels_last)
    pooled = pool(features)
    assert pooled.equal(scan(features, dim, backwards)) and pooled.dtype == dtype
    assert pooled.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", POOLS)
def test_the_gradient_adds_up_where_the_maximum_is(name):
    pool, dim, backwards = POOLS[name]
    torch.manual_seed(1)
    features = torch.randperm(2 * 2 * 4 * 5).double().view(2, 2, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(pool, features)
    weights = torch.randn(2, 2, 4, 5, dtype=torch.float64)
    ours = torch.autograd.grad((pool(features) * weights).sum(), features)[0]
    theirs = torch.autograd.grad((scan(features, dim, backwards) * weights).sum(), features)[0]
    torch.testing.assert_close(ours, theirs)


def test_of_equal_values_the_first_in_the_window_learns():
    """Windows of (2, 2): the first cell sees both, the second cell only itself."""
    features = torch.full((1, 1, 1, 2), 2.0, requires_grad=True)
    left_pool(features).sum().backward()
    assert features.grad.flatten().tolist() == [1, 1]
    features.grad = None
    right_pool(features).sum().backward()
    assert features.grad.flatten().tolist() == [2, 0]
