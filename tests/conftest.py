"""Fixtures that several rooms share: real data where it is, a tiny drawn set, a run trained on it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

torch.set_num_threads(1)  # the networks here are tiny; more threads only wait for each other


class Outcome(NamedTuple):
    """What a person sees of a command."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with bccd/, helmet/ and coco128/, named by SSDLITE_TEST_DATA."""
    path = os.environ.get("SSDLITE_TEST_DATA")
    if not path or not Path(path).is_dir():
        pytest.skip("SSDLITE_TEST_DATA does not name a folder with bccd, helmet and coco128")
    return Path(path)


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """`cli("train", "x.yaml")` runs the command line in this process."""
    from ssdlite.cli import main

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["ssdlite", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capfd.readouterr()
        return Outcome(int(stopped.value.code or 0), captured.out, captured.err)

    return run


TINY = (
    *("model.width=0.25", "model.input_size=96", "model.weights=none", "train.batch_size=8", "data.workers=0"),
    "run.report=false",  # it takes longer than such a training
)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn data set of 24 + 8 small images."""
    from ssdlite.data.synthetic import make_synthetic

    path = tmp_path_factory.mktemp("data") / "drawn"
    make_synthetic(path, num_train=24, num_val=8, size=(96, 96), seed=0)
    return path


@pytest.fixture(scope="session")
def trained(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two epochs on `drawn`: enough for every file, not for any accuracy."""
    from ssdlite.commands.train import train
    from ssdlite.config import load_config

    runs = tmp_path_factory.mktemp("runs")
    options = [f"data={drawn}", f"run.dir={runs}", "train.epochs=2", "train.val_interval=1", "train.log_interval=2"]
    train(load_config(None, [*options, *TINY]), default_name="tiny", resume=False, device="cpu")
    return runs / "tiny"


@pytest.fixture(scope="session")
def lively(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.pt and its model.onnx: a random network that is sure of much, and of something else in
    each picture of `drawn`. Two epochs of training would leave all scores alike."""
    from ssdlite import build
    from ssdlite.commands.export import export_onnx
    from ssdlite.config import load_config
    from ssdlite.data.images import read_image
    from ssdlite.training.checkpoint import save_checkpoint

    folder = tmp_path_factory.mktemp("lively")
    config = load_config(None, [f"data={drawn}", *TINY])
    class_names = ("ring", "triangle", "rectangle", "star", "cross", "heart")
    torch.manual_seed(0)
    detector = build.empty_detector(config, class_names).train()
    pictures = [torch.from_numpy(read_image(path)) for path in sorted((drawn / "train").glob("*.jpg"))]
    for module in detector.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # its statistics are those of the pictures
    with torch.no_grad():
        detector(torch.stack(pictures).permute(0, 3, 1, 2))
        for branch, spread in ((detector.head.classification, 0.1), (detector.head.regression, 0.05)):
            for predictor in branch:
                torch.nn.init.normal_(predictor[-1].weight, std=spread)
    content = {"config": config.to_dict(), "classes": list(class_names), "metrics": {}}
    save_checkpoint(folder / "model.pt", {**content, "weights": detector.state_dict()})
    options = {"output": folder / "model.onnx", "head": "nms", "batch": "dynamic", "opset": 18, "verify": False}
    export_onnx(folder / "model.pt", {}, **options)
    return folder
