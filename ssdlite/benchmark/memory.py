"""How much memory processes hold."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

Result = TypeVar("Result")

KIB = 1024


def resident_memory(pid: int | str = "self") -> int | None:
    """Bytes that a process has in memory, what it shares with others included; None where that cannot be known."""
    return _field(f"/proc/{pid}/status", "VmRSS")


def proportional_memory(pid: int | str) -> int | None:
    """As `resident_memory`, but of what n processes share each has an nth, so that their sum is the truth."""
    return _field(f"/proc/{pid}/smaps_rollup", "Pss")


def own_memory(pid: int | str) -> int | None:
    """As `resident_memory`, but without anything that is shared: what would be free without the process."""
    parts = [_field(f"/proc/{pid}/smaps_rollup", name) for name in ("Private_Clean", "Private_Dirty")]
    return None if None in parts else sum(part or 0 for part in parts)


def peak_memory() -> int:
    """Bytes that this process had in memory at most.

    From the kernel's mark of this program: getrusage's ru_maxrss, which is for systems without one, begins with the
    memory of the process that started this one.
    """
    peak = _field("/proc/self/status", "VmHWM")
    if peak is not None:
        return peak
    import resource  # not on Windows

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * KIB


def added_memory(work: Callable[[], Result]) -> tuple[Result, int]:
    """The result of `work`, and the bytes that this process held during it at most beyond those before.

    Memory that was freed but kept by the C library serves `work` without being counted: ask in a fresh process.
    """
    with contextlib.suppress(OSError):  # the mark starts again at what is held now
        Path("/proc/self/clear_refs").write_text("5")
    before = resident_memory() or peak_memory()
    result = work()
    return result, max(0, peak_memory() - before)


class TrainingMemory(NamedTuple):
    """Bytes at most."""

    process: int  # of the main memory
    device: int | None  # of the GPU's memory, for tensors; None without a GPU
    reserved: int | None  # as `device`, with what PyTorch keeps for later


def training_memory(device: torch.device) -> TrainingMemory:
    """What this process needed so far."""
    if device.type != "cuda":
        return TrainingMemory(peak_memory(), None, None)
    return TrainingMemory(
        peak_memory(), torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
    )


def _field(path: str, name: str) -> int | None:
    """A figure in kB of a file of /proc, in bytes; None if it is not there."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found: list[Any] = [line.split() for line in lines if line.startswith(f"{name}:")]
    return int(found[0][1]) * KIB if found else None
