"""Clocks and the rows of a table of measurements, times and memory alike."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch

Clock: TypeAlias = Callable[[], float]
"""Seconds since some moment."""


Reading: TypeAlias = Callable[[], float]
"""Does a piece of work and says how many seconds it took."""


class Timing(NamedTuple):
    """Many readings of one thing: seconds, or quotients of seconds."""

    median: float
    low: float  # first quartile
    high: float  # third quartile
    runs: int

    @classmethod
    def of(cls, readings: Sequence[float]) -> Timing:
        """Return the summary of one reading or more; quantiles are interpolated between two."""
        median, low, high = (quantile(readings, share) for share in (0.5, 0.25, 0.75))
        return cls(median, low, high, len(readings))


def quantile(readings: Sequence[float], share: float) -> float:
    """Return the reading that `share` of all are not above, interpolated between two."""
    return float(np.quantile(readings, share))


def measure(
    work: Callable[[], Any],
    *,
    warmup: int = 1,
    runs: int = 5,
    min_seconds: float = 0.0,
    synchronize: Callable[[], None] | None = None,
    clock: Clock = time.perf_counter,
) -> list[float]:
    """Seconds of each run of `work`: `runs` of them, and more until they have lasted `min_seconds` together.

    `warmup` runs before them do not count. `synchronize` waits for a device that works on by itself.
    """
    once = reading(work, synchronize=synchronize, clock=clock)
    for _ in range(warmup):
        once()
    readings: list[float] = []
    while len(readings) < runs or sum(readings) < min_seconds:
        readings.append(once())
    return readings


def reading(
    work: Callable[[], Any],
    *,
    repeats: int = 1,
    synchronize: Callable[[], None] | None = None,
    clock: Clock = time.perf_counter,
) -> Reading:
    """The mean of `repeats` runs of `work` on end, so that a device may work while the next is prepared."""

    def read() -> float:
        if synchronize:
            synchronize()
        start = clock()
        for _ in range(repeats):
            work()
        if synchronize:
            synchronize()
        return (clock() - start) / repeats

    return read


def interleave(works: Mapping[str, Reading], *, warmup: int = 1, runs: int = 5) -> dict[str, list[float]]:
    """`runs` readings of each of `works` in turns, A B C A B C: what disturbs the machine disturbs all alike."""
    readings: dict[str, list[float]] = {name: [] for name in works}
    for run in range(warmup + runs):
        for name, work in works.items():
            seconds = work()
            if run >= warmup:
                readings[name].append(seconds)
    return readings


def quotients(over: Iterable[float], under: Iterable[float]) -> list[float]:
    """Return the quotients of the readings of each turn; their median is what a drift of the machine changes
    least."""
    return [one / other for one, other in zip(over, under, strict=True)]


def synchronizer(device: torch.device) -> Callable[[], None] | None:
    """Return a function that waits until `device` has finished its work; None where there is nothing to wait
    for."""
    match device.type:
        case "cuda":
            return lambda: torch.cuda.synchronize(device)
        case "mps":
            return torch.mps.synchronize
    return None


MB = 1e6


class Row(NamedTuple):
    """A figure with its spread: quartiles, where there were several runs."""

    section: str
    name: str
    value: float  # median of the runs
    unit: str
    low: float | None = None
    high: float | None = None
    runs: int = 1
    note: str = ""


class Rows(list[Row]):
    """The rows of one section, made from readings in seconds."""

    def __init__(self, section: str) -> None:
        super().__init__()
        self.section = section

    def time(self, name: str, readings: Sequence[float], *, unit: str = "ms", note: str = "") -> None:
        """Seconds, or milliseconds."""
        factor = {"s": 1.0, "ms": 1e3}[unit]
        self._add(name, Timing.of([factor * seconds for seconds in readings]), unit, note)

    def rate(self, name: str, readings: Sequence[float], *, images: float, note: str = "") -> None:
        """`images` in each reading -> images a second."""
        self._add(name, Timing.of([images / seconds for seconds in readings]), "images/s", note)

    def ratio(self, name: str, over: Sequence[float], under: Sequence[float], *, note: str = "") -> None:
        """Median of the quotients of the readings of each turn."""
        self._add(name, Timing.of(quotients(over, under)), "ratio", note)

    def latency(self, name: str, readings: Sequence[float]) -> None:
        """The median and the 95th percentile, milliseconds; rows of their own."""
        for share in (50, 95):
            self.value(f"{name}, p{share}", 1e3 * quantile(readings, share / 100), "ms", runs=len(readings))

    def memory(self, name: str, size: float | None, *, note: str = "") -> None:
        """Bytes -> MB of 10^6; nothing where the system does not tell."""
        if size is not None:
            self.value(name, size / MB, "MB", note=note)

    def value(self, name: str, value: float, unit: str, *, runs: int = 1, note: str = "") -> None:
        """A figure without a spread."""
        self.append(Row(self.section, name, float(value), unit, runs=runs, note=note))

    def _add(self, name: str, timing: Timing, unit: str, note: str) -> None:
        low, high = (timing.low, timing.high) if timing.runs > 1 else (None, None)
        self.append(Row(self.section, name, timing.median, unit, low, high, timing.runs, note))


Result = TypeVar("Result")


KIB = 1024


def resident_memory(pid: int | str = "self") -> int | None:
    """Bytes that a process has in memory, what it shares with others included; None where that cannot be known."""
    return _field(f"/proc/{pid}/status", "VmRSS")


def proportional_memory(pid: int | str) -> int | None:
    """Return as `resident_memory`, but with an nth of what n processes share, so that their sum is right."""
    return _field(f"/proc/{pid}/smaps_rollup", "Pss")


def own_memory(pid: int | str) -> int | None:
    """Return as `resident_memory`, without anything that is shared: what would be free without the process."""
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
    """Return the memory that this process has needed so far."""
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
