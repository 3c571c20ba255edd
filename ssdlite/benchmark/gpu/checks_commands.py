"""The command line on the device, several processes on it, and the tests that are marked for it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import distributed, multiprocessing

from ssdlite.benchmark.gpu.cases import CPU, make_batch, make_config, make_step, switch_off_tf32
from ssdlite.benchmark.gpu.tasks import Findings, Outcome, Setting
from ssdlite.benchmark.workload import take_step
from ssdlite.data.synthetic import make_synthetic
from ssdlite.training.checkpoint import load_checkpoint
from ssdlite.training.step import split_batch

ROOT = Path(__file__).parents[3]
PATIENCE = 150.0  # seconds for one command
PROCESSES, STEPS = 2, 3
WEIGHT_TOLERANCE = 1e-4  # of weights after some steps in float32, in units of the largest of each tensor


def check_commands(setting: Setting) -> Outcome:
    """Train, Ctrl-C, --resume and eval on a drawn data set, as a person would."""
    findings = Findings()
    train = ["train", *_options(setting, "run"), f"train.epochs={setting.sizes.epochs}"]
    last = setting.scratch / "runs" / "run" / "last.pt"
    with findings.case("interrupt, resume"):
        process = _start(setting, *train)
        _wait_for(last, process)
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=PATIENCE)[0]
        stopped = _step_of(last)
        total = setting.sizes.epochs * 3  # steps of 24 images in batches of 8
        findings.holds(
            "interrupted", process.returncode == 0 and 0 < stopped < total, _tail(output), step=stopped, of=total
        )
        resumed = _run(setting, *train, "--resume")
        findings.holds(
            "resumed", resumed.returncode == 0 and _step_of(last) == total, _tail(resumed.stdout), step=total
        )
    with findings.case("eval"):
        report = setting.scratch / "eval.json"
        judged = _run(setting, "eval", str(last.with_name("best.pt")), "--json", str(report))
        figures = json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}
        findings.holds(
            "eval",
            judged.returncode == 0 and "coco" in figures,
            _tail(judged.stdout),
            AP=figures.get("coco", {}).get("AP"),
        )
    return findings.outcome()


def check_variants(setting: Setting) -> Outcome:
    """One epoch of the corner head, and of drafts that are finished on the device, from the disk cache."""
    findings = Findings()
    variants = {
        "corner": ["model.head=corner"],
        "augment_on=device": ["data.augment_on=device", "data.cache=disk", "data.workers=2"],
    }
    for name, options in variants.items():
        with findings.case(name):
            done = _run(setting, "train", *_options(setting, name), "train.epochs=1", *options)
            findings.holds(name, done.returncode == 0, _tail(done.stdout))
    return findings.outcome()


def check_processes(setting: Setting) -> Outcome:
    """Two processes with gloo on one device end with the weights of one that has the whole batch."""
    findings = Findings()
    folder = setting.scratch / "processes"
    folder.mkdir()
    multiprocessing.spawn(_train_share, args=(setting, str(folder)), nprocs=PROCESSES)
    expected = _weights_after(setting, (0, 1))
    found = [torch.load(folder / f"{rank}.pt") for rank in range(PROCESSES)]
    for name, value in expected.items():
        if not torch.equal(found[0][name], found[1][name]):
            findings.wrong(name, "differs between the processes")
        if value.is_floating_point():
            findings.close(name, found[0][name], value, tolerance=WEIGHT_TOLERANCE)
    worst = max((row.get("largest difference", 0.0) for row in findings.rows), default=0.0)
    row = {"case": f"{len(expected)} tensors", "largest difference": worst, "allowed": WEIGHT_TOLERANCE}
    return Outcome([row], findings.problems)


def _train_share(rank: int, setting: Setting, folder: str) -> None:
    torch.set_num_threads(1)
    if setting.device.type == "cuda":
        torch.cuda.set_device(0)
    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=PROCESSES)
    torch.save(_weights_after(setting, (rank, PROCESSES)), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def _weights_after(setting: Setting, share: tuple[int, int]) -> dict[str, torch.Tensor]:
    """Weights after some steps with part number share[0] of share[1] of each batch; norms are frozen, because each
    process has statistics of its own images."""
    # Without mining: fresh weights score all background alike, and rounding would choose among it.
    options = ("loss=focal", "model.freeze=norms", "train.precision=fp32", "optim.lr=0.01", "optim.warmup_steps=1")
    config = make_config(setting, *options)
    step = make_step(config, setting, setting.device)
    switch_off_tf32()
    for number in range(STEPS):
        batch = make_batch(config, setting, setting.sizes.images, setting.sizes.objects, CPU, number)
        take_step(step, split_batch(batch, share[1])[share[0]].to(setting.device))
    return {name: value.cpu() for name, value in step.model.state_dict().items()}


def run_marked_tests(setting: Setting) -> Outcome:
    """The tests marked `cuda`, but for those of tests/gpu, which call what is called here."""
    tests = ROOT / "tests"
    if importlib.util.find_spec("pytest") is None:
        return Outcome([], not_run="pytest is not installed; the checks above do not need it")
    marked = [
        path
        for path in sorted(tests.rglob("test_*.py"))
        if path.parent != tests / "gpu" and re.search(r"^@pytest\.mark\.cuda", path.read_text("utf-8"), re.M)
    ]
    if not marked:
        return Outcome([], not_run=f"there are no tests marked cuda in {tests}")
    command = [sys.executable, "-m", "pytest", "-m", "cuda", "-rs", "-p", "no:cacheprovider", *map(str, marked)]
    done = subprocess.run(command, cwd=ROOT, env=_environment(), text=True, capture_output=True, timeout=PATIENCE)
    last = (done.stdout.strip().splitlines() or ["no output"])[-1]
    findings = Findings()
    findings.holds("tests marked cuda", done.returncode == 0, _tail(done.stdout + done.stderr), result=last)
    return findings.outcome()


def _options(setting: Setting, name: str) -> list[str]:
    """Options of a small training on the drawn data set, which is drawn where it is not there yet."""
    data = setting.scratch / "drawn"
    make_synthetic(data, num_train=24, num_val=8, size=(96, 96), seed=0, workers=1)
    return [
        *(f"data={data}", f"run.dir={setting.scratch / 'runs'}", f"run.name={name}", "run.report=false"),
        *("model.width=0.25", "model.input_size=96", "model.weights=none", "train.batch_size=8"),
        *("data.workers=1", "train.save_interval=1", "train.log_interval=2", "--device", setting.device_name),
    ]


def _environment() -> dict[str, str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _start(setting: Setting, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ssdlite", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=setting.scratch,
        env=_environment(),
    )


def _run(setting: Setting, *arguments: str) -> subprocess.CompletedProcess[str]:
    process = _start(setting, *arguments)
    try:
        output = process.communicate(timeout=PATIENCE)[0]
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, output)


def _wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    """Until the first step is saved, or the process has ended."""
    begun = time.monotonic()
    while not path.exists() and process.poll() is None and time.monotonic() - begun < PATIENCE:
        time.sleep(0.005)


def _step_of(path: Path) -> int:
    return int(load_checkpoint(path)["training"]["progress"]["step"]) if path.exists() else 0


def _tail(output: str) -> str:
    return " ".join(output.split())[-800:]
