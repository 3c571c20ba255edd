"""Recall and AP by the size of objects: COCO's figures by COCO's sizes, and by the share of the image's side.

COCO's small, medium and large are pixels of the original image and say little about a photograph of 20 megapixels;
a network sees every image shrunk to its input, so that the share of the side is what it must cope with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ssdlite.boxes_np import area
from ssdlite.evaluation.coco import Backend, Curves, coco_curves
from ssdlite.structures import DataSplit, Detections

COCO_NAMES = ("small", "medium", "large")


COCO_SIDES = (0.0, 32.0, 96.0, math.inf)  # pixels: side of the square of the object's own area


SHARES = (0.0, 0.04, 0.08, 0.16, 0.32, math.inf)  # of the image's side


SHARE_NAMES = ("< 4 %", "4–8 %", "8–16 %", "16–32 %", "> 32 %")


@dataclass(frozen=True, eq=False)
class SizeBucket:
    """The objects whose size is in `low` to `high`, and how well they are found; NaN where there are none.

    Other objects and false detections of another size do not count, as in COCO's AP_small and its like.
    """

    name: str
    low: float  # unit: see SizeTable
    high: float
    num_objects: dict[str, int]  # class name -> objects that count
    ap: dict[str, float]  # class name -> AP over IoU .50:.05:.95
    ap50: dict[str, float]  # class name -> AP at IoU .50
    recall: dict[str, float]  # class name -> AR with 100 detections, over IoU .50:.05:.95
    recall50: dict[str, float]  # class name -> the highest recall that is reached at IoU .50
    mean_ap: float  # over the classes that are not NaN, as the following
    mean_ap50: float
    mean_recall: float
    mean_recall50: float

    @property
    def total(self) -> int:
        """Objects of all classes."""
        return sum(self.num_objects.values())


@dataclass(frozen=True, eq=False)
class SizeTable:
    """Buckets from small to large."""

    unit: Literal["pixels", "share of the image's side"]
    buckets: tuple[SizeBucket, ...]


def coco_sizes(split: DataSplit, curves: Curves) -> SizeTable:
    """COCO's sizes, from the curves behind COCO's figures (`CocoMetrics.curves`).

    An object's size is the root of its own area, which COCO takes from its mask. Its ranges hold both their ends.
    """
    sides = [np.sqrt(record.areas.astype(np.float64)) for record in split.records]
    buckets = []
    for number, (name, low, high) in enumerate(zip(COCO_NAMES, COCO_SIDES, COCO_SIDES[1:], strict=False)):
        inside = [(side >= low) & (side <= high) for side in sides]
        buckets.append(_bucket(split, curves, number + 1, (name, low, high), inside))  # range 0 is all sizes
    return SizeTable("pixels", tuple(buckets))


def relative_sizes(split: DataSplit, detections: Sequence[Detections], backend: Backend = "auto") -> SizeTable:
    """Buckets by the share of the image's side: root of the box's area over that of the image, see SHARES."""
    curves = coco_curves(split, detections, backend, side_shares=SHARES)
    shares = [np.sqrt(area(record.boxes) / math.prod(record.size)) for record in split.records]
    buckets = []
    for number, (name, low, high) in enumerate(zip(SHARE_NAMES, SHARES, SHARES[1:], strict=False)):
        inside = [(share >= low) & (share < high) for share in shares]
        buckets.append(_bucket(split, curves, number, (name, low, high), inside))
    return SizeTable("share of the image's side", tuple(buckets))


def _bucket(
    split: DataSplit,
    curves: Curves,
    number: int,
    bounds: tuple[str, float, float],
    inside: Sequence[np.ndarray],
) -> SizeBucket:
    """The bucket of area range `number` of `curves`; `inside` says for each record which objects are in it."""
    names = split.class_names
    labels = [
        record.labels[chosen & ~(record.ignore | record.crowd)]
        for record, chosen in zip(split.records, inside, strict=True)
    ]
    counts = np.bincount(np.concatenate([np.zeros(0, np.int64), *labels]), minlength=len(names) + 1)
    precision, recall = curves.precision[:, :, :, number, -1], curves.recall[:, :, number, -1]
    figures = [precision.mean(axis=(0, 1)), precision[0].mean(axis=0), recall.mean(axis=0), recall[0]]
    # COCO marks what is undefined by -1.
    ap, ap50, ar, ar50 = (np.where(values < 0, np.nan, values) for values in figures)
    name, low, high = bounds
    return SizeBucket(
        name,
        low,
        high,
        num_objects=dict(zip(names, counts[1:].tolist(), strict=True)),
        ap=dict(zip(names, ap.tolist(), strict=True)),
        ap50=dict(zip(names, ap50.tolist(), strict=True)),
        recall=dict(zip(names, ar.tolist(), strict=True)),
        recall50=dict(zip(names, ar50.tolist(), strict=True)),
        mean_ap=_mean(ap),
        mean_ap50=_mean(ap50),
        mean_recall=_mean(ar),
        mean_recall50=_mean(ar50),
    )


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else math.nan
