"""Checkpoints: plain tensors, strings and numbers, written whole or not at all, with the states of all random
generators.

A run keeps `last.pt` and the ones before it; reading takes the newest that is whole.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import zipfile
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ssdlite.errors import CheckpointError
from ssdlite.io import load_tensors, quoted, require_regular


def random_state() -> dict[str, Any]:
    """Return the states of the random generators of Python, NumPy and PyTorch, on every GPU, as a checkpoint may
    hold them."""
    import torch

    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys, np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Continue where `random_state` was asked; a GPU more or less than then starts anew."""
    import torch

    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


logger = logging.getLogger(__name__)


SCHEMA = 1


MAX_KEPT = 100  # checkpoints of one run to resume from


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint of this schema. Raises as `write_whole`."""
    write_whole(path, {"schema": SCHEMA, **content})


def save_newest(run_dir: Path, content: dict[str, Any], *, keep: int) -> None:
    """Write `last.pt` and keep the ones before it as last-1.pt (the youngest) to last-{keep - 1}.pt.

    Raises as `write_whole`.
    """
    younger = run_dir / "new.pt"
    save_checkpoint(younger, content)  # first, so that a full disk leaves all others where they are
    names = [run_dir / name for name in _names(keep)]
    try:
        for name, older in reversed(list(pairwise(names))):
            if name.exists():
                name.replace(older)
        younger.replace(names[0])
    except OSError as error:
        raise CheckpointError(f"cannot rename {younger} ({error}), the newest checkpoint; it is whole.") from None
    _flush_folder(run_dir)


def load_newest(run_dir: Path) -> dict[str, Any]:
    """The newest checkpoint of a run that can be read, with a warning for each that cannot.

    Raises CheckpointError where there is none.
    """
    paths = [path for path in (run_dir / "new.pt", *map(run_dir.joinpath, _names(MAX_KEPT))) if path.exists()]
    if not paths:
        raise CheckpointError(f"there is nothing to resume: {run_dir / 'last.pt'} does not exist.")
    for path, older in zip(paths, [*paths[1:], None], strict=True):
        try:
            content = load_checkpoint(path)
            if "training" not in content:
                raise CheckpointError(f"{path} holds weights, but no training to resume.")
            return content
        except CheckpointError as error:
            if older is None:
                raise
            logger.warning("%s Resuming from %s, which is older.", error, older)
    raise AssertionError("the last path either loads or raises")


def has_newest(run_dir: Path) -> bool:
    """Return whether there is anything that `load_newest` would look at."""
    return any((run_dir / name).exists() for name in ("new.pt", *_names(MAX_KEPT)))


def _names(keep: int) -> list[str]:
    return ["last.pt", *(f"last-{number}.pt" for number in range(1, keep))]


def _flush_folder(folder: Path) -> None:
    """Put renames on the disk, where the system has a way to say so."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_whole(path: Path, content: Any) -> None:
    """`torch.save` to a temporary file, flush it to the disk, rename. A kill leaves the old file whole.

    Raises CheckpointError where that is not possible, such as on a full disk.
    """
    import torch

    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _flush_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch.save turns a failed write into a RuntimeError
        raise CheckpointError(f"cannot write {path} ({error}); what was there before is whole.") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def require_checkpoint_file(path: Path) -> None:
    """Raise CheckpointError unless a file that can be opened is at `path`."""
    try:
        require_regular(path)
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint {path}.") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path} is a folder; name the file in it, such as {path / 'best.pt'}.") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be opened: {error.strerror}.") from None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU without running any code that it may carry.

    Raises CheckpointError for a missing, broken or foreign file.
    """
    require_checkpoint_file(path)
    try:
        if zipfile.is_zipfile(path):  # as PyTorch writes it since 1.6
            with zipfile.ZipFile(path) as archive:  # torch.load does not look at the checksums
                if archive.testzip():
                    raise zipfile.BadZipFile
        content = load_tensors(path)
    except PermissionError:
        raise CheckpointError(f"{path} may not be read; change its permissions.") from None
    except Exception:  # a damaged pickle can raise any
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint: it is truncated, of another program, or holds code."
        ) from None
    schema = content.get("schema") if isinstance(content, dict) else None
    if type(schema) is not int or schema != SCHEMA:
        raise CheckpointError(
            f"{path} is not a checkpoint of ssdlite (schema {SCHEMA}); make one of another program's with "
            "'ssdlite import-checkpoint'."
        )
    for key, is_right in _PARTS.items():
        if key in content and not is_right(content[key]):
            raise CheckpointError(
                f"{path} is damaged: its {key} are not what a checkpoint holds; use another copy."
            )
    return content


def _is_named(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


_PARTS: dict[str, Callable[[Any], bool]] = {
    "config": _is_named,
    "classes": lambda value: isinstance(value, list | tuple) and all(isinstance(name, str) for name in value),
    "weights": lambda value: _is_named(value) and all(map(_is_tensor, value.values())),
    "metrics": _is_named,
    "training": _is_named,
}


MAY_CHANGE = (
    *("data.workers", "data.cache_dir", "data.path", "data.draw"),
    *("eval.", "run.", "train.log_interval", "train.val_interval", "train.save_interval", "train.keep"),
    "train.on_nonfinite",
)
"""Options that a resumed run may change without becoming another run."""


def require_same_run(checkpoint: Mapping[str, Any], header: Mapping[str, Any]) -> None:
    """Raise CheckpointError if `header` (config, classes) asks for another training than `checkpoint` is of."""
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
                f"{name} is {quoted(new.get(name))}, but {quoted(old.get(name))} in the run to resume; --resume "
                "continues the same run, so leave it as it was, or start a new run."
            )


def _by_dotted_name(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in node.items():
        flat |= _by_dotted_name(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat
