"""Evaluation of a predictor on the images of a loader."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

from ssdlite.evaluation.coco import CocoMetrics, coco_metrics
from ssdlite.evaluation.voc import VocMetrics, count_objects, voc_metrics
from ssdlite.structures import Batch, DataSplit, Detections, Predictor

logger = logging.getLogger(__name__)


@runtime_checkable
class StagedPredictor(Protocol):
    """A Predictor in two stages, so that an accelerator need not wait between two batches.

    `finish(start(batch))` is what a call with `batch` gives.
    """

    def start(self, batch: Batch) -> Any:
        """Launch the work and return without waiting for it, with what `finish` needs."""

    def finish(self, handle: Any) -> list[Detections]:
        """Wait for the work and fetch its detections."""


Progress: TypeAlias = Callable[[Iterable[Batch]], Iterable[Batch]]
"""Wraps the loader to show how far it is, such as `rich.progress.track`."""


Gather: TypeAlias = Callable[[dict[int, Detections]], dict[int, Detections] | None]
"""Joins the detections of all processes: the whole on the first process, None on the others."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Detections of one split and the figures that they give."""

    coco: CocoMetrics
    voc: VocMetrics  # at IoU .5
    detections: list[Detections]  # one entry for each record of the split
    num_images: int
    num_objects: dict[str, int]  # class name -> objects that count (neither crowd nor difficult)

    def to_dict(self) -> dict[str, Any]:
        """The figures for a JSON file; what is undefined is None."""
        per_class = {
            name: {
                "objects": count,
                "AP": _or_none(self.coco.ap[name]),
                "AP50": _or_none(self.coco.ap50[name]),
                "VOC07_AP50": _or_none(self.voc.ap07[name]),
                "VOC12_AP50": _or_none(self.voc.ap12[name]),
            }
            for name, count in self.num_objects.items()
        }
        return {
            "coco": {name: _or_none(value) for name, value in self.coco.summary.items()},
            "voc": {"VOC07_AP50": _or_none(self.voc.map07), "VOC12_AP50": _or_none(self.voc.map12)},
            "per_class": per_class,
            "images": self.num_images,
        }


def evaluate(
    predictor: Predictor,
    loader: Iterable[Batch],
    split: DataSplit,
    *,
    gather: Gather | None = None,
    progress: Progress | None = None,
) -> Evaluation | None:
    """Run `predictor` over `loader`, which must visit every record of `split`, and score what it finds.

    With several processes each visits its share and `gather` joins them; None is returned on all processes
    to which `gather` gives nothing. An image seen by two processes counts once.
    """
    seen = predict_split(predictor, loader, len(split), progress)
    found = gather(seen) if gather else seen
    if found is None:
        return None
    missing = [index for index in range(len(split)) if index not in found]
    assert not missing, f"the loader left out {len(missing)} of {len(split)} images, first {missing[0]}"
    return score_detections(split, [found[index] for index in range(len(split))])


def predict_split(
    predictor: Predictor, loader: Iterable[Batch], num_records: int, progress: Progress | None = None
) -> dict[int, Detections]:
    """The detections of every image that `loader` gives, by the image's position in its split.

    A StagedPredictor starts each batch before the last one is finished, and holds two at most.
    """
    batches = progress(loader) if progress else loader
    answers = (
        _in_flight(predictor, batches)
        if isinstance(predictor, StagedPredictor)
        else _one_by_one(predictor, batches)
    )
    found: dict[int, Detections] = {}
    for indices, detections in answers:
        found.update(zip(indices, detections, strict=True))
    assert all(0 <= index < num_records for index in found), "the loader reads another split"
    return found


def _one_by_one(predictor: Predictor, batches: Iterable[Batch]) -> Iterator[tuple[list[int], list[Detections]]]:
    """(indices of a batch, its detections)."""
    for batch in batches:
        yield batch.indices, predictor(batch)


def _in_flight(
    predictor: StagedPredictor, batches: Iterable[Batch]
) -> Iterator[tuple[list[int], list[Detections]]]:
    """Yield indices and detections of each batch, with the next one started while the last is unfinished."""
    started: tuple[list[int], Any] | None = None
    for batch in batches:
        last, started = started, (batch.indices, predictor.start(batch))
        if last:
            yield last[0], predictor.finish(last[1])
    if started:
        yield started[0], predictor.finish(started[1])


def score_detections(split: DataSplit, detections: Sequence[Detections]) -> Evaluation:
    """COCO and VOC figures for `detections[i]` found in the image of `split.records[i]`."""
    return Evaluation(
        coco=coco_metrics(split, detections),
        voc=voc_metrics(split, detections),
        detections=list(detections),
        num_images=len(split),
        num_objects=count_objects(split),
    )


def warn_of_absent_classes(split: DataSplit) -> None:
    """Say once, before the evaluation, which classes the figures will not speak of."""
    num_objects = count_objects(split)
    if absent := [name for name, count in num_objects.items() if count == 0]:
        logger.warning(
            "%d of %d classes have no object in this split and are left out of the means: %s",
            len(absent),
            len(num_objects),
            ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else ""),
        )


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
