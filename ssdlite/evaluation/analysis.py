"""Analysis of the detections of one split: figures, error types, curves and worst images."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssdlite.evaluation.confusion import Confusion, FalsePositives, confusion_matrix, false_positives
from ssdlite.evaluation.curves import (
    PRECISION_GOALS,
    RULE,
    Calibration,
    Curve,
    ThresholdPoint,
    calibration,
    class_curves,
    pool,
    recommend_threshold,
)
from ssdlite.evaluation.errors import (
    ERROR_TYPES,
    ErrorType,
    MatchedImage,
    best_images,
    count_errors,
    delta_ap,
    match_images,
    worst_images,
)
from ssdlite.evaluation.evaluate import Evaluation
from ssdlite.evaluation.matching import match_split
from ssdlite.evaluation.sizes import SizeTable, coco_sizes, relative_sizes
from ssdlite.structures import DataSplit

NUM_LISTED = 20  # of the worst images, and of the best, in `Analysis.to_dict`


@dataclass(frozen=True, eq=False)
class ClassFigures:
    """One class; figures are in 0..1 and NaN where the class has no object that counts."""

    name: str
    num_objects: int  # that count: neither crowd nor difficult
    ap: float  # COCO's, over IoU .50:.05:.95
    ap50: float
    ap75: float
    ar100: float  # COCO's average recall with 100 detections an image
    voc07: float  # VOC's AP at IoU .50
    voc12: float
    best: ThresholdPoint | None  # at the class's own best F1; None without objects or detections
    here: ThresholdPoint  # at the operating threshold
    errors: dict[ErrorType, int]  # at the operating threshold


@dataclass(frozen=True, eq=False)
class Analysis:
    """Figures of one split for `report.html`. Those that depend on one IoU are at `iou_threshold`.

    Dictionaries by class have every class of the split, in its order.
    """

    num_images: int
    iou_threshold: float
    coco: dict[str, float]  # COCO's twelve figures, by the names of `coco.SUMMARY_NAMES`
    voc07: float  # VOC's means at IoU .50
    voc12: float
    classes: tuple[ClassFigures, ...]
    curves: dict[str, Curve]  # class name -> precision and recall at all thresholds
    pooled: Curve  # of all classes together
    threshold: float  # the operating threshold: recommended, unless one was given
    threshold_rule: str  # how it was chosen, as a sentence
    here: ThresholdPoint  # all classes together at the operating threshold
    alternatives: dict[
        float, ThresholdPoint | None
    ]  # precision goal -> the threshold of most recall that reaches it
    confusion: Confusion  # at the operating threshold
    images: tuple[MatchedImage, ...]  # every image of the split, in its order; see `worst_images` and `best_images`
    errors: dict[ErrorType, int]  # of all classes, at the operating threshold
    delta_ap: dict[ErrorType, float]  # points of AP50 (0..1) that would be won without such errors (TIDE)
    calibration: Calibration  # of all detections
    calibration_here: Calibration  # of those that score at least the operating threshold
    coco_sizes: SizeTable
    relative_sizes: SizeTable
    false_positives: FalsePositives

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a JSON file: NaN is None, curves have at most 200 points, and of the images the
        worst and best are listed."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del fields["images"]
        fields["worst_images"] = worst_images(self.images, NUM_LISTED)
        fields["best_images"] = best_images(self.images, NUM_LISTED)
        return {name: _plain(value) for name, value in fields.items()}


def analyse(
    split: DataSplit, evaluation: Evaluation, *, threshold: float | None = None, iou_threshold: float = 0.5
) -> Analysis:
    """Everything about `evaluation`, which is of `split`. Without an operating `threshold` one is recommended."""
    detections = evaluation.detections
    matches = match_split(split, detections, iou_threshold)
    matched = (split, detections, matches)
    curves = class_curves(*matched)
    pooled = pool(curves.values())
    rule = RULE if threshold is None else "given"
    threshold = recommend_threshold(curves) if threshold is None else threshold
    images = match_images(*matched, score_threshold=threshold, iou_threshold=iou_threshold)
    errors = count_errors(images, split.class_names)
    return Analysis(
        num_images=len(split),
        iou_threshold=iou_threshold,
        coco=evaluation.coco.summary,
        voc07=evaluation.voc.map07,
        voc12=evaluation.voc.map12,
        classes=tuple(
            _class_figures(index, name, evaluation, curves[name], threshold, errors[name])
            for index, name in enumerate(split.class_names)
        ),
        curves=curves,
        pooled=pooled,
        threshold=threshold,
        threshold_rule=rule,
        here=pooled.at(threshold),
        alternatives={goal: pooled.reaching(goal) for goal in PRECISION_GOALS},
        confusion=confusion_matrix(*matched, score_threshold=threshold, iou_threshold=iou_threshold),
        images=tuple(images),
        errors={kind: sum(row[kind] for row in errors.values()) for kind in ERROR_TYPES},
        delta_ap=delta_ap(*matched, iou_threshold),
        calibration=calibration(detections, matches),
        calibration_here=calibration(detections, matches, score_threshold=threshold),
        coco_sizes=coco_sizes(split, evaluation.coco.curves),
        relative_sizes=relative_sizes(split, detections),
        false_positives=false_positives(*matched, score_threshold=threshold),
    )


def _class_figures(
    index: int, name: str, evaluation: Evaluation, curve: Curve, threshold: float, errors: dict[ErrorType, int]
) -> ClassFigures:
    coco, voc = evaluation.coco, evaluation.voc
    # All sizes, 100 detections; COCO marks what is undefined by -1. Threshold 5 is IoU .75.
    ap75 = coco.curves.precision[5, :, index, 0, -1].mean()
    ar100 = coco.curves.recall[:, index, 0, -1].mean()
    return ClassFigures(
        name=name,
        num_objects=evaluation.num_objects[name],
        ap=coco.ap[name],
        ap50=coco.ap50[name],
        ap75=float(ap75) if ap75 >= 0 else math.nan,
        ar100=float(ar100) if ar100 >= 0 else math.nan,
        voc07=voc.ap07[name],
        voc12=voc.ap12[name],
        best=curve.best(),
        here=curve.at(threshold),
        errors=errors,
    )


def _plain(value: Any) -> Any:
    """Return a value as dictionaries, lists, numbers and text."""
    if isinstance(value, Curve):
        value = value.thinned()
        names = ("scores", "precision", "recall", "right", "wrong", "num_objects")
        return {name: _plain(getattr(value, name)) for name in names}
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
