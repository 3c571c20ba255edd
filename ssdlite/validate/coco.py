"""A COCO file read to its end, whatever is wrong in it.

Each entry goes through `data.coco`'s own functions by itself, so that what training refuses is what is found here.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ssdlite.data.formats import coco as reader
from ssdlite.data.formats.layout import CocoSource
from ssdlite.data.images import image_size
from ssdlite.data.records import MAX_SIDE, RawObject
from ssdlite.errors import DataError
from ssdlite.io import quoted
from ssdlite.validate.problems import Contents, reason

NUMBERS = {int, float}  # and not bool


ID_TYPES = {int, str}


CHUNK = 128  # annotations that are taken together


HUGE = 1e18


PLAIN_NAME = re.compile(r"\w[\w. -]*", re.ASCII)


class _Ids:
    """The ids of a file: what each stands for, and those that say nothing about their objects.

    An object of a `void` id has no finding of its own: the image or category has one.
    """

    def __init__(self) -> None:
        self.index: dict[Any, int] = {}
        self.void: set[Any] = set()

    def drop(self, key: Any) -> None:
        if is_id(key):
            self.index.pop(key, None)
            self.void.add(key)


def is_id(value: Any) -> bool:
    return isinstance(value, int | float | str)


def inspect_coco(source: CocoSource) -> Contents:
    """What `source` holds, with a finding for each mistake that shows without the images.

    An id that several images or categories of different names share says nothing: its objects are not taken.
    """
    contents = Contents(source)
    try:
        has_folder = source.images.is_dir()
    except OSError:
        has_folder = False
    if not has_folder:
        contents.add("image-folder-missing", "", "there is no such folder of images; check the path", source.images)
    try:
        document = reader.load_annotations(source.annotations)
    except DataError as error:
        contents.add("annotations-unreadable", "", reason(error, source.annotations))
        return contents
    contents.document = document
    categories = _read_categories(contents, document["categories"])
    contents.categories = categories.index
    images = _read_images(contents, document["images"], source)
    _read_objects(contents, document["annotations"], images, categories)
    _find_repeated_ids(contents, document["annotations"])
    if has_folder:
        _find_missing(contents)
    return contents


def _read_categories(contents: Contents, categories: list[Any]) -> _Ids:
    ids = _Ids()
    names: dict[int, str] = {}
    for position, category in enumerate(categories, 1):
        where = f"category {position} of the list"
        try:
            ((category_id, name),) = reader.read_categories({"categories": [category]}, contents.file).items()
        except DataError as error:
            contents.add("category-broken", where, reason(error, contents.file))
            ids.drop(category.get("id") if isinstance(category, dict) else None)
            continue
        if category_id in names:
            text = f"category id {category_id} '{name}' is also that of '{names[category_id]}'; make both unique"
            contents.add("category-repeated", where, text)
            if name != names[category_id]:
                ids.drop(category_id)
            continue
        if name in names.values():
            text = f"the name '{name}' (id {category_id}) is also that of another category; make both unique"
            contents.add("category-repeated", where, text)
        names[category_id] = name
    usable = {key: names[key] for key in sorted(names) if key not in ids.void}
    contents.class_names = list(dict.fromkeys(usable.values()))
    position_of = {name: position for position, name in enumerate(contents.class_names)}
    ids.index = {key: position_of[name] for key, name in usable.items()}
    return ids


def _read_images(contents: Contents, images: list[Any], source: CocoSource) -> _Ids:
    ids = _Ids()
    groups: dict[Any, list[tuple[int, Path]]] = defaultdict(list)
    for position, entry in enumerate(images):
        try:
            image_id, name = (entry.get(key) if isinstance(entry, dict) else None for key in ("id", "file_name"))
            if type(image_id) is int and abs(image_id) < HUGE and type(name) is str and PLAIN_NAME.fullmatch(name):
                path = source.images / name  # what the reader takes for certain, in a tenth of its time
            else:
                reader.group_by_image({"images": [entry], "annotations": []}, contents.file)
                path = reader.find_image_path(entry, source.images, contents.file)
            groups[entry["id"]].append((position, path))
        except DataError as error:
            contents.add("image-entry-broken", f"image {position + 1} of the list", reason(error, contents.file))
            ids.drop(entry.get("id") if isinstance(entry, dict) else None)
    sizes = []
    for image_id, group in groups.items():
        item = f"image {image_id}"
        if len(group) > 1:
            listed = ", ".join(path.name for _, path in group[:3])
            text = f"its id is used {len(group)} times ({listed}); make the ids unique"
            contents.add("image-id-repeated", item, text)
            if len({path for _, path in group}) > 1:
                ids.drop(image_id)
        if image_id in ids.void:
            continue
        position, path = group[0]
        item = f"{item} ({path.name})"
        ids.index[image_id] = len(contents.paths)
        contents.paths.append(path)
        contents.files.append(contents.file)
        contents.items.append(item)
        contents.entries.append(position)
        sizes.append(_read_size(contents, images[position], path, item))
    contents.sizes = np.array(sizes, np.int64).reshape(-1, 2)
    return ids


def _read_size(contents: Contents, entry: dict[str, Any], path: Path, item: str) -> tuple[int, int]:
    """(height, width); (0, 0) where the entry does not say, or says nonsense."""
    height, width = entry.get("height"), entry.get("width")
    if type(height) is int and type(width) is int and 0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE:
        return height, width
    sides = {"height": height, "width": width}
    # The reader would open the image for a side that is missing, which is not for now.
    given = {
        side: 1 if value is None or (type(value) in NUMBERS and value == 0) else value
        for side, value in sides.items()
    }
    try:
        size = reader.annotated_size({**entry, **given}, path, contents.file)
    except DataError as error:
        contents.add("image-size-broken", item, reason(error, contents.file))
        return 0, 0
    if given == sides:
        return size
    contents.add("image-without-size", item, "has no height and width; they are read from the image")
    return 0, 0


def _read_objects(contents: Contents, annotations: list[Any], images: _Ids, categories: _Ids) -> None:
    by_text: dict[str, Any] = {}
    for start in range(0, len(annotations), CHUNK):
        chunk = annotations[start : start + CHUNK]
        if (table := _read_plain(chunk, start, images, categories)) is not None:
            contents.add_objects(table)
            continue
        by_text = by_text or {str(image_id): image_id for image_id in images.index}
        for position, item in enumerate(chunk, start):
            if found := _read_object(contents, item, images, categories, by_text):
                owner, raw = found
                contents.add_object(owner, categories.index[raw.category], raw.box, raw.ignore, position)


def _read_plain(chunk: list[Any], start: int, images: _Ids, categories: _Ids) -> np.ndarray | None:
    """(n, 8), see `Contents.add_objects`; None unless all of the annotations are such as the reader takes.

    Twenty times as fast as the reader's own way; what it does not know for certain it leaves to that.
    """
    try:
        image_ids, category_ids = ([item[key] for item in chunk] for key in ("image_id", "category_id"))
        boxes = [item["bbox"] for item in chunk]
        crowds, areas = [item.get("iscrowd", 0) for item in chunk], [item.get("area", 0) for item in chunk]
        numbers = list(chain(*boxes))
        if {*map(type, boxes)} != {list} or {*map(len, boxes)} != {4} or not {*map(type, numbers)} <= NUMBERS:
            return None
        if not ({*map(type, image_ids)} <= ID_TYPES and {*map(type, category_ids)} <= {int}):
            return None
        if not ({*map(type, crowds)} <= {int} and {*crowds} <= {0, 1} and {*map(type, areas)} <= NUMBERS):
            return None
        table = np.empty((len(chunk), 8))
        table[:, 0] = [images.index[key] for key in image_ids]
        table[:, 1] = [categories.index[key] for key in category_ids]
        table[:, 2:6] = np.array(numbers, np.float64).reshape(-1, 4)
        table[:, 4:6] += table[:, 2:4]
        table[:, 6], table[:, 7] = crowds, np.arange(start, start + len(chunk))
        if not np.all(np.abs(np.array(areas, np.float64)) < HUGE) or not np.all(np.abs(table[:, 2:6]) < HUGE):
            return None
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return None
    return table


def _read_object(
    contents: Contents, item: Any, images: _Ids, categories: _Ids, by_text: dict[str, Any]
) -> tuple[int, RawObject] | None:
    """The image and what the reader makes of an annotation; None if it cannot be used.

    `by_text`: the ids of the images by their text.
    """
    path = contents.file
    where = reader.name_entry(item)
    image_id, category_id = (
        item.get(key) if isinstance(item, dict) else None for key in ("image_id", "category_id")
    )
    if is_id(image_id) and image_id in images.void:
        return None
    try:
        candidates = [{"id": by_text[str(image_id)]}] if is_id(image_id) and str(image_id) in by_text else []
        if is_id(image_id) and image_id in images.index:
            candidates = [{"id": image_id if type(image_id) in ID_TYPES else int(image_id or 0)}]
        _, problems = reader.group_by_image({"images": candidates, "annotations": [item]}, path)
    except DataError as error:
        contents.add("object-broken", where, reason(error, path))
        return None
    if problems:
        text = f"belongs to image {quoted(image_id)}, which the file does not list, and is left out"
        contents.add("object-without-image", where, text)
        return None
    if is_id(category_id) and category_id in categories.void:
        return None
    owner = images.index[image_id]
    image_path, where = contents.paths[owner], f"{where} of {contents.items[owner]}"
    height, width = contents.sizes[owner].tolist()
    try:
        has_box = item.get("bbox") not in (None, [])
        size = (height, width) if height or has_box else image_size(image_path)
    except DataError:
        return None  # it has a mask only, and the image, which is to tell its size, will have a finding
    labels = categories.index
    try:
        return owner, reader.read_object(item, labels, size, image_path.name, path)
    except DataError as error:
        is_unknown = category_id is not None and not (type(category_id) in NUMBERS and category_id in labels)
        contents.add("category-unknown" if is_unknown else "object-broken", where, reason(error, path))
    try:  # an area is not needed, so that a cleaned copy can do without
        return owner, reader.read_object({**item, "area": None}, labels, size, image_path.name, path)
    except DataError:
        return None


def _find_repeated_ids(contents: Contents, annotations: list[Any]) -> None:
    ids = [item["id"] for item in annotations if type(item) is dict and type(item.get("id")) in ID_TYPES]
    if len(set(ids)) == len(ids):
        return
    for annotation_id, count in Counter(ids).items():
        if count > 1:
            text = f"its id is used {count} times, which other programs do not take"
            contents.add("annotation-id-repeated", reader.name_entry({"id": annotation_id}), text)


def _find_missing(contents: Contents) -> None:
    try:
        absent = set(reader.missing_images(contents.paths))
    except OSError as error:
        contents.add("image-folder-missing", "", f"the images cannot be listed ({error.strerror})")
        return
    for path, item in zip(contents.paths, contents.items, strict=True) if absent else ():
        if path in absent:
            contents.add("image-missing", item, "the image is not there; add it or take it out", path)
