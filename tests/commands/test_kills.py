"""Runs that are killed, as on a cluster: nothing is lost, and nothing differs in the end."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.conftest import TINY, environment_of_children

SOAK = bool(os.environ.get("SSDLITE_SOAK"))
KILLS = 20 if SOAK else 3
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
PATIENCE = 600  # seconds: on a busy machine eight processes take minutes to import PyTorch
TIMING = ("images_per_second", "waiting_for_data")


def options_of(drawn: Path, runs: Path, *more: str) -> list[str]:
    every_step = ["train.log_interval=2", "train.save_interval=1", "train.val_interval=2"]
    return [f"data={drawn}", f"run.dir={runs}", "run.name=run", *TINY, *every_step, *more]


def log_of(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMING} for line in lines]


def assert_same_end(found: Path, expected: Path) -> None:
    for name in ("last.pt", "best.pt"):
        ours, theirs = torch.load(found / name), torch.load(expected / name)
        assert ours["weights"].keys() == theirs["weights"].keys()
        assert all(value.equal(theirs["weights"][key]) for key, value in ours["weights"].items()), name
        assert ours["metrics"] == theirs["metrics"]
    assert log_of(found) == log_of(expected)


def readable(run: Path) -> None:
    """Every file that a reader may open is whole at any moment."""
    for path in run.glob("*.pt"):
        torch.load(path, weights_only=True)
    if (run / "metrics.jsonl").exists():
        lines = (run / "metrics.jsonl").read_text().splitlines()
        for line in lines[:-1]:  # a kill may cut the last one, which the resumed run takes back
            json.loads(line)


def test_a_run_killed_again_and_again_ends_as_one_never_killed(cli, drawn, tmp_path):
    """SIGKILL at random moments of a step; every step saves, so that many of them fall into writing."""
    more = ["train.epochs=40"] if SOAK else ["train.epochs=6"]
    assert cli("train", *options_of(drawn, tmp_path / "whole", *more)).code == 0
    command = [sys.executable, "-m", "ssdlite", "train", *options_of(drawn, tmp_path / "parts", *more)]
    run = tmp_path / "parts" / "run"
    draw = random.Random(0)
    kills = 0
    for _ in range(3 * KILLS):
        begun = [path for path in (run / "last.pt", run / "new.pt") if path.exists()]
        process = subprocess.Popen(
            [*command, *(["--resume"] if begun else ["run.name=run"])],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment_of_children(),
        )
        if kills < KILLS:
            _wait_for_a_step(process, run)
            time.sleep(draw.uniform(0, _wait_for_a_step(process, run)))
            process.kill()
            process.communicate(timeout=PATIENCE)
            kills += process.returncode == -signal.SIGKILL
            readable(run)
        else:
            output = process.communicate(timeout=PATIENCE)[0]
            assert process.returncode == 0, output
        if process.returncode == 0:
            break
    assert kills == KILLS
    assert_same_end(run, tmp_path / "whole" / "run")


def _wait_for_a_step(process: subprocess.Popen, run: Path) -> float:
    """Until the process has trained and saved, or is done -> seconds that it took.

    A kill that comes within as long again falls into the next step, on a processor of any speed.
    """
    before, started = _newest(run), time.monotonic()
    while process.poll() is None and _newest(run) == before:
        time.sleep(0.001)
    return time.monotonic() - started


def _newest(run: Path) -> int:
    try:
        return (run / "last.pt").stat().st_mtime_ns
    except FileNotFoundError:
        return 0


@pytest.fixture
def launch() -> Iterator[Callable[[list[str], list[str]], subprocess.Popen]]:
    """Starts torchrun with arguments and options of a training; nothing of it is left behind."""
    started: list[subprocess.Popen] = []

    def start(arguments: list[str], options: list[str]) -> subprocess.Popen:
        started.append(_torchrun(arguments, options))
        return started[-1]

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _torchrun(arguments: list[str], options: list[str]) -> subprocess.Popen:
    command = [*TORCHRUN, *arguments, "-m", "ssdlite", "train", *options, "--device", "cpu"]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment_of_children(),
        start_new_session=True,
    )


def test_torchrun_goes_on_after_a_worker_was_killed(launch, drawn, tmp_path):
    """With --max-restarts all processes begin again and continue from the last checkpoint."""
    whole, killed = (
        options_of(drawn, tmp_path / name, "train.epochs=4", "train.precision=fp32") for name in ("whole", "killed")
    )
    process = launch(["--standalone", "--nproc_per_node=2"], whole)
    output = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0, output
    process = launch(["--standalone", "--nproc_per_node=2", "--max-restarts=1"], killed)
    run = tmp_path / "killed" / "run"
    while process.poll() is None and not (run / "last-1.pt").exists():
        time.sleep(0.01)
    victims = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    os.kill(int(victims[-1]), signal.SIGKILL)
    output = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0, output
    assert "Resuming" in output
    assert_same_end(run, tmp_path / "whole" / "run")


def test_two_nodes_are_two_processes(launch, drawn, tmp_path):
    """Two agents that meet at an address, as two machines do, give what one agent with two processes gives."""
    one, two = (
        options_of(drawn, tmp_path / name, "train.epochs=1", "train.precision=fp32") for name in ("one", "two")
    )
    single = launch(["--standalone", "--nproc_per_node=2"], one)
    output = single.communicate(timeout=PATIENCE)[0]
    assert single.returncode == 0, output
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    meeting = ["--nnodes=2", "--nproc_per_node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint={address}"]
    nodes = [launch([*meeting, "--rdzv-id=test"], two) for _ in range(2)]
    outputs = [node.communicate(timeout=PATIENCE)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    assert_same_end(tmp_path / "two" / "run", tmp_path / "one" / "run")
