"""Done for all layers at once, it is what each layer does by itself."""

import pytest
import torch
from torch import nn

from ssdlite.training.grouped import GROUP, BufferSnapshot, NarrowConvolutions, NormCounters


def make_net(layers: int = 2, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    blocks = [nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU6()) for _ in range(layers)]
    return nn.Sequential(*blocks)


def test_buffers_go_back_even_from_what_is_no_number():
    net = make_net()
    snapshot = BufferSnapshot(net)
    net(torch.randn(2, 4, 5, 5))
    snapshot.take()
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    net(torch.full((2, 4, 5, 5), torch.nan))
    after = {name: buffer.clone() for name, buffer in net.named_buffers()}
    assert after["0.1.running_mean"].isnan().all() and after["1.1.num_batches_tracked"] == 2
    snapshot.restore(torch.tensor(False))
    assert all(torch.equal(buffer.nan_to_num(), after[name].nan_to_num()) for name, buffer in net.named_buffers())
    snapshot.restore(torch.tensor(True))
    assert all(buffer.equal(before[name]) for name, buffer in net.named_buffers())


def test_a_model_without_buffers_has_nothing_to_go_back_to():
    snapshot = BufferSnapshot(nn.Linear(1, 1))
    snapshot.take()
    snapshot.restore(torch.tensor(True))


def test_counters_count_as_the_norms_do():
    """Those in evaluation mode do not, and one without a momentum needs its own number."""
    ours, theirs = make_net(4), make_net(4)
    for net in (ours, theirs):
        net[1].eval()
        net[2][1].momentum = None
    counters = NormCounters(ours)
    images = torch.randn(3, 2, 4, 5, 5)
    for batch in images:
        with counters.together():
            ours(batch)
        theirs(batch)
    expected = theirs.state_dict()
    assert [int(expected[f"{layer}.1.num_batches_tracked"]) for layer in range(4)] == [3, 0, 3, 3]
    assert ours.state_dict().keys() == expected.keys()
    assert all(value.equal(expected[name]) for name, value in ours.state_dict().items())


def test_counters_are_back_after_an_error():
    net = make_net()
    with pytest.raises(ZeroDivisionError), NormCounters(net).together():
        raise ZeroDivisionError
    assert [int(net[layer][1].num_batches_tracked) for layer in range(2)] == [0, 0]


def test_weights_cast_together_are_those_that_autocast_casts():
    """Results and gradients to the bit, with a layer that does not learn, and more weights than a group holds."""
    layers = GROUP
    ours, theirs = make_net(layers), make_net(layers)
    images = torch.randn(2, 4, 6, 6)
    for net in (ours, theirs):
        net[1].requires_grad_(False)
    narrow = NarrowConvolutions(ours, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        with narrow.in_place():
            assert ours[0][0].weight.dtype is torch.bfloat16
            found = ours(images)
        expected = theirs(images)
    assert found.equal(expected)
    for result in (found, expected):
        result.float().square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    assert sum(gradient is not None for gradient in gradients.values()) == 4 * (layers - 1)
    for name, parameter in ours.named_parameters():
        assert isinstance(parameter, nn.Parameter) and parameter.dtype is torch.float32
        if gradients[name] is None:
            assert parameter.grad is None
        else:
            assert parameter.grad.equal(gradients[name])


def test_weights_are_back_after_an_error():
    net = make_net()
    before = list(net.parameters())
    with pytest.raises(ZeroDivisionError), NarrowConvolutions(net, torch.bfloat16).in_place():
        raise ZeroDivisionError
    assert all(a is b for a, b in zip(net.parameters(), before, strict=True))
