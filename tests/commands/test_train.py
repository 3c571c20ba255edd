"""`ssdlite train` as a person types it."""

import json
import re
import shutil
import subprocess
import sys
import time

import cv2
import pytest
import torch
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ssdlite.data.loader import DetectionDataset
from ssdlite.data.synthetic.dataset import make_synthetic
from ssdlite.training import loop
from ssdlite.training.process import Interrupt
from tests.conftest import TINY, environment_of_children

NORM = re.compile(r"running_|num_batches")


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


SIGNALLED = """
import os, signal
from ssdlite.cli import main
from ssdlite.training.loggers import Logbook

log = Logbook.log

def log_and_stop(self, kind, step, values):
    log(self, kind, step, values)
    if step == 4:
        os.kill(os.getpid(), signal.SIGTERM)

Logbook.log = log_and_stop
main()
"""


def test_a_resumed_run_ends_as_one_that_was_never_stopped(cli, drawn, tmp_path):
    """SIGTERM comes to a process of its own while it logs its fourth step of nine."""
    options = [f"data={drawn}", "train.epochs=3", "train.log_interval=1", "run.name=same", *TINY]
    assert cli("train", *options, f"run.dir={tmp_path / 'whole'}").code == 0
    command = [sys.executable, "-c", SIGNALLED, "train", *options, f"run.dir={tmp_path / 'parts'}"]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        env=environment_of_children(),
    )
    assert done.returncode == 0, done.stdout
    assert "--resume continues" in done.stdout and "Traceback" not in done.stdout
    stopped = torch.load(tmp_path / "parts" / "same" / "last.pt")["training"]["progress"]["step"]
    assert 4 <= stopped <= 5
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


@pytest.fixture
def start(trained, tmp_path):
    """A checkpoint to start from, which a test may remove."""
    return shutil.copy(trained / "best.pt", tmp_path / "start.pt")


def states_of(run) -> list[dict[str, torch.Tensor]]:
    """Every network that a run keeps: as trained, and the averages in both files."""
    last, best = torch.load(run / "last.pt"), torch.load(run / "best.pt")
    return [last["training"]["model"], last["weights"], best["weights"]]


def is_frozen(name: str, parts: list[str], norms: set[str]) -> bool:
    return name.startswith("backbone.") if parts == ["backbone"] else name.rpartition(".")[0] in norms


@pytest.mark.parametrize("parts", [["backbone"], ["norms"]])
def test_c24_a_run_from_a_checkpoint_keeps_what_is_frozen(cli, start, drawn, tmp_path, parts):
    options = [f"data={drawn}", f"run.dir={tmp_path}", "run.name=tuned", "train.epochs=2", *TINY]
    options += [f"model.weights={start}", f"model.freeze={parts}"]
    original = start.read_bytes()
    result = cli("train", *options)
    assert result.code == 0, result.err
    assert start.read_bytes() == original
    assert f"Started from {start} (paper):" in result.out.replace("\n", "")
    assert re.search(r"backbone +[\d,]{7,} +0 +0\n", result.out)
    assert re.search(r"classes kept: .*star.*\n.*classes new: none", result.out)
    before = torch.load(start)["weights"]
    norms = {name.rpartition(".")[0] for name in before if "running_mean" in name}
    frozen = {name for name in before if is_frozen(name, parts, norms)}
    assert len(frozen) > 100
    for state in states_of(tmp_path / "tuned"):
        moved = {name for name, value in state.items() if not value.equal(before[name])}
        assert not moved & frozen
        assert moved == before.keys() - frozen - {"normalize.mean", "normalize.std"}


class StopsAtOnce(Interrupt):
    """As if a signal came during the first step."""

    def __enter__(self):
        self.requested = True
        return self


