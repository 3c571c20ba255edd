"""Rendering of a report as one self-contained HTML file."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from ssdlite.report.charts import (
    calibration_chart,
    class_error_chart,
    confusion_chart,
    curve_chart,
    data_charts,
    error_chart,
    false_positive_chart,
    fit_chart,
    size_chart,
    threshold_chart,
    training_charts,
)
from ssdlite.report.data import EvaluatedSplit, ReportData
from ssdlite.report.figure import Chart
from ssdlite.report.formatting import count, counted, figure, percent
from ssdlite.report.images import choose_pictures, legend
from ssdlite.report.recommendations import find
from ssdlite.report.summary import summarize
from ssdlite.report.tables import class_rows, confusion_rows, data_rows, figure_tables, size_rows, threshold_rows

TEMPLATE = "page.html"


def render(report: ReportData) -> str:
    """Return the HTML of the page. All text, such as class and file names, is escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"figure": figure, "percent": percent, "count": count}
    template = environment.from_string(files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8"))
    return template.render(
        report=report,
        summary=summarize(report),
        recommendations=find(report),
        headline=_headline(report),
        evaluated=_evaluated(report.evaluated, report) if report.evaluated else None,
        fit_chart=fit_chart(report.fit) if report.fit else None,
        training=training_charts(report.history),
        data=data_charts(report.data),
        data_rows=data_rows(report.data),
        data_names=[_split_name(name) for name in report.data],
        written=report.written.strftime("%d %B %Y, %H:%M %Z").strip(),
    )


def _evaluated(evaluated: EvaluatedSplit, report: ReportData) -> dict[str, Any]:
    """Return the template's values for an evaluated split: charts, tables and pictures."""
    analysis = evaluated.analysis
    charts: dict[str, Chart | None] = {
        "curves": curve_chart(analysis),
        "threshold": threshold_chart(analysis),
        "false_positives": false_positive_chart(analysis),
        "calibration": calibration_chart(analysis),
        "sizes": size_chart(analysis.relative_sizes),
        "errors": error_chart(analysis),
        "class_errors": class_error_chart(analysis),
        "confusion": confusion_chart(analysis),
    }
    worst, best = choose_pictures(evaluated)
    return {
        "analysis": analysis,
        "split": _split_name(evaluated.split_name),
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


def _headline(report: ReportData) -> list[tuple[str, str, str]]:
    """Return (number, name, condition) of the most important metrics."""
    if not report.evaluated:
        return []
    analysis = report.evaluated.analysis
    threshold = figure(analysis.threshold, 2)
    false_positives = analysis.false_positives
    rate = (figure(false_positives.per_image_here, 2), "false positives per image", "all images have objects")
    if false_positives.num_empty:
        rate = (
            figure(false_positives.per_empty_image_here, 2),
            "false positives per image without objects",
            f"mean over {counted(false_positives.num_empty, 'such image')}",
        )
    return [
        (figure(analysis.coco["AP"]), "AP", "COCO, IoU .50 to .95"),
        (figure(analysis.coco["AP50"]), "AP50", "at IoU .50"),
        (percent(analysis.here.recall), "of the objects found", f"recall at threshold {threshold}"),
        (percent(analysis.here.precision), "of the detections correct", f"precision at threshold {threshold}"),
        rate,
    ]


def _split_name(name: str) -> str:
    return {"val": "validation", "train": "training"}.get(name, name)
