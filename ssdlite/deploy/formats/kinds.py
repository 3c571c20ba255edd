"""Which formats there are, and what each can hold."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from ssdlite.deploy.metadata import HeadKind
from ssdlite.errors import ConfigError

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
    """Raises ConfigError unless the format has `head` and `precision`, and `path` its suffix."""
    kind = FORMATS[name]
    if head not in kind.heads:
        raise ConfigError(f"--head is {' or '.join(kind.heads)} for {name}, not '{head}'.")
    if precision not in kind.precisions:
        raise ConfigError(f"--precision is {' or '.join(kind.precisions)} for {name}, not '{precision}'.")
    if not path.name.endswith(kind.name_suffix):
        raise ConfigError(
            f"--output ends with {kind.name_suffix} for {name}, which is how its files are known; {path} does not."
        )
