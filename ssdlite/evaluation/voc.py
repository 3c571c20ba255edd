"""VOC's average precision as the devkits of 2007 and 2012 count it (Everingham et al. 2010, sec. 4.2).

A detection belongs to the object of its class that it overlaps most. It is right if the overlap is at least
the threshold and no better-scored detection took that object. Difficult objects neither count nor punish.
Boxes are continuous: the VOC reader has already turned inclusive pixels into
[xmin - 1, ymin - 1, xmax, ymax], which gives the devkit's "+ 1" areas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ssdlite.evaluation.matching import IGNORED, TRUE_POSITIVE, match_voc
from ssdlite.structures import DataSplit, Detections

ELEVEN_RECALLS = np.linspace(0, 1, 11)


RECALL_TOLERANCE = 1e-9  # a recall of 3/10 must reach the threshold .3, which is not exact in binary


class VocMetrics(NamedTuple):
    """Average precision at one IoU threshold, in 0..1; NaN for a class without objects that count."""

    ap07: dict[str, float]  # class name -> mean of the precision at eleven recalls (VOC2007)
    ap12: dict[str, float]  # class name -> area under the precision-recall curve (VOC2010 and later)
    map07: float  # mean over the classes that are not NaN
    map12: float


def voc_metrics(split: DataSplit, detections: Sequence[Detections], iou_threshold: float = 0.5) -> VocMetrics:
    """VOC's figures for `detections[i]` found in the image of `split.records[i]`."""
    assert len(detections) == len(split), f"{len(detections)} detections for {len(split)} images"
    matched = [match_voc(*pair, iou_threshold).outcome for pair in zip(split.records, detections, strict=True)]
    outcomes = np.concatenate([np.zeros(0, np.int64), *matched])
    scores = np.concatenate([np.zeros(0, np.float32), *(found.scores for found in detections)])
    labels = np.concatenate([np.zeros(0, np.int64), *(found.labels for found in detections)])
    order = np.argsort(-scores, kind="stable")
    outcomes, labels = outcomes[order], labels[order]

    num_objects = count_objects(split)
    ap07, ap12 = {}, {}
    for label, name in enumerate(split.class_names, start=1):
        recall, precision = _curve(outcomes[labels == label], num_objects[name])
        ap07[name] = eleven_point_ap(recall, precision) if num_objects[name] else math.nan
        ap12[name] = area_ap(recall, precision) if num_objects[name] else math.nan
    return VocMetrics(ap07, ap12, _mean(ap07), _mean(ap12))


def count_objects(split: DataSplit) -> dict[str, int]:
    """Class name -> number of its objects that count, that is, are not ignored."""
    labels = [record.labels[~(record.ignore | record.crowd)] for record in split.records]
    counts = np.bincount(np.concatenate([np.zeros(0, np.int64), *labels]), minlength=len(split.class_names) + 1)
    return {name: int(counts[label]) for label, name in enumerate(split.class_names, start=1)}


def eleven_point_ap(recall: np.ndarray, precision: np.ndarray) -> float:
    """Mean over the recalls 0, .1, ... 1 of the best precision at that recall or beyond; (D,) and (D,)."""
    reached = recall[None] >= ELEVEN_RECALLS[:, None] - RECALL_TOLERANCE
    return float(np.where(reached, precision, 0.0).max(axis=1, initial=0.0).mean())


def area_ap(recall: np.ndarray, precision: np.ndarray) -> float:
    """Area under the curve, precision made to fall monotonically; (D,) and (D,)."""
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * envelope))


def _curve(outcomes: np.ndarray, num_objects: int) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision (D,) after each detection of one class; `outcomes` are sorted by score."""
    right = np.cumsum(outcomes == TRUE_POSITIVE)
    counted = np.cumsum(outcomes != IGNORED)
    return right / max(num_objects, 1), right / np.maximum(counted, 1)


def _mean(ap: dict[str, float]) -> float:
    defined = [value for value in ap.values() if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan
