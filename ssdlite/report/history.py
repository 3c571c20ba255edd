"""The lines of a run's log as series."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssdlite.files import read_text

NO_TERMS = ("kind", "step", "epoch", "lr", "loss", "images_per_second", "waiting_for_data")


@dataclass(frozen=True, eq=False)
class Series:
    """One figure over the steps of a run; NaN where it is undefined."""

    steps: np.ndarray  # (L,) int64, rising
    values: np.ndarray  # (L,) float64

    def __len__(self) -> int:
        return len(self.steps)


@dataclass(frozen=True, eq=False)
class History:
    """What a run logged while it trained; empty series where it logged nothing."""

    train: dict[str, Series]  # loss, its terms, lr, images_per_second, waiting_for_data
    val: dict[str, Series]  # COCO's and VOC's figures by name

    @property
    def terms(self) -> dict[str, Series]:
        """The terms that the loss is the sum of."""
        return {name: series for name, series in self.train.items() if name not in NO_TERMS}

    @property
    def last_step(self) -> int:
        return max((int(series.steps[-1]) for series in self.train.values() if len(series)), default=0)


def read_history(path: Path) -> History:
    """The history in a `metrics.jsonl`; an empty one if there is none. A line that a kill cut short is left out."""
    try:
        lines = read_text(path).splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return make_history(rows)


def make_history(rows: Iterable[Mapping[str, Any]]) -> History:
    """From the lines of a logbook, `{"kind": "train" or "val", "step": ..., name: number, ...}`."""
    found: dict[str, dict[str, list[tuple[int, float]]]] = {"train": {}, "val": {}}
    for row in rows:
        kind, step = row.get("kind"), row.get("step")
        if kind not in found or not isinstance(step, int):
            continue
        for name, value in row.items():
            if name not in ("kind", "step") and (value is None or _is_number(value)):
                found[kind].setdefault(name, []).append((step, math.nan if value is None else float(value)))
    return History(*({name: _series(points) for name, points in found[kind].items()} for kind in found))


def thinned(series: Series, most: int = 400) -> Series:
    """At most `most` points, each the mean of its neighbours."""
    if len(series) <= most:
        return series
    edges = np.linspace(0, len(series), most + 1).astype(int)[:-1]
    counts = np.diff(np.append(edges, len(series)))
    return Series(series.steps[edges], np.add.reduceat(series.values, edges) / counts)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _series(points: list[tuple[int, float]]) -> Series:
    steps, values = zip(*points, strict=True)
    return Series(np.array(steps, np.int64), np.array(values, np.float64))
