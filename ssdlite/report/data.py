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

WIDEST = 1e4  # aspect ratios are clipped to 1 / WIDEST .. WIDEST: a box may have no height


@dataclass(frozen=True, eq=False)
class SplitStatistics:
    """Statistics of one split. Its objects are those that count: neither crowd nor difficult."""

    num_images: int
    num_empty: int  # images without an object that counts
    num_ignored: int  # objects that do not count
    num_objects: dict[str, int]  # class name -> objects
    sides: np.ndarray  # (N,) float64: √(area of the box / area of the image)
    ratios: np.ndarray  # (N,) float64: width / height of the box, in pixels of the image
    objects_per_image: np.ndarray  # (images,) int64

    @property
    def total(self) -> int:
        """Number of objects that count."""
        return len(self.sides)


def describe_split(split: DataSplit) -> SplitStatistics:
    """Return counts, sizes and aspect ratios of the annotated boxes of `split`; no image is opened."""
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
    """Values of one logged quantity over the steps of a run; NaN where it is undefined."""

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
        """Terms of the loss, which is their sum, by name."""
        return {name: series for name, series in self.train.items() if name not in NO_TERMS}

    @property
    def last_step(self) -> int:
        """Last step that was logged; 0 if none was."""
        return max((int(series.steps[-1]) for series in self.train.values() if len(series)), default=0)


def read_history(path: Path) -> History:
    """Read a `metrics.jsonl`; return an empty history if there is none.

    Lines that are not JSON objects are skipped, such as one that was cut short when the run was killed.
    """
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
    """Return the history in the rows of a log: `{"kind": "train" or "val", "step": ..., name: number, ...}`."""
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
    """Return `series` with at most `most` points, each the mean of consecutive ones."""
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
    """Split with the detections of a model and their analysis."""

    split: DataSplit
    split_name: str  # 'val' or 'train'
    detections: Sequence[Detections]  # one entry for each record of the split
    analysis: Analysis


@dataclass(frozen=True)
class PriorFitRow:
    """Fit of the priors to the objects of one size."""

    name: str  # the range of sizes, such as '8 to 16 px'
    num_objects: int
    share: float  # of the objects whose best prior reaches IoU .5, in 0..1; NaN where there are none


@dataclass(frozen=True)
class PriorFitSummary:
    """Fit of the priors to the training objects; shares in 0..1."""

    num_objects: int
    reached: float  # objects whose best prior has IoU .5 or more
    forced: float  # objects whose best prior has less, and is assigned to them all the same
    unmatched: float  # objects that no prior is assigned to
    rows: tuple[PriorFitRow, ...] = ()
    unit: str = ""  # sentence that explains the names of the rows


class Recommendation(NamedTuple):
    """Observation about a run, with advice."""

    text: str  # the observation, with its figure
    advice: str  # next step
    anchor: str  # id of the section of the page that shows it
    weight: float  # recommendations are listed by falling weight


@dataclass(frozen=True, eq=False)
class ReportData:
    """Data of one page. Unknown data are None or empty; the page says so or leaves them out."""

    title: str  # the run's name or the model's file
    history: History
    model: Mapping[str, str] = field(default_factory=dict)  # model card: the network and its options
    origin: Mapping[str, str] = field(default_factory=dict)  # model card: data, time, machine and versions
    evaluated: EvaluatedSplit | None = None
    why_not_evaluated: str = ""  # a sentence, where `evaluated` is None
    data: Mapping[str, SplitStatistics] = field(default_factory=dict)  # 'train' and 'val' -> statistics
    num_shared: int = 0  # image files that both splits have
    input_size: tuple[int, int] | None = None  # (height, width) of the network
    has_priors: bool | None = True  # of the head; None if unknown
    fit: PriorFitSummary | None = None
    epochs: int | None = None  # planned
    config: str = ""  # all options, as YAML
    written: datetime = field(default_factory=lambda: datetime.now().astimezone())
