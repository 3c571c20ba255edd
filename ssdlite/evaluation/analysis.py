"""All that can be said about the detections of one split: is it good, and why not."""

from __future__ import annotations

from dataclasses import dataclass

from ssdlite.evaluation.calibration import Calibration
from ssdlite.evaluation.confusion import Confusion
from ssdlite.evaluation.curves import Curve, ThresholdPoint
from ssdlite.evaluation.false_alarms import FalseAlarms
from ssdlite.evaluation.faults import FaultKind, JudgedImage
from ssdlite.evaluation.sizes import SizeTable


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
    faults: dict[FaultKind, int]  # at the operating threshold


@dataclass(frozen=True, eq=False)
class Analysis:
    """What `report.html` shows of one split. All that depends on one IoU is at `iou_threshold`.

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
    images: tuple[JudgedImage, ...]  # every image of the split, in its order; see `worst_images` and `best_images`
    faults: dict[FaultKind, int]  # of all classes, at the operating threshold
    fault_costs: dict[FaultKind, float]  # points of AP50 (0..1) that would be won were there no such faults (TIDE)
    calibration: Calibration  # of all detections
    calibration_here: Calibration  # of those that score at least the operating threshold
    coco_sizes: SizeTable
    relative_sizes: SizeTable
    false_alarms: FalseAlarms
