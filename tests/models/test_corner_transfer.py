"""Starting a network with corners from another network, and the other way round."""

import pytest
import torch

from ssdlite.models.corner import CornerDetector
from ssdlite.models.detector import Detector
from ssdlite.models.transfer import transfer
from ssdlite.models.variants import DIALECTS
from tests.models.cases import randomized

OLD, NEW = ("cat", "dog", "car"), ("dog", "bird", "cat", "cow")


def build(kind, classes, seed, dialect="paper", **options):
    """A network in evaluation mode of which every number is random."""
    torch.manual_seed(seed)
    network = kind(DIALECTS[dialect], num_classes=len(classes), input_size=(96, 96), width=0.25, **options)
    return randomized(network)


def num_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("kind", "other"), [(CornerDetector, Detector), (Detector, CornerDetector)])
def test_only_the_backbone_goes_from_one_kind_to_the_other(kind, other):
    source, target, fresh = build(kind, OLD, 0), build(other, OLD, 1), build(other, OLD, 1)
    report = transfer(source, OLD, target, OLD)
    expected = source.state_dict()
    for name, value in target.state_dict().items():
        assert value.equal((expected if name.startswith("backbone.") else fresh.state_dict())[name]), name
    assert report.parts["backbone"].loaded == num_parameters(target.backbone)
    assert sum(count.new for count in report.parts.values()) == num_parameters(target) - num_parameters(
        target.backbone
    )
    assert report.kept_classes == () and report.new_classes == OLD and report.new_norms > 0
    assert ("heatmaps" in report.parts) == (other is CornerDetector)


def test_the_same_network_is_copied_whole():
    source, target = build(CornerDetector, OLD, 0), build(CornerDetector, OLD, 1)
    report = transfer(source, OLD, target, OLD)
    expected = source.state_dict()
    assert all(value.equal(expected[name]) for name, value in target.state_dict().items())
    assert sum(count.loaded for count in report.parts.values()) == num_parameters(target)
    assert report.kept_classes == OLD and report.new_norms == 0


def test_heatmaps_go_by_class_name():
    source, target, fresh = (build(CornerDetector, names, seed) for names, seed in ((OLD, 0), (NEW, 1), (NEW, 1)))
    report = transfer(source, OLD, target, NEW)
    for branch in ("top_left", "bottom_right"):
        ours, theirs, mine = (getattr(network, branch).heatmap for network in (target, source, fresh))
        for name in ("weight", "bias"):
            taken, old, new = (getattr(conv, name) for conv in (ours, theirs, mine))
            assert taken[0].equal(old[1]) and taken[2].equal(old[0])  # dog, cat
            assert taken[1].equal(new[1]) and taken[3].equal(new[3])  # bird, cow
    row = 1 + target.top_left.heatmap.in_channels
    counts = report.parts["heatmaps"]
    assert (counts.loaded, counts.remapped, counts.new) == (0, 2 * 2 * row, 2 * 2 * row)
    assert report.kept_classes == ("dog", "cat") and report.new_classes == ("bird", "cow")


def test_another_eps_is_folded_into_all_norms():
    """1e-5 against 1e-3: with one mean and std for both, neck and branches compute what they did."""
    source = build(CornerDetector, OLD, 0, "pytorch-ssd")
    target = build(CornerDetector, OLD, 1, "paper")
    source.normalize.load_state_dict(target.normalize.state_dict())
    transfer(source, OLD, target, OLD)
    images = torch.randint(0, 256, (2, 3, 96, 96)).float()
    with torch.no_grad():
        ours, theirs = target(images), source(images)
    for found, expected in zip(ours[:3], theirs[:3], strict=True):
        assert expected.std() > 0.01
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_another_stride_keeps_what_fits():
    source, target = build(CornerDetector, OLD, 0, stride=4), build(CornerDetector, OLD, 1, stride=8)
    report = transfer(source, OLD, target, OLD)
    assert all(count.new == 0 for count in report.parts.values())
    assert target.neck.lateral[2][0].weight.equal(source.neck.lateral[2][0].weight)
