"""The CornerDetector: shapes for any size, its start, what it shares with the Detector, and that it learns."""

import pytest
import torch
from torch import nn

from ssdlite.losses.corner import CornerCriterion
from ssdlite.models.corner import CornerDetector
from ssdlite.models.detector import Detector
from ssdlite.models.variants import DIALECTS
from ssdlite.structures import CornerOutput, Detections


def build(dialect="paper", size=(96, 128), num_classes=3, width=0.25, **options) -> CornerDetector:
    torch.manual_seed(0)
    return CornerDetector(DIALECTS[dialect], num_classes=num_classes, input_size=size, width=width, **options)


def pixels(batch, size, seed=0):
    return torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8, generator=torch.manual_seed(seed))


@pytest.mark.parametrize("dialect", list(DIALECTS))
@pytest.mark.parametrize(
    ("size", "cells"), [((96, 128), {4: (24, 32), 8: (12, 16)}), ((75, 90), {4: (19, 23), 8: (10, 12)})]
)
@pytest.mark.parametrize("stride", [4, 8])
def test_maps_cover_inputs_of_any_size(dialect, size, cells, stride):
    detector = build(dialect, size, stride=stride).eval()
    with torch.no_grad():
        output = detector(pixels(2, size))
    height, width = cells[stride]
    assert isinstance(output, CornerOutput) and output.input_size == size
    assert output.heatmaps.shape == (2, 2, 3, height, width)
    assert output.embeddings.shape == (2, 2, height, width)
    assert output.offsets.shape == (2, 2, 2, height, width)


def test_one_image_and_one_class_keep_their_axes():
    with torch.no_grad():
        output = build(size=(64, 64), num_classes=1, stride=8).eval()(pixels(1, (64, 64)))
    assert [tuple(part.shape) for part in output[:3]] == [(1, 2, 1, 8, 8), (1, 2, 8, 8), (1, 2, 2, 8, 8)]


def test_an_untrained_network_sees_a_tenth_of_a_corner_everywhere():
    """The bias of CornerNet's code, and offsets in the middle of the cell."""
    detector = build().eval()
    for branch in (detector.top_left, detector.bottom_right):
        assert branch.heatmap.bias.tolist() == pytest.approx([-2.19] * 3, abs=0.01)
        assert branch.offset.bias.tolist() == [0.5, 0.5] and branch.embedding.bias.tolist() == [0]


def test_norms_and_padding_are_the_dialects():
    detector = build("tensorflow")
    norms = [module for module in detector.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.03)}
    assert detector.backbone.features[0][0].same


def test_the_backbone_is_that_of_the_detector():
    """The same keys and shapes, so that one checkpoint's backbone fits the other."""
    detector = Detector(DIALECTS["paper"], num_classes=3, input_size=(96, 128), width=0.25)

    def shared(network):
        names = ("backbone.", "normalize.")
        return {name: tuple(v.shape) for name, v in network.state_dict().items() if name.startswith(names)}

    assert shared(build()) == shared(detector)


def test_freezing_is_that_of_the_detector():
    detector = build()
    detector.freeze(["backbone"])
    assert not any(parameter.requires_grad for parameter in detector.backbone.parameters())
    assert all(parameter.requires_grad for parameter in detector.neck.parameters())
    detector.train()
    assert not any(module.training for module in detector.backbone.modules()) and detector.neck.training


def test_every_parameter_learns():
    detector = build().train()
    output = detector(pixels(4, (96, 128)))
    boxes = torch.tensor([[[5.0, 9, 60, 50], [20, 30, 100, 90]]]).expand(4, -1, -1)
    labels = torch.tensor([[1, 3]]).expand(4, -1)
    terms = CornerCriterion()(output, boxes, labels, torch.zeros(4, 2, dtype=torch.bool))
    sum(terms.values()).backward()
    # Behind the residual blocks' zero gains nothing arrives yet.
    silent = {name for name, p in detector.named_parameters() if p.grad is None or not p.grad.any()}
    assert all(name.startswith("backbone.features.") and ".conv." in name for name in silent)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())


def test_bfloat16_on_a_processor_agrees_with_float32():
    detector = build(size=(64, 64)).train().to(memory_format=torch.channels_last)
    images = pixels(4, (64, 64))
    boxes, labels = torch.tensor([[[4.0, 4, 50, 50]]]).expand(4, -1, -1), torch.ones(4, 1, dtype=torch.int64)
    losses = []
    for enabled in (False, True):
        detector.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output = detector(images)
        terms = CornerCriterion()(output, boxes, labels, torch.zeros(4, 1, dtype=torch.bool))
        sum(terms.values()).backward()
        assert all(p.grad.isfinite().all() for p in detector.parameters())
        losses.append(torch.stack(list(terms.values())).detach())
    assert output.heatmaps.dtype == torch.bfloat16
    torch.testing.assert_close(losses[1], losses[0], rtol=0.05, atol=0.01)


def test_it_learns_one_image_by_heart():
    """Two objects of one class and one of another, found again by the Decoder.

    Rounding decides after how many steps, 60 or some more; 300 are enough for any processor.
    """
    from ssdlite.models.decode import Decoder

    detector = build(size=(64, 64), num_classes=2, stride=8).train()
    images = pixels(1, (8, 8), seed=3).repeat_interleave(8, -1).repeat_interleave(8, -2).repeat(2, 1, 1, 1)
    boxes = torch.tensor([[[4.0, 4, 30, 26], [34, 36, 60, 62], [6, 30, 28, 58]]]).expand(2, -1, -1)
    labels = torch.tensor([[1, 1, 2]]).expand(2, -1)
    optimizer = torch.optim.Adam(detector.parameters(), lr=5e-3)
    criterion, ignore = CornerCriterion(), torch.zeros(2, 3, dtype=torch.bool)
    found, errors = Detections.empty(), [64.0]
    for step in range(1, 301):
        loss = sum(criterion(detector(images), boxes, labels, ignore).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0:
            with torch.no_grad():
                found = Decoder((64, 64), score_threshold=0.5)(detector(images), [(64, 64)] * 2)[0]
            errors = [
                min(abs(found.boxes - box.numpy()).max(axis=1) + 100 * (found.labels != int(label)), default=64)
                for box, label in zip(boxes[0], labels[0], strict=True)
            ]
            if len(found.labels) == 3 and max(errors) < 2:
                break
    assert sorted(found.labels.tolist()) == [1, 1, 2]
    assert max(errors) < 2
