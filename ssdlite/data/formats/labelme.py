"""LabelMe: a JSON file of shapes for each image, beside it.

Start with `LabelMeFormat`. The file's own stem decides which image it is about, and only where there is none its
`imagePath`, which may be of another machine. Polygons, lines and circles become their boxes; points are left out.
Shapes with one `group_id` and label are parts of one object, as for LabelMe's own converters. The flag `difficult`,
which newer tools write and LabelMe lets a person define, marks objects to ignore.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from ssdlite.data.formats.base import Annotations, Box, Format, Found, require_folder, require_most
from ssdlite.data.formats.folders import (
    IMAGE_SUFFIXES,
    ImageIndex,
    Seen,
    child,
    has_suffix,
    list_files,
    name_key,
    plain_path,
    split_folders,
    walk_files,
)
from ssdlite.data.formats.problems import Problems
from ssdlite.data.formats.single_file import (
    ANNOTATION_FOLDERS,
    box_of_points,
    finite,
    is_annotation_folder,
    load_json,
)
from ssdlite.data.records import MAX_SIDE, check_class_name
from ssdlite.errors import DataError
from ssdlite.io import is_usable, quoted

EDGE = 1 << 16  # bytes at the start and the end of a file that are looked at


IMAGE_FOLDERS = ("images", "imgs", "img", "image", "jpegimages")


FILE_FOLDERS = (*ANNOTATION_FOLDERS, "json", "jsons")


GLANCE = 5  # files that are opened to see whether they are LabelMe's


@dataclass(frozen=True)
class LabelMeSource:
    """LabelMe's files in one folder (or a single one), and their images in another or the same."""

    images: Path
    annotations: Path

    def __str__(self) -> str:
        return str(self.annotations)


class LabelMeFormat(Format[LabelMeSource]):
    """Shapes of LabelMe, one file per image."""

    name = "labelme"
    looked_for = "LabelMe's .json files beside the images"
    source_type = LabelMeSource

    def find(self, path: Path) -> Found | None:
        if path.is_file():
            if path.suffix.lower() != ".json" or not _looks_like_shapes([path]):
                return None
            images = child(path.parent.parent, IMAGE_FOLDERS) if is_annotation_folder(path.parent) else None
            return Found("LabelMe", [LabelMeSource(images or path.parent, path)], [])
        splits = {split: source for split, folder in split_folders(path).items() if (source := _at(folder))}
        if not splits and (images := child(path, IMAGE_FOLDERS)):
            splits = _splits_within(images, child(path, FILE_FOLDERS))
        if splits:
            train, val, test = ([splits[split]] if split in splits else [] for split in ("train", "val", "test"))
            return Found("LabelMe", train, val or test, test)
        source = _at(path)
        return Found("LabelMe", [source], []) if source else None

    def require(self, source: LabelMeSource) -> None:
        require_folder(source.images)
        if not source.annotations.is_file():
            require_folder(source.annotations)

    def read(self, source: LabelMeSource, problems: Problems) -> Annotations:
        """Classes are sorted by name: LabelMe numbers none."""
        found = Annotations(source, source.annotations)
        with problems.catch("image-folder-missing", source.images):
            require_folder(source.images)
            reader = _Reader(found, problems)
            # Those that have an image of their own stem first: the others may only take what is left.
            for file in sorted(_files(source), key=lambda file: not reader.images.of_stem(file.stem)):
                reader.read(file)
            reader.finish()
        return found

    def explain(self, seen: Seen) -> tuple[int, str] | None:
        first = seen.first_of(".json")
        if first is None or not _looks_like_shapes([first]):
            return None
        text = (
            "the .json files look like LabelMe's, but no images lie beside them; name both folders: "
            f"'data.train={{kind: {self.name}, images: FOLDER, annotations: {first.parent}}}'"
        )
        return seen.num(".json"), text


