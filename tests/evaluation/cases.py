"""Small splits and detections, written as tuples."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ssdlite.data.formats.voc import read_voc
from ssdlite.structures import DataSplit, Detections, ImageId, Record

Object = tuple[Sequence[float], int]  # box, label
Found = tuple[Sequence[float], float, int]  # box, score, label


def make_record(
    image_id: ImageId, objects: Sequence[Object], difficult: Sequence[int] = (), crowd: Sequence[int] = ()
) -> Record:
    boxes = np.array([box for box, _ in objects], np.float32).reshape(-1, 4)
    numbers = np.arange(len(objects))
    return Record(
        image_path=Path(f"{image_id}.jpg"),
        image_id=image_id,
        size=(1000, 1000),
        boxes=boxes,
        labels=np.array([label for _, label in objects], np.int64),
        ignore=np.isin(numbers, [*difficult, *crowd]),
        crowd=np.isin(numbers, list(crowd)),
        areas=(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
    )


def make_split(*records: Record, class_names: Sequence[str] = ("cat", "dog")) -> DataSplit:
    return DataSplit(list(records), tuple(class_names), tuple(10 * k + 7 for k in range(len(class_names))))


def make_detections(*found: Found) -> Detections:
    found = tuple(sorted(found, key=lambda row: -row[1]))
    return Detections(
        np.array([box for box, _, _ in found], np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in found], np.float32),
        np.array([label for _, _, label in found], np.int64),
    )


def truth_as_detections(split: DataSplit) -> list[Detections]:
    """A detector that knows the answer."""
    return [
        Detections(record.boxes, np.ones(len(record.labels), np.float32), record.labels) for record in split.records
    ]


def random_case(seed: int, *, difficult: bool = False) -> tuple[DataSplit, list[Detections]]:
    """30 images with 0..6 objects of 3 classes, found with jitter, misses, doubles and inventions."""
    rng = np.random.default_rng(seed)
    records, detections = [], []
    for image in range(30):
        count = int(rng.integers(0, 7))
        corners = rng.uniform(0, 300, (count, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(8, 200, (count, 2))], axis=1)
        labels = rng.integers(1, 4, count)
        hard = np.flatnonzero(rng.random(count) < 0.3) if difficult else []
        records.append(make_record(image, list(zip(boxes, labels.tolist(), strict=True)), difficult=hard))
        chosen = rng.integers(0, count, 2 * count) if count else np.zeros(0, int)
        jittered = boxes[chosen] + rng.normal(0, 6, (len(chosen), 4))
        jittered[:, 2:] = np.maximum(jittered[:, 2:], jittered[:, :2] + 1)
        found = [
            (box, float(score), int(label))
            for box, score, label in zip(jittered, rng.random(len(chosen)), labels[chosen], strict=True)
        ]
        found += [((5, 5, 60, 90), float(rng.random()), int(rng.integers(1, 4)))]
        detections.append(make_detections(*found))
    return make_split(*records, class_names=("cat", "dog", "owl")), detections


def hard_case(seed: int, *, text_ids: bool = False) -> tuple[DataSplit, list[Detections]]:
    """60 images with all that makes COCO's figures awkward, on whole pixels and scores of one decimal.

    Crowds, difficult objects, areas that are not the boxes', many equal scores, doubles of equal boxes, ids out of
    order, images without objects or detections, a class that is never found, one that is never there, one that is
    only difficult, and an image with more detections of a class than count.
    """
    rng = np.random.default_rng(seed)
    records, detections = [], []
    for image_id in rng.permutation(60).tolist():
        count = int(rng.integers(0, 9))
        corners = rng.integers(0, 300, (count, 2))
        boxes = np.concatenate([corners, corners + rng.integers(8, 200, (count, 2))], axis=1)
        labels = rng.choice([1, 2, 3, 5], count)
        crowd = rng.random(count) < 0.15
        difficult = (rng.random(count) < 0.2) | (labels == 5)
        record = make_record(
            f"image {image_id}" if text_ids else image_id,
            list(zip(boxes, labels.tolist(), strict=True)),
            difficult=np.flatnonzero(difficult),
            crowd=np.flatnonzero(crowd),
        )
        record.areas[:] = np.round(record.areas * rng.uniform(0.3, 1, count))
        records.append(record)
        chosen = rng.integers(0, count, 3 * count) if count else np.zeros(0, int)
        found = boxes[chosen] + rng.integers(-6, 7, (len(chosen), 4)) * (rng.random((len(chosen), 1)) < 0.7)
        inside = np.concatenate([found[:, :2], np.minimum(found[:, :2] + 15, found[:, 2:])], axis=1)
        found = np.where(rng.random((len(chosen), 1)) < 0.2, inside, found)
        invented = np.array([[5, 5, 60, 90]] * int(rng.integers(0, 4))).reshape(-1, 4)
        found, found_labels = (
            np.concatenate([found, invented]),
            np.concatenate([labels[chosen], rng.choice([1, 2, 4, 5], len(invented))]),
        )
        found_labels[found_labels == 3] = 2
        if image_id == 7:  # 130 of one class, of which COCO looks at 100
            found, found_labels = np.resize([[5, 5, 60, 90], [0, 0, 40, 40]], (130, 4)), np.full(130, 1)
        if image_id % 10 == 3:
            found, found_labels = found[:0], found_labels[:0]
        scores = rng.integers(1, 10, len(found)) / 10
        detections.append(make_detections(*zip(found, scores.tolist(), found_labels.tolist(), strict=True)))
    return make_split(*records, class_names=("cat", "dog", "owl", "absent", "only difficult")), detections


def bccd_split() -> DataSplit:
    """Twenty records of the blood cell images; skips the test where they are not there."""
    root = os.environ.get("SSDLITE_TEST_DATA")
    if not root or not (Path(root) / "bccd").is_dir():
        pytest.skip("SSDLITE_TEST_DATA names no folder with bccd/")
    split = read_voc(Path(root) / "bccd", ["test"])
    return DataSplit(split.records[:20], split.class_names, split.category_ids)
