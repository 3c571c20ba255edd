"""COCO: one JSON file for all annotations of a split, as downloaded or as Roboflow exports it.

Start with `CocoFormat`. Annotations that are plain are taken by hundreds; each other one goes through the functions
that say what is wrong with it. A box that is missing is that of the segmentation, which is bounded without painting
it, because a mask is as large as its file claims.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssdlite.data.formats.base import (
    Annotations,
    Box,
    Format,
    Found,
    find_missing_images,
    make_split,
    require_file,
    require_folder,
    unopened,
)
from ssdlite.data.formats.folders import (
    ImageIndex,
    Seen,
    child,
    list_files,
    plain_path,
    split_folders,
    split_of_name,
)
from ssdlite.data.formats.problems import Problems, StrictProblems
from ssdlite.data.records import MAX_SIDE, check_class_name, relabel
from ssdlite.errors import DataError
from ssdlite.io import is_usable, one_line, parse_json, quoted, read_json
from ssdlite.structures import DataSplit

ROBOFLOW_FILE = "_annotations.coco.json"


NUMBERS = {int, float}  # and not bool, which Python would take for one, nor text


ID_TYPES = {int, str}


ANNOTATION_FOLDERS = ("annotations", "labels", "annotation")


GLANCE = 1 << 20  # bytes at the start and at the end of a file that are looked at to see whether it is COCO


NUM_NAMES = 20  # images that are looked for to find their folder


MOST_FILES = 50


CHUNK = 128  # annotations that are taken together


HUGE = 1e18  # numbers from here on are left to the functions that take one by one


PLAIN_NAME = re.compile(r"\w[\w. -]*", re.ASCII)


MOST_DIGITS = 7  # of 5 bits each: a run of more than 2^34 pixels is in no image


@dataclass(frozen=True)
class CocoSource:
    """Images of a folder with one COCO annotation file."""

    images: Path
    annotations: Path

    def __str__(self) -> str:
        return str(self.annotations)


class CocoAnnotations(Annotations):
    """Annotations of a COCO file, with what a cleaned copy of it is made from."""

    box_form = "xywh"

    def __init__(self, source: CocoSource) -> None:
        super().__init__(source, source.annotations)
        self.document: dict[str, Any] | None = None  # the parsed file
        self.entries: list[int] = []  # I: position of each image in "images"
        self.label_of_category: dict[Any, int] = {}  # index of the class name by category id

    def name_object(self, index: int, *, with_id: bool = True) -> str:
        assert self.document is not None
        owner = self.owners[index]
        item = self.document["annotations"][int(self.positions[index])]
        return f"{name_entry(item)} of {self.items[owner] if with_id else self.paths[owner].name}"


class CocoFormat(Format[CocoSource]):
    """COCO instances, as downloaded or under any name."""

    name = "coco"
    looked_for = (
        f"annotations/instances_train*.json and instances_val*.json (COCO), train/{ROBOFLOW_FILE} (Roboflow)"
    )
    source_type = CocoSource

    def find(self, path: Path) -> Found | None:
        if path.is_file():
            source = _at_file(path) if path.suffix.lower() == ".json" else None
            return Found("COCO", [source], []) if source else None
        train, val = (_find_downloaded(path, name) for name in ("train", "val"))
        if train or val:
            test = _find_downloaded(path, "test")
            return Found("COCO", train, val or test, test)
        return _find_roboflow(path) or _find_anywhere(path)

    def explain(self, seen: Seen) -> tuple[int, str] | None:
        first = seen.first_of(".json")
        if first is None or not _is_instances(first):
            return None
        text = (
            f"{first.relative_to(seen.root)} is a COCO file, but its images were not found; name their folder: "
            f"'data.train={{kind: {self.name}, images: FOLDER, annotations: {first}}}'"
        )
        return seen.num_images + 1, text

    def require(self, source: CocoSource) -> None:
        require_folder(source.images)
        require_file(source.annotations)

    def read(self, source: CocoSource, problems: Problems) -> CocoAnnotations:
        """Numbers are JSON numbers: "12" is none, and true is none. Crowd regions are `ignore`.

        An id that several images or categories of different names share says nothing: its objects are not taken.
        """
        found = CocoAnnotations(source)
        has_folder = False
        with problems.catch("image-folder-missing", source.images):
            require_folder(source.images)
            has_folder = True
        with problems.catch("annotations-unreadable", found.file):
            found.document = load_annotations(found.file)
        if found.document is None:
            return found
        listed = _without_root(found, found.document, problems)
        categories = _read_categories(found, listed, problems)
        images = _read_images(found, found.document["images"], problems)
        _read_objects(found, found.document["annotations"], images, categories, problems)
        if not problems.strict:
            _note_repeated_ids(found.file, found.document["annotations"], problems)
        if has_folder:
            find_missing_images(found, problems, look_in=source.images)
        else:
            found.missing.update(found.paths)
        return found


def read_coco(
    images_dir: str | Path, annotation_path: str | Path, class_names: Sequence[str] | None = None
) -> DataSplit:
    """Read a COCO annotation file whose `file_name`s lie under `images_dir`.

    Without `class_names` the classes are the file's own, sorted by category id. With them, labels follow their
    order and a name that is not among them is an error, unless it has no objects. Crowd regions are `ignore`.
    Boxes are clipped to the image; those without area are left out and reported once.

    Raises `DataError` for a file that is missing or malformed, for images that are not there, and for a
    `file_name` that leads out of `images_dir`.
    """
    problems = StrictProblems()
    source = CocoSource(Path(images_dir), Path(annotation_path))
    split = make_split(CocoFormat().read(source, problems), problems)
    return split if class_names is None else relabel(split, class_names, source.annotations)


def _find_downloaded(path: Path, name: str) -> list[CocoSource]:
    """The file of the split `name`, train or val, in `annotations`."""
    found = sorted((path / "annotations").glob(f"instances_{name}*.json"))
    if not found:
        return []
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise DataError(f"{path / 'annotations'}: several files could be the {name} set ({names}); leave only one")
    full_name = found[0].stem.removeprefix("instances_")  # such as train2017
    folders = [path / full_name, path / "images" / full_name, path / name, path / "images" / name, path / "images"]
    images = next((folder for folder in folders if folder.is_dir()), None)
    if images is None:
        tried = ", ".join(str(folder) for folder in dict.fromkeys(folders))
        raise DataError(f"{found[0]}: its images were not found; put them into one of {tried}")
    return [CocoSource(images, found[0])]


def _find_roboflow(path: Path) -> Found | None:
    """Folders with their own file each; `test` validates where there is no `valid`."""
    folders = {split: folder for split, folder in split_folders(path).items() if (folder / ROBOFLOW_FILE).is_file()}
    train, val, test = (
        [CocoSource(folders[split], folders[split] / ROBOFLOW_FILE)] if split in folders else []
        for split in ("train", "val", "test")
    )
    return Found("Roboflow COCO", train, val or test, test) if folders else None


def _find_anywhere(path: Path) -> Found | None:
    """COCO files of any name: in the folder, in `annotations`, or in the folder of a split.

    A name that speaks of a split (instances_Train.json) is of that split; a lone file of another name trains.
    """
    split_of: dict[str, list[CocoSource]] = {}
    other: list[CocoSource] = []
    places = [path, *filter(None, [child(path, ANNOTATION_FOLDERS)])]
    files = [file for place in places for file in list_files(place, (".json",))]
    inside = [
        (split, file) for split, folder in split_folders(path).items() for file in list_files(folder, (".json",))
    ]
    named = [(split_of_name(file.stem), file) for file in files]
    for split, file in [*named, *inside][:MOST_FILES]:
        if (source := _at_file(file, path)) is None:
            continue
        (split_of.setdefault(split, []) if split else other).append(source)
    for split, sources in split_of.items():
        if len(sources) > 1:
            names = ", ".join(source.annotations.name for source in sources)
            raise DataError(f"{path}: several COCO files could be the {split} set ({names}); leave only one")
    if not split_of and len(other) > 1:
        names = ", ".join(source.annotations.name for source in other)
        raise DataError(
            f"{path}: several COCO files ({names}) do not say which split they are; give one of them as the path, "
            "or rename them to train.json and val.json"
        )
    train = split_of.get("train") or (other if len(other) == 1 else [])
    val, test = split_of.get("val", []), split_of.get("test", [])
    if not (train or val or test):
        return None
    return Found("COCO", train, val or test, test)


def _at_file(file: Path, root: Path | None = None) -> CocoSource | None:
    """The source of a COCO file, with the folder that most of its first images are under; None where it is none."""
    names = _first_names(file)
    if names is None:
        return None
    split = file.stem.removeprefix("instances_").removeprefix("person_keypoints_")
    folders = []
    for base in dict.fromkeys([file.parent, root or file.parent, file.parent.parent]):
        for inner in ("", split, f"images/{split}", "images", "data", "JPEGImages", "val2017", "train2017"):
            folders += [base / inner]
        if word := split_of_name(split):
            folders += [folder for parent in (base, base / "images") if (folder := split_folders(parent).get(word))]
    counts = {}
    for folder in dict.fromkeys(folders):
        counts[folder] = sum((folder / plain_path(name)).is_file() for name in names if is_usable(name))
        if names and counts[folder] == len(names):
            return CocoSource(folder, file)
    best = max(counts, key=lambda folder: counts[folder])
    if counts[best]:
        return CocoSource(best, file)
    # Names without their folders, as of CVAT's images/default/: the reader looks below the folder of the images.
    index = ImageIndex([root or file.parent])
    found = [path for name in names if (path := index.of_name(name))]
    return CocoSource(root or file.parent, file) if found else None


def _is_instances(file: Path) -> bool:
    return _first_names(file) is not None


def _first_names(file: Path) -> list[str] | None:
    """File names of the first images of a COCO file; None where it is none. Only the file's start is read."""
    try:
        with file.open("rb") as opened:
            start = opened.read(GLANCE)
            is_whole = len(start) < GLANCE
            opened.seek(-min(GLANCE, file.stat().st_size), 2)
            end = opened.read(GLANCE)
    except OSError:
        return None
    keys = [key for key in (b'"images"', b'"annotations"', b'"categories"') if key in start or key in end]
    has_boxes = b'"categories"' in keys or b'"bbox"' in start or b'"bbox"' in end  # captions have neither
    if len(keys) < (3 if is_whole else 2) or not has_boxes:
        return None
    found = re.findall(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)*")', start if b'"file_name"' in start else end)
    names = []
    for text in found[:NUM_NAMES]:
        with contextlib.suppress(ValueError):
            names.append(str(parse_json(text)))
    return names


