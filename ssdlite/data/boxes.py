"""The objects of a split in pixels of the network's input, without reading an image."""

from __future__ import annotations

import numpy as np

from ssdlite.data.transforms import AugmentationName, build_augmentation, draft
from ssdlite.structures import DataSplit, Record

MAX_IMAGES = 5000  # that are augmented, spread evenly over those that there are: a millisecond each
BLANK_SIDE = 512  # pixels of the picture that is cut in place of the image, to whole pixels


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

    Crops enlarge objects, cut them and leave some out; zooming out shrinks them. Of more images than MAX_IMAGES so
    many are drawn.
    """
    if augmentation in ("flip", "none"):  # mirrors change no size
        return input_boxes(split, size)
    pipeline = build_augmentation(augmentation, size, cut_only=True)
    count = len(split)
    chosen = range(count) if count <= MAX_IMAGES else [i * count // MAX_IMAGES for i in range(MAX_IMAGES)]
    found = []
    for index in chosen:
        record = split.records[index]
        targets = draft(
            pipeline, _blank(record), record.boxes, record.labels, record.ignore, seed + index, record.size
        )[2]
        found.append(targets.boxes[~targets.ignore].numpy())
    return found


def _blank(record: Record) -> np.ndarray:
    """A picture of the image's shape, whatever its size: the pixels do not matter."""
    height, width = (max(1, round(side * BLANK_SIDE / max(record.size))) for side in record.size)
    return np.zeros((height, width, 3), np.uint8)
