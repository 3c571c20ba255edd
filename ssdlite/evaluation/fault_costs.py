"""What each kind of fault costs: the AP50 that would be won were all faults of that kind mended.

Bolya et al. 2020 ("TIDE", sec. 2.3). Each kind is mended by itself, so that the sum is not what is missing to 1.
All detections are looked at, whatever their score, as AP does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ssdlite.evaluation.faults import FAULT_KINDS, FaultKind, find_faults
from ssdlite.evaluation.judgement import NEUTRAL, RIGHT, WRONG, Judgement
from ssdlite.structures import DataSplit, Detections

RECALLS = np.linspace(0, 1, 101)  # those at which COCO reads the precision


def fault_costs(
    split: DataSplit, detections: Sequence[Detections], judgements: Sequence[Judgement], iou_threshold: float = 0.5
) -> dict[FaultKind, float]:
    """Kind -> points of mean AP at `iou_threshold`, in 0..1, that would be won; NaN without objects.

    Missed objects are taken off the objects that count; a class that has no others is perfect then. Duplicates,
    detections of background, and those of a wrong class that are badly placed too are left out. A detection that is
    badly placed gets its object's box, one of a wrong class its object's class: the best of each object becomes
    right, unless the object was found anyhow, and the others are left out.
    """
    ledger = _open_ledger(split, detections, judgements, iou_threshold)
    as_it_is = _mean_ap(ledger, ledger.labels, ledger.outcomes, ledger.num_objects)
    return {kind: _mended_ap(ledger, kind) - as_it_is for kind in FAULT_KINDS}


@dataclass(frozen=True, eq=False)
class _Ledger:
    """All detections of a split, one after the other, and how many objects of each label there are."""

    scores: np.ndarray  # (D,)
    labels: np.ndarray  # (D,)
    outcomes: np.ndarray  # (D,)
    kinds: np.ndarray  # (D,) number of the fault in FAULT_KINDS; -1 for none
    objects: np.ndarray  # (D,) the object that a fault is about, numbered through the split; -1 for none
    object_labels: np.ndarray  # (N,) of all objects of the split
    is_open: np.ndarray  # (N,) bool: those that count and were not found
    num_objects: np.ndarray  # (K + 1,) those that count
    num_missed: np.ndarray  # (K + 1,)


def _open_ledger(
    split: DataSplit, detections: Sequence[Detections], judgements: Sequence[Judgement], iou_threshold: float
) -> _Ledger:
    K = len(split.class_names)
    num_missed = np.zeros(K + 1, np.int64)
    kinds, objects = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    first = 0  # number of the image's first object
    for record, found, judged in zip(split.records, detections, judgements, strict=True):
        kind, about = np.full((2, len(found.scores)), -1)
        for fault in find_faults(record, found, judged, iou_threshold=iou_threshold):
            if fault.detection is None:
                num_missed[fault.label] += 1
            else:
                kind[fault.detection] = FAULT_KINDS.index(fault.kind)
                about[fault.detection] = -1 if fault.object is None else first + fault.object
        kinds.append(kind)
        objects.append(about)
        first += len(record.labels)
    object_labels = _join((record.labels for record in split.records), np.int64)
    counts = _join((~(record.ignore | record.crowd) for record in split.records), np.bool_)
    found_by = _join((judged.found_by for judged in judgements), np.int64)
    return _Ledger(
        scores=_join((found.scores for found in detections), np.float64),
        labels=_join((found.labels for found in detections), np.int64),
        outcomes=_join((judged.outcome for judged in judgements), np.int64),
        kinds=np.concatenate(kinds),
        objects=np.concatenate(objects),
        object_labels=object_labels,
        is_open=counts & (found_by < 0),
        num_objects=np.bincount(object_labels[counts], minlength=K + 1),
        num_missed=num_missed,
    )


def _mended_ap(ledger: _Ledger, kind: FaultKind) -> float:
    """Mean AP after all faults of a kind are mended."""
    labels, outcomes, num_objects = ledger.labels.copy(), ledger.outcomes.copy(), ledger.num_objects
    faulty = np.flatnonzero(ledger.kinds == FAULT_KINDS.index(kind))
    if kind == "missed":
        num_objects = num_objects - ledger.num_missed
    else:
        outcomes[faulty] = NEUTRAL  # left out
    if kind in ("wrong class", "badly placed"):
        faulty = faulty[np.argsort(-ledger.scores[faulty], kind="stable")]
        faulty = faulty[ledger.is_open[ledger.objects[faulty]]]
        _, best = np.unique(ledger.objects[faulty], return_index=True)
        mended = faulty[best]
        outcomes[mended] = RIGHT
        labels[mended] = ledger.object_labels[ledger.objects[mended]]
    return _mean_ap(ledger, labels, outcomes, num_objects)


def _mean_ap(ledger: _Ledger, labels: np.ndarray, outcomes: np.ndarray, num_objects: np.ndarray) -> float:
    """COCO's AP at one IoU as it would be with these (D,) labels, (D,) outcomes and (K + 1,) numbers of objects.

    It is the mean over the classes that have objects before anything is mended.
    """
    each = [
        _coco_ap(ledger.scores[labels == label], outcomes[labels == label], int(num_objects[label]))
        for label in np.flatnonzero(ledger.num_objects)
    ]
    return float(np.mean(each)) if each else math.nan


def _coco_ap(scores: np.ndarray, outcomes: np.ndarray, num_objects: int) -> float:
    """Mean over 101 recalls of the best precision at that recall or beyond."""
    if not num_objects:
        return 1.0
    outcomes = outcomes[np.argsort(-scores, kind="stable")]
    right, wrong = np.cumsum(outcomes == RIGHT), np.cumsum(outcomes == WRONG)
    precision = np.maximum.accumulate((right / np.maximum(right + wrong, 1))[::-1])[::-1]
    reached = np.searchsorted(right / num_objects, RECALLS, side="left")
    return float(np.append(precision, 0)[reached].mean())


def _join(arrays: Iterator[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *arrays])