class _Ids:
    """The ids of a file: what each stands for, and those that say nothing about their objects.

    An object of a `void` id has no problem of its own: the image or category has one.
    """

    def __init__(self) -> None:
        self.index: dict[Any, int] = {}
        self.void: set[Any] = set()
        self._by_text: dict[str, Any] = {}

    def drop(self, key: Any) -> None:
        if _is_id(key):
            self.index.pop(key, None)
            self.void.add(key)

    def of_text(self, key: Any) -> Any:
        """The known id with the text of `key`, such as 12 for "12"; None where there is none."""
        if not self._by_text:
            self._by_text = {str(known): known for known in self.index}
        return self._by_text.get(str(key))


def _is_id(value: Any) -> bool:
    return isinstance(value, int | float | str)


def load_annotations(path: Path) -> dict[str, Any]:
    """Return the content of a COCO file, which has its three lists. Raises DataError."""
    try:
        content = read_json(path)
    except OSError as error:
        raise unopened(path, error) from error
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({one_line(str(error))}); export or download it again") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{path}: has no list '{key}', so it is not a COCO instances file; choose another file")
    return content


def _without_root(found: CocoAnnotations, document: dict[str, Any], problems: Problems) -> list[Any]:
    """The categories but one that groups all others and has no objects: Roboflow writes such a root."""
    categories: list[Any] = document["categories"]
    if len(categories) < 2 or not all(isinstance(each, dict) for each in categories):
        return categories
    parents = Counter(str(each.get("supercategory")) for each in categories)
    parent, num = parents.most_common(1)[0]
    roots = [each for each in categories if each.get("name") == parent]
    if len(roots) != 1 or num < len(categories) - 1:
        return categories
    (root,) = roots
    number = root.get("id")
    others = [each for each in categories if each is not root]
    if any(each.get("supercategory") != parent for each in others) or any(
        isinstance(item, dict) and item.get("category_id") == number for item in document["annotations"]
    ):
        return categories
    text = f"category {quoted(number)} {quoted(parent)} groups all others and has no objects, so it is no class"
    problems.add("category-root", found.file, text, item=parent)
    return others


