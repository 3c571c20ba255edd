"""Charts of the report: training, data, score thresholds and calibration, sizes, error types and confusion."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ssdlite.report.data import History, Series, thinned
from ssdlite.report.figure import LEFT, SERIES, SMALL, Chart, Key, draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
from collections.abc import Callable
from typing import TYPE_CHECKING

from ssdlite.report.data import PriorFitSummary, SplitStatistics
from ssdlite.report.figure import BLUE, GREEN, ORANGE, room_for
from ssdlite.report.formatting import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
from typing import TYPE_CHECKING, Any

from ssdlite.evaluation.analysis import Analysis
from ssdlite.evaluation.curves import Curve
from ssdlite.report.figure import INK, SOFT, WIDTH, shortened
from ssdlite.report.formatting import figure
from ssdlite.report.summary import comparable_classes, evaluated_classes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
from typing import TYPE_CHECKING

from ssdlite.evaluation.errors import ERROR_TYPES
from ssdlite.evaluation.sizes import SizeTable
from ssdlite.report.figure import BOTTOM, LINE

if TYPE_CHECKING:
    from matplotlib.axes import Axes


MAX_TERMS = 4  # of the loss


def training_charts(history: History) -> list[Chart]:
    """One chart for each thing that was logged."""
    terms = dict(list(history.terms.items())[:MAX_TERMS])
    losses = {"loss": history.train.get("loss"), **(terms if len(terms) > 1 else {})}
    waiting = history.train.get("waiting_for_data")
    percent = Series(waiting.steps, 100 * waiting.values) if waiting else None
    aps = {name: history.val.get(name) for name in ("AP", "AP50", "AP75")}
    draw_lines = partial(_line_chart, max(1, history.last_step))
    charts = [
        draw_lines("loss", "Loss while training", losses, y_label="loss", log=True),
        draw_lines("ap", "AP at the validations", aps, y_label="AP", marker="o"),
        draw_lines("rate", "Learning rate", {"": history.train.get("lr")}, y_label="rate", left=0.85),
        draw_lines("throughput", "Throughput", {"": history.train.get("images_per_second")}, y_label="images/s"),
        draw_lines(
            "waiting",
            "Waiting for data",
            {"": percent},
            y_label="percent of the time",
            top=100,
            note="Near 0 the network sets the pace; above about 20 the loader does.",
        ),
    ]
    return [chart for chart in charts if chart]


def _line_chart(
    last_step: int,
    name: str,
    title: str,
    lines: Mapping[str, Series | None],
    *,
    y_label: str,
    log: bool = False,
    marker: str = "",
    top: float | None = None,
    note: str = "",
    left: float = LEFT,
) -> Chart | None:
    """A line for each series that has a number; None if none has."""
    shown = {key: thinned(series) for key, series in lines.items() if series and np.isfinite(series.values).any()}
    if not shown:
        return None
    colors = dict(zip(shown, SERIES, strict=False))
    is_positive = all((series.values[np.isfinite(series.values)] > 0).all() for series in shown.values())

    def plot(axes: Axes) -> None:
        for key, series in shown.items():
            alone = "o" if len(series) < 3 else marker  # one point makes no line
            axes.plot(series.steps, series.values, color=colors[key], marker=alone, markersize=3.5)
        if log and is_positive:
            _log_scale(axes)
        else:
            axes.set_ylim(bottom=0, top=top)
        axes.set_xlim(0, 1.02 * last_step)
        axes.set_xlabel("step")
        axes.set_ylabel(y_label)

    keys = tuple(Key(key, color) for key, color in colors.items()) if len(shown) > 1 else ()
    return draw(name, title, plot, keys=keys, note=note, size=SMALL, left=left)


def _log_scale(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


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


def fit_chart(fit: PriorFitSummary) -> Chart | None:
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


TALL = (WIDTH, 3.3)  # of charts with both axes from 0 to 1


MAX_COLORED = len(SERIES)  # classes with a colour of their own


NUM_WEAKEST = 3  # that are told apart where there are more


MAX_CURVES = 100  # that are drawn


OTHER_STYLE: dict[str, Any] = {"color": SOFT, "linewidth": 0.6, "alpha": 0.35}  # of curves without a colour


THRESHOLDS = np.linspace(0, 1, 201)


def curve_chart(analysis: Analysis) -> Chart | None:
    """Precision over recall for each class, with its best F1; None where nothing could be found."""
    order = [row for row in evaluated_classes(analysis) if len(analysis.curves[row.name].scores)]
    if not order:
        return None
    weakest = [row for row in comparable_classes(analysis) if row in order][:NUM_WEAKEST]
    told = order if len(order) <= MAX_COLORED else weakest
    colors = {row.name: color for row, color in zip(told, SERIES, strict=False)}

    def plot(axes: Axes) -> None:
        for row in order[: -MAX_CURVES - 1 : -1]:
            curve = analysis.curves[row.name].thinned(120)
            style = {"color": colors[row.name]} if row.name in colors else OTHER_STYLE
            axes.plot(np.append(0, curve.recall), _from_start(curve), **style)
            if row.best and row.name in colors:
                axes.plot(row.best.recall, row.best.precision, "o", color=colors[row.name], ms=5)
        if len(order) > MAX_COLORED:
            pooled = analysis.pooled.thinned(200)
            axes.plot(np.append(0, pooled.recall), _from_start(pooled), color=INK, linewidth=2)
        _unit_square(axes, "recall: share of the objects that is found", "precision: share that is right")

    keys = [Key(f"{shortened(row.name)}, AP50 {figure(row.ap50, 2)}", colors[row.name]) for row in told]
    if len(order) > MAX_COLORED:
        keys += [Key("all together", INK), Key("the other classes", SOFT)]
    note = "A dot is where F1 is best. The further a curve reaches to the upper right, the better."
    return draw("curves", "Precision and recall", plot, keys=tuple(keys), note=note, size=TALL)


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
    return draw("threshold", "What a threshold gives", plot, keys=keys, note=note, size=TALL)


def false_positive_chart(analysis: Analysis) -> Chart | None:
    """False detections an image over the threshold."""
    false_positives = analysis.false_positives
    lines = {
        "all images": (false_positives.per_image, BLUE),
        "images without objects": (false_positives.per_empty_image, ORANGE),
    }
    shown = {name: line for name, line in lines.items() if np.nan_to_num(line[0]).any()}
    if not shown:
        return None

    def plot(axes: Axes) -> None:
        for values, color in shown.values():
            axes.plot(false_positives.thresholds, values, color=color)
        _mark_threshold(axes, analysis.threshold)
        axes.set_xlim(0, 1)
        # Below thresholds that anybody would use the curve only hides the rest.
        usable = false_positives.thresholds >= min(0.1, analysis.threshold / 2)
        highest = max(float(np.nanmax(values[usable])) for values, _ in shown.values())
        axes.set_ylim(0, 1.1 * highest or 1)
        axes.set_xlabel("score threshold")
        axes.set_ylabel("false detections an image")

    keys = tuple(Key(name, color) for name, (_, color) in shown.items())
    return draw("false-positives", "False detections", plot, keys=keys)


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
    return draw("calibration", "Calibration", plot, note=note, size=TALL)


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


MAX_BARS = 10  # classes of a bar chart


MOST_NUMBERED = 16  # rows of a confusion matrix whose cells hold numbers


TINT = (0.18, 0.42, 0.70)  # RGB of a full cell: between the two themes' blue; how full it is, is its opacity


def size_chart(table: SizeTable) -> Chart | None:
    """AP, and the highest recall, by the size of the objects."""
    if not any(bucket.total for bucket in table.buckets):
        return None
    progress_bars = {
        "AP": ([bucket.mean_ap for bucket in table.buckets], BLUE),
        "highest recall at IoU .50": ([bucket.mean_recall50 for bucket in table.buckets], ORANGE),
    }
    labels = [f"{bucket.name}\n{count(bucket.total)}" for bucket in table.buckets]

    def plot(axes: Axes) -> None:
        _grouped(axes, labels, list(progress_bars.values()))
        axes.set_ylim(0, 1)
        axes.set_xlabel("side of the object, of the image's side; objects beneath")

    keys = tuple(Key(name, color) for name, (_, color) in progress_bars.items())
    return draw("by-size", "By size of the object", plot, keys=keys, bottom=0.68)


def error_chart(analysis: Analysis) -> Chart | None:
    """Return what AP50 would gain without the errors of a type."""
    costs = {kind: analysis.delta_ap.get(kind, np.nan) for kind in ERROR_TYPES}
    if not any(np.isfinite(cost) and cost > 0 for cost in costs.values()):
        return None
    kinds = sorted(ERROR_TYPES, key=lambda kind: np.nan_to_num(costs[kind]))
    labels = [f"{kind} ({count(analysis.errors.get(kind, 0))})" for kind in kinds]

    def plot(axes: Axes) -> None:
        values = [100 * float(np.nan_to_num(costs[kind])) for kind in kinds]
        axes.barh(range(len(kinds)), values, 0.62, color=BLUE)
        axes.set_yticks(range(len(kinds)), labels)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("points of AP50 that would be won without them")

    note = "In brackets: how many there are at the recommended threshold. The costs are over all thresholds (TIDE)."
    return draw("errors", "What the errors cost", plot, note=note, left=room_for(labels))


def class_error_chart(analysis: Analysis) -> Chart | None:
    """Return how many errors of each kind the classes have that have most."""
    rows = [row for row in analysis.classes if sum(row.errors.values())]
    rows = sorted(rows, key=lambda row: sum(row.errors.values()))[-MAX_BARS:]
    if not rows:
        return None
    names = [shortened(row.name) for row in rows]
    kinds = [kind for kind in ERROR_TYPES if any(row.errors.get(kind, 0) for row in rows)]
    colors = dict(zip(ERROR_TYPES, SERIES, strict=True))

    def plot(axes: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        left = np.zeros(len(rows))
        for kind in kinds:
            values = np.array([row.errors.get(kind, 0) for row in rows])
            axes.barh(range(len(rows)), values, 0.66, left, color=colors[kind])
            left += values
        axes.set_yticks(range(len(rows)), names)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("errors at the recommended threshold")

    keys = tuple(Key(kind, colors[kind]) for kind in kinds)
    title = "Faults by class" + (f", the {len(rows)} with most" if len(rows) < len(analysis.classes) else "")
    height = float(np.clip(0.9 + 0.24 * len(rows), 1.6, 3.3))
    return draw("class-errors", title, plot, keys=keys, size=(WIDTH, height), left=room_for(names))


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


def _grouped(axes: Axes, labels: list[str], progress_bars: list[tuple[list[float], str]]) -> None:
    """Groups of bars over `labels`; what is undefined has none."""
    width = 0.76 / len(progress_bars)
    for number, (values, color) in enumerate(progress_bars):
        places = np.arange(len(labels)) + (number - (len(progress_bars) - 1) / 2) * width
        axes.bar(places, np.nan_to_num(np.array(values, float)), 0.92 * width, color=color)
    axes.set_xticks(range(len(labels)), labels)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="x", visible=False)
