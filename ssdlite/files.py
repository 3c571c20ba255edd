"""Writing files whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from ssdlite.errors import UserError


def require_writable(path: Path) -> None:
    """Raises UserError if a file cannot be written at `path`; makes its folder. Asked before long work."""
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder; name a file.")
    probe = path.with_name(f".{path.name}.{os.getpid()}.probe")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}.") from None


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text to a temporary file beside `path` and rename it; makes the folders.

    Raises UserError where that is not possible.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}.") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