def test_a_resumed_run_needs_no_start_and_keeps_what_is_frozen(cli, start, drawn, tmp_path, monkeypatch):
    options = [f"data={drawn}", "run.name=same", "train.epochs=1", *TINY]
    options += [f"model.weights={start}", "model.freeze=[backbone]", "optim.lr_factors.head=0.5"]
    assert cli("train", *options, f"run.dir={tmp_path / 'whole'}").code == 0
    with monkeypatch.context() as patched:
        patched.setattr(loop, "Interrupt", StopsAtOnce)
        assert "Stopped at step 1" in cli("train", *options, f"run.dir={tmp_path / 'parts'}").out
    before = torch.load(start)["weights"]
    start.unlink()
    resumed = cli("train", *options, f"run.dir={tmp_path / 'parts'}", "--resume")
    assert resumed.code == 0 and "at step 1" in resumed.out, resumed.err
    assert "Started from" not in resumed.out
    for whole, parts in zip(*(states_of(tmp_path / kind / "same") for kind in ("whole", "parts")), strict=True):
        assert all(value.equal(parts[name]) for name, value in whole.items())
        assert all(value.equal(before[name]) for name, value in parts.items() if name.startswith("backbone."))
    # What it gave can be evaluated without the start as well.
    assert cli("eval", tmp_path / "parts" / "same" / "best.pt").code == 0


def test_learning_rates_by_part(cli, start, drawn, tmp_path):
    """A factor of almost nothing: hardly a move, though the statistics follow; logged is the largest rate."""
    options = [f"data={drawn}", f"run.dir={tmp_path}", "run.name=factors", "train.epochs=1", *TINY]
    options += [f"model.weights={start}", "train.log_interval=1", "optim.lr=0.04", "data.vertical_flip=true"]
    result = cli("train", *options, "optim.lr_factors={backbone: 1e-6, extras: 0.25, head: 0.5}")
    assert result.code == 0, result.err
    before, after = torch.load(start)["weights"], states_of(tmp_path / "factors")[0]
    moved = {name for name, value in after.items() if not torch.allclose(value, before[name], rtol=0, atol=1e-6)}
    assert all(NORM.search(name) for name in moved if name.startswith("backbone."))
    # In float32 the means of small activations follow by less than that.
    assert all(not after[name].equal(before[name]) for name in before if NORM.search(name))
    assert {name for name in before if name.startswith("head.") and name.endswith("weight")} <= moved
    lines = [json.loads(line) for line in (tmp_path / "factors" / "metrics.jsonl").read_text().splitlines()]
    rates = [line["lr"] for line in lines if line["kind"] == "train"]
    assert rates == pytest.approx([0.5 * 0.04 * share for share in (0.75, 0.25, 0)])  # a cosine over three steps


def test_merged_norms_of_the_start_get_statistics_once(cli, start, drawn, tmp_path, monkeypatch):
    """Of the images to train on that can be read, before the first step; a run that is resumed has its own."""
    content = torch.load(start)
    for name, tensor in content["weights"].items():
        if name.startswith("backbone.") and name.endswith("running_mean"):
            tensor.zero_()
        elif name.startswith("backbone.") and name.endswith("running_var"):
            tensor.fill_(1 - 1e-3)
    torch.save(content, start)
    data = shutil.copytree(drawn, tmp_path / "data")
    options = [f"data={data}", f"run.dir={tmp_path}", "run.name=merged", "train.epochs=2", *TINY]
    options += [
        f"model.weights={start}",
        "optim.lr=1e-9",
        "model.freeze=[norms]",
    ]  # what is frozen shows what was set
    first_image = sorted((data / "train").glob("*"))[0]
    first_image.write_bytes(b"no image")
    with monkeypatch.context() as patched:
        patched.setattr(loop, "Interrupt", StopsAtOnce)
        first = cli("train", *options)
    said = " ".join((first.out + first.err).split())
    found = re.search(r"Norm statistics measured on (\d+) training images; logits moved by (\S+) at most", said)
    assert found and found[1] == "23" and float(found[2]) < 1e-3, said
    state = torch.load(tmp_path / "merged" / "last.pt")["training"]["model"]
    variances = [tensor for name, tensor in state.items() if re.match(r"backbone.*running_var", name)]
    assert len(variances) == 52 and all(len(variance.unique()) > 1 for variance in variances)
    resumed = cli("train", *options, "--resume")
    assert resumed.code == 0 and "Norm statistics" not in resumed.out + resumed.err, resumed.err
    for name, tensor in torch.load(tmp_path / "merged" / "last.pt")["training"]["model"].items():
        assert not name.endswith("running_var") or tensor.equal(state[name])


