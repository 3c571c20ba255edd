"""Registry of the runtimes by the suffix of a file."""

from __future__ import annotations

from pathlib import Path

from ssdlite.errors import CheckpointError
from ssdlite.export.formats.base import FORMATS, format_of
from ssdlite.export.predictor import FilePredictor, Runtime


def open_file(path: Path, threads: int | None = None) -> FilePredictor:
    """The predictor of an exported file, on the CPU; `threads` of it, or as many as its runtime chooses if None.

    Raises CheckpointError for a file that is missing, broken, not ours or of a format that does not run here, and
    UserError where its runtime is not installed.
    """
    name = format_of(path)
    if not path.exists():
        raise CheckpointError(f"there is no model file {path}.")
    runtime: Runtime
    match name:
        case "openvino":
            from ssdlite.export.formats.openvino import OpenVinoRuntime

            runtime = OpenVinoRuntime(path, threads)
        case "ncnn":
            from ssdlite.export.formats.ncnn import NcnnRuntime

            runtime = NcnnRuntime(path, threads)
        case "litert":
            from ssdlite.export.formats.litert import LiteRtRuntime

            runtime = LiteRtRuntime(path, threads)
        case "executorch":
            from ssdlite.export.formats.executorch import ExecuTorchRuntime

            runtime = ExecuTorchRuntime(path, threads)
        case "coreml":
            raise CheckpointError(
                f"{path} cannot be run by ssdlite: Core ML is there on Apple's systems only; use the checkpoint "
                "or its .onnx file."
            )
        case None:
            suffixes = ", ".join(kind.suffix for kind in FORMATS.values())
            raise CheckpointError(f"{path} is no exported file: its suffix is none of {suffixes}.")
    return FilePredictor(runtime)
