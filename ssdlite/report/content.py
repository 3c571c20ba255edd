"""What a report is made of, ready made: no options, no networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from ssdlite.evaluation.analysis import Analysis
from ssdlite.report.history import History
from ssdlite.report.statistics import SplitStatistics
from ssdlite.structures import DataSplit, Detections


@dataclass(frozen=True, eq=False)
class Judged:
    """A split, what was found in it, and what that is worth."""

    split: DataSplit
    split_name: str  # 'val' or 'train'
    detections: Sequence[Detections]  # one entry for each record of the split
    analysis: Analysis


@dataclass(frozen=True)
class FitRow:
    """How well the priors fit the objects of one size."""

    name: str  # of the size, such as '8 to 16 px'
    num_objects: int
    share: float  # of them, in 0..1, whose best prior reaches IoU .5; NaN where there are none


@dataclass(frozen=True)
class FitSummary:
    """How well the priors fit the objects to train on; shares in 0..1."""

    num_objects: int
    reached: float  # the best prior overlaps the object by IoU .5
    forced: float  # none does, and the object is given to its best prior all the same
    unmatched: float  # no prior learns it
    rows: tuple[FitRow, ...] = ()
    unit: str = ""  # of the rows' names, a sentence


class Finding(NamedTuple):
    """Something that stands out."""

    text: str  # what is so, with its number
    advice: str  # what to do about it
    anchor: str  # of the section that shows it
    weight: float  # the heaviest come first


@dataclass(frozen=True, eq=False)
class Report:
    """All that one page tells. What is not known is None or empty, and the page says so or leaves it out."""

    title: str  # the run's name or the model's file
    history: History
    model: Mapping[str, str] = field(default_factory=dict)  # lines of the model card: what it is
    origin: Mapping[str, str] = field(default_factory=dict)  # where, when and with which versions it was made
    judged: Judged | None = None
    why_not_judged: str = ""  # a sentence
    data: Mapping[str, SplitStatistics] = field(default_factory=dict)  # by 'train' and 'val'
    num_shared: int = 0  # image files that are in both splits
    input_size: tuple[int, int] | None = None  # (height, width) of the network
    has_priors: bool | None = True  # None where that is not known
    fit: FitSummary | None = None
    epochs: int | None = None  # that were planned
    config: str = ""  # all options, as YAML
    written: datetime = field(default_factory=lambda: datetime.now().astimezone())
