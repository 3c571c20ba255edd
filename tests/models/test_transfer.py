"""Starting from another network: which rows go where, and that what is taken over computes what it did."""

import copy

import pytest
import torch

from ssdlite.models.detector import Detector
from ssdlite.models.layers import layers
from ssdlite.models.transfer import match_shapes, transfer
from ssdlite.models.variants import DIALECTS, MMDETECTION, PAPER, PYTORCH_SSD, PriorLevel, PriorShape, level_of
from tests.models.cases import randomized

OLD, NEW = ("cat", "dog", "car"), ("dog", "bird", "cat", "cow")


def build(dialect, classes, seed, size=(96, 96), width=0.25) -> Detector:
    """A network in evaluation mode of which every number is random, as after a training."""
    torch.manual_seed(seed)
    detector = Detector(DIALECTS[dialect], num_classes=len(classes), input_size=size, width=width)
    return randomized(detector)


def class_rows(detector, level) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (priors, C, in) and biases (priors, C) of the last convolution of a level's class head."""
    return rows_of(detector.head.classification[level][-1], detector.num_classes + 1)


def box_rows(detector, level) -> tuple[torch.Tensor, torch.Tensor]:
    return rows_of(detector.head.regression[level][-1], 4)


def rows_of(conv, columns) -> tuple[torch.Tensor, torch.Tensor]:
    return conv.weight.view(-1, columns, conv.in_channels), conv.bias.view(-1, columns)


def copy_of_state(detector) -> dict[str, torch.Tensor]:
    return copy.deepcopy(detector.state_dict())


def differing(detector, other: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in detector.state_dict().items() if not value.equal(other[name])}


@pytest.mark.parametrize("dialect", list(DIALECTS))
def test_the_same_dialect_with_other_classes(dialect):
    source, target = build(dialect, OLD, 0), build(dialect, NEW, 1)
    before, original = copy_of_state(target), copy_of_state(source)
    report = transfer(source, OLD, target, NEW)
    last_level = len(target.head.classification) - 1
    names = {f"head.classification.{level}.3.{end}" for level in range(6) for end in ("weight", "bias")}
    if target.dialect.last_head_pointwise:
        names = {name.replace(f"{last_level}.3", f"{last_level}.0") for name in names}
    # All but the last convolutions of the class heads: to the bit.
    state = target.state_dict()
    assert all(state[name].equal(value) for name, value in original.items() if name not in names)
    fresh = build(dialect, NEW, 1)
    for level in range(6):
        for taken, old, mine in zip(*(class_rows(d, level) for d in (target, source, fresh)), strict=True):
            assert taken[:, 0].equal(old[:, 0])  # background
            assert taken[:, 1].equal(old[:, 2])  # dog
            assert taken[:, 3].equal(old[:, 1])  # cat
            assert taken[:, 2].equal(mine[:, 2]) and taken[:, 4].equal(mine[:, 4])  # bird, cow
    assert not differing(source, original) and source.num_classes == 3
    assert differing(target, before) - {"normalize.mean", "normalize.std"}
    assert report.kept_classes == ("dog", "cat") and report.new_classes == ("bird", "cow")
    for part in ("backbone", "extra levels", "box head"):
        assert report.parts[part].remapped == report.parts[part].new == 0, part


def test_the_table_by_hand():
    """paper at width .25: level by level the class rows are priors of a cell · (in + 1) each, 3 of 5 taken over."""
    source, target = build("paper", OLD, 0), build("paper", NEW, 1)
    report = transfer(source, OLD, target, NEW)
    row = sum(len(w) * (w.shape[2] + 1) for w, _ in (class_rows(target, level) for level in range(6)))
    counts = report.parts["class head"]
    whole = sum(parameter.numel() for parameter in target.head.classification.parameters())
    assert (counts.loaded, counts.remapped, counts.new) == (whole - 5 * row, 3 * row, 2 * row)
    total = sum(count.loaded + count.remapped + count.new for count in report.parts.values())
    assert total == sum(parameter.numel() for parameter in target.parameters())
    backbone = sum(parameter.numel() for parameter in target.backbone.parameters())
    lines = str(report).splitlines()
    assert lines[0].split() == ["parameters", "loaded", "remapped", "new"]
    assert lines[1].split() == ["backbone", f"{backbone:,}", "0", "0"]
    assert lines[4].split() == ["class", "head", f"{whole - 5 * row:,}", f"{3 * row:,}", f"{2 * row:,}"]
    assert lines[5:] == ["  classes kept: dog, cat", "  classes new: bird, cow"]


