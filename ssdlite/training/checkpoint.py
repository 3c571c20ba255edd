"""Checkpoints: plain tensors, strings and numbers, written whole or not at all.

schema    1
config    the resolved options, a dict
classes   names, in the order of the labels
weights   the Detector's state that is validated and shipped (the average, if there is one)
metrics   of the last validation, or {}
training  what a resumed run needs (in last.pt only)
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ssdlite.errors import CheckpointError

SCHEMA = 1


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint of this schema. Raises as `write_whole`."""
    write_whole(path, {"schema": SCHEMA, **content})


def write_whole(path: Path, content: Any) -> None:
    """`torch.save` to a temporary file, flush it to the disk, rename. A kill leaves the old file whole.

    Raises CheckpointError where that is not possible, such as on a full disk.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch.save turns a failed write into a RuntimeError
        raise CheckpointError(f"cannot write {path} ({error}); what was there before is whole.") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU without running any code that it may carry.

    Raises CheckpointError for a missing, broken or foreign file.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint {path}.") from None
    except PermissionError:
        raise CheckpointError(f"{path} may not be read; change its permissions.") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path} is a folder; name the file in it, such as {path / 'best.pt'}.") from None
    except Exception:  # a damaged pickle can raise any
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint: it is truncated, of another program, or holds code."
        ) from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise CheckpointError(
            f"{path} is not a checkpoint of ssdlite (schema {SCHEMA}); make one of another program's with "
            "'ssdlite import-checkpoint'."
        )
    return content


MAY_CHANGE = (
    *("data.workers", "data.cache_dir", "data.path", "data.draw"),
    *("eval.", "run.", "train.log_interval", "train.val_interval"),
)
"""Options that a resumed run may change without becoming another run."""


def require_same_run(checkpoint: Mapping[str, Any], header: Mapping[str, Any]) -> None:
    """Raises CheckpointError if `header` (config, classes) asks for another training than `checkpoint` is of."""
    if list(checkpoint["classes"]) != list(header["classes"]):
        raise CheckpointError(
            f"the run to resume has the classes {', '.join(checkpoint['classes'])}, but the data has "
            f"{', '.join(header['classes'])}; resume with the data it was trained on."
        )
    old, new = _by_dotted_name(checkpoint["config"]), _by_dotted_name(header["config"])
    names = old.keys() | new.keys()
    for name in sorted(names, key=lambda name: (not name.endswith(".kind"), name)):  # what explains the rest first
        if old.get(name) != new.get(name) and not name.startswith(MAY_CHANGE):
            raise CheckpointError(
                f"{name} is {new.get(name)!r}, but {old.get(name)!r} in the run to resume; --resume continues the "
                "same run, so leave it as it was, or start a new run."
            )


def _by_dotted_name(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in node.items():
        flat |= _by_dotted_name(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat
