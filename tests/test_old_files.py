"""Checkpoints, exported files and runs of older code are read as before; see tests/golden/README.md.

On the machine that wrote them the values are the same to the bit. Other processors round otherwise, so that the
tests allow for that.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest

from ssdlite import Detector
from ssdlite.training.checkpoint import load_checkpoint

GOLDEN = Path(__file__).parent / "golden"
OPTIONS = (
    *("data=drawn", "model.width=0.1", "model.input_size=64", "model.weights=none", "train.epochs=20"),
    *("train.batch_size=4", "train.val_interval=10", "run.dir=runs", "run.name=old", "run.report=false"),
    *("data.workers=0", "train.precision=fp32", "train.log_interval=3"),
)


@pytest.fixture(scope="module")
def expected():
    with np.load(GOLDEN / "expected.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize(("key", "name"), [("checkpoint", "run/best.pt"), ("onnx", "model.onnx")])
def test_an_old_model_finds_what_it_found(expected, key, name):
    images = sorted(str(path) for path in (GOLDEN / "drawn" / "val").glob("*.jpg"))
    found = Detector.load(GOLDEN / name, device="cpu").predict(images, score_threshold=0.01)
    assert [len(each) for each in found] == expected[f"{key}_count"].tolist()
    rows, expected_rows = (
        np.column_stack([boxes, 1000 * scores, 1000 * labels])
        for boxes, scores, labels in (
            [np.concatenate([getattr(each, field) for each in found]) for field in ("boxes", "scores", "labels")],
            [expected[f"{key}_{field}"] for field in ("boxes", "scores", "labels")],
        )
    )
    # Detections with nearly the same score may change places: each expected row is looked for among all of them.
    nearest = np.abs(rows[None] - expected_rows[:, None]).max(axis=2).min(axis=1)
    assert nearest.max() < 0.05  # pixels, and thousandths of a score


def test_an_old_run_is_resumed(expected, cli, tmp_path, monkeypatch):
    shutil.copytree(GOLDEN / "drawn", tmp_path / "drawn")
    shutil.copytree(GOLDEN / "run", tmp_path / "runs" / "old")
    monkeypatch.chdir(tmp_path)
    outcome = cli("train", *OPTIONS, "--resume")
    assert outcome.code == 0, outcome.err
    assert "step 60: AP" in outcome.out + outcome.err
    weights, before = (
        np.concatenate(
            [tensor.float().flatten()[:8].numpy() for tensor in load_checkpoint(path)["weights"].values()]
        )
        for path in (tmp_path / "runs" / "old" / "last.pt", GOLDEN / "run" / "last.pt")
    )
    # Fifteen steps of training make more of a processor's rounding; what they change is far more than that.
    missed, learned = (np.linalg.norm(each - expected["resumed_last"]) for each in (weights, before))
    assert missed < 0.05 * learned


def test_an_old_config_is_a_config(cli):
    shown = cli("show-config", GOLDEN / "run" / "config.yaml")
    assert shown.code == 0, shown.err
    assert "input_size:\n  - 64\n  - 64" in shown.out
