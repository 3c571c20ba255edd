"""Converters print progress from Python and C++ alike; people see it only when one of them fails."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator

from ssdlite.errors import CheckpointError, UserError
from ssdlite.files import one_line

_alone = threading.RLock()  # what is printed belongs to the process: threads take turns

STREAMS = (1, 2)  # standard output and error, also of C++ code and of other programs


@contextlib.contextmanager
def quietly(work: str) -> Iterator[None]:
    """Nothing of what is printed or logged inside reaches the screen.

    Raises CheckpointError, which begins with `work`, for whatever is raised inside but a UserError: the exceptions
    of converters have no common base.
    """
    try:
        with _alone, _muted():
            yield
    except UserError:
        raise
    except Exception as error:
        raise CheckpointError(f"{work} failed: {one_line(_last_cause(error), 300)}") from error


@contextlib.contextmanager
def _muted() -> Iterator[None]:
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = {stream: os.dup(stream) for stream in STREAMS}
    try:
        with (
            tempfile.TemporaryFile() as sink,
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),  # which need not be that of the process: a notebook's is not
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            for stream in STREAMS:
                os.dup2(sink.fileno(), stream)
            yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for stream, copy in kept.items():
            os.dup2(copy, stream)
            os.close(copy)
        logging.disable(disabled)


def _last_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip() or type(error).__name__
