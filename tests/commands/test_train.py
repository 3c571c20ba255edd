"""`ssdlite train` as a person types it."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import cv2
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ssdlite.data.synthetic import make_synthetic
from tests.conftest import TINY


def test_a_run_leaves_what_it_promises(trained):
    names = {path.name for path in trained.iterdir()}
    assert {"config.yaml", "last.pt", "best.pt", "metrics.jsonl", "samples.jpg"} <= names
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["train", "train", "val", "train", "train", "val"]
    assert lines[0]["loss"] == pytest.approx(lines[0]["classification"] + lines[0]["box"])
    assert {"images_per_second", "waiting_for_data", "lr"} <= lines[0].keys()
    assert set(lines[2]["per_class_AP"]) <= {"ring", "triangle", "rectangle", "star", "cross", "heart"}
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert config["model"]["width"] == 0.25
    assert cv2.imread(str(trained / "samples.jpg")).shape[1] > 500
    tags = EventAccumulator(str(trained)).Reload().Tags()
    assert {"train/box", "train/lr", "train/images_per_second", "train/waiting_for_data", "val/AP"} <= set(
        tags["scalars"]
    )
    assert tags["images"]


def test_data_alone_is_enough_and_names_are_numbered(cli, drawn, tmp_path):
    options = [f"data={drawn}", f"run.dir={tmp_path}", "train.epochs=1", *TINY]
    first, second = cli("train", *options), cli("train", *options)
    assert first.code == second.code == 0, first.err
    assert "COCO data at" in first.out and "24 images to train on, 8 to validate on" in first.out
    assert {path.name for path in tmp_path.iterdir()} == {"drawn", "drawn-2"}


def test_a_resumed_run_ends_as_one_that_was_never_stopped(cli, drawn, tmp_path):
    options = [f"data={drawn}", "train.epochs=3", "train.log_interval=1", "run.name=same", *TINY]
    assert cli("train", *options, f"run.dir={tmp_path / 'whole'}").code == 0
    command = [sys.executable, "-m", "ssdlite", "train", *options, f"run.dir={tmp_path / 'parts'}"]
    metrics = tmp_path / "parts" / "same" / "metrics.jsonl"
    # As many threads as the tests use: another number sums in another order.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    while process.poll() is None and not (metrics.exists() and '"step": 4' in metrics.read_text()):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 0, output
    assert "--resume continues" in output and "Traceback" not in output
    stopped = torch.load(tmp_path / "parts" / "same" / "last.pt")["training"]["progress"]["step"]
    assert 4 <= stopped < 9
    resumed = cli("train", *options, f"run.dir={tmp_path / 'parts'}", "--resume")
    assert resumed.code == 0 and f"at step {stopped}" in resumed.out
    whole, parts = (torch.load(tmp_path / kind / "same" / "last.pt") for kind in ("whole", "parts"))
    assert whole["weights"].keys() == parts["weights"].keys()
    assert all(value.equal(parts["weights"][key]) for key, value in whole["weights"].items())


@pytest.mark.parametrize(
    ("option", "sentence"),
    [("optim.lr=0.5", "optim.lr is 0.5"), ("train.epochs=9", "train.epochs"), ("model.width=0.5", "model.width")],
)
def test_a_resumed_run_cannot_become_another_one(cli, trained, drawn, option, sentence):
    before = {path.name: path.read_bytes() for path in trained.iterdir()}
    options = [f"data={drawn}", f"run.dir={trained.parent}", "run.name=tiny", "train.epochs=2", *TINY, option]
    result = cli("train", *options, "--resume")
    assert result.code == 1 and sentence in result.err and "the run to resume" in result.err
    assert before == {path.name: path.read_bytes() for path in trained.iterdir()}


@pytest.mark.parametrize(("images", "batch_size"), [(2, 1), (1, 8)])
def test_batch_norm_needs_two_images(cli, tmp_path, images, batch_size):
    make_synthetic(tmp_path / "set", num_train=images, num_val=1, size=(96, 96), seed=0)
    options = [f"data={tmp_path / 'set'}", f"run.dir={tmp_path}", *TINY, f"train.batch_size={batch_size}"]
    result = cli("train", *options)
    assert result.code == 2 and "at least 2 images a step" in result.err


def test_images_without_any_class_are_refused(cli, tmp_path):
    make_synthetic(tmp_path / "set", num_train=4, num_val=1, size=(96, 96), seed=0)
    for path in (tmp_path / "set" / "annotations").iterdir():
        path.write_text(json.dumps({**json.loads(path.read_text()), "annotations": [], "categories": []}))
    result = cli("train", f"data={tmp_path / 'set'}", *TINY)
    assert result.code == 1 and "name no class" in result.err


def test_two_processes_train_and_evaluate_together(cli, drawn, tmp_path):
    options = [f"data={drawn}", f"run.dir={tmp_path}", "run.name=two", "train.epochs=1", *TINY]
    options += ["train.precision=fp32", "eval.score_threshold=0.001"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*launcher, "-m", "ssdlite", "train", *options, "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("24 images to train on") == 1  # one process talks
    assert torch.load(tmp_path / "two" / "last.pt")["training"]["progress"]["step"] == 3
    # What one process finds with the file that was saved is what the two found together.
    logged = json.loads((tmp_path / "two" / "metrics.jsonl").read_text().splitlines()[-1])
    judged = cli("eval", tmp_path / "two" / "best.pt", "--json", tmp_path / "judged.json")
    assert judged.code == 0
    figures = json.loads((tmp_path / "judged.json").read_text())["coco"]
    assert logged["AR100"] > 0
    for name in ("AP", "AR100", "AR_small"):
        assert logged[name] == pytest.approx(figures[name], abs=1e-6)


def test_overfitting_eight_real_images(cli, real_data, tmp_path):
    """The proof that boxes, labels and decoding are right: the network can learn eight images by heart."""
    source = json.loads((real_data / "coco128" / "annotations" / "instances_train2017.json").read_text())
    chosen = source["images"][:8]
    kept = {image["id"] for image in chosen}
    subset = {
        **source,
        "images": chosen,
        "annotations": [a for a in source["annotations"] if a["image_id"] in kept],
    }
    annotations = tmp_path / "eight.json"
    annotations.write_text(json.dumps(subset))
    node = f"{{kind: coco, images: {real_data / 'coco128' / 'train2017'}, annotations: {annotations}}}"
    result = cli(
        "train",
        f"data.train={node}",
        f"data.val={node}",
        "data.augmentation=none",
        "data.workers=0",
        "model.input_size=224",
        "model.width=0.5",
        "model.weights=none",
        "optim.lr=0.02",
        "train.batch_size=8",
        "train.epochs=250",
        "train.val_interval=250",
        "train.ema_decay=0.9",
        f"run.dir={tmp_path}",
        "run.name=eight",
    )
    assert result.code == 0, result.err
    last = json.loads((tmp_path / "eight" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["AP50"] >= 0.95


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["none.yaml"], 2, "cannot read the config none.yaml"),
        (["optim.lrr=1"], 2, "did you mean 'optim.lr'"),
        (["data=none"], 1, "none: there is no such folder"),
        (["data.workers=0", "stray"], 2, "'stray' is not of the form KEY=VALUE"),
        (["data.train={kind: coco, images: a, annotations: b.json}"], 1, "a: there is no such folder of images"),
        (["--device", "cuda:99", "data=x"], 2, "device 'cuda:99' is not there"),
        (["--device", "gpu", "data=x"], 2, "unknown device 'gpu'"),
        (["--resume", "data=x", "run.name=never"], 1, "nothing to resume"),
        (["data=x", "run.name=a/b"], 2, "'run.name'"),
        (["data=x", "data.class_names=[a, a]"], 2, "'a' is named twice"),
    ],
)
def test_mistakes_get_one_sentence(cli, tmp_path, monkeypatch, arguments, code, sentence):
    monkeypatch.chdir(tmp_path)
    result = cli("train", *arguments)
    assert result.code == code
    assert sentence in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())  # nothing half made


def test_a_broken_image_in_a_loader_process_gets_one_sentence(cli, tmp_path):
    make_synthetic(tmp_path / "set", num_train=8, num_val=2, size=(96, 96), seed=0)
    (tmp_path / "set" / "train" / "000003.jpg").write_bytes(b"no picture")
    options = [f"data={tmp_path / 'set'}", f"run.dir={tmp_path}", *TINY[:-1], "data.workers=1", "train.epochs=1"]
    result = cli("train", *options)
    assert result.code == 1
    assert re.fullmatch(r"error: .*000003\.jpg.*\n", result.err)


def test_help_answers_at_once():
    fastest = min(_seconds([sys.executable, "-m", "ssdlite", "--help"]) for _ in range(3))
    assert fastest < 0.5
    heavy = "import sys, ssdlite.cli; print([m for m in ('torch', 'cv2', 'numpy', 'pydantic') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True).stdout.strip() == "[]"


def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started