def test_the_start_may_be_of_another_dialect_size_and_classes(cli, start, drawn, tmp_path, monkeypatch):
    """And its data: other classes are left out when asked; the pictures are aligned as the dialect says."""
    built = []

    class Spy(DetectionDataset):
        def __init__(self, *args, **options) -> None:
            built.append(options)
            super().__init__(*args, **options)

    monkeypatch.setattr("ssdlite.data.loader.DetectionDataset", Spy)
    options = [f"data={drawn}", f"run.dir={tmp_path}", "run.name=other", "train.epochs=1", *TINY]
    options += [f"model.weights={start}", "model.dialect=tensorflow", "model.input_size=128"]
    options += ["data.class_names=[ring, comet, heart]", "data.vertical_flip=true"]
    refused = cli("train", *options)
    assert refused.code == 1 and "data.ignore_unknown=true" in refused.err
    assert len(refused.err.strip().splitlines()) == 1 and not (tmp_path / "other").exists()
    result = cli("train", *options, "data.ignore_unknown=true")
    assert result.code == 0, result.err
    assert [(spy["alignment"], spy.get("vertical_flip", False)) for spy in built] == [
        ("asymmetric", True),
        ("asymmetric", False),
    ]
    assert re.search(r"left out \d+ objects of 4 other classes", (result.out + result.err).replace("\n", " "))
    assert "classes kept: none" in result.out  # scores of another kind
    said = (result.out + result.err).replace("\n", " ")
    assert "tensorflow has another padding;" in said
    assert "No class is kept, because scores were made by softmax." in said
    checkpoint = torch.load(tmp_path / "other" / "best.pt")
    assert checkpoint["classes"] == ["ring", "comet", "heart"]
    evaluated = cli("eval", tmp_path / "other" / "best.pt")
    assert evaluated.code == 0, evaluated.err


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (
            ["model.weights=imagnet"],
            2,
            "model.weights is auto, coco, pedestrian, imagenet, none or a checkpoint, but there is no file "
            "imagnet; did you mean 'imagenet'?",
        ),
        (["model.weights=FOLDER"], 1, "is a folder; name the file in it"),
        (["model.weights=FOREIGN"], 1, "is not a checkpoint of ssdlite"),
        (["model.weights=START", "model.width=0.5"], 2, "it is of width 0.25, but model.width is 0.5"),
        (["model.weights=imagenet"], 2, "there are weights 'imagenet' for model.width=1.0 only"),
        (["data.class_names=[ring]"], 1, "data.ignore_unknown=true"),
        (
            ["model.freeze=early"],
            2,
            "model.freeze=early would keep layers as they are that have nothing learnt yet",
        ),
        (["model.weights=START", "model.dialect=pytorch-ssd", "model.freeze=norms"], 2, "model.freeze=norms would"),
    ],
)
def test_a_start_that_cannot_be_used_gets_one_sentence(cli, start, drawn, tmp_path, options, code, sentence):
    torch.save({"base_net.0.0.weight": torch.zeros(1)}, tmp_path / "foreign.pth")
    files = {"START": start, "FOLDER": tmp_path, "FOREIGN": tmp_path / "foreign.pth"}
    for name, path in files.items():
        options = [option.replace(name, str(path)) for option in options]
    result = cli("train", f"data={drawn}", f"run.dir={tmp_path / 'runs'}", *TINY, *options)
    assert (result.code, sentence in result.err) == (code, True), result.err
    assert len(result.err.strip().splitlines()) == 1
    assert not list((tmp_path / "runs").glob("*"))


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
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment_of_children())
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("24 images to train on") == 1  # one process talks
    assert torch.load(tmp_path / "two" / "last.pt")["training"]["progress"]["step"] == 3
    # What one process finds with the file that was saved is what the two found together.
    logged = json.loads((tmp_path / "two" / "metrics.jsonl").read_text().splitlines()[-1])
    evaluated = cli("eval", tmp_path / "two" / "best.pt", "--json", tmp_path / "evaluated.json")
    assert evaluated.code == 0
    figures = json.loads((tmp_path / "evaluated.json").read_text())["coco"]
    assert logged["AR100"] > 0
    for name in ("AP", "AR100", "AR_small"):
        assert logged[name] == pytest.approx(figures[name], abs=1e-6)


