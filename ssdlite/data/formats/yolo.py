"""YOLO: a text file for each image, with a class number and a box in fractions of the image on each line.

Start with `YoloFormat`. The class names come from a data.yaml (Ultralytics, Roboflow), a Darknet .data file with
its .names, or a classes.txt (labelImg, Label Studio). The labels of an image are in the file with its stem, in the
folder `labels` that stands for the last `images` of its path, or beside it. An image without such a file has no
objects.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ssdlite.data.formats.base import Annotations, Box, Format, Found, require_most, unopened
from ssdlite.data.formats.folders import (
    IMAGE_SUFFIXES,
    SPLIT_NAMES,
    ImageIndex,
    Seen,
    child,
    has_suffix,
    is_data,
    list_files,
    name_key,
    plain_path,
    split_folders,
    split_of_name,
    walk_files,
)
from ssdlite.data.formats.problems import Problems
from ssdlite.data.records import check_class_name
from ssdlite.errors import DataError
from ssdlite.io import is_usable, one_line, quoted, read_text

NAMES_FILES = (
    "classes.txt",
    "obj.names",
    "_darknet.labels",
    "classes.names",
    "labels.txt",
    "predefined_classes.txt",
)


YAML_SUFFIXES = (".yaml", ".yml")


LARGEST_YAML = 1 << 20  # bytes


GLANCE = 20  # label files that are opened to see whether they are YOLO's


MOST_CLASSES = 10_000


OUTSIDE = 2.0  # fractions of an image beyond which a number is one of pixels


@dataclass(frozen=True)
class YoloSource:
    """Images in a folder, or in a list of paths, with YOLO's label files; `names` is the file of class names."""

    images: Path
    names: Path

    def __str__(self) -> str:
        return str(self.images)


class YoloAnnotations(Annotations):
    """Annotations of label files, whose four numbers are the centre and the sides in fractions."""

    box_form = None


class YoloFormat(Format[YoloSource]):
    """Label files of YOLO, with the class names in a file of their own."""

    name = "yolo"
    looked_for = "data.yaml, obj.data or classes.txt (YOLO)"
    source_type = YoloSource

    def find(self, path: Path) -> Found | None:
        if path.is_file():
            return _find_at_file(path)
        described = [file for file in list_files(path, YAML_SUFFIXES) if _is_data_yaml(file)]
        preferred = [file for file in described if file.stem.lower() in ("data", "dataset")]
        if described:
            return _from_yaml((preferred or described)[0])
        for file in list_files(path, (".data",)):
            if found := _from_darknet(file):
                return found
        return _from_folders(path)

    def require(self, source: YoloSource) -> None:
        if not source.images.exists():
            raise DataError(f"{source.images}: there is no such folder or list of images; check the path")
        read_names(source.names)

    def read(self, source: YoloSource, problems: Problems) -> YoloAnnotations:
        """The classes have the order of their numbers, which are their category ids."""
        from ssdlite.data.headers import read_headers  # here, because it takes a tenth of a second

        found = YoloAnnotations(source, source.names)
        with problems.catch("annotations-unreadable", source.names):
            for name in read_names(source.names):
                found.label_of(name)
        found.category_ids = list(range(len(found.class_names)))
        keypoints = _num_keypoint_values(source.names)
        paths: list[Path] = []
        lost: list[str] = []
        with problems.catch("image-folder-missing", source.images):
            paths, lost = _image_paths(source)
        for name in lost:
            problems.add("image-missing", source.images, "the image is not there, and is left out", item=name)
        headers = read_headers(paths)
        listings: dict[Path, dict[str, str]] = {}
        for path in paths:
            header = headers[path]
            item = path.name
            size = (header.height, header.width) if header.usable else None
            owner = found.add_image(path, path.stem, size, item=item, file=path)
            label_path = _label_path(path, listings)
            if label_path is None:
                continue
            found.files[owner] = label_path
            if size is not None:
                _read_labels(found, owner, label_path, size, keypoints, problems)
        _find_lone_labels(found, listings, problems)
        _name_repeated_stems(found, source)
        first = (
            f"{source.images}: its images are not there, the first is {lost[0]}; check the paths" if lost else ""
        )
        require_most(found, len(lost), first, problems)
        return found

    def explain(self, seen: Seen) -> tuple[int, str] | None:
        first = next(
            (path for path in islice(walk_files(seen.root, (".txt",)), GLANCE) if _looks_like_labels(path)), None
        )
        if first is None:
            return None
        text = (
            "the .txt files look like YOLO's labels, but nothing names their classes; add a classes.txt with one "
            f"name per line, or give data.yaml: 'data.train={{kind: {self.name}, images: FOLDER, names: "
            "classes.txt}'"
        )
        return seen.num(".txt"), text