def _at(folder: Path) -> LabelMeSource | None:
    """The source in one folder: files beside the images, or in a folder of their own."""
    images = child(folder, IMAGE_FOLDERS)
    for images_dir, files_dir in (
        (folder, folder),
        (images, images),
        (images or folder, child(folder, FILE_FOLDERS)),
        (images, folder),
    ):
        if images_dir is None or files_dir is None:
            continue
        if has_suffix(images_dir, IMAGE_SUFFIXES) and _looks_like_shapes(_json_files(files_dir)):
            return LabelMeSource(images_dir, files_dir)
    return None


def _splits_within(images: Path, files: Path | None) -> dict[str, LabelMeSource]:
    """The sources of images/SPLIT, with their files beside them or in annotations/SPLIT."""
    file_folders = split_folders(files) if files else {}
    splits = {}
    for split, folder in split_folders(images).items():
        for files_dir in (folder, file_folders.get(split)):
            if files_dir and has_suffix(folder, IMAGE_SUFFIXES) and _looks_like_shapes(_json_files(files_dir)):
                splits[split] = LabelMeSource(folder, files_dir)
                break
    return splits


def _json_files(folder: Path) -> list[Path]:
    return list_files(folder, (".json",))


def _files(source: LabelMeSource) -> list[Path]:
    """The JSON files of a source, at any depth."""
    is_file = source.annotations.is_file()
    return [source.annotations] if is_file else walk_files(source.annotations, (".json",))


def _looks_like_shapes(paths: list[Path]) -> bool:
    """Return whether one of the first files is LabelMe's: by its start, or its end if `imageData` comes first."""
    for path in islice(paths, GLANCE):
        try:
            with path.open("rb") as file:
                start = file.read(EDGE)
                file.seek(-min(EDGE, file.seek(0, os.SEEK_END)), os.SEEK_END)
                end = file.read(EDGE)
        except OSError:
            continue
        if b'"shapes"' in start + end and start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
            return True
    return False


def _is_document(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("shapes"), list)


def _size(content: dict[str, Any]) -> tuple[int, int] | None:
    """(height, width), None where they are not said or are no size."""
    sides = content.get("imageHeight"), content.get("imageWidth")
    if all(type(side) is int and 0 < side <= MAX_SIDE for side in sides):
        return sides  # type: ignore[return-value]
    return None


class _Reader:
    """Reads files into `found`, one after the other; an image has one of them."""

    def __init__(self, found: Annotations, problems: Problems) -> None:
        self.found, self.problems = found, problems
        self.source: LabelMeSource = found.source
        self.images = ImageIndex([self.source.images])
        self.used: dict[Path, Path] = {}  # file of each image
        self.lost: list[str] = []  # sentences about files without an image

    def read(self, file: Path) -> None:
        found, problems = self.found, self.problems
        root = file.parent if file == self.source.annotations else self.source.annotations
        item = file.relative_to(root).with_suffix("").as_posix()
        with problems.catch("annotations-unreadable", file, item):
            content = load_json(file)
            if not _is_document(content):
                return  # other JSON files may lie beside
            path = self._find_image(content, file, item)
            if path is None:
                self.lost.append(f"{file}: there is no image '{file.stem}' in {self.source.images}; add it")
                problems.add("image-missing", file, "its image is not there, and is left out", item=item)
                return
            if path in self.used:
                text = f"{self.used[path].name} is of {path.name} as well, and this file is left out"
                problems.add("annotation-repeated", file, text, item=item)
                return
            self.used[path] = file
            owner = found.add_image(path, item, _size(content), file=file, item=item)
            self._read_shapes(owner, content["shapes"], file)

    def finish(self) -> None:
        """Add the problems of what is left over."""
        require_most(self.found, len(self.lost), self.lost[0] if self.lost else "", self.problems)
        if self.source.annotations.is_file():
            return
        for path in self.images.paths:
            if path not in self.used:
                text = "there is no annotation of this image, so it is left out"
                self.problems.add("annotation-missing", path, text, item=path.name)

    def _find_image(self, content: dict[str, Any], file: Path, item: str) -> Path | None:
        given = content.get("imagePath")
        given = given if isinstance(given, str) and is_usable(given) else ""
        candidates = self.images.of_stem(file.stem)
        if not candidates:
            return self.images.of_name(given) if given else None
        candidates = [path for path in candidates if path.parent == file.parent] or candidates
        named = [path for path in candidates if name_key(path.name) == name_key(plain_path(given).name)]
        path = (named or candidates)[0]
        if len(candidates) > 1 and not named:
            text = f"several images are called so, and 'imagePath' names none of them; {path.name} is taken"
            self.problems.add("image-ambiguous", file, text, item=item)
        return path

    def _read_shapes(self, owner: int, shapes: list[Any], path: Path) -> None:
        objects: dict[Any, _Shape] = {}
        for number, item in enumerate(shapes, 1):
            where = f"shape {number}"
            with self.problems.catch("object-broken", path, f"{path.stem} {where}"):
                shape = _parse_shape(item, number, where, path)
                if shape is None:
                    text = "a point has no area, and is left out"
                    self.problems.add("object-without-box", path, text, item=f"{path.stem} {where}")
                    continue
                key = number if shape.group is None else (shape.label, shape.group)
                objects[key] = objects[key].joined(shape) if key in objects else shape
        for shape in objects.values():
            label = self.found.label_of(shape.label)
            self.found.add_object(owner, label, shape.box, position=shape.number, ignore=shape.is_difficult)


