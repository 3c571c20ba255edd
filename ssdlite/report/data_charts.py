"""What is in the data, drawn: sizes, shapes, how many objects an image has, and which of them priors fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from ssdlite.report.canvas import BLUE, GREEN, ORANGE, Chart, Key, draw, room_for
from ssdlite.report.content import FitSummary
from ssdlite.report.statistics import SplitStatistics
from ssdlite.report.wording import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = {"train": BLUE, "val": ORANGE}
NAMES = {"train": "training", "val": "validation"}
SIDES = np.geomspace(0.01, 1, 25)  # edges of the bins
RATIOS = np.geomspace(1 / 8, 8, 25)
MOST_OBJECTS = 20  # of an image that has a bar of its own


def data_charts(splits: Mapping[str, SplitStatistics]) -> list[Chart]:
    """Distributions of the splits, by their names 'train' and 'val', on top of each other."""
    shown = {name: split for name, split in splits.items() if split.num_images}
    with_objects = {name: split for name, split in shown.items() if split.total}
    charts = []
    if with_objects:
        charts += [_size_chart(with_objects), _ratio_chart(with_objects)]
    if shown:
        charts.append(_crowding_chart(shown))
    return charts


def fit_chart(fit: FitSummary) -> Chart | None:
    """The share of the objects that a prior overlaps by half, by their size."""
    if not any(row.num_objects for row in fit.rows):
        return None
    rows = fit.rows[::-1]
    labels = [f"{row.name} ({count(row.num_objects)})" for row in rows]

    def plot(axes: Axes) -> None:
        axes.barh(range(len(rows)), [100 * float(np.nan_to_num(row.share)) for row in rows], 0.66, color=GREEN)
        axes.set_yticks(range(len(rows)), labels)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.set_xlim(0, 100)
        axes.set_xlabel("percent with a prior of IoU .50 or more")

    return draw("fit", "Objects that a prior fits, by size", plot, note=fit.unit, left=room_for(labels))


def _size_chart(splits: Mapping[str, SplitStatistics]) -> Chart:
    def plot(axes: Axes) -> None:
        for name, split in splits.items():
            _steps(axes, np.clip(split.sides, SIDES[0], SIDES[-1]), SIDES, COLORS[name])
        _log_ticks(axes, [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1], lambda value: f"{100 * value:g}%")
        axes.set_xlabel("side of the object, of the image's side")
        axes.set_ylabel("percent of the objects")

    note = "The side is √(area of the box / area of the image). Objects under about 8% are hard for this network."
    return draw("sizes", "How large the objects are", plot, keys=_keys(splits), note=note)


def _ratio_chart(splits: Mapping[str, SplitStatistics]) -> Chart:
    def plot(axes: Axes) -> None:
        for name, split in splits.items():
            _steps(axes, np.clip(split.ratios, RATIOS[0], RATIOS[-1]), RATIOS, COLORS[name])
        labels = {0.125: "1:8", 0.25: "1:4", 0.5: "1:2", 1: "1:1", 2: "2:1", 4: "4:1", 8: "8:1"}
        _log_ticks(axes, list(labels), lambda value: labels[value])
        axes.set_xlabel("width : height")
        axes.set_ylabel("percent of the objects")

    return draw("ratios", "What shape they have", plot, keys=_keys(splits))


def _crowding_chart(splits: Mapping[str, SplitStatistics]) -> Chart:
    most = min(MOST_OBJECTS, max(int(split.objects_per_image.max(initial=0)) for split in splits.values()))
    edges = np.arange(most + 2) - 0.5

    def plot(axes: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        for name, split in splits.items():
            _steps(axes, np.minimum(split.objects_per_image, most), edges, COLORS[name])
        axes.set_xlabel("objects in an image" + (f" ({most}: so many or more)" if most == MOST_OBJECTS else ""))
        axes.set_ylabel("percent of the images")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    return draw("crowding", "How many an image has", plot, keys=_keys(splits))


def _keys(splits: Mapping[str, SplitStatistics]) -> tuple[Key, ...]:
    return tuple(Key(NAMES[name], COLORS[name]) for name in splits) if len(splits) > 1 else ()


def _steps(axes: Axes, values: np.ndarray, edges: np.ndarray, color: str) -> None:
    """A histogram in percent of `values`, as an outline over a light ground."""
    counts, _ = np.histogram(values, edges)
    percent = 100 * counts / max(len(values), 1)
    axes.stairs(percent, edges, fill=True, color=color, alpha=0.18)
    axes.stairs(percent, edges, color=color, linewidth=1.4)
    axes.set_ylim(0, max(axes.get_ylim()[1], 1.06 * percent.max(initial=0)))


def _log_ticks(axes: Axes, ticks: list[float], label: Callable[[float], str]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(ticks, [label(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(ticks[0], ticks[-1])
