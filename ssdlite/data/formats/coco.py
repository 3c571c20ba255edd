"""COCO's `instances_*.json`: one file for all annotations of a split.

MERGED: The box around a COCO segmentation, without painting it: a mask is as large as its file claims.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from ssdlite.data.images import image_size, missing_images
from ssdlite.data.records import MAX_SIDE, RawObject, check_class_name, make_record, relabel, report_problems
from ssdlite.errors import DataError
from ssdlite.io import is_usable, one_line, quoted, read_json, require_regular
from ssdlite.structures import DataSplit, Record

MOST_DIGITS = 7  # of 5 bits each: a run of more than 2^34 pixels is in no image


XYWH = tuple[float, float, float, float]


def mask_bounds(segmentation: Any, size: tuple[int, int]) -> XYWH:
    """(x, y, width, height) around polygons, or around run lengths as a list or compressed.

    `size` is (height, width) of the image, pixels. Polygons are bounded by their corners, as COCO's own boxes are.
    Raises ValueError for what is neither.
    """
    if isinstance(segmentation, list):
        return _polygon_bounds(segmentation)
    if not isinstance(segmentation, dict) or segmentation.get("size", list(size)) != list(size):
        raise ValueError("no segmentation of this image")
    counts = segmentation.get("counts")
    runs = _decompress(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or not all(type(run) is int and run >= 0 for run in runs):
        raise ValueError("no run lengths")
    return _run_bounds(runs, *size)


def _polygon_bounds(polygons: Sequence[Any]) -> XYWH:
    """Of [[x1, y1, x2, y2, x3, y3, ...], ...]."""
    corners: list[float] = []
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError("no polygon")
        if not {*map(type, polygon)} <= {int, float}:
            raise ValueError("no numbers")
        corners += polygon
    points = np.array(corners, np.float64).reshape(-1, 2)  # of none at all, min raises ValueError
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return left, top, right - left, bottom - top


def _run_bounds(runs: Sequence[int], height: int, width: int) -> XYWH:
    """Of runs of background and object in turn, down one column after the other; zeros without an object."""
    if sum(runs) > height * width:
        raise ValueError("more pixels than the image has")
    edges = np.cumsum(runs)
    ends = edges[1::2]
    starts = edges[0::2][: len(ends)]
    starts, ends = starts[ends > starts], ends[ends > starts]
    if not len(ends):
        return 0.0, 0.0, 0.0, 0.0
    first, last = starts // height, (ends - 1) // height  # columns
    left, right = int(first.min()), int(last.max()) + 1
    if np.any(first != last):  # a run that goes on in the next column touches the bottom and the top
        return left, 0, right - left, height
    top, bottom = int((starts % height).min()), int(((ends - 1) % height).max()) + 1
    return left, top, right - left, bottom - top


def _decompress(text: str) -> list[int]:
    """Run lengths as COCO writes them (cocoapi, maskApi.c): digits of 5 bits from the lowest on, with a sixth bit
    for "more" and 48 added; from the fourth run on, the difference to the one two before."""
    runs: list[int] = []
    value = digits = 0
    for character in text:
        digit = ord(character) - 48
        if not 0 <= digit < 64 or digits == MOST_DIGITS:
            raise ValueError("no compressed run lengths")
        value |= (digit & 31) << 5 * digits
        digits += 1
        if not digit & 32:
            if digit & 16:  # negative
                value -= 1 << 5 * digits
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = digits = 0
    if digits:
        raise ValueError("compressed run lengths end in the middle")
    return runs


NUMBERS = {int, float}  # and not bool, which Python would take for one, nor text


def read_coco(
    images_dir: str | Path, annotation_path: str | Path, class_names: Sequence[str] | None = None
) -> DataSplit:
    """Read a COCO annotation file whose `file_name`s lie under `images_dir`.

    Without `class_names` the classes are the file's own, sorted by category id. With them, labels follow their
    order and a name that is not among them is an error, unless it has no objects. Crowd regions are `ignore`.
    Boxes are clipped to the image; those without area are left out and reported once.

    Numbers are JSON numbers: "12" is none, and true is none. Raises `DataError` for a file that is missing or
    malformed, for images that are not there, and for a `file_name` that leads out of `images_dir`.
    """
    images_dir, annotation_path = Path(images_dir), Path(annotation_path)
    require_folder(images_dir)
    content = load_annotations(annotation_path)
    categories = read_categories(content, annotation_path)
    labels = {category_id: label for label, category_id in enumerate(categories, 1)}
    annotations, problems = group_by_image(content, annotation_path)
    records: list[Record] = []
    for entry in content["images"]:
        path = find_image_path(entry, images_dir, annotation_path)
        size = annotated_size(entry, path, annotation_path)
        found = [read_object(item, labels, size, path.name, annotation_path) for item in annotations[entry["id"]]]
        records.append(make_record(path, _plain_id(entry["id"]), size, found, labels, problems))
    if absent := _missing(records, annotation_path):
        raise DataError(
            f"{annotation_path}: {len(absent)} of its {len(records)} images are not there, the first "
            f"is {absent[0]}; check the images folder"
        )
    report_problems(annotation_path, problems)
    split = DataSplit(records, tuple(categories.values()), tuple(categories))
    return split if class_names is None else relabel(split, class_names, annotation_path)


def require_folder(images_dir: Path) -> None:
    """Raise DataError unless a folder is at `images_dir`."""
    try:
        if not images_dir.is_dir():
            raise DataError(f"{images_dir}: there is no such folder of images; check the path")
    except OSError as error:
        raise DataError(f"{images_dir}: the folder cannot be opened ({error.strerror}); check the path") from error


def require_annotations(path: Path) -> None:
    """Raise DataError unless a file is at `path`."""
    try:
        require_regular(path)
    except OSError as error:
        raise _unopened(path, error) from error


def _unopened(path: Path, error: OSError) -> DataError:
    return DataError(f"{path}: the annotations cannot be opened ({error.strerror}); check the path")


def load_annotations(path: Path) -> dict[str, Any]:
    """The lists of a COCO file. Raises DataError, as all that follows, for what is not there or not right."""
    try:
        content = read_json(path)
    except OSError as error:
        raise _unopened(path, error) from error
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({one_line(str(error))}); export or download it again") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{path}: has no list '{key}', so it is not a COCO instances file; choose another file")
    return content


def read_categories(content: dict[str, Any], path: Path) -> dict[int, str]:
    """Names by category id, in ascending order of id."""
    names: dict[int, str] = {}
    taken: set[str] = set()
    for category in content["categories"]:
        category_id = _plain_id(_get(category, "id", "a category", path))
        name = _get(category, "name", "a category", path)
        if type(category_id) is not int:
            raise DataError(f"{path}: a category has the id {quoted(category_id)}; make it a whole number")
        if type(name) not in (str, int):
            raise DataError(f"{path}: category {category_id} has the name {quoted(name)}; make it text")
        name = str(name)
        check_class_name(name, f"category {category_id}", path)
        if category_id in names or name in taken:
            raise DataError(f"{path}: category {category_id} '{name}' repeats an id or a name; make both unique")
        names[category_id] = name
        taken.add(name)
    return dict(sorted(names.items()))


def group_by_image(content: dict[str, Any], path: Path) -> tuple[dict[Any, list[dict[str, Any]]], list[str]]:
    """Annotations by image id, and the names of those whose image the file does not list."""
    image_ids = [_get(entry, "id", "an image", path) for entry in content["images"]]
    for image_id in image_ids:
        if type(_plain_id(image_id)) not in (int, str) or (type(image_id) is str and not is_usable(image_id)):
            raise DataError(f"{path}: an image has the id {quoted(image_id)}; make it a whole number or plain text")
    if len(set(image_ids)) != len(image_ids):
        repeated = Counter(image_ids).most_common(1)[0][0]
        raise DataError(f"{path}: image id {quoted(repeated)} is used by several images; make the ids unique")
    groups: dict[Any, list[dict[str, Any]]] = {image_id: [] for image_id in image_ids}
    strangers = []
    for item in content["annotations"]:
        image_id = item.get("image_id") if isinstance(item, dict) else None
        if image_id is None:
            _get(item, "image_id", name_entry(item), path)  # raises
        if type(image_id) not in (int, str, float):
            raise DataError(f"{path}: {name_entry(item)} has image_id {quoted(image_id)}; make it that of an image")
        if image_id in groups:
            groups[image_id].append(item)
        else:
            strangers.append(item)
    if strangers:
        as_text = {str(image_id): image_id for image_id in image_ids}
        for item in strangers:
            if (own := as_text.get(str(item["image_id"]))) is not None:
                raise DataError(
                    f"{path}: {name_entry(item)} has image_id {quoted(item['image_id'])}, but its image has the id "
                    f"{quoted(own)}; write both as numbers, or both as text"
                )
    problems = [
        f"{name_entry(item)} belongs to image {quoted(item['image_id'])}, which the file does not list"
        for item in strangers
    ]
    return groups, problems


def find_image_path(entry: dict[str, Any], images_dir: Path, path: Path) -> Path:
    """Where the image of an entry of 'images' is; never outside of `images_dir`."""
    given = _get(entry, "file_name", name_entry(entry, "image"), path)
    if type(given) is not str or not is_usable(given) or not PurePath(given).name:
        raise DataError(f"{path}: {name_entry(entry, 'image')} has file_name {quoted(given)}, which names no file")
    file_name = PurePath(given)
    if file_name.is_absolute() or ".." in file_name.parts:
        raise DataError(
            f"{path}: file_name {quoted(given)} leads out of {images_dir}; make it relative to that folder"
        )
    return images_dir / file_name


def annotated_size(entry: dict[str, Any], image_path: Path, path: Path) -> tuple[int, int]:
    """(height, width), from the image itself where the file does not say."""
    height, width = entry.get("height"), entry.get("width")
    for side in (height, width):
        # A bool equals 0 or 1, so the type is asked for first.
        if side is not None and not (type(side) in NUMBERS and 0 <= side <= MAX_SIDE and side == int(side)):
            raise DataError(
                f"{path}: {name_entry(entry, 'image')} has height {quoted(height)} and width {quoted(width)} where "
                "whole numbers of pixels were expected; correct them, or leave them out"
            )
    return (int(height), int(width)) if height and width else image_size(image_path)


def _missing(records: Sequence[Record], path: Path) -> list[Path]:
    try:
        return missing_images(record.image_path for record in records)
    except OSError as error:
        folder = quoted(str(error.filename))
        raise DataError(f"{path}: the images in {folder} cannot be listed ({error.strerror})") from error


def read_object(
    item: dict[str, Any], labels: dict[int, int], size: tuple[int, int], image_name: str, path: Path
) -> RawObject:
    """One annotation; `labels` by category id."""
    category_id = item.get("category_id")
    if type(category_id) not in NUMBERS or category_id not in labels:
        _get(item, "category_id", name_entry(item), path)
        raise DataError(
            f"{path}: {name_entry(item)} has category_id {quoted(category_id)}, which 'categories' does not list"
        )
    x, y, width, height = _read_box(item, size, path)
    area, crowd = item.get("area"), item.get("iscrowd")
    if area is not None and (type(area) not in NUMBERS or (type(area) is int and abs(area) >= 2**63)):
        raise DataError(f"{path}: {name_entry(item)} has area {quoted(area)} where a number of pixels was expected")
    if crowd is not None and crowd not in (0, 1):
        raise DataError(f"{path}: {name_entry(item)} has iscrowd {quoted(crowd)} where 0 or 1 was expected")
    return RawObject(
        box=(x, y, x + width, y + height),
        category=category_id,
        ignore=bool(crowd),
        crowd=bool(crowd),
        area=area,
        where=f"{name_entry(item)} of {image_name}",
    )


def _read_box(item: dict[str, Any], size: tuple[int, int], path: Path) -> tuple[float, float, float, float]:
    """x, y, width, height; around the segmentation where there is no bbox."""
    box = item.get("bbox")
    try:
        if box is None or box == []:
            return _box_of_mask(item, size)
        if type(box) is list and {*map(type, box)} <= NUMBERS:
            x, y, width, height = map(float, box)
            return x, y, width, height
    except (ValueError, OverflowError):  # another number of them, or one of hundreds of digits
        pass
    given = "" if box is None else f" (bbox is {quoted(box)})"
    raise DataError(
        f"{path}: {name_entry(item)} has neither a bbox [x, y, width, height] of numbers nor a segmentation that "
        f"can be read{given}; correct or remove it"
    )


def _box_of_mask(item: dict[str, Any], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """xywh around a segmentation. Raises ValueError where there is none that can be read."""
    return mask_bounds(item.get("segmentation"), size)


def _plain_id(value: Any) -> Any:
    """1.0 is 1; anything else stays, and what can be no id of COCO's or numpy's becomes None."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return None if type(value) is int and abs(value) >= 2**63 else value


def _get(entry: Any, key: str, name: str, path: Path) -> Any:
    if not isinstance(entry, dict) or entry.get(key) is None:
        raise DataError(f"{path}: {name} has no '{key}'; add it, or export the annotations again")
    return entry[key]


def name_entry(item: Any, kind: str = "annotation") -> str:
    """What a sentence calls it."""
    if not isinstance(item, dict):
        return f"an {kind}"
    number = item.get("id", "(without id)")
    return f"{kind} {number if type(number) is int or 'id' not in item else quoted(number)}"
