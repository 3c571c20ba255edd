"""The objects of a split in pixels of the network's input, without reading an image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ssdlite.data.transforms import AugmentationName, build_augmentation, draft
from ssdlite.structures import DataSplit, Record

BLANK_SIDE = 512  # pixels of the picture that is cut in place of the image, to whole pixels


def spread(split: DataSplit, most: int) -> DataSplit:
    """At most so many images, from all over the split."""
    count = len(split)
    if count <= most:
        return split
    return replace(split, records=[split.records[index * count // most] for index in range(most)])


def input_boxes(split: DataSplit, size: tuple[int, int]) -> list[np.ndarray]:
    """What validation shows the network: for every image (N, 4) float32 xyxy, stretched to `size` (height, width).

    Those that are to be ignored are left out.
    """
    height, width = size
    return [
        record.boxes[~record.ignore] * np.array([width / record.size[1], height / record.size[0]] * 2, np.float32)
        for record in split.records
    ]


def draw_boxes(
    split: DataSplit, size: tuple[int, int], augmentation: AugmentationName, *, seed: int = 0
) -> list[np.ndarray]:
    """What training may show the network: as `input_boxes`, under one draw of the recipe for each image.

    Crops enlarge objects, cut them and leave some out; zooming out shrinks them. A millisecond an image.
    """
    if augmentation in ("flip", "none"):  # mirrors change no size
        return input_boxes(split, size)
    pipeline = build_augmentation(augmentation, size, cut_only=True)
    found = []
    for index, record in enumerate(split.records):
        blank = _blank(record)
        objects = (record.boxes, record.labels, record.ignore)
        targets = draft(pipeline, blank, *objects, seed + index, annotated_size=record.size)[2]
        found.append(targets.boxes[~targets.ignore].numpy())
    return found


def _blank(record: Record) -> np.ndarray:
    """A picture of the image's shape, whatever its size: the pixels do not matter."""
    height, width = (max(1, round(side * BLANK_SIDE / max(record.size))) for side in record.size)
    return np.zeros((height, width, 3), np.uint8)
