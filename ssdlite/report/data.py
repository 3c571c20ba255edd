"""Data of a report, without options or networks: statistics of splits, the history of a run, results."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssdlite.evaluation.analysis import Analysis
from ssdlite.evaluation.voc import count_objects
from ssdlite.io import read_text
from ssdlite.structures import DataSplit, Detections

WIDEST = 1e4  # the longest ratio of sides that is told apart; a box may have no height


@dataclass(frozen=True, eq=False)
class SplitStatistics:
    """Numbers of one split. Objects are those that count, neither crowd nor difficult."""

    num_images: int
    num_empty: int  # images without an object that counts
    num_ignored: int  # objects that do not count
    num_objects: dict[str, int]  # class name -> objects
    sides: np.ndarray  # (N,) float64: √(area of the box / area of the image)
    ratios: np.ndarray  # (N,) float64: width / height of the box, in pixels of the image
    objects_per_image: np.ndarray  # (images,) int64

    @property
    def total(self) -> int:
        return len(self.sides)


def describe_split(split: DataSplit) -> SplitStatistics:
    """Counts, sizes and shapes of the annotated boxes of `split`; no image is opened."""
    counted = [~(record.ignore | record.crowd) for record in split.records]
    chosen = [record.boxes[kept].astype(np.float64) for record, kept in zip(split.records, counted, strict=True)]
    per_image = np.array([len(boxes) for boxes in chosen], np.int64)
    boxes = np.concatenate([np.zeros((0, 4)), *chosen])
    image_areas = np.repeat([float(np.prod(record.size)) for record in split.records], per_image)
    width, height = (np.maximum(boxes[:, 2:] - boxes[:, :2], 0)).T
    return SplitStatistics(
        num_images=len(split),
        num_empty=int((per_image == 0).sum()),
        num_ignored=sum(int((~kept).sum()) for kept in counted),
        num_objects=count_objects(split),
        sides=np.sqrt(width * height / np.maximum(image_areas, 1)),
        ratios=np.clip(width / np.maximum(height, 1e-9), 1 / WIDEST, WIDEST),
        objects_per_image=per_image,
    )


NO_TERMS = ("kind", "step", "epoch", "lr", "loss", "images_per_second", "waiting_for_data")


@dataclass(frozen=True, eq=False)
class Series:
    """One figure over the steps of a run; NaN where it is undefined."""

    steps: np.ndarray  # (L,) int64, rising
    values: np.ndarray  # (L,) float64

    def __len__(self) -> int:
        return len(self.steps)


@dataclass(frozen=True, eq=False)
class History:
    """Series that a run logged while it trained; empty where it logged nothing."""

    train: dict[str, Series]  # loss, its terms, lr, images_per_second, waiting_for_data
    val: dict[str, Series]  # COCO's and VOC's figures by name

    @property
    def terms(self) -> dict[str, Series]:
        """The terms that the loss is the sum of."""
        return {name: series for name, series in self.train.items() if name not in NO_TERMS}

    @property
    def last_step(self) -> int:
        return max((int(series.steps[-1]) for series in self.train.values() if len(series)), default=0)


def read_history(path: Path) -> History:
    """The history in a `metrics.jsonl`; an empty one if there is none. A line that a kill cut short is left out."""
    try:
        lines = read_text(path).splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return make_history(rows)


def make_history(rows: Iterable[Mapping[str, Any]]) -> History:
    """Return the history of the lines of a logbook, `{"kind": "train" or "val", "step": ..., name: number,
    ...}`."""
    found: dict[str, dict[str, list[tuple[int, float]]]] = {"train": {}, "val": {}}
    for row in rows:
        kind, step = row.get("kind"), row.get("step")
        if kind not in found or not isinstance(step, int):
            continue
        for name, value in row.items():
            if name not in ("kind", "step") and (value is None or _is_number(value)):
                found[kind].setdefault(name, []).append((step, math.nan if value is None else float(value)))
    return History(*({name: _series(points) for name, points in found[kind].items()} for kind in found))


def thinned(series: Series, most: int = 400) -> Series:
    """At most `most` points, each the mean of its neighbours."""
    if len(series) <= most:
        return series
    edges = np.linspace(0, len(series), most + 1).astype(int)[:-1]
    counts = np.diff(np.append(edges, len(series)))
    return Series(series.steps[edges], np.add.reduceat(series.values, edges) / counts)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _series(points: list[tuple[int, float]]) -> Series:
    steps, values = zip(*points, strict=True)
    return Series(np.array(steps, np.int64), np.array(values, np.float64))


@dataclass(frozen=True, eq=False)
class EvaluatedSplit:
    """A split, what was found in it, and what that is worth."""

    split: DataSplit
    split_name: str  # 'val' or 'train'
    detections: Sequence[Detections]  # one entry for each record of the split
    analysis: Analysis


@dataclass(frozen=True)
class PriorFitRow:
    """Fit of the priors to the objects of one size."""

    name: str  # of the size, such as '8 to 16 px'
    num_objects: int
    share: float  # of them, in 0..1, whose best prior reaches IoU .5; NaN where there are none


@dataclass(frozen=True)
class PriorFitSummary:
    """Fit of the priors to the training objects; shares in 0..1."""

    num_objects: int
    reached: float  # the best prior overlaps the object by IoU .5
    forced: float  # none does, and the object is given to its best prior all the same
    unmatched: float  # no prior learns it
    rows: tuple[PriorFitRow, ...] = ()
    unit: str = ""  # of the rows' names, a sentence


class Recommendation(NamedTuple):
    """Something that stands out."""

    text: str  # what is so, with its number
    advice: str  # what to do about it
    anchor: str  # of the section that shows it
    weight: float  # the heaviest come first


@dataclass(frozen=True, eq=False)
class ReportData:
    """Data of one page. What is not known is None or empty, and the page says so or leaves it out."""

    title: str  # the run's name or the model's file
    history: History
    model: Mapping[str, str] = field(default_factory=dict)  # lines of the model card: what it is
    origin: Mapping[str, str] = field(default_factory=dict)  # where, when and with which versions it was made
    evaluated: EvaluatedSplit | None = None
    why_not_evaluated: str = ""  # a sentence
    data: Mapping[str, SplitStatistics] = field(default_factory=dict)  # by 'train' and 'val'
    num_shared: int = 0  # image files that are in both splits
    input_size: tuple[int, int] | None = None  # (height, width) of the network
    has_priors: bool | None = True  # None where that is not known
    fit: PriorFitSummary | None = None
    epochs: int | None = None  # that were planned
    config: str = ""  # all options, as YAML
    written: datetime = field(default_factory=lambda: datetime.now().astimezone())
