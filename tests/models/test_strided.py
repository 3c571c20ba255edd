"""Convolutions of stride 2: where the zeros go, and gradients under CPU autocast whatever the map's size."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ssdlite.models.detector import Detector
from ssdlite.models.layers import StridedConv2d, replace_strided
from ssdlite.models.variants import DIALECTS


def strided(padding, groups=1) -> tuple[nn.Conv2d, StridedConv2d]:
    """A plain convolution and its replacement, which have the same weights."""
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=groups)
    return plain, StridedConv2d(plain, padding)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (5, 8), (8, 5), (7, 7), (6, 4)])
def test_same_padding_is_behind_even_sides_and_around_odd_ones(size, groups):
    plain, same = strided("same", groups)
    images = torch.randn(2, 4, *size)
    columns, rows = ((0, 1) if side % 2 == 0 else (1, 1) for side in size[::-1])
    expected = F.conv2d(F.pad(images, (*columns, *rows)), plain.weight, plain.bias, stride=2, groups=groups)
    torch.testing.assert_close(same(images), expected)
    assert expected.shape[-2:] == tuple(-(-side // 2) for side in size)


def test_same_padding_by_hand():
    """Ones over 1, 2, 3, 4: taps at 1 2 3 and 3 4 0, where symmetric padding has 0 1 2 and 2 3 4."""
    conv = nn.Conv2d(1, 1, 3, stride=2, padding=1, bias=False)
    nn.init.zeros_(conv.weight)
    conv.weight.data[0, 0, 1] = 1  # the middle row
    image = torch.tensor([1.0, 2, 3, 4]).expand(1, 1, 3, 4)  # of odd height, so that rows are as usual
    assert StridedConv2d(conv, "same")(image)[0, 0, 0].tolist() == [6, 7]
    assert StridedConv2d(conv, "symmetric")(image)[0, 0, 0].tolist() == [3, 9]


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (5, 8), (7, 7)])
def test_symmetric_padding_is_the_plain_convolution(size):
    plain, symmetric = strided("symmetric")
    images = torch.randn(2, 4, *size)
    assert symmetric(images).equal(plain(images))


def test_every_stride_of_the_tensorflow_dialect_pads_as_tensorflow_does():
    """At 300: 300 → 150 → 75 → 38 → 19 → 10 → 5 → 3 → 2 → 1, with one zero (at the end) for even sides."""
    torch.manual_seed(0)
    detector = Detector(DIALECTS["tensorflow"], num_classes=1, input_size=(300, 300), width=0.25).eval()
    seen = []

    def compare(conv, inputs, output):
        (features,) = inputs
        side = features.shape[-1]
        pad = {300: (0, 1), 150: (0, 1), 75: (1, 1), 38: (0, 1), 19: (1, 1), 10: (0, 1), 5: (1, 1), 3: (1, 1)}
        pad[2] = (0, 1)
        padded = F.pad(features, (*pad[side], *pad[side]))
        torch.testing.assert_close(output, F.conv2d(padded, conv.weight, conv.bias, stride=2, groups=conv.groups))
        seen.append(side)

    convs = [m for m in detector.modules() if isinstance(m, nn.Conv2d) and m.stride == (2, 2)]
    assert all(isinstance(conv, StridedConv2d) for conv in convs)
    for conv in convs:
        conv.register_forward_hook(compare)
    with torch.no_grad():
        detector(torch.randint(0, 256, (1, 3, 300, 300), dtype=torch.uint8))
    assert seen == [300, 150, 75, 38, 19, 10, 5, 3, 2]


@pytest.mark.parametrize("padding", ["symmetric", "same"])
@pytest.mark.parametrize("side", [1, 2, 5])
def test_gradients_under_bf16_autocast_are_right(side, padding):
    torch.manual_seed(0)
    plain = StridedConv2d(nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=16, bias=False), padding)
    network = nn.Sequential(nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=16, bias=False))
    network[0].load_state_dict(plain.state_dict())
    replace_strided(network, padding)
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


def test_a_detector_under_bf16_autocast_has_finite_gradients():
    torch.manual_seed(0)
    detector = Detector(DIALECTS["tensorflow"], num_classes=2, input_size=(96, 96), width=0.25).train()
    images = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        output = detector(images)
    (output.logits.float().square().mean() + output.deltas.float().square().mean()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in detector.parameters())


def test_replacement_keeps_parameters_and_names():
    network = nn.Sequential(
        nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4), nn.Sequential(nn.Conv2d(4, 4, 3, padding=1))
    )
    before = {name: value.clone() for name, value in network.state_dict().items()}
    replace_strided(network, "same")
    assert isinstance(network[0], StridedConv2d)
    assert type(network[1][0]) is nn.Conv2d
    assert network.state_dict().keys() == before.keys()
    assert all(before[name].equal(value) for name, value in network.state_dict().items())