def _read_categories(found: CocoAnnotations, categories: list[Any], problems: Problems) -> _Ids:
    """Set the class names, in ascending order of id, and return their indices by id."""
    ids = _Ids()
    names: dict[int, str] = {}
    taken: set[str] = set()
    for position, category in enumerate(categories, 1):
        where = f"category {position} of the list"
        entry: tuple[int, str] | None = None
        with problems.catch("category-broken", found.file, where):
            entry = _read_category(category, found.file)
        if entry is None:
            ids.drop(category.get("id") if isinstance(category, dict) else None)
            continue
        category_id, name = entry
        message = f"{found.file}: category {category_id} '{name}' repeats an id or a name; make both unique"
        if category_id in names:
            text = f"category id {category_id} '{name}' is also that of '{names[category_id]}'; make both unique"
            problems.add("category-repeated", found.file, text, item=where, message=message)
            if name != names[category_id]:
                ids.drop(category_id)
            continue
        if name in taken:
            text = f"the name '{name}' (id {category_id}) is also that of another category; make both unique"
            problems.add("category-repeated", found.file, text, item=where, message=message)
        names[category_id] = name
        taken.add(name)
    found.category_ids = []
    for category_id in sorted(names.keys() - ids.void):
        label = found.label_of(names[category_id])
        ids.index[category_id] = label
        if label == len(found.category_ids):  # of categories with one name the first
            found.category_ids.append(category_id)
    found.label_of_category = ids.index
    return ids


