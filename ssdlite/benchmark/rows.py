"""What was measured, a row each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ssdlite.benchmark.timing import Timing, quantile, quotients

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