class _Shape(NamedTuple):
    number: int  # in its file, from 1
    label: str
    group: int | str | None  # shared by the parts of one object
    box: Box
    is_difficult: bool

    def joined(self, other: _Shape) -> _Shape:
        """One object of two parts."""
        (x1, y1, x2, y2), (x3, y3, x4, y4) = self.box, other.box
        box = box_of_points((x1, x2, x3, x4), (y1, y2, y3, y4))
        return self._replace(box=box, is_difficult=self.is_difficult or other.is_difficult)


def _parse_shape(item: Any, number: int, where: str, path: Path) -> _Shape | None:
    """An entry of `shapes`; None for a point. Raises DataError."""
    label = item.get("label") if isinstance(item, dict) else None
    if not isinstance(label, str | int) or isinstance(label, bool):
        raise DataError(f"{path}: {where} has no 'label'; correct or remove it")
    check_class_name(str(label), where, path)
    box = _box(item, where, path)
    group, flags = item.get("group_id"), item.get("flags")
    if not isinstance(group, int | str) or isinstance(group, bool):
        group = None
    flags = flags if isinstance(flags, dict) else {}
    is_difficult = item.get("difficult") is True or flags.get("difficult") is True
    return _Shape(number, str(label), group, box, is_difficult) if box else None


def _box(shape: dict[str, Any], where: str, path: Path) -> Box | None:
    """xyxy around a shape; None for a point. Raises DataError."""
    points = shape.get("points")
    if not isinstance(points, list) or not points or not all(isinstance(p, list) and len(p) >= 2 for p in points):
        raise DataError(f"{path}: {where} has 'points' that are no list of x and y; correct or remove it")
    xs, ys = (
        [finite(point[axis], f"{where} has {name}", path) for point in points]
        for axis, name in ((0, "x"), (1, "y"))
    )
    kind = shape.get("shape_type") or "polygon"
    if kind == "point" or len(points) < 2:
        return None
    if kind == "circle":
        radius = math.hypot(xs[1] - xs[0], ys[1] - ys[0])
        return xs[0] - radius, ys[0] - radius, xs[0] + radius, ys[0] + radius
    if kind not in ("polygon", "rectangle", "line", "linestrip", "mask", "oriented_rectangle", "points"):
        raise DataError(f"{path}: {where} is of the type {quoted(kind)}, which is not known; remove it")
    return box_of_points(xs, ys)