@pytest.mark.parametrize("dialect", list(DIALECTS))
def test_another_input_size_is_the_same_network(dialect):
    source, target = build(dialect, OLD, 0), build(dialect, OLD, 1, size=(128, 64))
    report = transfer(source, OLD, target, OLD)
    assert not differing(target, source.state_dict())
    assert all(count.remapped == count.new == 0 for count in report.parts.values())
    assert report.kept_classes == OLD and report.new_classes == ()
    assert "classes new: none" in str(report)


def test_no_class_in_common_leaves_background():
    source, target = build("paper", ("cat",), 0), build("paper", ("dog",), 1)
    fresh = build("paper", ("dog",), 1)
    report = transfer(source, ("cat",), target, ("dog",))
    weights, biases = class_rows(target, 2)
    assert weights[:, 0].equal(class_rows(source, 2)[0][:, 0]) and biases[:, 0].equal(
        class_rows(source, 2)[1][:, 0]
    )
    assert weights[:, 1].equal(class_rows(fresh, 2)[0][:, 1]) and biases[:, 1].equal(class_rows(fresh, 2)[1][:, 1])
    assert report.kept_classes == () and "classes kept: none" in str(report)


def trunk(detector, images) -> list[torch.Tensor]:
    return list(detector.backbone(detector.normalize(images)))


@pytest.mark.parametrize(("old", "new"), [("pytorch-ssd", "paper"), ("paper", "pytorch-ssd")])
def test_another_eps_is_folded_in(old, new):
    """With one mean and std for both, so that the stem's zero border is one colour, all maps are the same."""
    source, target = build(old, OLD, 0), build(new, NEW, 1)
    source.normalize.load_state_dict(target.normalize.state_dict())
    images = torch.randint(0, 256, (2, 3, 96, 96)).float()
    with torch.no_grad():
        expected = trunk(source, images)
        report = transfer(source, OLD, target, NEW)
        found = trunk(target, images)
    for ours, theirs in zip(found, expected, strict=True):
        assert theirs.abs().max() > 0.1
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)
    assert report.parts["backbone"].loaded == report.parts["backbone"].new == 0


