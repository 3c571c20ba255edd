"""Tasks of the GPU benchmark, their sizes and outcomes, each run in a process that may crash or hang without harm
to others.
"""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

STARTING = 120.0  # seconds in which a process has to be there


DRY_PATIENCE = 4  # times the limits, on a CPU that may have other things to do


LEAST = 5.0  # seconds; with less left nothing is begun


class Result(NamedTuple):
    """A task that was run, or should have been."""

    task: Task
    status: Status
    seconds: float
    rows: list[Row]
    problems: list[str]


def run_tasks(
    make_tasks: MakeTasks, setting: Setting, names: Sequence[str], *, budget: float, isolated: bool = True
) -> Iterator[Result]:
    """The results of the tasks of `names`, in their order, within `budget` seconds all together.

    Args:
        make_tasks: a function of a module, since the other process calls it again.
        isolated: run them in another process, which is started anew when one crashes, hangs or wants to be alone.
    """
    deadline = time.monotonic() + budget
    runner = _Process(make_tasks, setting) if isolated else None
    try:
        for number, task in enumerate(make_tasks(setting)):
            if task.name not in names:
                continue
            left = deadline - time.monotonic()
            if left < LEAST:
                problem = "the time of this part was up; run it alone with --only"
                yield Result(task, "not run", 0.0, [], [problem])
                continue
            start = time.monotonic()
            limit = min(task.seconds * (DRY_PATIENCE if setting.dry_run else 1), left)
            status, outcome = runner.run(number, task, limit) if runner else attempt(task, setting)[:2]
            yield Result(task, status, time.monotonic() - start, outcome.rows, outcome.problems)
    finally:
        if runner:
            runner.end()


def attempt(task: Task, setting: Setting) -> tuple[Status, Outcome, bool]:
    """Run a task in this process -> what came of it, and whether the process can still use its device."""
    try:
        outcome = task.work(setting)
    except Exception as error:
        status: Status = "out of memory" if is_out_of_memory(error) and not task.is_check else "crashed"
        return status, Outcome([], [short_trace(error)]), not loses_device(error)
    if outcome.not_run:
        return "not run", Outcome(outcome.rows, [outcome.not_run]), True
    if outcome.problems:
        return "failed", outcome, True
    return ("passed" if task.is_check else "measured"), outcome, True


class _Process:
    """Another process that runs tasks by their number. It leads a group of its own, which is ended as a whole."""

    def __init__(self, make_tasks: MakeTasks, setting: Setting) -> None:
        self.make_tasks, self.setting = make_tasks, setting
        self.process: Any = None
        self.connection: Connection | None = None
        self.used = False

    def run(self, number: int, task: Task, limit: float) -> tuple[Status, Outcome]:
        if task.fresh and self.used:
            self.end()
        if self.process is None:
            self._start()
        assert self.connection is not None
        self.used = True
        try:
            if not self.connection.poll(STARTING):  # it says when it is there
                self.end()
                return "crashed", Outcome([], [f"a process did not start within {STARTING:.0f} s"])
            self.connection.recv()
            self.connection.send(number)
            if not self.connection.poll(limit):
                self.end()
                return "timed out", Outcome([], [f"not done after {limit:.0f} s; it was ended"])
            status, outcome, usable = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(5)
            code = self.process.exitcode
            self.end()
            return "crashed", Outcome([], [f"the process died (exit code {code})"])
        if not usable:
            self.end()
        return status, outcome

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, self.make_tasks, self.setting))
        self.process.start()
        theirs.close()
        self.used = False

    def end(self) -> None:
        if self.process is None:
            return
        assert self.connection is not None
        self.connection.close()
        self.process.join(2)  # it leaves by itself when there is nobody to talk to
        try:
            os.killpg(self.process.pid, signal.SIGKILL)  # with whatever it started
        except (ProcessLookupError, PermissionError):
            if self.process.is_alive():
                self.process.kill()
        self.process.join()
        self.process = self.connection = None


def _serve(connection: Connection, make_tasks: MakeTasks, setting: Setting) -> None:
    """Say "ready", run the task that is asked for, answer, and again."""
    os.setpgid(0, 0)
    logging.getLogger("ssdlite").setLevel(logging.ERROR)  # advice is for trainings
    tasks = make_tasks(setting)
    try:
        while True:
            connection.send("ready")
            number = connection.recv()
            connection.send(attempt(tasks[number], setting))
    except (EOFError, ConnectionError):  # there is nobody any more
        return


Row: TypeAlias = dict[str, Any]
"""A line of a table: column -> string, number, bool or None."""


Status: TypeAlias = Literal["passed", "failed", "measured", "crashed", "timed out", "out of memory", "not run"]


class Sizes(NamedTuple):
    """Sizes of everything that is checked and measured."""

    side: int  # of the network's input, pixels
    width: float  # multiplier of the network's channels
    classes: int
    images: int  # of a batch of a check
    objects: int  # of an image of a check, at most
    matchings: int  # random batches that both matchers work on
    epochs: int  # of the runs of the command line
    copy_bytes: int  # of the copy that measures bandwidth
    matrix: int  # side of the matrices that measure arithmetic
    convolved: int  # images of a batch of the depthwise convolutions
    batches: tuple[int, ...]  # images of a training step
    most_objects: tuple[int, ...]  # of an image of such a batch; targets are padded to it
    modes: tuple[str, ...]  # of torch.compile
    steps: int  # timed in a row
    photos: int  # drawn, to train on from end to end
    loaded_batch: int  # images of a step from end to end
    seconds: float  # that training from end to end is timed
    workers: tuple[int, ...]  # loader processes
    validated: int  # images of a validation
    eval_batch: int
    scored: int  # images whose AP is computed


