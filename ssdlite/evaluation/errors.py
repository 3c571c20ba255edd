"""Error types of detections and missed objects, image by image, and the AP50 that each type costs.

The types are those of TIDE (Bolya et al. 2020): classification, localisation, both, duplicate, background, missed.
The cost of a type is its ΔAP: the AP50 that would be won if all errors of that type were mended.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np

from ssdlite.boxes_np import iou
from ssdlite.evaluation.matching import FALSE_POSITIVE, IGNORED, TRUE_POSITIVE, ImageMatches
from ssdlite.structures import DataSplit, Detections, ImageId, Record

ErrorType: TypeAlias = Literal["missed", "wrong class", "badly placed", "both", "duplicate", "background"]
"""`both` is a wrong class that is badly placed too; `background` is a detection of nothing."""


ERROR_TYPES: tuple[ErrorType, ...] = get_args(ErrorType)


LEAST_OVERLAP = 0.1  # TIDE's t_b: below, a detection has nothing to do with an object


EXPLAINING: tuple[ErrorType, ...] = ("wrong class", "badly placed")


WEIGHTS: dict[ErrorType, float] = {
    "missed": 1.0,
    "wrong class": 1.0,
    "both": 1.0,
    "background": 1.0,
    "badly placed": 0.5,
    "duplicate": 0.5,
}
"""Weight of each error type when images are ranked: half where the class is right."""


class DetectionError(NamedTuple):
    """One false detection, or one object that was missed."""

    kind: ErrorType
    label: int  # 1..K: the class of the detection; of the object where it was missed
    detection: int | None  # its position in the detections of the image; None where an object was missed
    object: int | None  # the position in the record of the object that it overlaps most; None for background
    iou: float  # with that object; 0 where an object was missed
    score: float  # of the detection; NaN where an object was missed


@dataclass(frozen=True, eq=False)
class MatchedImage:
    """One image at the operating threshold."""

    index: int  # its position in `split.records` and in the detections
    image_id: ImageId
    num_objects: int  # those that count
    right: tuple[int, ...]  # detections that found an object, by their positions, best first
    found: tuple[int, ...]  # the objects that they found, in the same order
    excused: tuple[int, ...]  # detections of ignored objects, which neither count nor punish
    errors: tuple[DetectionError, ...]  # false detections, best score first, then what was missed
    weight: float  # sum of the WEIGHTS of its errors; 0 where nothing is wrong
    confidence: float  # the lowest score among those that are right; NaN where none is

    @property
    def num_missed(self) -> int:
        """Objects that were not found, for whatever reason."""
        return self.num_objects - len(self.found)


def match_images(
    split: DataSplit,
    detections: Sequence[Detections],
    matches: Sequence[ImageMatches],
    *,
    score_threshold: float,
    iou_threshold: float = 0.5,
) -> list[MatchedImage]:
    """Every image of the split, in its order, with the detections that score at least `score_threshold`."""
    return [
        _match_image(index, *each, score_threshold, iou_threshold)
        for index, each in enumerate(zip(split.records, detections, matches, strict=True))
    ]


def worst_images(images: Iterable[MatchedImage], most: int) -> list[MatchedImage]:
    """The images with the greatest weight, of equals those with the most confident false detections; none that is
    without errors."""
    erroneous = [image for image in images if image.errors]

    def badness(image: MatchedImage) -> tuple[float, float]:
        return image.weight, sum(error.score for error in image.errors if error.detection is not None)

    return sorted(erroneous, key=badness, reverse=True)[:most]


def best_images(images: Iterable[MatchedImage], most: int) -> list[MatchedImage]:
    """Images all of whose objects (at least one) are found and nothing else, the most confident first."""
    good = [image for image in images if image.num_objects and not image.errors]
    return sorted(good, key=lambda image: image.confidence, reverse=True)[:most]


def count_errors(images: Iterable[MatchedImage], class_names: Sequence[str]) -> dict[str, dict[ErrorType, int]]:
    """Class name -> kind -> how many, by the class of the detection or of the missed object."""
    counts = Counter((error.label, error.kind) for image in images for error in image.errors)
    return {
        name: {kind: counts[label, kind] for kind in ERROR_TYPES} for label, name in enumerate(class_names, start=1)
    }


def _match_image(
    index: int,
    record: Record,
    found: Detections,
    matched: ImageMatches,
    score_threshold: float,
    iou_threshold: float,
) -> MatchedImage:
    kept = np.flatnonzero(found.scores >= score_threshold)
    outcome = matched.outcome[kept]
    right = kept[outcome == TRUE_POSITIVE]
    errors = classify_errors(record, found, matched, score_threshold=score_threshold, iou_threshold=iou_threshold)
    return MatchedImage(
        index=index,
        image_id=record.image_id,
        num_objects=int((~(record.ignore | record.crowd)).sum()),
        right=tuple(right.tolist()),
        found=tuple(matched.matched[right].tolist()),
        excused=tuple(kept[outcome == IGNORED].tolist()),
        errors=errors,
        weight=sum(WEIGHTS[error.kind] for error in errors),
        confidence=float(found.scores[right].min()) if len(right) else math.nan,
    )


def classify_errors(
    record: Record,
    found: Detections,
    matched: ImageMatches,
    *,
    score_threshold: float = 0.0,
    iou_threshold: float = 0.5,
) -> tuple[DetectionError, ...]:
    """Return the error types of the detections of one image that score at least `score_threshold`, best score
    first, and then its missed objects."""
    kept = found.scores >= score_threshold
    false = np.flatnonzero(kept & (matched.outcome == FALSE_POSITIVE))
    overlap = iou(found.boxes[false], record.boxes)
    overlap[:, record.crowd] = -1.0  # its overlap says nothing about any one object
    errors = [
        _class_error(record, found, detection, row, iou_threshold)
        for detection, row in zip(false.tolist(), overlap, strict=True)
    ]
    is_found = np.zeros(len(record.labels), bool)
    is_found[matched.matched[kept & (matched.outcome == TRUE_POSITIVE)]] = True
    explained = {error.object for error in errors if error.kind in EXPLAINING}
    missed = np.flatnonzero(~(is_found | record.ignore | record.crowd)).tolist()
    errors += [
        DetectionError("missed", int(record.labels[number]), None, number, 0.0, math.nan)
        for number in missed
        if number not in explained
    ]
    return tuple(errors)


def _class_error(
    record: Record, found: Detections, detection: int, overlap: np.ndarray, iou_threshold: float
) -> DetectionError:
    """Return the error type of one false positive, from its (N,) overlap with the objects of its image."""
    label, score = int(found.labels[detection]), float(found.scores[detection])
    nearest = int(overlap.argmax()) if len(overlap) else None
    if nearest is None or overlap[nearest] < LEAST_OVERLAP:
        return DetectionError("background", label, detection, None, 0.0, score)
    same_class = record.labels[nearest] == label
    kind: ErrorType
    if overlap[nearest] >= iou_threshold:
        kind = "duplicate" if same_class else "wrong class"
    else:
        kind = "badly placed" if same_class else "both"
    return DetectionError(kind, label, detection, nearest, float(overlap[nearest]), score)


RECALLS = np.linspace(0, 1, 101)  # those at which COCO reads the precision


def delta_ap(
    split: DataSplit, detections: Sequence[Detections], matches: Sequence[ImageMatches], iou_threshold: float = 0.5
) -> dict[ErrorType, float]:
    """Kind -> points of mean AP at `iou_threshold`, in 0..1, that would be won; NaN without objects.

    Missed objects are taken off the objects that count; a class that has no others is perfect then. Duplicates,
    detections of background, and those of a wrong class that are badly placed too are left out. A detection that is
    badly placed gets its object's box, one of a wrong class its object's class: the best of each object becomes
    right, unless the object was found anyhow, and the others are left out.
    """
    ledger = _open_ledger(split, detections, matches, iou_threshold)
    as_it_is = _mean_ap(ledger, ledger.labels, ledger.outcomes, ledger.num_objects)
    return {kind: _mended_ap(ledger, kind) - as_it_is for kind in ERROR_TYPES}


@dataclass(frozen=True, eq=False)
class _Ledger:
    """Detections of a split, one after the other, and numbers of objects by label."""

    scores: np.ndarray  # (D,)
    labels: np.ndarray  # (D,)
    outcomes: np.ndarray  # (D,)
    kinds: np.ndarray  # (D,) number of the error type in ERROR_TYPES; -1 for none
    objects: np.ndarray  # (D,) the object that an error is about, numbered through the split; -1 for none
    object_labels: np.ndarray  # (N,) of all objects of the split
    is_open: np.ndarray  # (N,) bool: those that count and were not found
    num_objects: np.ndarray  # (K + 1,) those that count
    num_missed: np.ndarray  # (K + 1,)


def _open_ledger(
    split: DataSplit, detections: Sequence[Detections], matches: Sequence[ImageMatches], iou_threshold: float
) -> _Ledger:
    K = len(split.class_names)
    num_missed = np.zeros(K + 1, np.int64)
    kinds, objects = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    first = 0  # number of the image's first object
    for record, found, matched in zip(split.records, detections, matches, strict=True):
        kind, about = np.full((2, len(found.scores)), -1)
        for error in classify_errors(record, found, matched, iou_threshold=iou_threshold):
            if error.detection is None:
                num_missed[error.label] += 1
            else:
                kind[error.detection] = ERROR_TYPES.index(error.kind)
                about[error.detection] = -1 if error.object is None else first + error.object
        kinds.append(kind)
        objects.append(about)
        first += len(record.labels)
    object_labels = _join((record.labels for record in split.records), np.int64)
    counts = _join((~(record.ignore | record.crowd) for record in split.records), np.bool_)
    found_by = _join((matched.found_by for matched in matches), np.int64)
    return _Ledger(
        scores=_join((found.scores for found in detections), np.float64),
        labels=_join((found.labels for found in detections), np.int64),
        outcomes=_join((matched.outcome for matched in matches), np.int64),
        kinds=np.concatenate(kinds),
        objects=np.concatenate(objects),
        object_labels=object_labels,
        is_open=counts & (found_by < 0),
        num_objects=np.bincount(object_labels[counts], minlength=K + 1),
        num_missed=num_missed,
    )


def _mended_ap(ledger: _Ledger, kind: ErrorType) -> float:
    """Mean AP without all errors of a type."""
    labels, outcomes, num_objects = ledger.labels.copy(), ledger.outcomes.copy(), ledger.num_objects
    erroneous = np.flatnonzero(ledger.kinds == ERROR_TYPES.index(kind))
    if kind == "missed":
        num_objects = num_objects - ledger.num_missed
    else:
        outcomes[erroneous] = IGNORED  # left out
    if kind in ("wrong class", "badly placed"):
        erroneous = erroneous[np.argsort(-ledger.scores[erroneous], kind="stable")]
        erroneous = erroneous[ledger.is_open[ledger.objects[erroneous]]]
        _, best = np.unique(ledger.objects[erroneous], return_index=True)
        mended = erroneous[best]
        outcomes[mended] = TRUE_POSITIVE
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
    right, wrong = np.cumsum(outcomes == TRUE_POSITIVE), np.cumsum(outcomes == FALSE_POSITIVE)
    precision = np.maximum.accumulate((right / np.maximum(right + wrong, 1))[::-1])[::-1]
    reached = np.searchsorted(right / num_objects, RECALLS, side="left")
    return float(np.append(precision, 0)[reached].mean())


def _join(arrays: Iterator[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *arrays])