@pytest.mark.parametrize(
    ("old", "new"), [("pytorch-ssd", "paper"), ("mmdetection", "lufficc"), ("lufficc", "paper")]
)
def test_another_mean_and_std_are_folded_into_the_stem(old, new):
    source, target = build(old, OLD, 0), build(new, OLD, 1)
    transfer(source, OLD, target, OLD)
    images = torch.randint(0, 256, (2, 3, 96, 96)).float()
    with torch.no_grad():
        expected, found = (d.backbone.features[0](d.normalize(images)) for d in (source, target))
    assert (found[..., 0, :] - expected[..., 0, :]).abs().max() > 1e-2  # the border stands for another colour
    torch.testing.assert_close(found[..., 1:, 1:], expected[..., 1:, 1:], atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize(("old", "new"), [("pytorch-ssd", "paper"), ("paper", "pytorch-ssd")])
def test_a_depthwise_bias_is_folded_into_the_norm_and_back(old, new):
    source, target = build(old, OLD, 0), build(new, OLD, 1)
    report = transfer(source, OLD, target, OLD)
    for branch in ("classification", "regression"):
        for level in range(5):  # the last one is a plain 1×1 in one of them
            theirs, ours = (getattr(d.head, branch)[level] for d in (source, target))
            features = torch.randn(1, theirs[0].in_channels, 6, 6)
            torch.testing.assert_close(ours[:3](features), theirs[:3](features), atol=1e-4, rtol=1e-4)
    depthwise, norm = target.head.regression[0][:2]
    if new == "pytorch-ssd":
        assert not depthwise.bias.any()
    else:
        their_depthwise, their_norm = source.head.regression[0][:2]
        assert depthwise.weight.equal(their_depthwise.weight)
        torch.testing.assert_close(norm.running_mean, their_norm.running_mean - their_depthwise.bias)
    assert report.parts["box head"].new  # the last level, whose input has another width


def test_three_priors_become_six_by_hand():
    """paper's level 0 has squares of .1 and oblongs of .2; pytorch-ssd's has .2 in all six shapes.

    The squares of .2 are as far from either oblong and further from the square of half the side.
    """
    three, six = PAPER.prior_levels[0], PYTORCH_SSD.prior_levels[0]
    positions = match_shapes(three, six)
    assert positions[2:] == [1, 2, 1, 2] and {*positions[:2]} <= {1, 2}
    assert match_shapes(six, three) == [0, 2, 3]  # the square of .2 is nearest to the one of .1
    source, target = build("paper", OLD, 0), build("pytorch-ssd", NEW, 1)
    transfer(source, OLD, target, NEW)
    for ours, theirs in zip(box_rows(target, 0), box_rows(source, 0), strict=True):
        assert ours.shape[:2] == (6, 4) and ours.equal(theirs[positions])
    for ours, theirs in zip(class_rows(target, 0), class_rows(source, 0), strict=True):
        assert ours[:, [0, 1, 3]].equal(theirs[positions][:, [0, 2, 1]])


def test_shapes_of_one_aspect_belong_together_whatever_their_size():
    """60 px of 300 beside 48 of 320: by the sum over both sides 3:1 would be as near to 2:1 as to 3:1."""
    positions = match_shapes(PYTORCH_SSD.prior_levels[0], MMDETECTION.prior_levels[0])
    assert positions == [0, 0, 2, 3, 4, 5]
    level = level_of(((0.1, 1.0), (0.5, 1.0), (0.1, 4.0)))
    assert match_shapes(level, level_of(((0.4, 1.0), (0.12, 5.0), (0.09, 1.1)))) == [1, 2, 0]


def build_with(first: PriorLevel, classes, seed) -> Detector:
    """paper with another first level."""
    torch.manual_seed(seed)
    levels = (first, *PAPER.prior_levels[1:])
    return randomized(
        Detector(PAPER, num_classes=len(classes), input_size=(96, 96), width=0.25, prior_levels=levels)
    )


def test_all_priors_of_a_dense_shape_start_from_the_rows_of_the_nearest_one():
    """Squares of .05 are nearest to the one of .1, oblongs of .3 and 2:1 to those of .2 and 2:1."""
    dense = PriorLevel((PriorShape(0.3, 2.0), PriorShape(0.05, 1.0, density=2)))
    source, target = build("paper", OLD, 0), build_with(dense, NEW, 1)
    assert match_shapes(PAPER.prior_levels[0], dense) == [1, 0, 0, 0, 0]
    report = transfer(source, OLD, target, NEW)
    for ours, theirs in zip(box_rows(target, 0), box_rows(source, 0), strict=True):
        assert ours.shape[:2] == (5, 4) and ours.equal(theirs[[1, 0, 0, 0, 0]])
    for ours, theirs in zip(class_rows(target, 0), class_rows(source, 0), strict=True):
        assert ours[:, [0, 1, 3]].equal(theirs[[1, 0, 0, 0, 0]][:, [0, 2, 1]])
    for level in range(1, 6):
        assert all(a.equal(b) for a, b in zip(box_rows(target, level), box_rows(source, level), strict=True))
    rows = 5 * 4 * (box_rows(target, 0)[0].shape[2] + 1)  # moved; all others are where they were
    assert report.parts["box head"].remapped == rows and report.parts["box head"].new == 0


def test_the_same_dense_priors_are_loaded_as_they_are():
    dense = PriorLevel((PriorShape(0.05, 1.0, density=3), PriorShape(0.2, 1.0)))
    source, target = build_with(dense, OLD, 0), build_with(dense, OLD, 1)
    report = transfer(source, OLD, target, OLD)
    assert not differing(target, source.state_dict())
    assert all(count.remapped == count.new == 0 for count in report.parts.values())


def test_of_dense_priors_the_nearest_place_in_the_cell_counts():
    two, four = (PriorLevel((PriorShape(0.05, 1.0, density=n),)) for n in (2, 4))
    assert match_shapes(two, four) == [0, 0, 1, 1] * 2 + [2, 2, 3, 3] * 2
    assert match_shapes(two, level_of(((0.05, 1.0),))) == [0]  # all four are as far away


@pytest.mark.parametrize(("old", "new"), [("tensorflow", "paper"), ("paper", "tensorflow")])
def test_class_rows_mean_something_else_under_another_score(old, new):
    source, target, fresh = build(old, OLD, 0), build(new, OLD, 1), build(new, OLD, 1)
    report = transfer(source, OLD, target, OLD)
    for level in range(6):
        assert all(a.equal(b) for a, b in zip(class_rows(target, level), class_rows(fresh, level), strict=True))
        assert all(a.equal(b) for a, b in zip(box_rows(target, level), box_rows(source, level), strict=True))
        theirs, ours = (d.head.classification[level][:2].state_dict() for d in (source, target))
        assert all(ours[name].equal(value) for name, value in theirs.items())
    assert report.kept_classes == () and report.new_classes == OLD
    assert report.parts["class head"].remapped == 0


@pytest.mark.parametrize(("old", "new"), [("mmdetection", "paper"), ("pytorch-ssd", "lufficc")])
def test_another_tap_makes_the_heads_on_it_new(old, new):
    source, target = build(old, OLD, 0), build(new, OLD, 1)
    before = copy_of_state(target)
    report = transfer(source, OLD, target, OLD)
    changed = differing(target, before)
    of_level0 = {name for name in before if name.startswith("head.") and name.split(".")[2] == "0"}
    assert not changed & of_level0
    assert {name for name in before if name.startswith("head.") and name.split(".")[2] == "1"} <= changed | {
        name for name in before if name.endswith("num_batches_tracked")
    }
    expected = sum(p.numel() for name, p in target.head.regression.named_parameters() if name.startswith("0."))
    assert report.parts["box head"].new == expected


@pytest.mark.parametrize("old", list(DIALECTS))
@pytest.mark.parametrize("new", list(DIALECTS))
def test_any_dialect_can_start_from_any_other(old, new):
    source, target = build(old, OLD, 0), build(new, NEW, 1)
    original = copy_of_state(source)
    report = transfer(source, OLD, target, NEW)
    assert not differing(source, original)
    assert report.parts["backbone"].new == 0
    assert target(torch.zeros(1, 3, 96, 96)).logits.isfinite().all()
    total = sum(count.loaded + count.remapped + count.new for count in report.parts.values())
    assert total == sum(parameter.numel() for parameter in target.parameters())


def test_another_width_takes_nothing_that_does_not_fit():
    source, target = build("paper", OLD, 0), build("paper", OLD, 1, width=0.5)
    report = transfer(source, OLD, target, OLD)
    assert report.parts["backbone"].new > 0
    assert all(target.get_submodule(layer.conv).weight.isfinite().all() for layer in layers(target.dialect))


def test_a_frozen_target_is_filled_all_the_same():
    source, target = build("paper", OLD, 0), build("paper", NEW, 1)
    target.freeze(["backbone", "norms"])
    transfer(source, OLD, target, NEW)
    assert all(
        value.equal(source.state_dict()[name])
        for name, value in target.state_dict().items()
        if name.startswith("backbone.")
    )
    assert not any(parameter.requires_grad for parameter in target.backbone.parameters())