def _read_category(category: Any, path: Path) -> tuple[int, str]:
    """Id and name of an entry of 'categories'. Raises DataError."""
    category_id = _plain_id(_get(category, "id", "a category", path))
    name = _get(category, "name", "a category", path)
    if type(category_id) is not int:
        raise DataError(f"{path}: a category has the id {quoted(category_id)}; make it a whole number")
    if type(name) not in (str, int):
        raise DataError(f"{path}: category {category_id} has the name {quoted(name)}; make it text")
    name = str(name)
    check_class_name(name, f"category {category_id}", path)
    return category_id, name


def _read_images(found: CocoAnnotations, images: list[Any], problems: Problems) -> _Ids:
    """Add the images and return their indices by id."""
    ids = _Ids()
    folder = found.source.images
    groups: dict[Any, list[tuple[int, Path]]] = defaultdict(list)
    broken: list[Any] = []
    for position, entry in enumerate(images):
        image_id, name = (entry.get(key) if isinstance(entry, dict) else None for key in ("id", "file_name"))
        if type(image_id) is int and abs(image_id) < HUGE and type(name) is str and PLAIN_NAME.fullmatch(name):
            groups[image_id].append((position, folder / name))  # in a tenth of the time
            continue
        path: Path | None = None
        with problems.catch("image-entry-broken", found.file, f"image {position + 1} of the list"):
            _check_image_id(entry, found.file)
            path = _find_image_path(entry, folder, found.file)
        if path is None:
            broken.append(image_id)
        else:
            groups[image_id].append((position, path))
    for image_id in broken:
        if not _is_id(image_id) or image_id not in groups:  # otherwise its objects are those of the other image
            ids.drop(image_id)
    for image_id, group in groups.items():
        item = f"image {image_id}"
        if len(group) > 1:
            listed = ", ".join(path.name for _, path in group[:3])
            text = f"its id is used {len(group)} times ({listed}); make the ids unique"
            message = f"{found.file}: image id {quoted(image_id)} is used by several images; make the ids unique"
            problems.add("image-id-repeated", found.file, text, item=item, message=message)
            if len({path for _, path in group}) > 1:
                ids.drop(image_id)
        if image_id in ids.void:
            continue
        position, path = group[0]
        item = f"{item} ({path.name})"
        size = _read_size(images[position], item, found.file, problems)
        ids.index[image_id] = found.add_image(path, _plain_id(image_id), size, item=item)
        found.entries.append(position)
    return ids


def _check_image_id(entry: Any, path: Path) -> None:
    """Raise DataError for an entry of 'images' without an id that can be used."""
    image_id = _get(entry, "id", "an image", path)
    if type(_plain_id(image_id)) not in ID_TYPES or (type(image_id) is str and not is_usable(image_id)):
        raise DataError(f"{path}: an image has the id {quoted(image_id)}; make it a whole number or plain text")


