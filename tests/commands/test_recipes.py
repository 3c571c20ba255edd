"""Every loss recipe, assignment and head through the commands: train, resume, evaluate, export, fine-tune."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ssdlite.benchmark.workload import build_training, loader_for, prepare, start_epoch, total_loss
from ssdlite.commands.train import run_train
from ssdlite.config.schema import load_config
from ssdlite.training import loop
from ssdlite.training.process import Interrupt
from tests.conftest import TINY

CHOICES = {
    "focal": ["loss=focal", "loss.box_loss=diou"],
    "sampled": ["loss=sampled", "loss.num_samples=32", "loss.label_smoothing=0.1"],
    "quality": ["loss=quality", "loss.class_weights=balanced"],
    "varifocal and atss": ["loss=quality", "loss.classification=varifocal", "loss.assignment=atss"],
    "corner": ["model.head=corner"],
}
EXPORTED = {"focal": "raw", "corner": "nms"}


@pytest.fixture(scope="module", params=CHOICES)
def choice(request):
    return request.param


def options(choice: str, drawn: Path, folder: Path) -> list[str]:
    """Two epochs of three steps each."""
    return [f"data={drawn}", f"run.dir={folder}", "run.name=run", "train.epochs=2", *CHOICES[choice], *TINY]


@pytest.fixture(scope="module")
def run_dir(drawn, tmp_path_factory, choice):
    folder = tmp_path_factory.mktemp("recipes")
    config = load_config(None, [*options(choice, drawn, folder), "train.log_interval=2"])
    run_train(config, default_name="run", resume=False, device="cpu")
    return folder / "run"


def test_it_learns_a_batch_by_heart(drawn, tmp_path, choice):
    config = load_config(
        None, [*options(choice, drawn, tmp_path), "data.augmentation=none", "optim.warmup_steps=0"]
    )
    workload = prepare(config, torch.device("cpu"), tmp_path, quick=True)
    batch = next(start_epoch(loader_for(config, workload.train, workers=0, device=workload.device), epoch=0))
    step, losses = build_training(workload), []
    for _ in range(32):
        losses.append(total_loss(step.gradients(batch)))
        step.update(losses[-1])
    assert losses[-1] < 0.75 * losses[0]  # .06 to .47 of it, in fp32 and in bf16


def test_its_terms_are_logged(run_dir, choice):
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    losses = [line for line in lines if line["kind"] == "train"]
    terms = {"heatmap", "pull", "push", "offset"} if choice == "corner" else {"classification", "box"}
    assert terms <= losses[0].keys()
    assert all(line["loss"] > 0 for line in losses)


def detections(cli, model, drawn, path, *options) -> list[dict]:
    result = cli("eval", model, f"data={drawn}", *options, "--detections", path)
    assert result.code == 0, result.err
    return json.loads(path.read_text())


def test_the_exported_file_finds_what_the_checkpoint_finds(cli, run_dir, drawn, tmp_path, choice, monkeypatch):
    """Raw logits leave the activation to the reader, who is told it."""
    if choice not in EXPORTED:
        pytest.skip("exports as another choice does")
    file = tmp_path / "model.onnx"
    checkpoint = run_dir / "best.pt"
    # What little it has learnt gives scores that nearly tie: with nothing suppressed, their order changes nothing.
    # The AP of that, which verification would compare, says nothing.
    options = ["eval.score_threshold=0", "eval.iou_threshold=1"]
    chosen = ["--head", EXPORTED[choice], "--output", file, "--tolerance", 1]
    exported = cli("export-onnx", checkpoint, *options, *chosen)
    assert exported.code == 0, exported.err
    expected = detections(cli, checkpoint, drawn, tmp_path / "found.json", *options)
    found = detections(cli, file, drawn, tmp_path / "found.json")  # which holds the options
    scores = [np.sort([detection["score"] for detection in each])[-200:] for each in (expected, found)]
    assert len(scores[0]) == 200 and scores[0].max() > 0
    assert np.allclose(*scores, atol=1e-4)


def test_a_corner_head_has_no_raw_export(cli, run_dir, tmp_path, choice):
    if choice != "corner":
        pytest.skip("has priors")
    result = cli("export-onnx", run_dir / "best.pt", "--head", "raw", "--output", tmp_path / "raw.onnx")
    assert result.code == 2 and "decoded" in result.err and not (tmp_path / "raw.onnx").exists()


class StopsAfterFour(Interrupt):
    """As if a signal came during the fourth step."""

    looks = 0

    @property
    def requested(self):
        self.looks += 1
        return self.looks >= 5  # it is asked once more after the third, at the end of the epoch

    @requested.setter
    def requested(self, value):
        pass


def test_a_resumed_run_ends_as_one_that_was_never_stopped(cli, run_dir, drawn, tmp_path, choice, monkeypatch):
    monkeypatch.setattr(loop, "Interrupt", StopsAfterFour)
    stopped = cli("train", *options(choice, drawn, tmp_path))
    assert stopped.code == 0 and "Stopped at step 4" in stopped.out
    monkeypatch.setattr(loop, "Interrupt", Interrupt)
    assert cli("train", *options(choice, drawn, tmp_path), "--resume").code == 0
    whole, parts = (torch.load(folder / "last.pt") for folder in (run_dir, tmp_path / "run"))
    assert all(value.equal(parts["weights"][key]) for key, value in whole["weights"].items())


def test_it_can_be_the_start_of_another(cli, run_dir, drawn, tmp_path, choice):
    start = ["train.epochs=1", f"model.weights={run_dir / 'best.pt'}"]
    for recipe in ("focal", choice):
        result = cli("train", *options(recipe, drawn, tmp_path), *start)
        assert result.code == 0 and "Started from" in result.out, result.err
