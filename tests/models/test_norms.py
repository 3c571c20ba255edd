"""Merged norms: found, given the statistics of images, and still the same map."""

import copy
import weakref
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ssdlite.models.corner import CornerDetector
from ssdlite.models.detector import Detector
from ssdlite.models.network import is_norm
from ssdlite.models.norms import MIN_KERNEL_NORM, enlarge_kernels, measure_norms, merged_norms
from ssdlite.models.transfer import transfer
from ssdlite.models.variants import DIALECTS
from tests.models.cases import randomized

SIZE = (96, 96)


def build(dialect="tensorflow", kind=Detector, num_classes=3) -> Detector:
    torch.manual_seed(0)
    options = {"width": 0.25} if kind is Detector else {}
    return kind(DIALECTS[dialect], num_classes=num_classes, input_size=SIZE, **options)


def merge(network) -> None:
    """Make affine maps of the backbone's and extra levels' norms, as a converter does: gain 1 after a full one."""
    for name, norm in network.named_modules():
        if is_norm(norm) and not name.startswith("head."):
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            norm.bias.data -= scale * norm.running_mean
            norm.weight.data = scale.detach()
            norm.running_mean.zero_()
            norm.running_var.fill_(1 - norm.eps)


@pytest.fixture
def images():
    """Of smooth colours and noise, (16, 3, 96, 96)."""
    generator = torch.Generator().manual_seed(1)
    smooth = nn.functional.interpolate(torch.rand(16, 3, 5, 5, generator=generator), SIZE, mode="bilinear")
    noise = torch.randn(16, 3, *SIZE, generator=generator)
    return (255 * smooth + 20 * noise).clamp(0, 255).to(torch.uint8)


@pytest.fixture
def merged():
    network = randomized(build())
    merge(network)
    return network.eval()


def logits_of(network, images):
    with torch.no_grad():
        return network(images).logits


def test_only_merged_norms_are_found(merged):
    assert not merged_norms(build()) and not merged_norms(randomized(build()))
    names = [name for name, module in merged.named_modules() if is_norm(module)]
    assert list(merged_norms(merged)) == [name for name in names if not name.startswith("head.")]
    merged.backbone.features[0][1].running_var[3] = 0.5
    assert "backbone.features.0.1" not in merged_norms(merged)


@pytest.mark.parametrize("dialect", ["paper", "pytorch-ssd", "mmdetection"])
def test_they_are_found_after_a_transfer(merged, dialect):
    """Which folds another eps into the gain, and another mean of the pixels into the stem's."""
    target = build(dialect)
    report = transfer(merged, ["a", "b", "c"], target, ["a", "b", "c"])
    assert report.parts["backbone"].new == 0
    found = merged_norms(target)
    assert {name for name in found if name.startswith("backbone.")} == {
        name for name in merged_norms(merged) if name.startswith("backbone.")
    }


