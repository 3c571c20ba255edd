"""Runtimes to export to. A new one is a module with a `Format`, and a line here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ssdlite.errors import CheckpointError, ConfigError
from ssdlite.export.formats.base import Format
from ssdlite.export.formats.coreml import COREML
from ssdlite.export.formats.executorch import EXECUTORCH
from ssdlite.export.formats.litert import LITERT
from ssdlite.export.formats.ncnn import NCNN
from ssdlite.export.formats.openvino import OPENVINO

if TYPE_CHECKING:
    from ssdlite.export.predictor import FilePredictor

FORMATS: dict[str, Format] = {one.name: one for one in (OPENVINO, NCNN, LITERT, EXECUTORCH, COREML)}
"""By name, in the order in which they are listed."""


def format_of(path: Path) -> Format | None:
    """Return the format of a file by its suffix; None for what is none of them."""
    return next((one for one in FORMATS.values() if path.suffix.lower() == one.suffix), None)


def require_choice(kind: Format, path: Path, head: str, precision: str) -> None:
    """Raise ConfigError unless the format has `head` and `precision`, and `path` its suffix."""
    if head not in kind.heads:
        raise ConfigError(f"--head is {' or '.join(kind.heads)} for {kind.name}, not '{head}'.")
    if precision not in kind.precisions:
        raise ConfigError(f"--precision is {' or '.join(kind.precisions)} for {kind.name}, not '{precision}'.")
    if not path.name.endswith(kind.name_suffix):
        raise ConfigError(
            f"--output ends with {kind.name_suffix} for {kind.name}, which is how its files are known; {path} does "
            "not."
        )


def open_file(path: Path, threads: int | None = None) -> FilePredictor:
    """Return the predictor of an exported file, on the CPU; `threads` of it, or as many as its runtime chooses.

    Raises CheckpointError for a file that is missing, broken, not ours or of a format that does not run here, and
    UserError where its runtime is not installed.
    """
    kind = format_of(path)
    if not path.exists():
        raise CheckpointError(f"there is no model file {path}.")
    if kind is None:
        suffixes = ", ".join(one.suffix for one in FORMATS.values())
        raise CheckpointError(f"{path} is no exported file: its suffix is none of {suffixes}.")
    if kind.open is None:
        raise CheckpointError(
            f"{path} cannot be run by ssdlite: {kind.program} is there on {kind.systems} only; use the checkpoint "
            "or its .onnx file."
        )
    from ssdlite.export.predictor import FilePredictor  # here, because it imports onnxruntime

    return FilePredictor(kind.open(path, threads))
