"""LeanReLU6 is PyTorch's ReLU6, in value, gradient and name."""

import pytest
import torch
from torch import nn

from ssdlite.models.layers import LeanReLU6, replace_relu6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("training", [True, False])
def test_values_and_gradients_are_pytorchs(dtype, training):
    values = torch.tensor([-7.0, -0.5, 0.0, 0.25, 3.0, 6.0, 6.5, 100.0], dtype=dtype)
    ours, theirs = values.clone().requires_grad_(), values.clone().requires_grad_()
    weights = torch.arange(1.0, 9).to(dtype)
    result, expected = LeanReLU6().train(training)(ours), nn.ReLU6()(theirs)
    (result * weights).sum().backward()
    (expected * weights).sum().backward()
    assert result.equal(expected) and result.dtype is dtype
    assert ours.grad.equal(theirs.grad)
    assert values[0] == -7  # out of place


def test_gradcheck():
    values = torch.tensor([-3.0, 0.5, 2.0, 5.5, 9.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(LeanReLU6(), (values,))


def test_only_the_result_is_kept_for_the_backward():
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor
    ):
        result = LeanReLU6()(torch.randn(5, requires_grad=True))
    assert [tensor.data_ptr() for tensor in kept] == [result.data_ptr()]


def test_replacement_goes_all_the_way_down_and_leaves_others():
    network = nn.Sequential(nn.ReLU6(inplace=True), nn.Sequential(nn.ReLU(), nn.ReLU6()), nn.Identity())
    replace_relu6(network)
    kinds = [type(module) for module in network.modules() if not list(module.children())]
    assert kinds == [LeanReLU6, nn.ReLU, LeanReLU6, nn.Identity]
