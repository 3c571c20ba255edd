"""Rows of the tables of the page, as text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from ssdlite.evaluation.analysis import Analysis
from ssdlite.evaluation.curves import ThresholdPoint
from ssdlite.evaluation.errors import ERROR_TYPES
from ssdlite.evaluation.sizes import SizeTable
from ssdlite.report.data import SplitStatistics
from ssdlite.report.formatting import UNKNOWN, count, figure, percent
from ssdlite.report.summary import ERROR_NAMES, evaluated_classes

MEANINGS = {
    "AP": "IoU .50 to .95",
    "AP50": "at IoU .50",
    "AP75": "at IoU .75",
    "AP_small": "under 32² pixels",
    "AP_medium": "32² to 96² pixels",
    "AP_large": "over 96² pixels",
    "AR1": "1 detection per image",
    "AR10": "10 detections per image",
    "AR100": "100 detections per image",
    "AR_small": "under 32² pixels",
    "AR_medium": "32² to 96² pixels",
    "AR_large": "over 96² pixels",
    "VOC07_AP50": "mean over eleven recalls",
    "VOC12_AP50": "area under the curve",
}


NUM_CONFUSED, LEAST_CONFUSED = 12, 2  # pairs that are listed at most; confusions that a pair needs to be listed


SHAPES = {"wide": "wider than 2:1", "tall": "taller than 1:2"}


class FigureRow(NamedTuple):
    """Name, value and meaning of a metric."""

    name: str
    value: str
    meaning: str


class ClassRow(NamedTuple):
    """Figures of one class."""

    name: str
    train_objects: str  # "" if unknown
    objects: str
    ap: str
    share: float | None  # AP in 0..1 as the length of a bar; None where AP is undefined
    ap50: str
    ap75: str
    ar: str
    voc07: str
    voc12: str
    threshold: str  # the one with the class's best F1
    f1: str  # at `threshold`
    precision: str  # at the operating threshold, as are the next two
    recall: str
    error: str  # the most frequent type and its number


def figure_tables(analysis: Analysis) -> dict[str, list[FigureRow]]:
    """Return title -> rows for COCO's twelve metrics and VOC's two."""
    coco = [FigureRow(name, figure(value), MEANINGS.get(name, "")) for name, value in analysis.coco.items()]
    voc = {"VOC07_AP50": analysis.voc07, "VOC12_AP50": analysis.voc12}
    return {
        "COCO, average precision": [row for row in coco if row.name.startswith("AP")],
        "COCO, average recall": [row for row in coco if row.name.startswith("AR")],
        "VOC 2007 and 2012, at IoU .50": [FigureRow(name, figure(voc[name]), MEANINGS[name]) for name in voc],
    }


def class_rows(analysis: Analysis, train: SplitStatistics | None) -> list[ClassRow]:
    """Return the classes with objects, the weakest first, then those without, whose figures are undefined."""
    evaluated = evaluated_classes(analysis)
    absent = [row for row in analysis.classes if not row.num_objects]
    rows = []
    for row in [*evaluated, *absent]:
        kind = max(ERROR_TYPES, key=lambda kind: row.errors.get(kind, 0))
        number = row.errors.get(kind, 0)
        rows.append(
            ClassRow(
                name=row.name,
                train_objects=count(train.num_objects.get(row.name, 0)) if train else "",
                objects=count(row.num_objects),
                ap=figure(row.ap),
                share=None if math.isnan(row.ap) else row.ap,
                ap50=figure(row.ap50),
                ap75=figure(row.ap75),
                ar=figure(row.ar100),
                voc07=figure(row.voc07),
                voc12=figure(row.voc12),
                threshold=figure(row.best.threshold, 2) if row.best else UNKNOWN,
                f1=figure(row.best.f1, 2) if row.best else UNKNOWN,
                precision=percent(row.here.precision),
                recall=percent(row.here.recall),
                error=f"{ERROR_NAMES[kind]} ({number})" if number else UNKNOWN,
            )
        )
    return rows


def threshold_rows(analysis: Analysis) -> list[tuple[str, ...]]:
    """Return (goal, threshold, precision, recall, false positives per image) of thresholds to choose from."""
    points: list[tuple[str, ThresholdPoint | None]] = [("recommended", analysis.here)]
    points += [(f"precision ≥ {percent(goal)}", point) for goal, point in sorted(analysis.alternatives.items())]
    rows: list[tuple[str, ...]] = []
    for name, point in points:
        if point is None:
            rows.append((name, "not reached", UNKNOWN, UNKNOWN, UNKNOWN))
            continue
        per_image = point.wrong / max(analysis.num_images, 1)
        shown = figure(point.threshold, 2 if point.threshold >= 0.01 else 3)
        rows.append((name, shown, percent(point.precision), percent(point.recall), figure(per_image, 2)))
    return rows


def confusion_rows(analysis: Analysis) -> list[tuple[str, str, str, str]]:
    """Return (class, class it was detected as, times, share of its objects), the most frequent first.

    Background is left out.
    """
    confusion = analysis.confusion
    counts = confusion.counts[:-1, :-1].copy()
    np.fill_diagonal(counts, 0)
    pairs = sorted(np.argwhere(counts >= LEAST_CONFUSED).tolist(), key=lambda pair: -counts[pair[0], pair[1]])[
        :NUM_CONFUSED
    ]
    return [
        (
            confusion.names[i],
            confusion.names[j],
            count(int(counts[i, j])),
            percent(counts[i, j] / confusion.counts[i].sum()),
        )
        for i, j in pairs
    ]


def size_rows(table: SizeTable) -> list[tuple[str, ...]]:
    """Return (size, objects, AP, AP50, AR100, highest recall at IoU .5) of each size."""
    return [
        (
            bucket.name,
            count(bucket.total),
            figure(bucket.mean_ap),
            figure(bucket.mean_ap50),
            figure(bucket.mean_recall),
            percent(bucket.mean_recall50),
        )
        for bucket in table.buckets
    ]


def data_rows(splits: Mapping[str, SplitStatistics]) -> list[tuple[str, ...]]:
    """Return a row for each statistic: its name, then its value in each split."""
    found = list(splits.values())

    def median(values: np.ndarray) -> float:
        return float(np.median(values)) if len(values) else float("nan")

    def share(mask: np.ndarray) -> str:
        return percent(float(mask.mean())) if len(mask) else UNKNOWN

    return [
        ("images", *(count(split.num_images) for split in found)),
        ("images without objects", *(count(split.num_empty) for split in found)),
        ("objects", *(count(split.total) for split in found)),
        ("difficult or crowd, not counted", *(count(split.num_ignored) for split in found)),
        (
            "mean objects per image",
            *(figure(split.total / split.num_images if split.num_images else None, 1) for split in found),
        ),
        ("most objects in one image", *(count(int(split.objects_per_image.max(initial=0))) for split in found)),
        ("median object side / image side", *(percent(median(split.sides), 1) for split in found)),
        ("objects under 8 % of the image's side", *(share(split.sides < 0.08) for split in found)),
        (SHAPES["wide"], *(share(split.ratios > 2) for split in found)),
        (SHAPES["tall"], *(share(split.ratios < 0.5) for split in found)),
    ]
