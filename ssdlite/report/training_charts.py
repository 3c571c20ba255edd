"""How a training went: loss, rate, AP, throughput."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ssdlite.report.canvas import SERIES, SMALL, Chart, Key, draw
from ssdlite.report.history import History, Series, thinned

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
        draw_lines("rate", "Learning rate", {"": history.train.get("lr")}, y_label="rate"),
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
    return draw(name, title, plot, keys=keys, note=note, size=SMALL)


def _log_scale(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