def _find_image_path(entry: dict[str, Any], images_dir: Path, path: Path) -> Path:
    """Path of the image of an entry of 'images'. Raises DataError for one outside of `images_dir`."""
    given = _get(entry, "file_name", name_entry(entry, "image"), path)
    if type(given) is not str or not is_usable(given) or not plain_path(given).name:
        raise DataError(f"{path}: {name_entry(entry, 'image')} has file_name {quoted(given)}, which names no file")
    file_name = plain_path(given)
    if file_name.is_absolute() or ".." in file_name.parts:
        raise DataError(
            f"{path}: file_name {quoted(given)} leads out of {images_dir}; make it relative to that folder"
        )
    return images_dir / file_name


def _read_size(entry: dict[str, Any], item: str, path: Path, problems: Problems) -> tuple[int, int] | None:
    """(height, width) of an entry of 'images'; None where it does not say, or says nonsense."""
    height, width = entry.get("height"), entry.get("width")
    if type(height) is int and type(width) is int and 0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE:
        return height, width
    for side in (height, width):
        # A bool equals 0 or 1, so the type is asked for first.
        if side is not None and not (type(side) in NUMBERS and 0 <= side <= MAX_SIDE and side == int(side)):
            text = (
                f"{name_entry(entry, 'image')} has height {quoted(height)} and width {quoted(width)} where "
                "whole numbers of pixels were expected; correct them, or leave them out"
            )
            problems.add("image-size-broken", path, text, item=item)
            return None
    if height and width:
        return int(height), int(width)
    problems.add("image-without-size", path, "has no height and width; they are read from the image", item=item)
    return None


def _read_objects(
    found: CocoAnnotations, annotations: list[Any], images: _Ids, categories: _Ids, problems: Problems
) -> None:
    for start in range(0, len(annotations), CHUNK):
        chunk = annotations[start : start + CHUNK]
        if (table := _read_plain(chunk, start, images, categories)) is not None:
            found.add_objects(table)
            continue
        for position, item in enumerate(chunk, start):
            _read_object(found, item, position, images, categories, problems)


def _read_plain(chunk: list[Any], start: int, images: _Ids, categories: _Ids) -> np.ndarray | None:
    """(n, 10), see `Annotations.add_objects`; None unless nothing can be wrong with any of the annotations.

    Twenty times as fast as one by one; what it does not know for certain it leaves to `_parse_object`.
    """
    try:
        image_ids, category_ids = ([item[key] for item in chunk] for key in ("image_id", "category_id"))
        boxes = [item["bbox"] for item in chunk]
        crowds, areas = [item.get("iscrowd", 0) for item in chunk], [item.get("area", -1) for item in chunk]
        numbers = list(chain(*boxes))
        if [0, 0, 0, 0] in boxes:  # which stands for none where there is a segmentation
            return None
        if {*map(type, boxes)} != {list} or {*map(len, boxes)} != {4} or not {*map(type, numbers)} <= NUMBERS:
            return None
        if not ({*map(type, image_ids)} <= ID_TYPES and {*map(type, category_ids)} <= {int}):
            return None
        if not ({*map(type, crowds)} <= {int} and {*crowds} <= {0, 1} and {*map(type, areas)} <= NUMBERS):
            return None
        table = np.empty((len(chunk), 10))
        table[:, 0] = [images.index[key] for key in image_ids]
        table[:, 1] = [categories.index[key] for key in category_ids]
        table[:, 2:6] = np.array(numbers, np.float64).reshape(-1, 4)
        table[:, 4:6] += table[:, 2:4]
        table[:, 6], table[:, 7] = np.arange(start, start + len(chunk)), crowds
        table[:, 8], table[:, 9] = crowds, areas
        if not np.all(np.abs(table[:, 9]) < HUGE) or not np.all(np.abs(table[:, 2:6]) < HUGE):
            return None
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return None
    return table


