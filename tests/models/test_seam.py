"""A backbone that the package does not know: a class and its place in the table are all that it needs."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from ssdlite.config.schema import load_config
from ssdlite.errors import ConfigError
from ssdlite.models.backbone import Backbone
from ssdlite.models.backbones import BACKBONES, load_backbone
from ssdlite.models.corner import CornerDetector
from ssdlite.models.detector import Detector
from ssdlite.models.transfer import transfer
from ssdlite.models.variants import DIALECTS
from tests.conftest import TINY


class Stairs(Backbone):
    """One convolution for each halving."""

    def __init__(self, width: float, tap: str) -> None:
        super().__init__(width, tap)
        sides = [3, *(int(width * 16 * 2**level) for level in range(5))]
        self.steps = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU6())
            for a, b in pairwise(sides)
        )

    @property
    def pyramid_channels(self) -> dict[int, int]:
        return {2 ** (level + 1): step[0].out_channels for level, step in enumerate(self.steps) if level}

    @property
    def early_stages(self) -> list[nn.Module]:
        return list(self.steps[:3])

    def pyramid(self, images: Tensor) -> dict[int, Tensor]:
        maps = {}
        for level, step in enumerate(self.steps):
            images = step(images)
            maps[2 ** (level + 1)] = images
        return {stride: maps[stride] for stride in self.pyramid_channels}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(BACKBONES, "stairs", f"{__name__}:Stairs")


@pytest.mark.parametrize("kind", [Detector, CornerDetector])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_both_detectors_take_it(kind, dialect):
    network = kind(DIALECTS[dialect], num_classes=3, input_size=(96, 128), width=0.5, backbone="stairs").train()
    output = network(torch.zeros(2, 3, 96, 128, dtype=torch.uint8))
    if kind is Detector:
        assert output.logits.shape[-1] == 4 and output.logits.shape[1] == len(output.priors)
    else:
        assert output.heatmaps.shape[:3] == (2, 2, 3)
    sum(part.float().square().mean() for part in output[:2]).backward()
    assert all(parameter.grad is not None for parameter in network.backbone.parameters())


def test_its_early_stages_freeze():
    network = Detector(DIALECTS["paper"], num_classes=3, input_size=(96, 96), backbone="stairs")
    network.freeze(["early"])
    learns = [parameter.requires_grad for parameter in network.backbone.parameters()]
    assert learns == [False] * 9 + [True] * 6


def test_its_layers_are_transferred():
    source, target = (
        Detector(DIALECTS["paper"], num_classes=num, input_size=(96, 96), width=0.5, backbone="stairs")
        for num in (3, 2)
    )
    report = transfer(source, ["a", "b", "c"], target, ["a", "d"])
    assert report.parts["backbone"].new == 0
    assert torch.equal(source.backbone.steps[4][0].weight, target.backbone.steps[4][0].weight)
    other = Detector(DIALECTS["paper"], num_classes=2, input_size=(96, 96), width=0.5)
    assert transfer(source, ["a", "b", "c"], other, ["a", "d"]).parts["backbone"].loaded == 0


def test_it_is_trained_resumed_evaluated_and_started_from(cli, drawn, tmp_path):
    options = [f"data={drawn}", f"run.dir={tmp_path}", "train.epochs=1", "run.report=false", *TINY]
    result = cli("train", *options, "run.name=one", "model.backbone=stairs")
    assert result.code == 0, result.err
    assert cli("eval", tmp_path / "one/best.pt", "--no-report").code == 0
    start = f"model.weights={tmp_path / 'one/best.pt'}"
    options = [option for option in options if not option.startswith("model.weights")]
    result = cli("train", *options, "run.name=two", "model.backbone=stairs", "model.freeze=[early]", start)
    assert result.code == 0, result.err
    result = cli("train", *options, "run.name=three", start)
    assert result.code == 2 and "it is stairs; set model.backbone=stairs" in result.err


def test_names():
    assert load_backbone("stairs") is Stairs and load_backbone("mobilenet_v2").__name__ == "MobileNetV2"
    with pytest.raises(ConfigError, match=r"there is no backbone 'mobilenet'; did you mean mobilenet_v2\?"):
        load_config(None, ["model.backbone=mobilenet"])
    with pytest.raises(ConfigError, match="there is no backbone"):
        load_backbone("x")
