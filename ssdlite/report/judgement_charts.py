"""What a model is worth, drawn: curves, thresholds, sizes, faults, calibration, confusions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ssdlite.evaluation.analysis import Analysis
from ssdlite.evaluation.curves import Curve
from ssdlite.evaluation.faults import FAULT_KINDS
from ssdlite.evaluation.sizes import SizeTable
from ssdlite.report.canvas import (
    BLUE,
    GREEN,
    INK,
    LINE,
    ORANGE,
    SERIES,
    SOFT,
    WIDTH,
    Chart,
    Key,
    draw,
    shortened,
)
from ssdlite.report.content import FitSummary
from ssdlite.report.wording import count, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_COLORED = len(SERIES)  # classes with a colour of their own
NUM_WEAKEST = 3  # that are told apart where there are more
MAX_CURVES = 100  # that are drawn
MAX_BARS = 10  # classes of a bar chart
THRESHOLDS = np.linspace(0, 1, 201)
TINT = (0.18, 0.42, 0.70)  # RGB of a full cell: between the two themes' blue; how full it is, is its opacity


def curve_chart(analysis: Analysis) -> Chart | None:
    """Precision over recall for each class, with its best F1; None where nothing could be found."""
    order = sorted(
        (row for row in analysis.classes if row.num_objects and len(analysis.curves[row.name].scores)),
        key=lambda row: row.ap50,
    )
    if not order:
        return None
    told = order if len(order) <= MAX_COLORED else order[:NUM_WEAKEST]
    colors = {row.name: color for row, color in zip(told, SERIES, strict=False)}

    def plot(axes: Axes) -> None:
        for row in order[: -MAX_CURVES - 1 : -1]:
            curve = analysis.curves[row.name].thinned(120)
            color, width = (colors[row.name], 1.6) if row.name in colors else (SOFT, 0.5)
            axes.plot(np.append(0, curve.recall), _from_start(curve), color=color, linewidth=width)
            if row.best and row.name in colors:
                axes.plot(row.best.recall, row.best.precision, "o", color=color, ms=5)
        if len(order) > MAX_COLORED:
            pooled = analysis.pooled.thinned(200)
            axes.plot(np.append(0, pooled.recall), _from_start(pooled), color=INK, linewidth=2)
        _unit_square(axes, "recall: share of the objects that is found", "precision: share that is right")

    keys = [Key(f"{shortened(row.name)}, AP50 {figure(row.ap50, 2)}", colors[row.name]) for row in told]
    if len(order) > MAX_COLORED:
        keys += [Key("all together", INK), Key("the other classes", SOFT)]
    note = "A dot is where F1 is best. The further a curve reaches to the upper right, the better."
    return draw("curves", "Precision and recall", plot, keys=tuple(keys), note=note, size=(WIDTH, 3.3))


def threshold_chart(analysis: Analysis) -> Chart | None:
    """Precision, recall and F1 of all classes together over the score threshold."""
    curve = analysis.pooled
    if not len(curve.scores) or not curve.num_objects:
        return None
    right, wrong = curve.counts_at(THRESHOLDS)
    lines = {
        "precision": (np.where(right + wrong > 0, right / np.maximum(right + wrong, 1), np.nan), BLUE),
        "recall": (right / curve.num_objects, ORANGE),
        "F1": (2 * right / (right + wrong + curve.num_objects), INK),
    }

    def plot(axes: Axes) -> None:
        for values, color in lines.values():
            axes.plot(THRESHOLDS, values, color=color)
        _mark_threshold(axes, analysis.threshold)
        _unit_square(axes, "score threshold", "all classes together")

    keys = tuple(Key(name, color) for name, (_, color) in lines.items())
    note = "The dashed line is the recommended threshold. To its left more is found, to its right less is wrong."
    return draw("threshold", "What a threshold gives", plot, keys=keys, note=note, size=(WIDTH, 3.3))


def alarm_chart(analysis: Analysis) -> Chart | None:
    """False detections an image over the threshold."""
    alarms = analysis.false_alarms
    lines = {"all images": (alarms.per_image, BLUE), "images without objects": (alarms.per_empty_image, ORANGE)}
    shown = {name: line for name, line in lines.items() if np.nan_to_num(line[0]).any()}
    if not shown:
        return None

    def plot(axes: Axes) -> None:
        for values, color in shown.values():
            axes.plot(alarms.thresholds, values, color=color)
        _mark_threshold(axes, analysis.threshold)
        axes.set_xlim(0, 1)
        # Below thresholds that anybody would use the curve only hides the rest.
        usable = alarms.thresholds >= min(0.1, analysis.threshold / 2)
        highest = max(float(np.nanmax(values[usable])) for values, _ in shown.values())
        axes.set_ylim(0, 1.1 * highest or 1)
        axes.set_xlabel("score threshold")
        axes.set_ylabel("false detections an image")

    keys = tuple(Key(name, color) for name, (_, color) in shown.items())
    return draw("alarms", "False detections", plot, keys=keys)


def calibration_chart(analysis: Analysis) -> Chart | None:
    """Precision of the detections in bins by score, against the score."""
    bins = analysis.calibration
    if not bins.counts.any():
        return None

    def plot(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=SOFT, linestyle=(0, (4, 3)), linewidth=1)
        filled = bins.counts > 0
        centers = (bins.edges[:-1] + bins.edges[1:]) / 2
        axes.bar(centers[filled], bins.precision[filled], np.diff(bins.edges)[filled] * 0.92, color=BLUE, alpha=0.3)
        axes.plot(bins.scores[filled], bins.precision[filled], "o", color=BLUE, ms=5)
        _mark_threshold(axes, analysis.threshold)
        _unit_square(axes, "score", "share that is right")

    note = "Dots on the dashed diagonal: a score is the probability to be right. Below it, scores promise too much."
    return draw("calibration", "Calibration", plot, note=note, size=(WIDTH, 3.3))


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
    return draw("by-size", "By size of the object", plot, keys=keys)


def fault_chart(analysis: Analysis) -> Chart | None:
    """What AP50 would gain were there no faults of a kind."""
    costs = {kind: analysis.fault_costs.get(kind, np.nan) for kind in FAULT_KINDS}
    if not any(np.isfinite(cost) and cost > 0 for cost in costs.values()):
        return None
    kinds = sorted(FAULT_KINDS, key=lambda kind: np.nan_to_num(costs[kind]))

    def plot(axes: Axes) -> None:
        values = [100 * float(np.nan_to_num(costs[kind])) for kind in kinds]
        axes.barh(range(len(kinds)), values, 0.62, color=BLUE)
        axes.set_yticks(range(len(kinds)), [f"{kind} ({count(analysis.faults.get(kind, 0))})" for kind in kinds])
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("points of AP50 that would be won without them")

    note = "In brackets: how many there are at the recommended threshold. The costs are over all thresholds (TIDE)."
    return draw("faults", "What the faults cost", plot, note=note)


def class_fault_chart(analysis: Analysis) -> Chart | None:
    """How many faults of each kind the classes have that have most."""
    rows = [row for row in analysis.classes if sum(row.faults.values())]
    rows = sorted(rows, key=lambda row: sum(row.faults.values()))[-MAX_BARS:]
    if not rows:
        return None
    kinds = [kind for kind in FAULT_KINDS if any(row.faults.get(kind, 0) for row in rows)]
    colors = dict(zip(FAULT_KINDS, SERIES, strict=True))

    def plot(axes: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        left = np.zeros(len(rows))
        for kind in kinds:
            values = np.array([row.faults.get(kind, 0) for row in rows])
            axes.barh(range(len(rows)), values, 0.66, left, color=colors[kind])
            left += values
        axes.set_yticks(range(len(rows)), [shortened(row.name) for row in rows])
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("faults at the recommended threshold")

    keys = tuple(Key(kind, colors[kind]) for kind in kinds)
    title = "Faults by class" + (f", the {len(rows)} with most" if len(rows) < len(analysis.classes) else "")
    return draw(
        "class-faults", title, plot, keys=keys, size=(WIDTH, float(np.clip(0.9 + 0.24 * len(rows), 1.6, 3.3)))
    )


def confusion_chart(analysis: Analysis) -> Chart | None:
    """The matrix, in shares of each row."""
    confusion = analysis.confusion
    size = len(confusion.names)
    if not confusion.counts.any():
        return None
    shares = np.nan_to_num(confusion.shares())
    side = float(np.clip(1.7 + 0.32 * size, WIDTH, 10.5))

    def plot(axes: Axes) -> None:
        pixels = np.zeros((size, size, 4))
        pixels[..., :3], pixels[..., 3] = TINT, 0.9 * shares
        axes.imshow(pixels, interpolation="none", aspect="auto")
        small = 9 if size <= 12 else 7.5 if size <= 30 else 4.5
        names = [shortened(name, 18) for name in confusion.names]
        axes.set_xticks(range(size), names, rotation=90 if size > 5 else 0, fontsize=small)
        axes.set_yticks(range(size), names, fontsize=small)
        axes.grid(visible=False)
        for edge in np.arange(size + 1) - 0.5:
            axes.axhline(edge, color=LINE, linewidth=0.4)
            axes.axvline(edge, color=LINE, linewidth=0.4)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set_xlabel("detected as")
        axes.set_ylabel("is")
        if size <= 16:
            for i, j in np.argwhere(confusion.counts > 0).tolist():
                text = count(int(confusion.counts[i, j]))
                axes.text(j, i, text, ha="center", va="center", color=INK, fontsize=small)

    note = (
        "A row holds the objects of one class, the last one detections where nothing is. The fuller a cell, the "
        "greater its share of the row. The diagonal is right."
    )
    return draw(
        "confusion", "What is taken for what", plot, note=note, size=(side, side * (0.8 if size < 8 else 0.95))
    )


def fit_chart(fit: FitSummary) -> Chart | None:
    """The share of the objects that a prior overlaps by half, by their size."""
    if not any(row.num_objects for row in fit.rows):
        return None

    def plot(axes: Axes) -> None:
        rows = fit.rows[::-1]
        axes.barh(range(len(rows)), [100 * float(np.nan_to_num(row.share)) for row in rows], 0.66, color=GREEN)
        axes.set_yticks(range(len(rows)), [f"{row.name} ({count(row.num_objects)})" for row in rows])
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.set_xlim(0, 100)
        axes.set_xlabel("percent that a prior overlaps by IoU .50 or more")

    return draw("fit", "Objects that a prior fits, by size", plot, note=fit.unit)


def _grouped(axes: Axes, labels: list[str], bars: list[tuple[list[float], str]]) -> None:
    """Groups of bars over `labels`; what is undefined has none."""
    width = 0.76 / len(bars)
    for number, (values, color) in enumerate(bars):
        places = np.arange(len(labels)) + (number - (len(bars) - 1) / 2) * width
        axes.bar(places, np.nan_to_num(np.array(values, float)), 0.92 * width, color=color)
    axes.set_xticks(range(len(labels)), labels)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="x", visible=False)


def _from_start(curve: Curve) -> np.ndarray:
    """The precision of `curve` with the start of its line at recall 0."""
    precision = curve.precision
    return np.append(precision[:1], precision)


def _mark_threshold(axes: Axes, threshold: float) -> None:
    axes.axvline(threshold, color=SOFT, linestyle=(0, (4, 3)), linewidth=1)


def _unit_square(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)


def judgement_charts(analysis: Analysis) -> Mapping[str, Chart | None]:
    """All that a judged split has, by name."""
    return {
        "curves": curve_chart(analysis),
        "threshold": threshold_chart(analysis),
        "alarms": alarm_chart(analysis),
        "calibration": calibration_chart(analysis),
        "sizes": size_chart(analysis.relative_sizes),
        "faults": fault_chart(analysis),
        "class_faults": class_fault_chart(analysis),
        "confusion": confusion_chart(analysis),
    }
