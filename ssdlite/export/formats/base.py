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
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from ssdlite.errors import CheckpointError, ConfigError, UserError
from ssdlite.export.metadata import HeadKind
from ssdlite.io import one_line

FormatName: TypeAlias = Literal["openvino", "ncnn", "litert", "executorch", "coreml"]


WeightPrecision: TypeAlias = Literal["fp32", "fp16"]


class Format(NamedTuple):
    """A kind of file. Its name is also that of the extra that installs what it needs."""

    program: str  # what runs the file, as people call it
    suffix: str  # of the file that stands for all
    name_suffix: str  # that a file gets by default
    heads: tuple[HeadKind, ...]  # the first is the default
    precisions: tuple[WeightPrecision, ...]  # of the weights; likewise
    runs_here: bool = True  # whether ssdlite can run it


FORMATS: dict[FormatName, Format] = {
    "openvino": Format("OpenVINO", ".xml", ".xml", ("decoded", "raw"), ("fp32", "fp16")),
    # Decoding takes operators that pnnx leaves as they are; ncnn's own examples decode in C++ as well.
    "ncnn": Format("ncnn", ".param", ".ncnn.param", ("raw",), ("fp32", "fp16")),
    "litert": Format("LiteRT", ".tflite", ".tflite", ("decoded", "raw"), ("fp32",)),
    "executorch": Format("ExecuTorch", ".pte", ".pte", ("decoded", "raw"), ("fp32",)),
    "coreml": Format("Core ML", ".mlpackage", ".mlpackage", ("decoded", "raw"), ("fp32", "fp16"), runs_here=False),
}


def format_of(path: Path) -> FormatName | None:
    """The format of a file by its suffix; None for what is none of them."""
    return next((name for name, kind in FORMATS.items() if path.suffix.lower() == kind.suffix), None)


def require_choice(name: FormatName, path: Path, head: str, precision: str) -> None:
    """Raise ConfigError unless the format has `head` and `precision`, and `path` its suffix."""
    kind = FORMATS[name]
    if head not in kind.heads:
        raise ConfigError(f"--head is {' or '.join(kind.heads)} for {name}, not '{head}'.")
    if precision not in kind.precisions:
        raise ConfigError(f"--precision is {' or '.join(kind.precisions)} for {name}, not '{precision}'.")
    if not path.name.endswith(kind.name_suffix):
        raise ConfigError(
            f"--output ends with {kind.name_suffix} for {name}, which is how its files are known; {path} does not."
        )


MODULES: dict[FormatName, tuple[str, ...]] = {
    "openvino": ("openvino",),
    "ncnn": ("ncnn", "pnnx"),
    "litert": ("litert_torch", "ai_edge_litert"),
    "executorch": ("executorch",),
    "coreml": ("coremltools",),
}
"""Packages that a format needs to be written and run."""


def is_installed(name: FormatName) -> bool:
    """Return whether a format can be written and run here. Nothing is imported."""
    return all(importlib.util.find_spec(module) is not None for module in MODULES[name])


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
