"""Numbers and labels of classes: from a reader's own to those of a model."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ssdlite.errors import DataError
from ssdlite.io import is_usable, quoted
from ssdlite.structures import DataSplit, Record

logger = logging.getLogger(__name__)


# fmt: off
COCO_CATEGORIES = {
    1: "person", 2: "bicycle", 3: "car", 4: "motorcycle", 5: "airplane", 6: "bus", 7: "train", 8: "truck",
    9: "boat", 10: "traffic light", 11: "fire hydrant", 13: "stop sign", 14: "parking meter", 15: "bench",
    16: "bird", 17: "cat", 18: "dog", 19: "horse", 20: "sheep", 21: "cow", 22: "elephant", 23: "bear",
    24: "zebra", 25: "giraffe", 27: "backpack", 28: "umbrella", 31: "handbag", 32: "tie", 33: "suitcase",
    34: "frisbee", 35: "skis", 36: "snowboard", 37: "sports ball", 38: "kite", 39: "baseball bat",
    40: "baseball glove", 41: "skateboard", 42: "surfboard", 43: "tennis racket", 44: "bottle",
    46: "wine glass", 47: "cup", 48: "fork", 49: "knife", 50: "spoon", 51: "bowl", 52: "banana", 53: "apple",
    54: "sandwich", 55: "orange", 56: "broccoli", 57: "carrot", 58: "hot dog", 59: "pizza", 60: "donut",
    61: "cake", 62: "chair", 63: "couch", 64: "potted plant", 65: "bed", 67: "dining table", 70: "toilet",
    72: "tv", 73: "laptop", 74: "mouse", 75: "remote", 76: "keyboard", 77: "cell phone", 78: "microwave",
    79: "oven", 80: "toaster", 81: "sink", 82: "refrigerator", 84: "book", 85: "clock", 86: "vase",
    87: "scissors", 88: "teddy bear", 89: "hair drier", 90: "toothbrush",
}
# fmt: on
"""COCO's 80 classes by their own category ids, 1..90, of which ten are not used."""


NUM_NAMED = 10  # problems named one by one in a warning; the rest are counted


MAX_SIDE = 2**20  # pixels: OpenCV decodes no larger side


def spread_indices(length: int, count: int) -> list[int]:
    """Return at most `count` indices below `length`, evenly spread and distinct: neighbours are often alike."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(int)).tolist()


def check_class_name(name: str, where: str, source: Path) -> None:
    """Raise `DataError` for a name that cannot be shown or written, such as of control characters."""
    if not name.strip() or not is_usable(name):
        raise DataError(f"{source}: {where} has the name {quoted(name)}; name the class in plain characters")


def number_coco_classes(class_names: Sequence[str]) -> tuple[int, ...] | None:
    """Return COCO's category ids if the names are those of its 80 classes, in any order."""
    ids = {name: category_id for category_id, name in COCO_CATEGORIES.items()}
    return tuple(ids[name] for name in class_names) if sorted(class_names) == sorted(ids) else None


def number_classes(class_names: Sequence[str], known: Mapping[str, int]) -> tuple[int, ...]:
    """A category id for each name: the `known` one, otherwise (or where it is taken) the next above all known.

    Names of COCO's 80 classes get COCO's ids, unless some `known` id contradicts them.
    """
    if coco := number_coco_classes(class_names):
        name_of = {number: name for name, number in known.items()}
        if all(
            known.get(name, number) == number and name_of.get(number, name) == name
            for name, number in zip(class_names, coco, strict=True)
        ):
            return coco
    numbers: dict[int, None] = {}  # in order, and found at once
    next_free = max(known.values(), default=0) + 1
    for name in class_names:
        number = known.get(name)
        if number is None or number in numbers:
            number, next_free = next_free, next_free + 1
        numbers[number] = None
    return tuple(numbers)


def relabel(
    split: DataSplit, class_names: Sequence[str], source: Path, *, ignore_unknown: bool = False
) -> DataSplit:
    """Return the same images with labels 1..K in the order of `class_names`, matched exactly.

    A name that has objects in `split` and is not in `class_names` raises `DataError`; with `ignore_unknown` its
    objects are left out. A class that only `class_names` has gets a number that `split` does not use.
    """
    names = tuple(class_names)
    assert len(set(names)) == len(names), f"class names repeat: {names}"
    if names == split.class_names:
        return split
    used = {int(label) for record in split.records for label in np.unique(record.labels)}
    position = {name: label for label, name in enumerate(names, 1)}
    unknown = [name for label, name in enumerate(split.class_names, 1) if label in used and name not in position]
    if unknown and not ignore_unknown:
        raise DataError(
            f"{source}: unknown class names {', '.join(map(repr, unknown))}; the known ones are "
            f"{', '.join(map(repr, names))}; correct the spelling (capitals and spaces count), or leave their "
            "objects out with data.ignore_unknown=true"
        )
    new_labels = np.array([0, *(position.get(name, 0) for name in split.class_names)], np.int64)
    records = [_relabel(record, new_labels[record.labels]) for record in split.records]
    if unknown:
        num_left_out = sum(len(old.boxes) - len(new.boxes) for old, new in zip(split.records, records, strict=True))
        listed = ", ".join(unknown[:NUM_NAMED]) + (", ..." if len(unknown) > NUM_NAMED else "")
        logger.warning(
            "%s: left out %d objects of %d other classes: %s", source, num_left_out, len(unknown), listed
        )
    known = dict(zip(split.class_names, split.category_ids, strict=True))
    return DataSplit(records, names, number_classes(names, known))


def _relabel(record: Record, labels: np.ndarray) -> Record:
    """Return the record with new `labels` (N,); objects of label 0 go."""
    kept = labels > 0
    return replace(
        record,
        boxes=record.boxes[kept],
        labels=labels[kept],
        ignore=record.ignore[kept],
        crowd=record.crowd[kept],
        areas=record.areas[kept],
    )
