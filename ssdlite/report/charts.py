"""Charts of the report: training, data, score thresholds and calibration, sizes, error types and confusion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ssdlite.evaluation.analysis import Analysis
from ssdlite.evaluation.curves import Curve
from ssdlite.evaluation.errors import ERROR_TYPES
from ssdlite.evaluation.sizes import SizeTable
from ssdlite.report.data import History, PriorFitSummary, Series, SplitStatistics, thinned
from ssdlite.report.figure import (
    BLUE,
    BOTTOM,
    GREEN,
    INK,
    LEFT,
    LINE,
    ORANGE,
    SERIES,
    SMALL,
    SOFT,
    WIDTH,
    Chart,
    Key,
    draw,
    room_for,
    shortened,
)
from ssdlite.report.formatting import count, figure
from ssdlite.report.summary import ERROR_NAMES, comparable_classes, evaluated_classes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


MAX_TERMS = 4  # loss terms that are drawn


def training_charts(history: History) -> list[Chart]:
    """Draw a chart for each logged quantity: loss, AP, learning rate, throughput and waiting for data."""
    terms = dict(list(history.terms.items())[:MAX_TERMS])
    losses = {"loss": history.train.get("loss"), **(terms if len(terms) > 1 else {})}
    waiting = history.train.get("waiting_for_data")
    percent = Series(waiting.steps, 100 * waiting.values) if waiting else None
    aps = {name: history.val.get(name) for name in ("AP", "AP50", "AP75")}
    draw_lines = partial(_line_chart, max(1, history.last_step))
    charts = [
        draw_lines("loss", "Training loss", losses, y_label="loss", log=True),
        draw_lines("ap", "Validation AP", aps, y_label="AP", marker="o"),
        draw_lines("rate", "Learning rate", {"": history.train.get("lr")}, y_label="learning rate", left=0.85),
        draw_lines("throughput", "Throughput", {"": history.train.get("images_per_second")}, y_label="images/s"),
        draw_lines(
            "waiting",
            "Waiting for data",
            {"": percent},
            y_label="% of the time",
            top=100,
            note="Near 0, the network limits the speed of training; above about 20, loading the data does.",
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
    """Draw a line for each series that has a finite value; return None if there is none."""
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


MOST_OBJECTS = 20  # in an image; fuller images share the last bar


def data_charts(splits: Mapping[str, SplitStatistics]) -> list[Chart]:
    """Draw object sizes, aspect ratios and objects per image; `splits` has the names 'train' and 'val'."""
    shown = {name: split for name, split in splits.items() if split.num_images}
    with_objects = {name: split for name, split in shown.items() if split.total}
    charts = []
    if with_objects:
        charts += [_size_chart(with_objects), _ratio_chart(with_objects)]
    if shown:
        charts.append(_crowding_chart(shown))
    return charts


def fit_chart(fit: PriorFitSummary) -> Chart | None:
    """Draw the share of the objects that have a prior of IoU .5 or more, by size; None without objects."""
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
        axes.set_xlabel("% of the objects that have a prior of IoU ≥ .50")

    return draw("fit", "Fit of the priors by object size", plot, note=fit.unit, left=room_for(labels))


def _size_chart(splits: Mapping[str, SplitStatistics]) -> Chart:
    def plot(axes: Axes) -> None:
        for name, split in splits.items():
            _steps(axes, np.clip(split.sides, SIDES[0], SIDES[-1]), SIDES, COLORS[name])
        _log_ticks(axes, [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1], lambda value: f"{100 * value:g}%")
        axes.set_xlabel("size of the object: √(box area / image area)")
        axes.set_ylabel("% of the objects")

    note = "Objects below about 8% of the image's side are hard to detect for this network."
    return draw("sizes", "Object size", plot, keys=_keys(splits), note=note)


def _ratio_chart(splits: Mapping[str, SplitStatistics]) -> Chart:
    def plot(axes: Axes) -> None:
        for name, split in splits.items():
            _steps(axes, np.clip(split.ratios, RATIOS[0], RATIOS[-1]), RATIOS, COLORS[name])
        labels = {0.125: "1:8", 0.25: "1:4", 0.5: "1:2", 1: "1:1", 2: "2:1", 4: "4:1", 8: "8:1"}
        _log_ticks(axes, list(labels), lambda value: labels[value])
        axes.set_xlabel("width : height")
        axes.set_ylabel("% of the objects")

    return draw("ratios", "Aspect ratio", plot, keys=_keys(splits))


def _crowding_chart(splits: Mapping[str, SplitStatistics]) -> Chart:
    most = min(MOST_OBJECTS, max(int(split.objects_per_image.max(initial=0)) for split in splits.values()))
    edges = np.arange(most + 2) - 0.5

    def plot(axes: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        for name, split in splits.items():
            _steps(axes, np.minimum(split.objects_per_image, most), edges, COLORS[name])
        axes.set_xlabel("objects in an image" + (f" ({most}: {most} or more)" if most == MOST_OBJECTS else ""))
        axes.set_ylabel("% of the images")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    return draw("crowding", "Objects per image", plot, keys=_keys(splits))


def _keys(splits: Mapping[str, SplitStatistics]) -> tuple[Key, ...]:
    return tuple(Key(NAMES[name], COLORS[name]) for name in splits) if len(splits) > 1 else ()


def _steps(axes: Axes, values: np.ndarray, edges: np.ndarray, color: str) -> None:
    """Draw a histogram of `values` in percent, as an outline over a light fill."""
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


TALL = (WIDTH, 3.3)  # inches; for charts with both axes from 0 to 1


MAX_COLORED = len(SERIES)  # classes with a colour of their own


NUM_WEAKEST = 3  # classes with a colour of their own where there are more than MAX_COLORED


MAX_CURVES = 100  # classes whose curve is drawn, the weakest first


OTHER_STYLE: dict[str, Any] = {"color": SOFT, "linewidth": 0.6, "alpha": 0.35}  # curves of the other classes


THRESHOLDS = np.linspace(0, 1, 201)


def curve_chart(analysis: Analysis) -> Chart | None:
    """Draw precision over recall per class, with a dot at the best F1.

    Return None if no class has both objects and detections.
    """
    order = [row for row in evaluated_classes(analysis) if len(analysis.curves[row.name].scores)]
    if not order:
        return None
    weakest = [row for row in comparable_classes(analysis) if row in order][:NUM_WEAKEST]
    colored = order if len(order) <= MAX_COLORED else weakest
    colors = {row.name: color for row, color in zip(colored, SERIES, strict=False)}

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
        _unit_square(axes, "recall: share of the objects that are found", "precision: share of correct detections")

    keys = [Key(f"{shortened(row.name)}, AP50 {figure(row.ap50, 2)}", colors[row.name]) for row in colored]
    if len(order) > MAX_COLORED:
        keys += [Key("all classes together", INK), Key("other classes", SOFT)]
    note = "A dot marks the best F1. The closer a curve comes to the upper right corner, the better."
    return draw("curves", "Precision and recall", plot, keys=tuple(keys), note=note, size=TALL)


def threshold_chart(analysis: Analysis) -> Chart | None:
    """Draw precision, recall and F1 of all classes together over the score threshold.

    Return None without objects or detections.
    """
    curve = analysis.pooled
    if not len(curve.scores) or not curve.num_objects:
        return None
    true, false = curve.counts_at(THRESHOLDS)
    lines = {
        "precision": (np.where(true + false > 0, true / np.maximum(true + false, 1), np.nan), BLUE),
        "recall": (true / curve.num_objects, ORANGE),
        "F1": (2 * true / (true + false + curve.num_objects), INK),
    }

    def plot(axes: Axes) -> None:
        for values, color in lines.values():
            axes.plot(THRESHOLDS, values, color=color)
        _mark_threshold(axes, analysis.threshold)
        _unit_square(axes, "score threshold", "all classes together")

    keys = tuple(Key(name, color) for name, (_, color) in lines.items())
    note = (
        "The dashed line is the recommended threshold. Lower thresholds find more objects, higher ones give fewer "
        "false positives."
    )
    return draw("threshold", "Precision, recall and F1 by threshold", plot, keys=keys, note=note, size=TALL)


def false_positive_chart(analysis: Analysis) -> Chart | None:
    """Draw false positives per image over the score threshold; return None if there are none."""
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
        # The axis is scaled to thresholds that are of use: at lower ones the curve is far higher.
        usable = false_positives.thresholds >= min(0.1, analysis.threshold / 2)
        highest = max(float(np.nanmax(values[usable])) for values, _ in shown.values())
        axes.set_ylim(0, 1.1 * highest or 1)
        axes.set_xlabel("score threshold")
        axes.set_ylabel("false positives per image")

    keys = tuple(Key(name, color) for name, (_, color) in shown.items())
    return draw("false-positives", "False positives by threshold", plot, keys=keys)


def calibration_chart(analysis: Analysis) -> Chart | None:
    """Draw the precision of detections over their score, in bins (a reliability diagram); None without any."""
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
        _unit_square(axes, "score", "precision")

    note = (
        "On the dashed diagonal, a score equals the probability that the detection is correct. Below it, scores "
        "are too high; above it, too low."
    )
    return draw("calibration", "Calibration", plot, note=note, size=TALL)


def _from_start(curve: Curve) -> np.ndarray:
    """Return the precision of `curve`, preceded by its first value for recall 0: (T,) -> (T + 1,)."""
    precision = curve.precision
    return np.append(precision[:1], precision)


def _mark_threshold(axes: Axes, threshold: float) -> None:
    axes.axvline(threshold, color=SOFT, linestyle=(0, (4, 3)), linewidth=1)


def _unit_square(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)


MAX_BARS = 10  # classes in a bar chart


MOST_NUMBERED = 16  # rows up to which the cells of a confusion matrix hold numbers


TINT = (0.18, 0.42, 0.70)  # RGB in 0..1, between the blues of the two themes; the share of a cell is its opacity


def size_chart(table: SizeTable) -> Chart | None:
    """Draw AP and the highest recall at IoU .50 by object size; return None without objects."""
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
        axes.set_xlabel("object side / image side; number of objects")

    keys = tuple(Key(name, color) for name, (_, color) in bars.items())
    return draw("by-size", "AP and recall by object size", plot, keys=keys, bottom=0.68)


def error_chart(analysis: Analysis) -> Chart | None:
    """Draw ΔAP50, the AP50 that is lost to each error type (TIDE); return None if no type costs any."""
    costs = {kind: analysis.delta_ap.get(kind, np.nan) for kind in ERROR_TYPES}
    if not any(np.isfinite(cost) and cost > 0 for cost in costs.values()):
        return None
    kinds = sorted(ERROR_TYPES, key=lambda kind: np.nan_to_num(costs[kind]))
    labels = [f"{ERROR_NAMES[kind]} ({count(analysis.errors.get(kind, 0))})" for kind in kinds]

    def plot(axes: Axes) -> None:
        values = [100 * float(np.nan_to_num(costs[kind])) for kind in kinds]
        axes.barh(range(len(kinds)), values, 0.62, color=BLUE)
        axes.set_yticks(range(len(kinds)), labels)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("ΔAP50: points that AP50 would rise without them")

    note = (
        "In brackets: the number of errors at the recommended threshold. ΔAP50 takes in all thresholds (TIDE, "
        "Bolya et al. 2020)."
    )
    return draw("errors", "AP50 lost by error type", plot, note=note, left=room_for(labels))


def class_error_chart(analysis: Analysis) -> Chart | None:
    """Draw the number of errors by type for the classes with the most errors; return None without errors."""
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

    keys = tuple(Key(ERROR_NAMES[kind], colors[kind]) for kind in kinds)
    title = "Errors by class" + (f": the {len(rows)} with the most" if len(rows) < len(analysis.classes) else "")
    height = float(np.clip(0.9 + 0.24 * len(rows), 1.6, 3.3))
    return draw("class-errors", title, plot, keys=keys, size=(WIDTH, height), left=room_for(names))


def confusion_chart(analysis: Analysis) -> Chart | None:
    """Draw the confusion matrix, coloured by the share of each row; return None if it is empty."""
    confusion = analysis.confusion
    size = len(confusion.names)
    if not confusion.counts.any():
        return None
    shares = np.nan_to_num(confusion.shares())
    side = float(np.clip(1.7 + 0.32 * size, WIDTH, 10.5))
    small = min(9.0, 48 * side / size)  # font size in points: at most four fifths of a row
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
        axes.set_ylabel("true class")
        for i, j in np.argwhere(confusion.counts > 0).tolist() if size <= MOST_NUMBERED else ():
            text = count(int(confusion.counts[i, j]))
            axes.text(j, i, text, ha="center", va="center", color=INK, fontsize=small)

    note = (
        "A row holds the objects of one class; the last row holds detections where there is no object. The "
        "stronger the colour, the greater the share of the row. The diagonal is correct."
    )
    room = room_for(names, small)
    return draw(
        "confusion",
        "Confusion matrix",
        plot,
        note=note,
        size=(side, side * (0.8 if size < 8 else 0.95)),
        left=room + 0.2,
        bottom=room + 0.25 if is_turned else BOTTOM,
    )


def _grouped(axes: Axes, labels: list[str], bars: list[tuple[list[float], str]]) -> None:
    """Draw groups of bars, (values, colour) each, over `labels`; a NaN has no bar."""
    width = 0.76 / len(bars)
    for number, (values, color) in enumerate(bars):
        places = np.arange(len(labels)) + (number - (len(bars) - 1) / 2) * width
        axes.bar(places, np.nan_to_num(np.array(values, float)), 0.92 * width, color=color)
    axes.set_xticks(range(len(labels)), labels)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="x", visible=False)
