"""The report as one HTML file that needs nothing else."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from ssdlite.report.charts import (
    alarm_chart,
    calibration_chart,
    class_fault_chart,
    confusion_chart,
    curve_chart,
    data_charts,
    fault_chart,
    fit_chart,
    size_chart,
    threshold_chart,
    training_charts,
)
from ssdlite.report.data import Judged, Report
from ssdlite.report.figure import Chart
from ssdlite.report.formatting import count, counted, figure, percent
from ssdlite.report.images import choose_pictures, legend
from ssdlite.report.recommendations import find
from ssdlite.report.summary import answers
from ssdlite.report.tables import class_rows, confusion_rows, data_rows, figure_tables, size_rows, threshold_rows

TEMPLATE = "page.html"


def render(report: Report) -> str:
    """The whole page. All text in it, such as class and file names, is escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"figure": figure, "percent": percent, "count": count}
    template = environment.from_string(files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8"))
    return template.render(
        report=report,
        answers=answers(report),
        findings=find(report),
        headline=_headline(report),
        judged=_judged(report.judged, report) if report.judged else None,
        fit_chart=fit_chart(report.fit) if report.fit else None,
        training=training_charts(report.history),
        data=data_charts(report.data),
        data_rows=data_rows(report.data),
        data_names=[_split_name(name) for name in report.data],
        written=report.written.strftime("%d %B %Y, %H:%M %Z").strip(),
    )


def _judged(judged: Judged, report: Report) -> dict[str, Any]:
    """What the template shows of a split that was judged."""
    analysis = judged.analysis
    charts: dict[str, Chart | None] = {
        "curves": curve_chart(analysis),
        "threshold": threshold_chart(analysis),
        "alarms": alarm_chart(analysis),
        "calibration": calibration_chart(analysis),
        "sizes": size_chart(analysis.relative_sizes),
        "faults": fault_chart(analysis),
        "class_faults": class_fault_chart(analysis),
        "confusion": confusion_chart(analysis),
    }
    worst, best = choose_pictures(judged)
    return {
        "analysis": analysis,
        "split": _split_name(judged.split_name),
        "num_objects": sum(row.num_objects for row in analysis.classes),
        "charts": charts,
        "figures": figure_tables(analysis),
        "classes": class_rows(analysis, report.data.get("train")),
        "with_train": "train" in report.data,
        "thresholds": threshold_rows(analysis),
        "confused": confusion_rows(analysis),
        "sizes": size_rows(analysis.relative_sizes),
        "coco_sizes": size_rows(analysis.coco_sizes),
        "worst": worst,
        "best": best,
        "legend": legend(),
    }


def _headline(report: Report) -> list[tuple[str, str, str]]:
    """(number, what it is, more about it): the few that everybody wants."""
    if not report.judged:
        return []
    analysis = report.judged.analysis
    alarms = analysis.false_alarms
    alarm = (figure(alarms.per_image_here, 2), "false boxes an image", "no image is without objects")
    if alarms.num_empty:
        images = counted(alarms.num_empty, "such image")
        alarm = (figure(alarms.per_empty_image_here, 2), "false boxes an image without objects", f"over {images}")
    return [
        (figure(analysis.coco["AP"]), "AP", "COCO, IoU .50 to .95"),
        (figure(analysis.coco["AP50"]), "AP50", "at IoU .50"),
        (percent(analysis.here.recall), "of the objects found", f"at threshold {figure(analysis.threshold, 2)}"),
        (percent(analysis.here.precision), "of its boxes right", f"at threshold {figure(analysis.threshold, 2)}"),
        alarm,
    ]


def _split_name(name: str) -> str:
    return {"val": "validation", "train": "training"}.get(name, name)