def _find_at_file(path: Path) -> Found | None:
    if path.suffix.lower() in YAML_SUFFIXES:
        return _from_yaml(path) if _is_data_yaml(path) else None
    if path.suffix.lower() == ".data":
        return _from_darknet(path)
    if path.name.lower() in NAMES_FILES:
        return _from_folders(path.parent)
    return None


def _load_yaml(path: Path) -> dict[str, Any] | None:
    """The mapping in a YAML file; None where there is none, or it is huge."""
    try:
        if path.stat().st_size > LARGEST_YAML:
            return None
        content = yaml.load(read_text(path), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _is_data_yaml(path: Path) -> bool:
    content = _load_yaml(path)
    return (
        content is not None
        and ("names" in content or "nc" in content)
        and bool({"train", "val", "test"} & content.keys())
    )


def _from_yaml(path: Path) -> Found:
    """The splits of a data.yaml. Raises DataError where its training images are not there."""
    content = _load_yaml(path) or {}
    given = content.get("path")
    roots = [path.parent]
    if isinstance(given, str) and given and is_usable(given):
        roots = [path.parent / given, *roots]
    roots.append(path.parent.parent)  # a file in a folder of its own, beside the images'
    splits: dict[str, list[YoloSource]] = {}
    remarks = []
    for split, keys in {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}.items():
        entry = next((content[key] for key in keys if content.get(key)), None)
        if entry is None:
            continue
        entries = entry if isinstance(entry, list) else [entry]
        places = [
            place for text in entries if isinstance(text, str) and (place := _resolve(text, roots, path.parent))
        ]
        absent = [
            str(text) for text in entries if not isinstance(text, str) or not _resolve(text, roots, path.parent)
        ]
        if absent:
            remarks.append(f"{path.name} names {quoted(absent[0])} for {split}, which is not there")
        splits[split] = [YoloSource(place, path) for place in dict.fromkeys(places)]
    if not splits.get("train") and (inside := _from_split_folders(path.parent, path)):
        splits = {**inside, **{split: sources for split, sources in splits.items() if sources}}
        remarks.append("the folders beside it are taken")
    if not any(splits.values()):
        raise DataError(
            f"{path}: {'; '.join(remarks) or 'it names no images'}; correct train and val, which are relative to "
            "'path' or to the file's own folder"
        )
    train, val, test = (splits.get(split, []) for split in ("train", "val", "test"))
    return Found("YOLO", train, val or test, test, tuple(remarks))


def _resolve(text: str, roots: Sequence[Path], home: Path) -> Path | None:
    """The folder or list that a data.yaml or .data file in `home` means by `text`, but for folders far above it: a
    slip such as `/` is no data set."""
    place = _find_place(text, roots)
    return None if place is None or place.resolve() in list(home.resolve().parents)[1:] else place


def _find_place(text: str, roots: Sequence[Path]) -> Path | None:
    """The place that `text` means, which may be of another machine.

    Parts are taken off its front, `..` first, until it is under one of `roots`.
    """
    if not is_usable(text):
        return None
    given = plain_path(text)
    if given.is_absolute() and Path(text).exists():
        return Path(text)
    parts = [part for part in given.parts if part not in ("/", ".")]
    for root in roots:  # as it is written, before parts are taken off
        if not given.is_absolute() and (root / given).exists() and ".." not in given.parts:
            return root / given
    while parts and parts[0] == "..":
        parts = parts[1:]
    for start in range(len(parts)):
        for root in roots:
            if (place := root.joinpath(*parts[start:])).exists():
                return place
    outside = roots[0] / given  # ../images of a folder that lies beside the file's
    return outside if not given.is_absolute() and outside.exists() else None


def _from_darknet(path: Path) -> Found | None:
    """The splits of a Darknet .data file: lines of `key = value`."""
    try:
        lines = read_text(path).splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    options = {
        key.strip().lower(): value.strip() for key, sep, value in (line.partition("=") for line in lines) if sep
    }
    if "names" not in options or not {"train", "valid", "test"} & options.keys():
        return None
    names = _resolve(options["names"], [path.parent], path.parent)
    if names is None:
        candidates = list_files(path.parent, (".names",))
        if not candidates:
            raise DataError(f"{path}: its file of class names, {quoted(options['names'])}, is not there; add it")
        names = candidates[0]
    splits: dict[str, list[YoloSource]] = {}
    remarks = []
    for split, key in (("train", "train"), ("val", "valid"), ("test", "test")):
        if not (entry := options.get(key)):
            continue
        place = _resolve(entry, [path.parent], path.parent)
        if place is None:
            remarks.append(f"{path.name} names {quoted(entry)} for {key}, which is not there")
        else:
            splits[split] = [YoloSource(place, names)]
    if not splits:  # CVAT leaves the lists out where there is one subset
        folder = next(
            (path.parent / name for name in ("obj_train_data", "images") if (path.parent / name).is_dir()), None
        )
        if folder is None:
            raise DataError(f"{path}: {'; '.join(remarks) or 'it names no images'}; correct train and valid")
        splits = {"train": [YoloSource(folder, names)]}
    train, val, test = (splits.get(split, []) for split in ("train", "val", "test"))
    return Found("Darknet YOLO", train, val or test, test, tuple(remarks))


def _from_folders(path: Path) -> Found | None:
    """Folders with label files, and a file of class names in one of them or beside them."""
    folders = [path, *split_folders(path).values()]
    folders += [inner for name in ("images", "labels", "obj_train_data") if (inner := child(path, [name]))]
    names = next((file for folder in folders if (file := _names_file(folder))), None)
    if names is None:
        return None
    splits = _from_split_folders(path, names)
    if not splits:
        inner = next((path / name for name in ("images", "obj_train_data") if (path / name).is_dir()), None)
        place = next((place for place in (path, inner) if place and _has_labels(place)), None)
        if place is None:
            return None
        lists = {split_of_name(file.stem): file for file in list_files(path, (".txt",)) if split_of_name(file.stem)}
        splits = {str(split): [YoloSource(file, names)] for split, file in lists.items() if _is_list(file)}
        splits = splits if "train" in splits else {"train": [YoloSource(place, names)]}
    train, val, test = (splits.get(split, []) for split in ("train", "val", "test"))
    return Found("YOLO", train, val or test, test)


def _from_split_folders(path: Path, names: Path) -> dict[str, list[YoloSource]]:
    """train/images and train/labels, images/train and labels/train, or images and labels together in train."""
    found: dict[str, list[YoloSource]] = {}
    images = child(path, ["images"])
    for split in SPLIT_NAMES:
        for parent in filter(None, (path, images)):
            folder = split_folders(parent).get(split)
            if folder is None:
                continue
            place = child(folder, ["images"]) or folder
            if has_suffix(place, IMAGE_SUFFIXES) and (_has_labels(place) or _is_data_yaml(names)):
                found[split] = [YoloSource(place, names)]
                break
    return found


def _names_file(folder: Path) -> Path | None:
    for file in list_files(folder, YAML_SUFFIXES):  # of a data.yaml that names no images
        if isinstance((_load_yaml(file) or {}).get("names"), list | dict):
            return file
    named = {path.name.lower(): path for path in list_files(folder, (".txt", ".names", ".labels"))}
    for name in NAMES_FILES:
        if name in named and not _looks_like_labels(named[name]):
            return named[name]
    return next((path for path in named.values() if path.suffix.lower() == ".names"), None)


def _has_labels(folder: Path) -> bool:
    """Return whether one of the first images of a folder, or of the folders in it, has a label file."""
    listings: dict[Path, dict[str, str]] = {}
    paths = list_files(folder, IMAGE_SUFFIXES) or walk_files(folder, IMAGE_SUFFIXES)
    labels = (label for path in paths[:1000] if (label := _label_path(path, listings)))
    return any(_looks_like_labels(path) for path in islice(labels, GLANCE))


def _looks_like_labels(path: Path) -> bool:
    """Return whether the first line is a class number and at least four numbers."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            words = file.readline(4000).split()
        return (
            len(words) >= 5 and float(words[0]).is_integer() and all(math.isfinite(float(word)) for word in words)
        )
    except (OSError, ValueError):
        return False


def _is_list(path: Path) -> bool:
    """Return whether the first line of a text file is the path of an image."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            return plain_path(file.readline(4000)).suffix.lower() in IMAGE_SUFFIXES
    except (OSError, ValueError):
        return False


def read_names(path: Path) -> list[str]:
    """Return the class names of a data.yaml, or of a text file with one a line, in the order of their numbers.

    Raises DataError where there are none, or one cannot be shown or is there twice.
    """
    if path.suffix.lower() in YAML_SUFFIXES:
        names = _names_of_yaml(path)
    else:
        try:
            names = [line.strip() for line in read_text(path).splitlines()]
        except OSError as error:
            raise unopened(path, error) from error
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: the class names are not UTF-8 text; save the file as UTF-8") from error
        while names and not names[-1]:
            names.pop()
    if not names:
        raise DataError(f"{path}: it names no classes; give one name per line, or 'names' in data.yaml")
    for number, name in enumerate(names):
        check_class_name(name, f"class {number}", path)
    repeated = next((name for number, name in enumerate(names) if name in names[:number]), None)
    if repeated is not None:
        raise DataError(f"{path}: the class name {quoted(repeated)} is there twice; make the names distinct")
    return names


def _names_of_yaml(path: Path) -> list[str]:
    content = _load_yaml(path)
    if content is None:
        raise DataError(f"{path}: not a YAML file with 'names'; correct it")
    names, num = content.get("names"), content.get("nc")
    if isinstance(names, dict):
        if not all(type(number) is int and 0 <= number < MOST_CLASSES for number in names):
            raise DataError(
                f"{path}: the keys of 'names' are {quoted(list(names)[:5])} where numbers from 0 belong"
            )
        return [str(names.get(number, f"class {number}")) for number in range(max(names, default=-1) + 1)]
    if isinstance(names, list):
        return [str(name) for name in names]
    if names is None and type(num) is int and 0 < num < MOST_CLASSES:
        return [f"class {number}" for number in range(num)]
    raise DataError(f"{path}: 'names' is {quoted(names)} where a list of class names belongs; correct it")


def _num_keypoint_values(path: Path) -> int:
    """Numbers of a line behind the box, in a set for poses; 0 in others."""
    content = _load_yaml(path) if path.suffix.lower() in YAML_SUFFIXES else None
    shape = (content or {}).get("kpt_shape")
    is_shape = isinstance(shape, list) and len(shape) == 2 and all(type(side) is int and side > 0 for side in shape)
    return shape[0] * shape[1] if is_shape and isinstance(shape, list) else 0


def _image_paths(source: YoloSource) -> tuple[list[Path], list[str]]:
    """The images of a folder, at any depth, or of a list; and those of a list that are not there."""
    if source.images.is_dir():
        return walk_files(source.images, IMAGE_SUFFIXES), []
    try:
        lines = [line.strip() for line in read_text(source.images).splitlines()]
    except OSError as error:
        raise DataError(f"{source.images}: the list of images cannot be opened ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{source.images}: the list of images is not UTF-8 text; save it as UTF-8") from error
    index: ImageIndex | None = None
    root = source.images.parent
    found: dict[Path, None] = {}
    lost: list[str] = []
    for line in filter(None, lines):
        if not is_usable(line):
            lost.append(quoted(line))
            continue
        given = plain_path(line)
        try:
            place = next((path for path in (root / given, Path(line)) if path.is_file()), None)
        except OSError:  # too long a name
            place = None
        if place is None:
            index = index or ImageIndex([root])
            place = index.of_name(line)
        if place is None:
            lost.append(one_line(line))
        else:
            found[place] = None
    return list(found), lost


def _label_path(path: Path, listings: dict[Path, dict[str, str]]) -> Path | None:
    """The label file of an image; None where there is none. `listings` keeps the names in each folder."""
    for folder in _label_folders(path.parent):
        if folder not in listings:
            listings[folder] = _names_in(folder)
        if name := listings[folder].get(name_key(f"{path.stem}.txt")):
            return folder / name
    return None


def _names_in(folder: Path) -> dict[str, str]:
    """The names in a folder by what two spellings of one name share: a Mac decomposes letters with accents."""
    try:
        return {name_key(entry.name): entry.name for entry in folder.iterdir()}
    except OSError:
        return {}


def _label_folders(folder: Path) -> Iterator[Path]:
    """Folders where the labels of the images in `folder` may be: `labels` for its last `images`, and itself."""
    parts = folder.parts
    for index in reversed(range(len(parts))):
        if parts[index].lower() == "images":
            yield Path(*parts[:index], "labels", *parts[index + 1 :])
            break
    yield folder
    yield folder / "labels"
    yield folder.parent / "labels"


def _read_labels(
    found: YoloAnnotations, owner: int, path: Path, size: tuple[int, int], keypoints: int, problems: Problems
) -> None:
    """Add the objects of one label file; blank lines are skipped."""
    try:
        lines = read_text(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        message = f"{path}: the labels cannot be read ({reason}); correct the file or remove it"
        problems.add("annotations-unreadable", path, f"cannot be read ({reason})", item=path.stem, message=message)
        return
    height, width = size
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words:
            continue
        with problems.catch("object-broken", path, f"line {number}"):
            label, (x1, y1, x2, y2) = _parse_line(words, keypoints, len(found.class_names), path, number)
            box = (x1 * width, y1 * height, x2 * width, y2 * height)
            found.add_object(owner, label, box, position=number)


def _parse_line(words: Sequence[str], keypoints: int, num_classes: int, path: Path, number: int) -> tuple[int, Box]:
    """Class number, and xyxy in fractions of the image. Raises DataError."""
    try:
        values = [float(word) for word in words]
    except ValueError:
        bad = next(word for word in words if not _is_number(word))
        raise DataError(f"{path}: line {number} has {quoted(bad)} where a number belongs; correct it") from None
    label = values[0]
    if not (label.is_integer() and 0 <= label < num_classes):
        raise DataError(
            f"{path}: line {number} has the class {words[0]}, but there are {num_classes} class names, so that the "
            f"last number is {num_classes - 1}; add the name, or correct the line"
        )
    points = values[1:]
    if len(points) < 4 or (len(points) > 6 and len(points) % 2 and len(points) != 4 + keypoints):
        raise DataError(
            f"{path}: line {number} has {len(words)} numbers, where a class and a box (x, y, width, height) or a "
            "polygon belong; correct it"
        )
    if not all(map(math.isfinite, points)) or max(map(abs, points[:4])) > OUTSIDE:
        raise DataError(
            f"{path}: line {number} has {' '.join(words[1:5])}, but YOLO's numbers are fractions of the image, "
            "from 0 to 1; divide pixels by its width and height"
        )
    if len(points) >= 6 and len(points) % 2 == 0 and len(points) != 4 + keypoints:  # a polygon
        corners = np.array(points).reshape(-1, 2)
        (x1, y1), (x2, y2) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
        return int(label), (x1, y1, x2, y2)
    x, y, w, h = points[:4]
    return int(label), (x - w / 2, y - h / 2, x + w / 2, y + h / 2)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _find_lone_labels(found: YoloAnnotations, listings: dict[Path, dict[str, str]], problems: Problems) -> None:
    """Add a problem for each label file without an image, in the folders that the labels of images lie in."""
    used = set(found.files)
    for folder in sorted({path.parent for path in used if path.suffix.lower() == ".txt"}):
        for name in sorted(listings.get(folder, {}).values()):
            path = folder / name
            if path.suffix.lower() == ".txt" and path not in used and is_data(name) and _looks_like_labels(path):
                problems.add("annotation-without-image", path, "there is no image of these labels", item=name)


def _name_repeated_stems(found: YoloAnnotations, source: YoloSource) -> None:
    """Give images whose stems are the same, in several folders or of several types, their paths as ids."""
    counts: dict[Any, int] = {}
    for image_id in found.image_ids:
        counts[image_id] = counts.get(image_id, 0) + 1
    root = source.images if source.images.is_dir() else source.images.parent
    for index, image_id in enumerate(found.image_ids):
        if counts[image_id] > 1:
            path = found.paths[index]
            found.image_ids[index] = path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
