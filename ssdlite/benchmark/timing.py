"""Clocks, and what is said about their readings."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

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
        """Of one reading or more; between two of them quantiles are interpolated."""
        median, low, high = (quantile(readings, share) for share in (0.5, 0.25, 0.75))
        return cls(median, low, high, len(readings))


def quantile(readings: Sequence[float], share: float) -> float:
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


def take_turns(works: Mapping[str, Reading], *, warmup: int = 1, runs: int = 5) -> dict[str, list[float]]:
    """`runs` readings of each of `works` in turns, A B C A B C: what disturbs the machine disturbs all alike."""
    readings: dict[str, list[float]] = {name: [] for name in works}
    for run in range(warmup + runs):
        for name, work in works.items():
            seconds = work()
            if run >= warmup:
                readings[name].append(seconds)
    return readings


def quotients(over: Iterable[float], under: Iterable[float]) -> list[float]:
    """Of the readings of each turn; their median is what a drift of the machine changes least."""
    return [one / other for one, other in zip(over, under, strict=True)]


def synchronizer(device: torch.device) -> Callable[[], None] | None:
    """What waits until `device` has done all it was asked to do; None where there is nothing to wait for."""
    match device.type:
        case "cuda":
            return lambda: torch.cuda.synchronize(device)
        case "mps":
            return torch.mps.synchronize
    return None
