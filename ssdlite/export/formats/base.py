"""Formats of other runtimes: what each can hold, the packages it needs, and silence while a converter runs."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import logging
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssdlite.errors import CheckpointError, UserError
from ssdlite.export.metadata import HeadKind, WeightPrecision
from ssdlite.io import one_line

if TYPE_CHECKING:
    from ssdlite.export.formats.conversion import Conversion
    from ssdlite.export.predictor import Runtime


@dataclass(frozen=True)
class Format:
    """A runtime to export to: its files, and how they are written and opened.

    To add one: a module with a `Format`, and its place in `registry.FORMATS`. The module imports the runtime's
    packages inside its functions only, by `load_package`.
    """

    name: str  # word of the command line, and of the extra that installs its packages
    program: str  # what runs the file, as people call it
    suffix: str  # of the file that stands for all
    heads: tuple[HeadKind, ...]  # the first is the default
    precisions: tuple[WeightPrecision, ...]  # of the weights; likewise
    modules: tuple[str, ...]  # packages that it needs to be written and run
    distributions: tuple[str, ...]  # packages whose versions are noted in the sidecar
    convert: Callable[[Conversion, Path], dict[str, str]]
    """Write the file at a path, with what belongs to it beside it, and return the metadata for the sidecar."""
    open: Callable[[Path, int | None], Runtime] | None
    """Open a file on the CPU with a number of threads; None for a format that does not run here."""
    file_suffix: str = ""  # that a file gets by default, where it is longer than `suffix`
    systems: str = "other systems"  # where it runs if not here, as messages call them

    @property
    def name_suffix(self) -> str:
        """Suffix that a file gets by default."""
        return self.file_suffix or self.suffix

    @property
    def runs_here(self) -> bool:
        """True for a format that ssdlite can run."""
        return self.open is not None

    @property
    def is_installed(self) -> bool:
        """True where it can be written and run here. Nothing is imported."""
        return all(importlib.util.find_spec(module) is not None for module in self.modules)


def load_package(module: str, extra: str) -> Any:
    """Import `module`. Raises UserError with the command that installs it, or with what is wrong with it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        root = module.split(".")[0]
        if isinstance(error, ModuleNotFoundError) and error.name is not None and error.name.split(".")[0] == root:
            raise UserError(f"{root} is not installed; run: pip install 'ssdlite[{extra}]'") from None
        raise UserError(f"{root} is installed but cannot be imported ({error}); install it anew.") from None


def versions_of(*distributions: str) -> dict[str, str]:
    """The installed ones with their versions."""
    found = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


_alone = threading.RLock()  # what is printed belongs to the process: threads take turns


STREAMS = (1, 2)  # standard output and error, also of C++ code and of other programs


@contextlib.contextmanager
def suppress_output(work: str) -> Iterator[None]:
    """Keep what is printed or logged inside off the screen.

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
