"""Where a model fails, drawn: by size, by kind of fault, by class, and what it takes for what."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ssdlite.evaluation.analysis import Analysis
from ssdlite.evaluation.faults import FAULT_KINDS
from ssdlite.evaluation.sizes import SizeTable
from ssdlite.report.canvas import (
    BLUE,
    BOTTOM,
    INK,
    LINE,
    ORANGE,
    SERIES,
    WIDTH,
    Chart,
    Key,
    draw,
    room_for,
    shortened,
)
from ssdlite.report.wording import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_BARS = 10  # classes of a bar chart
MOST_NUMBERED = 16  # rows of a confusion matrix whose cells hold numbers
TINT = (0.18, 0.42, 0.70)  # RGB of a full cell: between the two themes' blue; how full it is, is its opacity


def size_chart(table: SizeTable) -> Chart | None:
    """AP, and the highest recall, by the size of the objects."""
    if not any(bucket.total for bucket in table.buckets):
        return None
    bars = {
        "AP": ([bucket.mean_ap for bucket in table.buckets], BLUE),
        "highest recall at IoU .50": ([bucket.mean_recall50 for bucket in table.buckets], ORANGE),
    }
    labels = [f"{bucket.name}\n{count(bucket.total)}" for bucket in table.buckets]

    def plot(axes: Axes) -> None:
        _grouped(axes, labels, list(bars.values()))
        axes.set_ylim(0, 1)
        axes.set_xlabel("side of the object, of the image's side; objects beneath")

    keys = tuple(Key(name, color) for name, (_, color) in bars.items())
    return draw("by-size", "By size of the object", plot, keys=keys, bottom=0.68)


def fault_chart(analysis: Analysis) -> Chart | None:
    """What AP50 would gain were there no faults of a kind."""
    costs = {kind: analysis.fault_costs.get(kind, np.nan) for kind in FAULT_KINDS}
    if not any(np.isfinite(cost) and cost > 0 for cost in costs.values()):
        return None
    kinds = sorted(FAULT_KINDS, key=lambda kind: np.nan_to_num(costs[kind]))
    labels = [f"{kind} ({count(analysis.faults.get(kind, 0))})" for kind in kinds]

    def plot(axes: Axes) -> None:
        values = [100 * float(np.nan_to_num(costs[kind])) for kind in kinds]
        axes.barh(range(len(kinds)), values, 0.62, color=BLUE)
        axes.set_yticks(range(len(kinds)), labels)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("points of AP50 that would be won without them")

    note = "In brackets: how many there are at the recommended threshold. The costs are over all thresholds (TIDE)."
    return draw("faults", "What the faults cost", plot, note=note, left=room_for(labels))


def class_fault_chart(analysis: Analysis) -> Chart | None:
    """How many faults of each kind the classes have that have most."""
    rows = [row for row in analysis.classes if sum(row.faults.values())]
    rows = sorted(rows, key=lambda row: sum(row.faults.values()))[-MAX_BARS:]
    if not rows:
        return None
    names = [shortened(row.name) for row in rows]
    kinds = [kind for kind in FAULT_KINDS if any(row.faults.get(kind, 0) for row in rows)]
    colors = dict(zip(FAULT_KINDS, SERIES, strict=True))

    def plot(axes: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        left = np.zeros(len(rows))
        for kind in kinds:
            values = np.array([row.faults.get(kind, 0) for row in rows])
            axes.barh(range(len(rows)), values, 0.66, left, color=colors[kind])
            left += values
        axes.set_yticks(range(len(rows)), names)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("faults at the recommended threshold")

    keys = tuple(Key(kind, colors[kind]) for kind in kinds)
    title = "Faults by class" + (f", the {len(rows)} with most" if len(rows) < len(analysis.classes) else "")
    height = float(np.clip(0.9 + 0.24 * len(rows), 1.6, 3.3))
    return draw("class-faults", title, plot, keys=keys, size=(WIDTH, height), left=room_for(names))


def confusion_chart(analysis: Analysis) -> Chart | None:
    """The matrix, in shares of each row."""
    confusion = analysis.confusion
    size = len(confusion.names)
    if not confusion.counts.any():
        return None
    shares = np.nan_to_num(confusion.shares())
    side = float(np.clip(1.7 + 0.32 * size, WIDTH, 10.5))
    small = min(9.0, 48 * side / size)  # points: four fifths of a row
    names = [shortened(name, 18) for name in confusion.names]
    is_turned = size > 4

    def plot(axes: Axes) -> None:
        pixels = np.zeros((size, size, 4))
        pixels[..., :3], pixels[..., 3] = TINT, 0.9 * shares
        axes.imshow(pixels, interpolation="none", aspect="auto")
        axes.set_xticks(range(size), names, rotation=90 if is_turned else 0, fontsize=small)
        axes.set_yticks(range(size), names, fontsize=small)
        axes.grid(visible=False)
        edges = np.arange(size + 1) - 0.5
        axes.hlines(edges, -0.5, size - 0.5, colors=LINE, linewidth=0.4)
        axes.vlines(edges, -0.5, size - 0.5, colors=LINE, linewidth=0.4)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set_xlabel("detected as")
        axes.set_ylabel("is")
        for i, j in np.argwhere(confusion.counts > 0).tolist() if size <= MOST_NUMBERED else ():
            text = count(int(confusion.counts[i, j]))
            axes.text(j, i, text, ha="center", va="center", color=INK, fontsize=small)

    note = (
        "A row holds the objects of one class, the last one detections where nothing is. The fuller a cell, the "
        "greater its share of the row. The diagonal is right."
    )
    room = room_for(names, small)
    return draw(
        "confusion",
        "What is taken for what",
        plot,
        note=note,
        size=(side, side * (0.8 if size < 8 else 0.95)),
        left=room + 0.2,
        bottom=room + 0.25 if is_turned else BOTTOM,
    )


def _grouped(axes: Axes, labels: list[str], bars: list[tuple[list[float], str]]) -> None:
    """Groups of bars over `labels`; what is undefined has none."""
    width = 0.76 / len(bars)
    for number, (values, color) in enumerate(bars):
        places = np.arange(len(labels)) + (number - (len(bars) - 1) / 2) * width
        axes.bar(places, np.nan_to_num(np.array(values, float)), 0.92 * width, color=color)
    axes.set_xticks(range(len(labels)), labels)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="x", visible=False)