FULL = Sizes(
    side=320,
    width=1.0,
    classes=80,
    images=8,
    objects=12,
    matchings=1000,
    epochs=30,
    copy_bytes=1 << 30,
    matrix=8192,
    convolved=192,
    batches=(32, 192, 512),
    most_objects=(16, 60),
    modes=("none", "reduce-overhead", "default"),
    steps=30,
    photos=768,
    loaded_batch=192,
    seconds=8.0,
    workers=(8, 14),
    validated=4096,
    eval_batch=64,
    scored=5000,
)


DRY = Sizes(
    side=96,
    width=0.25,
    classes=5,
    images=8,
    objects=6,
    matchings=20,
    epochs=6,
    copy_bytes=1 << 20,
    matrix=64,
    convolved=2,
    batches=(2, 4),
    most_objects=(3, 7),
    modes=("none",),  # compiling takes minutes on a CPU
    steps=2,
    photos=8,
    loaded_batch=4,
    seconds=0.1,
    workers=(0, 1),
    validated=16,
    eval_batch=4,
    scored=8,
)


class Setting(NamedTuple):
    """Setting that every task receives; it travels to other processes."""

    device_name: str  # cuda or cpu
    dry_run: bool
    scratch: Path  # a folder for files that nobody needs afterwards
    sizes: Sizes
    compile_mode: str = "none"  # of training from end to end

    @property
    def device(self) -> torch.device:
        return torch.device(self.device_name)


class Outcome(NamedTuple):
    """Outcome of a task."""

    rows: list[Row]
    problems: list[str] = []  # noqa: RUF012  # never changed; a sentence for whatever is wrong
    not_run: str = ""  # why there was nothing to do


class Task(NamedTuple):
    """A check, which passes or fails, or a measurement."""

    name: str
    work: Callable[[Setting], Outcome]
    seconds: float  # after which it is ended
    is_check: bool = False
    table: str = ""  # that its rows belong to; its name unless said
    fresh: bool = False  # in a process in which nothing ran before


MakeTasks: TypeAlias = Callable[[Setting], Sequence[Task]]


class TaskResults:
    """Collects what a check compares. One case that raises does not keep the others from running."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.problems: list[str] = []

    def close(
        self, case: str, found: Tensor, expected: Tensor, *, tolerance: float = 1e-4, share: float = 0.0
    ) -> None:
        """Both tensors are alike.

        Args:
            tolerance: allowed difference of an element, in units of the largest expected magnitude.
            share: of the elements that may differ by more, for decisions that rounding turns over.
        """
        found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
        if found.shape != expected.shape:
            self.wrong(case, f"shape {tuple(found.shape)} in place of {tuple(expected.shape)}")
            return
        scale = max(expected.abs().max().item() if expected.numel() else 0.0, 1e-12)
        apart = (found - expected).abs() / scale
        beyond = (~(apart <= tolerance)).double().mean().item() if apart.numel() else 0.0  # NaN is beyond
        largest = apart.max().item() if apart.numel() else 0.0
        self.rows.append(
            {"case": case, "largest difference": largest, "allowed": tolerance, "share beyond": beyond}
        )
        if beyond > share or not math.isfinite(scale):
            self.problems.append(
                f"{case}: {beyond:.2%} of the values differ by more than {tolerance:g} of the largest "
                f"(the most by {largest:.2g}; {share:.2%} may)"
            )

    def equal(self, case: str, found: Tensor, expected: Tensor, *, share: float = 0.0) -> None:
        """Both tensors are the same, but for a `share` of their elements."""
        found, expected = found.detach().cpu(), expected.detach().cpu()
        if found.shape != expected.shape or found.dtype != expected.dtype:
            self.wrong(
                case,
                f"{found.dtype} {tuple(found.shape)} in place of {expected.dtype} {tuple(expected.shape)}",
            )
            return
        differing = (found != expected).double().mean().item() if found.numel() else 0.0
        self.rows.append({"case": case, "share that differs": differing})
        if differing > share:
            self.problems.append(f"{case}: {differing:.2%} of the values differ ({share:.2%} may)")

    def holds(self, case: str, condition: bool, otherwise: str, **numbers: Any) -> None:
        """`condition` is true; `otherwise` says what it is if not."""
        self.rows.append({"case": case, **numbers})
        if not condition:
            self.problems.append(f"{case}: {otherwise}")

    def wrong(self, case: str, reason: str) -> None:
        self.rows.append({"case": case})
        self.problems.append(f"{case}: {reason}")

    @contextmanager
    def case(self, name: str) -> Iterator[None]:
        """Whatever is raised inside is a problem of `name`, unless the device is lost by it."""
        try:
            yield
        except Exception as error:
            if loses_device(error):
                raise
            self.wrong(name, short_trace(error))

    def outcome(self) -> Outcome:
        return Outcome(self.rows, self.problems)


def loses_device(error: BaseException) -> bool:
    """Return whether no process can go on using the GPU after `error`."""
    text = str(error)
    return "CUDA error" in text or "device-side assert" in text or "CUBLAS_STATUS_EXECUTION_FAILED" in text


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the GPU has no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error)


def short_trace(error: BaseException) -> str:
    """The error, and the lines of ours that led to it, the innermost first."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "ssdlite" in frame.filename]
    ours = [f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}" for frame in reversed(frames)]
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:600]}" + (f" ({', '.join(ours[:4])})" if ours else "")
