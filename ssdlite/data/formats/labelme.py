"""LabelMe: a JSON file of shapes for each image, beside it.

Start with `LabelMeFormat`. The file's own stem decides which image it is about, and only where there is none its
`imagePath`, which may be of another machine. Polygons, lines and circles become their boxes; points are left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ssdlite.data.formats.base import Annotations, Box, Format, Found, require_folder, require_most
from ssdlite.data.formats.folders import (
    IMAGE_SUFFIXES,
    ImageIndex,
    Seen,
    child,
    has_suffix,
    list_files,
    split_folders,
    walk_files,
)
from ssdlite.data.formats.problems import Problems
from ssdlite.data.formats.single_file import ANNOTATION_FOLDERS, box_of_points, finite, load_json
from ssdlite.data.records import MAX_SIDE, check_class_name
from ssdlite.errors import DataError
from ssdlite.io import quoted

IMAGE_FOLDERS = ("images", "imgs", "img", "image", "jpegimages")


GLANCE = 5  # files that are opened to see whether they are LabelMe's


@dataclass(frozen=True)
class LabelMeSource:
    """LabelMe's files in one folder, and their images in another or the same."""

    images: Path
    annotations: Path

    def __str__(self) -> str:
        return str(self.annotations)


class LabelMeFormat(Format[LabelMeSource]):
    name = "labelme"
    looked_for = "LabelMe's .json files beside the images"
    source_type = LabelMeSource

    def find(self, path: Path) -> Found | None:
        if not path.is_dir():
            return None
        splits = {split: source for split, folder in split_folders(path).items() if (source := _at(folder))}
        if splits:
            train, val, test = ([splits[split]] if split in splits else [] for split in ("train", "val", "test"))
            return Found("LabelMe", train, val or test, test)
        source = _at(path)
        return Found("LabelMe", [source], []) if source else None

    def require(self, source: LabelMeSource) -> None:
        for folder in (source.images, source.annotations):
            require_folder(folder)

    def read(self, source: LabelMeSource, problems: Problems) -> Annotations:
        """Classes are sorted by name: LabelMe numbers none."""
        found = Annotations(source, source.annotations)
        with problems.catch("image-folder-missing", source.images):
            images = ImageIndex([source.images])
            used: set[Path] = set()
            lost: list[str] = []
            for file in walk_files(source.annotations, (".json",)):
                item = file.relative_to(source.annotations).with_suffix("").as_posix()
                with problems.catch("annotations-unreadable", file, item):
                    content = load_json(file)
                    if not _is_document(content):
                        continue  # other JSON files may lie beside
                    path = _find_image(content, file, images)
                    if path is None:
                        lost.append(f"{file}: there is no image '{file.stem}' in {source.images}; add it")
                        problems.add("image-missing", file, "its image is not there, and is left out", item=item)
                        continue
                    used.add(path)
                    owner = found.add_image(path, item, _size(content), file=file, item=item)
                    _read_shapes(found, owner, content["shapes"], file, problems)
            require_most(found, len(lost), lost[0] if lost else "", problems)
            for path in images.paths:
                if path not in used:
                    text = "there is no annotation of this image, so it is left out"
                    problems.add("annotation-missing", path, text, item=path.name)
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
        (images or folder, child(folder, (*ANNOTATION_FOLDERS, "json", "jsons"))),
    ):
        if images_dir is None or files_dir is None:
            continue
        if has_suffix(images_dir, IMAGE_SUFFIXES) and _looks_like_shapes(list_files(files_dir, (".json",))):
            return LabelMeSource(images_dir, files_dir)
    return None


def _looks_like_shapes(paths: list[Path]) -> bool:
    """Return whether one of the first files begins as LabelMe's do."""
    for path in islice(paths, GLANCE):
        try:
            with path.open("rb") as file:
                start = file.read(1 << 16)
        except OSError:
            continue
        if b'"shapes"' in start and start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
            return True
    return False


def _is_document(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("shapes"), list)


def _find_image(content: dict[str, Any], file: Path, images: ImageIndex) -> Path | None:
    candidates = images.of_stem(file.stem)
    beside = [path for path in candidates if path.parent == file.parent]
    if candidates:
        return (beside or candidates)[0]
    given = content.get("imagePath")
    return images.of_name(given) if isinstance(given, str) else None


def _size(content: dict[str, Any]) -> tuple[int, int] | None:
    """(height, width), None where they are not said or are no size."""
    sides = content.get("imageHeight"), content.get("imageWidth")
    if all(type(side) is int and 0 < side <= MAX_SIDE for side in sides):
        return sides  # type: ignore[return-value]
    return None


def _read_shapes(found: Annotations, owner: int, shapes: list[Any], path: Path, problems: Problems) -> None:
    for number, shape in enumerate(shapes, 1):
        where = f"shape {number}"
        with problems.catch("object-broken", path, f"{path.stem} {where}"):
            label = shape.get("label") if isinstance(shape, dict) else None
            if not isinstance(label, str | int) or isinstance(label, bool):
                raise DataError(f"{path}: {where} has no 'label'; correct or remove it")
            check_class_name(str(label), where, path)
            box = _box(shape, where, path)
            if box is None:
                text = "a point has no area, and is left out"
                problems.add("object-without-box", path, text, item=f"{path.stem} {where}")
                continue
            found.add_object(owner, found.label_of(str(label)), box, position=number)


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
