"""Running tasks in a process that may crash or hang without harm to those that follow."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, TypeAlias

from ssdlite.benchmark.gpu.tasks import (
    Outcome,
    Row,
    Setting,
    Status,
    Task,
    is_out_of_memory,
    loses_device,
    short_trace,
)

MakeTasks: TypeAlias = Callable[[Setting], Sequence[Task]]

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
