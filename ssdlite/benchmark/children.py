"""Objects that live in processes of their own, so that neither memory nor settings of one reach another.

Starting one imports everything anew, which takes seconds. Forked ones start at once from a process that has
imported it already; of libraries that they share with it they count only what they touch.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, TypeVar

from ssdlite.errors import UserError

Result = TypeVar("Result")


PRELOADED = ["ssdlite.build", "torchvision.models.detection"]


PATIENCE = 5.0  # seconds for a child to end by itself


class Child:
    """`make(*arguments)` in another process; `call` calls its methods there. All that passes is pickled.

    Args:
        threads: of PyTorch in the child; None leaves it to PyTorch.
        forked: start at once, see above.
    """

    def __init__(
        self, make: Callable[..., Any], *arguments: Any, threads: int | None = None, forked: bool = False
    ) -> None:
        can_fork = "forkserver" in multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("forkserver" if forked and can_fork else "spawn")
        if forked and can_fork:
            context.set_forkserver_preload(PRELOADED)
        own_method = multiprocessing.get_start_method()
        self.connection, theirs = context.Pipe()
        # Not a daemon: those may not have loader processes.
        self.process = context.Process(target=_serve, args=(theirs, make, arguments, threads, own_method))  # type: ignore[attr-defined]
        # Ctrl-C reaches all processes; ours answers it and ends the others, which ignore it from their start on.
        answer = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            self.process.start()
        finally:
            signal.signal(signal.SIGINT, answer)
        theirs.close()
        try:
            self._receive()
        except BaseException:
            self.close(at_once=True)
            raise

    def call(self, method: str, *arguments: Any) -> Any:
        """Return the result of the object's method. Raises its UserError, RuntimeError for other errors."""
        self.connection.send((method, arguments))
        return self._receive()

    def close(self, *, at_once: bool = False) -> None:
        """End the process."""
        self.connection.close()
        if not at_once:
            self.process.join(PATIENCE)
        for end in (self.process.terminate, self.process.kill):
            if self.process.is_alive():
                end()
                self.process.join(PATIENCE)

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(at_once=kind is not None)

    def _receive(self) -> Any:
        try:
            outcome, error = self.connection.recv()
        except EOFError:
            self.process.join(PATIENCE)
            raise UserError(
                f"a process of the benchmark died (exit code {self.process.exitcode}); if memory ran out, lower "
                "train.batch_size."
            ) from None
        if error is not None:
            raise error
        return outcome


def in_child(
    function: Callable[..., Result], *arguments: Any, threads: int | None = None, forked: bool = False
) -> Result:
    """`function(*arguments)` in a process of its own."""
    with Child(_Caller, function, threads=threads, forked=forked) as child:
        result: Result = child.call("run", *arguments)
        return result


class _Caller:
    def __init__(self, function: Callable[..., Any]) -> None:
        self.run = function


def _serve(
    connection: Connection,
    make: Callable[..., Any],
    arguments: tuple[Any, ...],
    threads: int | None,
    own_method: str,
) -> None:
    """Make the object and answer calls until the other end is closed."""
    # By now it is the one that this process was started by; loader processes start as they do in a training.
    multiprocessing.set_start_method(own_method, force=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # which ends loader processes too
    with contextlib.suppress(BrokenPipeError):
        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        made, outcome = _attempt(make, arguments)
        connection.send((None, outcome))
        while outcome is None:
            try:
                method, passed = connection.recv()
            except EOFError:
                return
            connection.send(_attempt(getattr(made, method), passed))


def _attempt(work: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, Exception | None]:
    """The result or the error. Errors of others may not survive being pickled, so their text is sent."""
    try:
        return work(*arguments), None
    except UserError as error:
        return None, error
    except Exception:
        return None, RuntimeError(f"in a process of the benchmark:\n{traceback.format_exc()}")
