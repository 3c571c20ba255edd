"""Which sizes of objects are found: COCO's figures by COCO's sizes, and by the share of the image's side.

COCO's small, medium and large are pixels of the original image and say little about a photograph of 20 megapixels;
a network sees every image shrunk to its input, so that the share of the side is what it must cope with.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

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
