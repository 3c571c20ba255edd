"""Images that cost what photographs of COCO cost, where there are no data to measure on."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator

from ssdlite.data.scene import draw_scene

SIZE = (480, 640)  # (height, width), COCO's most frequent
CLASS_NAMES = tuple(f"class {label}" for label in range(1, 21))
NOISE = 8.0  # levels: with quality 95 makes 160 KB a file, COCO's mean, which takes as long to decode as COCO's
QUALITY = 95
MEAN_OBJECTS, MAX_OBJECTS = 7, 93  # of an image, as in COCO's train2017; one in twenty has more than 20
EXTENT = (0.03, 0.7)  # side of an object / side of the image, log-uniform


def draw_photos(
    folder: Path, count: int, *, class_names: Sequence[str] = CLASS_NAMES, seed: int = 0
) -> tuple[Path, Path]:
    """`count` JPEGs with COCO annotations in `folder`; the paths of the images and of the annotations.

    Pictures are drawn scenes under noise, and the boxes lie anywhere: there is nothing to be learnt from them.
    """
    images, annotations = folder / "images", folder / "instances.json"
    images.mkdir(parents=True)
    objects: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        rng = np.random.default_rng([seed, number])
        (images / f"{number:06d}.jpg").write_bytes(_photo(rng))
        boxes, labels = draw_objects(rng, SIZE, len(class_names))
        for (x1, y1, x2, y2), label in zip(boxes.tolist(), labels.tolist(), strict=True):
            area = (x2 - x1) * (y2 - y1)
            box = [x1, y1, x2 - x1, y2 - y1]
            found = {"image_id": number, "category_id": label, "bbox": box, "area": area, "iscrowd": 0}
            objects.append({"id": len(objects) + 1, **found})
    document = {
        "images": [
            {"id": number, "file_name": f"{number:06d}.jpg", "height": SIZE[0], "width": SIZE[1]}
            for number in range(1, count + 1)
        ],
        "annotations": objects,
        "categories": [{"id": label, "name": name} for label, name in enumerate(class_names, start=1)],
    }
    annotations.write_text(json.dumps(document), encoding="utf-8")
    return images, annotations


def draw_objects(rng: Generator, size: tuple[int, int], num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (N, 4) float32 xyxy within (height, width), and labels (N,) int64 in 1..`num_classes`; N ≥ 1."""
    count = min(int(rng.geometric(1 / MEAN_OBJECTS)), MAX_OBJECTS)  # padding follows the fullest of a batch
    height, width = size
    sides = np.exp(rng.uniform(math.log(EXTENT[0]), math.log(EXTENT[1]), (count, 2))) * (width, height)
    corners = rng.uniform(0, 1, (count, 2)) * ((width, height) - sides)
    boxes = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
    return boxes, rng.integers(1, num_classes + 1, count)


def _photo(rng: Generator) -> bytes:
    scene, _ = draw_scene(rng, SIZE)
    noisy = scene + NOISE * rng.standard_normal((*SIZE, 1), np.float32)
    pixels = np.clip(noisy, 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
