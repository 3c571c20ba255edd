"""Strided depthwise convolutions under CPU autocast: the gradients of float32, whatever the map's size."""

import pytest
import torch
from torch import nn

from ssdlite.model.strided import StridedDepthwise, guard_strided


@pytest.mark.parametrize("side", [1, 2, 5])
def test_gradients_under_bf16_autocast_are_right(side):
    torch.manual_seed(0)
    plain = nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=16, bias=False)
    network = nn.Sequential(plain)
    guard_strided(network)
    images = torch.randn(8, 16, side, side).to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
    for _ in range(5):
        [torch.full((1 << 18,), float("nan")) for _ in range(4)]  # what uninitialised memory would then hold
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            output = network(images)
        output.float().sum().backward()
        plain.zero_grad()
        plain(images.float()).sum().backward()
        assert output.dtype is torch.bfloat16
        torch.testing.assert_close(network[0].weight.grad, plain.weight.grad, rtol=1e-2, atol=1e-2)


def test_replacement_keeps_parameters_and_names():
    network = nn.Sequential(nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4), nn.Conv2d(4, 4, 3, stride=2))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    guard_strided(network)
    assert isinstance(network[0], StridedDepthwise)
    assert type(network[1]) is nn.Conv2d
    assert all(before[name].equal(value) for name, value in network.state_dict().items())