def test_overfitting_eight_real_images(cli, real_data, tmp_path):
    """A check that boxes, labels and decoding are right: the network can overfit eight images."""
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
        (["--device", "cuda:99", "data=DRAWN"], 2, "device 'cuda:99' is not there"),
        (["--device", "gpu", "data=x"], 2, "unknown device 'gpu'"),
        (["--resume", "data=x", "run.name=never"], 1, "nothing to resume"),
        (["data=x", "run.name=a/b"], 2, "'run.name'"),
        (["data=x", "data.class_names=[a, a]"], 2, "'a' is named twice"),
    ],
)
def test_mistakes_get_one_sentence(cli, drawn, tmp_path, monkeypatch, arguments, code, sentence):
    monkeypatch.chdir(tmp_path)
    result = cli("train", *(argument.replace("DRAWN", str(drawn)) for argument in arguments))
    assert result.code == code
    assert sentence in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())  # nothing half made


def test_a_broken_image_is_named_once_and_replaced(cli, tmp_path):
    """One that only decoding tells: its first and last bytes are those of a PNG."""
    make_synthetic(tmp_path / "set", num_train=8, num_val=2, size=(96, 96), seed=0)
    path = tmp_path / "set" / "train" / "000003.jpg"
    Image.open(path).save(path, "PNG")
    data = path.read_bytes()
    path.write_bytes(data[:60] + bytes(len(data) - 80) + data[-20:])
    options = [f"data={tmp_path / 'set'}", f"run.dir={tmp_path}", *TINY[:-1], "data.workers=1", "train.epochs=2"]
    result = cli("train", *options)
    assert result.code == 0, result.err
    (warning,) = [line for line in result.out.splitlines() if "000003.jpg" in line]
    assert warning.startswith("warning: ") and warning.endswith("another image is in its place from now on")


@pytest.mark.parametrize(("split", "name"), [("train", "000003.jpg"), ("val", "000002.jpg")])
def test_an_image_that_cannot_be_read_is_left_out_before_the_first_step(cli, tmp_path, split, name):
    make_synthetic(tmp_path / "set", num_train=8, num_val=4, size=(96, 96), seed=0)
    (tmp_path / "set" / split / name).write_bytes(b"no picture")
    options = [f"data={tmp_path / 'set'}", f"run.dir={tmp_path}", *TINY[:-1], "data.workers=1", "train.epochs=1"]
    result = cli("train", *options)
    assert result.code == 0, result.err
    (warning,) = [line for line in result.out.splitlines() if name in line]
    assert warning.endswith(f"left out 1 image whose file cannot be read: {name}")
    assert f"{7 if split == 'train' else 8} images to train on" in result.out


def test_help_answers_at_once():
    """Beside what a command would wait for: of the second or two that importing PyTorch takes, a third at most."""
    torch_alone = _seconds([sys.executable, "-c", "import torch"])
    fastest = min(_seconds([sys.executable, "-m", "ssdlite", "--help"]) for _ in range(3))
    assert fastest < torch_alone / 3
    heavy = "import sys, ssdlite.cli; print([m for m in ('torch', 'cv2', 'numpy', 'pydantic') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True).stdout.strip() == "[]"


def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started
