"""The network: published parameter counts, any size and width, one behaviour, ImageNet weights folded in."""

import copy

import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v2

from ssdlite.models.backbone import IMAGENET_MEAN, IMAGENET_STD, MobileNetV2, load_imagenet
from ssdlite.models.detector import Detector
from ssdlite.models.variants import DIALECTS, PAPER, PriorLevel, PriorShape
from ssdlite.training.optim import WeightAverage


def build(dialect="paper", num_classes=3, size=(96, 96), width=0.25) -> Detector:
    torch.manual_seed(0)
    return Detector(DIALECTS[dialect], num_classes=num_classes, input_size=size, width=width)


@pytest.mark.parametrize(
    ("dialect", "num_classes", "parameters"),
    [
        ("paper", 80, 4_337_013),
        ("paper", 90, 4_500_543),
        ("tensorflow", 80, 4_337_013),
        ("tensorflow", 90, 4_500_543),
        ("mmdetection", 80, 4_228_788),
        ("pytorch-ssd", 20, 3_388_228),
        ("pytorch-ssd", 80, 4_450_228),
        ("pytorch-ssd", 90, 4_627_228),
        # pytorch-ssd's with heads on 96 channels: 480 times 2·(9 + 1 + 2) before and 6·81 + 6·4 rows less
        ("lufficc", 80, 4_450_228 - 480 * (24 + 510)),
    ],
)
def test_parameter_counts_of_the_published_networks(dialect, num_classes, parameters):
    detector = build(dialect, num_classes, (300, 300), 1.0)
    assert sum(parameter.numel() for parameter in detector.parameters()) == parameters


