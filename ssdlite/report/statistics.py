"""What is in a split: how many objects, how large, of what shape."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ssdlite.evaluation.voc import count_objects
from ssdlite.structures import DataSplit

WIDEST = 1e4  # the longest ratio of sides that is told apart; a box may have no height


@dataclass(frozen=True, eq=False)
class SplitStatistics:
    """Numbers of one split. Objects are those that count, neither crowd nor difficult."""

    num_images: int
    num_empty: int  # images without an object that counts
    num_ignored: int  # objects that do not count
    num_objects: dict[str, int]  # class name -> objects
    sides: np.ndarray  # (N,) float64: √(area of the box / area of the image)
    ratios: np.ndarray  # (N,) float64: width / height of the box, in pixels of the image
    objects_per_image: np.ndarray  # (images,) int64

    @property
    def total(self) -> int:
        return len(self.sides)


def describe_split(split: DataSplit) -> SplitStatistics:
    """Counts, sizes and shapes of the annotated boxes of `split`; no image is opened."""
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