def _read_object(
    found: CocoAnnotations, item: Any, position: int, images: _Ids, categories: _Ids, problems: Problems
) -> None:
    """Add an annotation, or a problem."""
    path = found.file
    where = name_entry(item)
    image_id, category_id = (
        item.get(key) if isinstance(item, dict) else None for key in ("image_id", "category_id")
    )
    if _is_id(image_id) and image_id in images.void:
        return
    has_owner = False
    with problems.catch("object-broken", path, where):
        has_owner = _has_owner(item, images, path)
        if not has_owner:
            text = f"belongs to image {quoted(image_id)}, which the file does not list"
            message = f"{where} {text}"
            problems.add("object-without-image", path, f"{text}, and is left out", item=where, message=message)
    if not has_owner or (_is_id(category_id) and category_id in categories.void):
        return
    owner = images.index[image_id]
    where = f"{where} of {found.items[owner]}"
    height, width = found.size_of(owner)
    try:
        size = (height, width) if height or item.get("bbox") not in (None, []) else _size_of(found.paths[owner])
    except DataError:
        return  # it has a mask only, and the image, which is to tell its size, will have a problem
    labels = categories.index
    is_unknown = category_id is not None and not (type(category_id) in NUMBERS and category_id in labels)
    raw: _RawObject | None = None
    with problems.catch("category-unknown" if is_unknown else "object-broken", path, where):
        raw = _parse_object(item, labels, size, path)
    if raw is None:
        try:  # an area is not needed, so that a cleaned copy can do without
            raw = _parse_object({**item, "area": None}, labels, size, path)
        except DataError:
            return
    found.add_object(
        owner, raw.label, raw.corners, position=position, ignore=raw.crowd, crowd=raw.crowd, area=raw.area
    )


def _has_owner(item: Any, images: _Ids, path: Path) -> bool:
    """True if an annotation names an image of the file. Raises DataError for an image_id that can be none."""
    image_id = _get(item, "image_id", name_entry(item), path)
    if type(image_id) not in (int, str, float):
        raise DataError(f"{path}: {name_entry(item)} has image_id {quoted(image_id)}; make it that of an image")
    if image_id in images.index:
        return True
    if (own := images.of_text(image_id)) is not None:
        raise DataError(
            f"{path}: {name_entry(item)} has image_id {quoted(image_id)}, but its image has the id "
            f"{quoted(own)}; write both as numbers, or both as text"
        )
    return False


def _size_of(path: Path) -> tuple[int, int]:
    from ssdlite.data.images import image_size  # here, because OpenCV takes a tenth of a second

    return image_size(path)


class _RawObject(NamedTuple):
    label: int
    corners: Box
    crowd: bool
    area: float | None


def _parse_object(item: dict[str, Any], labels: dict[Any, int], size: tuple[int, int], path: Path) -> _RawObject:
    """One annotation; `labels` by category id. Raises DataError for what is missing or malformed."""
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
    return _RawObject(labels[category_id], (x, y, x + width, y + height), bool(crowd), area)


def _read_box(item: dict[str, Any], size: tuple[int, int], path: Path) -> Box:
    """x, y, width, height; around the segmentation where there is no bbox, or one of zeros beside a polygon."""
    box = item.get("bbox")
    if box == [0, 0, 0, 0] and isinstance(item.get("segmentation"), list):
        with contextlib.suppress(ValueError, OverflowError, TypeError):
            return mask_bounds(item["segmentation"], size)
    try:
        if box is None or box == []:
            return mask_bounds(item.get("segmentation"), size)
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


def _note_repeated_ids(file: Path, annotations: list[Any], problems: Problems) -> None:
    ids = [item["id"] for item in annotations if type(item) is dict and type(item.get("id")) in ID_TYPES]
    if len(set(ids)) == len(ids):
        return
    for annotation_id, count in Counter(ids).items():
        if count > 1:
            text = f"its id is used {count} times, which other programs do not take"
            problems.add("annotation-id-repeated", file, text, item=name_entry({"id": annotation_id}))


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
    """Return what a sentence calls an entry of one of the lists."""
    if not isinstance(item, dict):
        return f"an {kind}"
    number = item.get("id", "(without id)")
    return f"{kind} {number if type(number) is int or 'id' not in item else quoted(number)}"


def mask_bounds(segmentation: Any, size: tuple[int, int]) -> Box:
    """Return (x, y, width, height) around polygons, or around run lengths as a list or compressed.

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


def _polygon_bounds(polygons: Sequence[Any]) -> Box:
    """xywh around [[x1, y1, x2, y2, x3, y3, ...], ...]."""
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


def _run_bounds(runs: Sequence[int], height: int, width: int) -> Box:
    """xywh around runs of background and object in turn, down one column after the other; zeros without object."""
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