@pytest.mark.parametrize("dialect", list(DIALECTS))
@pytest.mark.parametrize(
    ("size", "width"), [((96, 96), 0.35), ((65, 130), 0.5), ((100, 64), 1.4), ((300, 300), 0.25)]
)
def test_c19_c21_any_size_and_width(dialect, size, width):
    detector = build(dialect, 2, size, width).eval()
    output = detector(torch.zeros(1, 3, *size, dtype=torch.uint8))
    assert output.logits.shape == (1, len(detector.priors), 3)
    assert output.deltas.shape == (1, len(detector.priors), 4)
    expected = DIALECTS[dialect].norm_eps
    assert all(m.eps == expected for m in detector.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize("dialect", list(DIALECTS))
def test_the_dialects_own_levels_given_as_others_make_the_identical_network(dialect):
    plain = build(dialect)
    levels = [
        PriorLevel(tuple(PriorShape(*shape) for shape in level.shapes), level.stride)
        for level in DIALECTS[dialect].prior_levels
    ]
    torch.manual_seed(0)
    given = Detector(DIALECTS[dialect], num_classes=3, input_size=(96, 96), width=0.25, prior_levels=levels)
    assert given.priors.equal(plain.priors) and given.level_sizes == plain.level_sizes
    states = given.state_dict(), plain.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(value.equal(states[1][name]) for name, value in states[0].items())


def test_everything_follows_from_own_priors():
    """Level 0 of 6 x 6 cells has 4 + 1 priors in each, level 1 of 3 x 3 has 9; the others keep theirs."""
    own = (
        PriorLevel((PriorShape(0.05, 1.0, density=2), PriorShape(0.2, 1.0))),
        PriorLevel((PriorShape(0.3, 1.0, density=3),)),
        *PAPER.prior_levels[2:],
    )
    detector = Detector(PAPER, num_classes=3, input_size=(96, 96), width=0.25, prior_levels=own).eval()
    assert detector.level_sizes == (36 * 5, 9 * 9, 4 * 6, 6, 6, 6)
    output = detector(torch.zeros(1, 3, 96, 96))
    assert output.logits.shape == (1, 303, 4) and output.deltas.shape == (1, 303, 4)
    assert output.priors.shape == (303, 4) and output.level_sizes == detector.level_sizes
    assert detector.head.classification[0][-1].out_channels == 5 * 4
    assert detector.head.regression[1][-1].out_channels == 9 * 4


def test_rows_of_the_head_belong_to_the_priors_of_a_cell_in_order():
    """The bias of one row moves that prior in every cell, and no other."""
    own = (PriorLevel((PriorShape(0.2, 1.0), PriorShape(0.05, 1.0, density=2))), *PAPER.prior_levels[1:])
    detector = Detector(PAPER, num_classes=1, input_size=(96, 96), width=0.25, prior_levels=own).eval()
    images = torch.zeros(1, 3, 96, 96)
    with torch.no_grad():
        before = detector(images).deltas.clone()
        detector.head.regression[0][-1].bias[3 * 4] += 1  # the prior after the square of .2 and two of the dense
        moved = (detector(images).deltas != before).any(dim=-1)[0]
    chosen = detector.priors[moved]
    assert len(chosen) == 36 and chosen[:, 2:].eq(torch.tensor(0.05 * 96)).all()
    assert (chosen[:, :2] % 16).unique(dim=0).tolist() == [[4, 12]]  # left, lower


def test_training_mode_gives_the_same_kind_of_output():
    detector = build()
    images = torch.randint(0, 256, (2, 3, 96, 96), dtype=torch.uint8)
    trained, evaluated = detector.train()(images), detector.eval()(images)
    assert [tuple(part.shape) for part in trained[:3]] == [tuple(part.shape) for part in evaluated[:3]]
    assert trained.score_activation == evaluated.score_activation == "softmax"


def test_bytes_and_floats_are_the_same_pixels():
    detector = build().eval()
    images = torch.randint(0, 256, (1, 3, 96, 96), dtype=torch.uint8)
    torch.testing.assert_close(detector(images).logits, detector(images.float()).logits)


def test_c20_priors_move_with_the_model_and_are_no_state():
    detector = build()
    assert not any("priors" in key for key in detector.state_dict())
    assert detector.to("meta").priors.device.type == "meta"


def test_c22_an_untrained_head_sees_background_and_priors():
    detector = build(num_classes=5).eval()
    for predict in detector.head.regression:
        assert predict[-1].bias.eq(0).all()
    bias = detector.head.classification[0][-1].bias.view(-1, 6)[0]
    assert bias.softmax(-1)[0].item() == pytest.approx(0.9)


def test_c22_sigmoid_scores_of_an_untrained_head_share_out_the_same_tenth():
    detector = build("tensorflow", num_classes=5).eval()
    assert detector(torch.zeros(1, 3, 96, 96)).score_activation == "sigmoid"
    for predict in detector.head.classification:
        scores = predict[-1].bias.view(-1, 6).sigmoid()
        torch.testing.assert_close(scores[:, 0], torch.full_like(scores[:, 0], 0.9))
        torch.testing.assert_close(scores[:, 1:], torch.full_like(scores[:, 1:], 0.1 / 5))


@pytest.mark.parametrize(("tap", "channels"), [("output", 96), ("expansion", 576)])
def test_taps_are_what_the_stages_give(tap, channels):
    torch.manual_seed(0)
    backbone = MobileNetV2(1.0, tap).eval()
    assert backbone.out_channels == (channels, 1280)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        stride16, stride32 = backbone(images)
        before = backbone.features[:14](images)
        expected = before if tap == "output" else backbone.features[14].conv[0](before)
        assert stride16.equal(expected) and stride16.shape == (1, channels, 4, 4)
        assert stride32.equal(backbone.features(images)) and stride32.shape == (1, 1280, 2, 2)
    assert (stride16.min() < 0) == (tap == "output")  # linear, or after ReLU6


def test_channel_map_is_priors_then_columns():
    """A head whose only output is its bias gives each prior of a cell its own numbers."""
    detector = build(num_classes=1).eval()
    last = detector.head.classification[1][-1]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.arange(12.0))
    logits = detector(torch.zeros(1, 3, 96, 96)).logits
    start = 3 * 6 * 6
    assert logits[0, start : start + 6].flatten().tolist() == list(range(12))
    assert logits[0, start + 6 : start + 12].flatten().tolist() == list(range(12))


