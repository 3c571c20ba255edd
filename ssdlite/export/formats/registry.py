"""Runtimes to export to. A new one is a module with a `Runtime`, and a line here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ssdlite.errors import CheckpointError, ConfigError
from ssdlite.export.formats.base import Runtime
from ssdlite.export.formats.coreml import COREML
from ssdlite.export.formats.executorch import EXECUTORCH
from ssdlite.export.formats.litert import LITERT
from ssdlite.export.formats.ncnn import NCNN
from ssdlite.export.formats.openvino import OPENVINO

if TYPE_CHECKING:
    from ssdlite.export.predictor import FilePredictor

RUNTIMES: dict[str, Runtime] = {one.name: one for one in (OPENVINO, NCNN, LITERT, EXECUTORCH, COREML)}
"""By name, in the order in which they are listed."""


def runtime_of(path: Path) -> Runtime | None:
    """Return the runtime that a file is for, by its suffix; None where it is for none of them."""
    return next((one for one in RUNTIMES.values() if path.suffix.lower() == one.suffix), None)


def require_choice(runtime: Runtime, path: Path, head: str, precision: str) -> None:
    """Raise ConfigError unless the runtime takes `head` and `precision`, and `path` has its suffix."""
    if head not in runtime.heads:
        raise ConfigError(f"--head is {' or '.join(runtime.heads)} for {runtime.name}, not '{head}'.")
    if precision not in runtime.precisions:
        raise ConfigError(
            f"--precision is {' or '.join(runtime.precisions)} for {runtime.name}, not '{precision}'."
        )
    if not path.name.endswith(runtime.name_suffix):
        raise ConfigError(
            f"--output ends with {runtime.name_suffix} for {runtime.name}, which is how its files are known; "
            f"{path} does not."
        )


def open_file(path: Path, threads: int | None = None) -> FilePredictor:
    """Return the predictor of an exported file, on the CPU; `threads` of it, or as many as its runtime chooses.

    Raises CheckpointError for a file that is missing, broken, not ours or for a runtime that is not there on this
    system, and UserError where its runtime is not installed.
    """
    runtime = runtime_of(path)
    if not path.exists():
        raise CheckpointError(f"there is no model file {path}.")
    if runtime is None:
        suffixes = ", ".join(one.suffix for one in RUNTIMES.values())
        raise CheckpointError(f"{path} is no exported file: its suffix is none of {suffixes}.")
    if runtime.open is None:
        raise CheckpointError(
            f"{path} cannot be run by ssdlite: {runtime.program} is there on {runtime.systems} only; use the "
            "checkpoint or its .onnx file."
        )
    from ssdlite.export.predictor import FilePredictor  # here, because it imports onnxruntime

    return FilePredictor(runtime.open(path, threads))
