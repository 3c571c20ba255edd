"""COCO's `instances_*.json`: one file for all annotations of a split."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from pycocotools import mask as coco_mask

from ssdlite.data.images import image_size, missing_images
from ssdlite.data.records import RawObject, make_record, relabel, report_problems
from ssdlite.errors import DataError
from ssdlite.structures import DataSplit, Record


def read_coco(
    images_dir: str | Path, annotation_path: str | Path, class_names: Sequence[str] | None = None
) -> DataSplit:
    """Read a COCO annotation file whose `file_name`s lie under `images_dir`.

    Without `class_names` the classes are the file's own, sorted by category id. With them, labels follow their
    order and a name that is not among them is an error, unless it has no objects. Crowd regions are `ignore`.
    Boxes are clipped to the image; those without area are left out and reported once.

    Raises `DataError` for a file that is missing or malformed, and for images that are not there.
    """
    images_dir, annotation_path = Path(images_dir), Path(annotation_path)
    if not images_dir.is_dir():
        raise DataError(f"{images_dir}: there is no such folder of images; check the path")
    content = _load(annotation_path)
    categories = _read_categories(content, annotation_path)
    labels = {category_id: label for label, category_id in enumerate(categories, 1)}
    annotations, problems = _group_by_image(content, annotation_path)
    records: list[Record] = []
    for entry in content["images"]:
        path = _image_path(entry, images_dir, annotation_path)
        size = _size(entry, path)
        found = [_read_object(item, labels, size, path.name, annotation_path) for item in annotations[entry["id"]]]
        records.append(make_record(path, entry["id"], size, found, labels, problems))
    if absent := missing_images(record.image_path for record in records):
        raise DataError(
            f"{annotation_path}: {len(absent)} of its {len(records)} images are not there, the first "
            f"is {absent[0]}; check the images folder"
        )
    report_problems(annotation_path, problems)
    split = DataSplit(records, tuple(categories.values()), tuple(categories))
    return split if class_names is None else relabel(split, class_names, annotation_path)


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: the annotations cannot be opened ({error.strerror}); check the path") from error
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}); export or download it again") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{path}: has no list '{key}', so it is not a COCO instances file; choose another file")
    return content


def _read_categories(content: dict[str, Any], path: Path) -> dict[int, str]:
    """Names by category id, in ascending order of id."""
    names: dict[int, str] = {}
    for category in content["categories"]:
        category_id, name = (
            _get(category, "id", "a category", path),
            str(_get(category, "name", "a category", path)),
        )
        if category_id in names or name in names.values():
            raise DataError(f"{path}: category {category_id} '{name}' repeats an id or a name; make both unique")
        names[category_id] = name
    return dict(sorted(names.items()))


def _group_by_image(content: dict[str, Any], path: Path) -> tuple[dict[Any, list[dict[str, Any]]], list[str]]:
    """Annotations by image id, and the names of those whose image the file does not list."""
    image_ids = [_get(entry, "id", "an image", path) for entry in content["images"]]
    if len(set(image_ids)) != len(image_ids):
        repeated = Counter(image_ids).most_common(1)[0][0]
        raise DataError(f"{path}: image id {repeated} is used by several images; make the ids unique")
    groups: dict[Any, list[dict[str, Any]]] = {image_id: [] for image_id in image_ids}
    problems = []
    for item in content["annotations"]:
        image_id = _get(item, "image_id", _name(item), path)
        if image_id in groups:
            groups[image_id].append(item)
        else:
            problems.append(f"{_name(item)} belongs to image {image_id}, which the file does not list")
    return groups, problems


def _image_path(entry: dict[str, Any], images_dir: Path, path: Path) -> Path:
    file_name = PurePath(_get(entry, "file_name", f"image {entry['id']}", path))
    if file_name.is_absolute() or ".." in file_name.parts:
        raise DataError(
            f"{path}: file_name '{file_name}' leads out of {images_dir}; make it relative to that folder"
        )
    return images_dir / file_name


def _size(entry: dict[str, Any], image_path: Path) -> tuple[int, int]:
    height, width = entry.get("height"), entry.get("width")
    return (int(height), int(width)) if height and width else image_size(image_path)


def _read_object(
    item: dict[str, Any], labels: dict[int, int], size: tuple[int, int], image_name: str, path: Path
) -> RawObject:
    category_id = _get(item, "category_id", _name(item), path)
    if category_id not in labels:
        raise DataError(f"{path}: {_name(item)} has category_id {category_id}, which 'categories' does not list")
    try:
        x, y, width, height = map(float, item.get("bbox") or _box_of_mask(item, size))
        area = None if item.get("area") is None else float(item["area"])
    except Exception as error:  # pycocotools raises bare ones
        raise DataError(
            f"{path}: {_name(item)} has neither a bbox [x, y, width, height] nor a segmentation that can be read; "
            "correct or remove it"
        ) from error
    crowd = bool(item.get("iscrowd", 0))
    return RawObject(
        box=(x, y, x + width, y + height),
        category=category_id,
        ignore=crowd,
        crowd=crowd,
        area=area,
        where=f"{_name(item)} of {image_name}",
    )


def _box_of_mask(item: dict[str, Any], size: tuple[int, int]) -> Sequence[float]:
    """xywh around a segmentation: polygons, or run lengths as a list or compressed."""
    shape = item["segmentation"]
    if isinstance(shape, dict) and isinstance(shape["counts"], str | bytes):
        return coco_mask.toBbox(shape)
    encoded = coco_mask.frPyObjects(shape, *size)
    return coco_mask.toBbox(coco_mask.merge(encoded) if isinstance(encoded, list) else encoded)


def _get(entry: Any, key: str, name: str, path: Path) -> Any:
    if not isinstance(entry, dict) or entry.get(key) is None:
        raise DataError(f"{path}: {name} has no '{key}'; add it, or export the annotations again")
    return entry[key]


def _name(item: Any) -> str:
    return f"annotation {item.get('id', '(without id)')}" if isinstance(item, dict) else "an annotation"