def test_imagenet_weights_compute_what_they_computed():
    torch.manual_seed(0)
    reference = mobilenet_v2()
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.001, 2)
    reference.eval()
    state = {
        key.removeprefix("features."): v for key, v in reference.state_dict().items() if key.startswith("features.")
    }
    backbone = MobileNetV2(1.0)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = PAPER.norm_eps
    load_imagenet(backbone, state, torch.tensor(PAPER.mean), torch.tensor(PAPER.std))
    backbone.eval()
    images = torch.randint(0, 256, (1, 3, 256, 256)).float()
    mean, std = torch.tensor(IMAGENET_MEAN).view(3, 1, 1), torch.tensor(IMAGENET_STD).view(3, 1, 1)
    with torch.no_grad():
        expected = reference.features[0]((images - mean) / std)
        found = backbone.features[0]((images - 127.5) / 127.5)
        # The zero border stands for another colour, so only the inside is equal.
        torch.testing.assert_close(found[..., 1:, 1:], expected[..., 1:, 1:], atol=1e-4, rtol=1e-4)
        inner = expected
        for block, ours in zip(reference.features[1:], backbone.features[1:], strict=True):
            torch.testing.assert_close(ours(inner), block(inner), atol=1e-3, rtol=1e-3)
            inner = block(inner)


def changed(detector: Detector, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in detector.state_dict().items() if not value.equal(before[name])}


@torch.no_grad()
def settled(detector: Detector) -> Detector:
    """With norms that have seen images and let gradients through, so that everything learns at once."""
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # those of residual blocks start at zero
            module.momentum = None  # a plain mean over what follows
    detector.train()(torch.randint(0, 256, (8, 3, 96, 96), dtype=torch.uint8))
    return detector


def train_a_little(detector: Detector) -> None:
    """Two steps of plain gradient descent on whatever may learn."""
    images = torch.randint(0, 256, (4, 3, 96, 96), dtype=torch.uint8)
    for _ in range(2):
        detector.zero_grad()
        output = detector.train()(images)
        (output.logits.square().mean() + output.deltas.square().mean()).backward()
        with torch.no_grad():
            for parameter in detector.parameters():
                if parameter.grad is not None:
                    parameter -= 0.1 * parameter.grad


@pytest.mark.parametrize("parts", [["early"], ["backbone"], ["norms"], ["backbone", "norms"], ["norms", "early"]])
def test_c24_what_is_frozen_stays_to_the_bit_and_the_rest_learns(parts):
    detector = settled(build())
    detector.freeze(parts)
    norms = {name for name, module in detector.named_modules() if isinstance(module, nn.BatchNorm2d)}
    frozen = {
        name
        for name in detector.state_dict()
        if ("backbone" in parts and name.startswith("backbone."))
        or ("early" in parts and name.startswith("backbone.") and int(name.split(".")[2]) < 7)
        or ("norms" in parts and name.rpartition(".")[0] in norms)
    }
    before = copy.deepcopy(detector.state_dict())
    train_a_little(detector)
    moved = changed(detector, before)
    assert not moved & frozen
    assert moved == before.keys() - frozen - {"normalize.mean", "normalize.std"}


def test_early_stages_end_before_stride_16():
    """Those that `freeze` calls early give the last map of stride 8."""
    detector = build(width=1.0)
    detector.freeze(["early"])
    learning = [i for i, stage in enumerate(detector.backbone.features) if next(stage.parameters()).requires_grad]
    assert learning == list(range(7, 19))
    features = torch.zeros(1, 3, 64, 64)
    assert detector.backbone.features[:7](features).shape[-1] == 8
    assert detector.backbone.features[:8](features).shape[-1] == 4


def test_freezing_survives_copies_and_changes_of_mode():
    detector = build()
    detector.freeze(["backbone"])
    average = WeightAverage(detector, 0.5).module
    for network in (detector, copy.deepcopy(detector), average):
        network.eval().train()
        assert not any(module.training for module in network.backbone.modules())
        assert all(module.training for module in network.head.modules())
        assert not any(parameter.requires_grad for parameter in network.backbone.parameters())
    copied = copy.deepcopy(detector)
    assert copied.frozen[0] is copied.backbone  # its own, not the original's
    assert changed(detector, build().state_dict()) == set()  # freezing is no part of the state
