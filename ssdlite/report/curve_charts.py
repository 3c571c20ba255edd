"""What a score threshold makes of a model, drawn: precision and recall, false detections, calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ssdlite.evaluation.analysis import Analysis
from ssdlite.evaluation.curves import Curve
from ssdlite.report.answers import comparable_classes, judged_classes
from ssdlite.report.canvas import BLUE, INK, ORANGE, SERIES, SOFT, WIDTH, Chart, Key, draw, shortened
from ssdlite.report.wording import figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TALL = (WIDTH, 3.3)  # of charts with both axes from 0 to 1
MAX_COLORED = len(SERIES)  # classes with a colour of their own
NUM_WEAKEST = 3  # that are told apart where there are more
MAX_CURVES = 100  # that are drawn
OTHER_STYLE: dict[str, Any] = {"color": SOFT, "linewidth": 0.6, "alpha": 0.35}  # of curves without a colour
THRESHOLDS = np.linspace(0, 1, 201)


def curve_chart(analysis: Analysis) -> Chart | None:
    """Precision over recall for each class, with its best F1; None where nothing could be found."""
    order = [row for row in judged_classes(analysis) if len(analysis.curves[row.name].scores)]
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