def test_one_norm_by_hand():
    """y = 2·x + 3 over x = 1, 3, 5, 7: mean 4, variance 20 / 3; and a channel that is shut, y = -1."""
    network = nn.Sequential(nn.BatchNorm2d(2, eps=1e-3))
    norm = network[0].eval()
    norm.running_var.fill_(1 - 1e-3)
    norm.weight.data, norm.bias.data = torch.tensor([2.0, 0.0]), torch.tensor([3.0, -1.0])
    values = torch.tensor([[1.0, 3.0], [5.0, 7.0]]).expand(1, 2, 2, 2)

    class Output(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = network

        def forward(self, images):
            return type("Output", (), {"logits": self.norm(images)})

    measured = measure_norms(Output().eval(), lambda: [values])
    assert torch.allclose(norm.running_mean, torch.tensor([4.0, 4.0]))
    assert torch.allclose(norm.running_var, torch.tensor([20 / 3, 20 / 3]))
    assert torch.allclose(norm.weight, torch.tensor([2 * (20 / 3 + 1e-3) ** 0.5, 0]))
    assert torch.allclose(norm.bias, torch.tensor([3.0 + 2 * 4, -1]))
    assert torch.allclose(
        norm(values), torch.stack([2 * values[:, 0] + 3, torch.full((1, 2, 2), -1.0)], 1), atol=1e-5
    )
    assert measured.num_images == 1 and measured.largest_difference < 1e-5
    assert set(measured.state) == {f"norm.0.{key}" for key in norm.state_dict()}


def test_the_function_stays_and_a_batch_is_normalised_as_it_is(merged, images):
    """Also of channels of a scale of 0, or next to it."""
    for norm in list(merged_norms(merged).values())[::3]:
        norm.weight.data[0] = 0
        norm.weight.data[1] = 1e-12
    old, before = copy.deepcopy(merged), logits_of(merged, images)
    measured = measure_norms(merged, lambda: images.split(5))
    assert not merged.training and measured.num_images == 16
    after = logits_of(merged, images)
    assert before.std() > 0.1
    assert (after - before).abs().max() < 1e-3 and measured.largest_difference < 1e-3
    assert all(tensor.isfinite().all() for tensor in measured.state.values())
    assert not merged_norms(merged)
    # What a training begins with: each norm takes the batch's own mean and variance. Those of the head were whole.
    _, expected = old.backbone(old.normalize(images))
    errors = []
    for network in (old, merged):
        network.train()
        _, found = network.backbone(network.normalize(images))
        errors.append(float((found - expected).detach().abs().mean()))
    assert errors[1] < errors[0] / 10


def test_whole_norms_stay(merged, images):
    before = copy.deepcopy(merged.head.state_dict())
    measure_norms(merged, lambda: [images])
    assert all(before[name].equal(tensor) for name, tensor in merged.head.state_dict().items())


def test_the_state_makes_the_same_of_another_process(merged, images):
    other = copy.deepcopy(merged)
    measured = measure_norms(merged, lambda: [images])
    other.load_state_dict(measured.state, strict=False)
    assert all(other.state_dict()[name].equal(tensor) for name, tensor in merged.state_dict().items())


def test_without_images_and_with_a_single_value(merged, images):
    merged.backbone.features[0][1].weight.data.fill_(0.5)  # so that the kernel before it could be enlarged
    before = copy.deepcopy(merged.state_dict())
    measured = measure_norms(merged.train(), lambda: [])
    assert not measured.state
    assert (measured.num_images, measured.largest_difference, merged.training) == (0, 0, True)
    assert all(before[name].equal(tensor) for name, tensor in merged.state_dict().items())
    # One image leaves one value a channel on maps of 1x1, which the second extra level brings.
    assert measure_norms(merged, lambda: [images[:1]]).largest_difference < 1e-3
    left = [f"extras.{level}.{role}.1" for level in range(1, 4) for role in range(3)][1:]
    assert list(merged_norms(merged)) == left


def test_logits_are_held_of_one_batch_only():
    """However many there are: those of before and after, and a result that is still bound, but not of ten."""
    given, alive = [], []

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.Sequential(nn.BatchNorm2d(3, eps=1e-3))
            self.norm[0].running_var.fill_(1 - 1e-3)

        def forward(self, images):
            logits = self.norm(images.float())
            given.append(weakref.ref(logits))
            alive.append(sum(logits() is not None for logits in given))
            return SimpleNamespace(logits=logits)

    measured = measure_norms(Network().eval(), lambda: torch.arange(480.0).view(10, 3, 4, 4).split(1))
    assert measured.num_images == 10 and len(alive) >= 20 and max(alive) <= 3


def test_a_corner_head(images):
    source, target = randomized(build()), build(kind=CornerDetector)
    source = randomized(Detector(DIALECTS["tensorflow"], num_classes=3, input_size=SIZE))
    merge(source)
    transfer(source, ["a", "b", "c"], target, ["a", "b", "c"])
    assert len(merged_norms(target)) == 52
    assert measure_norms(target, lambda: [images[:4]]).largest_difference < 1e-3


def test_kernels_that_took_in_the_scale_get_their_size_back(merged):
    """One of 1 / 7 of He's norm is multiplied by 8, the next power of 2, and its gain divided by that."""
    stem, norm = merged.backbone.features[0][0], merged.backbone.features[0][1]
    lengths = stem.weight.data.flatten(1).norm(dim=1)
    stem.weight.data *= (MIN_KERNEL_NORM / 7 / lengths)[:, None, None, None]
    norm.weight.data.fill_(1.0)
    depthwise = merged.backbone.features[1].conv[0]
    depthwise[1].weight.data[0] += 0.5  # a gain of its own for each channel: nothing went into this kernel
    kernels = enlarge_kernels(merged, merged_norms(merged))
    assert "backbone.features.0.0.weight" in kernels and "backbone.features.1.conv.0.0.weight" not in kernels
    lengths = stem.weight.data.flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, MIN_KERNEL_NORM * 8 / 7))
    assert norm.weight.tolist() == [1 / 8] * len(norm.weight)


def test_enlarging_changes_no_number(merged, images):
    for name, module in merged.named_modules():
        if name in merged_norms(merged):
            module.weight.data.fill_(0.5)
    merged.backbone.features[2].conv[0][0].weight.data[0] = 0
    before = logits_of(merged, images)
    assert enlarge_kernels(merged, merged_norms(merged))
    assert torch.equal(logits_of(merged, images), before)
