"""CVAT for images 1.1: one XML file of a task or a job, with boxes and polygons for each image.

Start with `CvatFormat`. Polygons, polylines, ellipses and masks become their boxes; tags and points are left out.
See https://docs.cvat.ai/docs/manual/advanced/formats/format-cvat/
"""

from __future__ import annotations

import html
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ssdlite.data.formats.base import Annotations, Box, unopened
from ssdlite.data.formats.folders import split_of_name
from ssdlite.data.formats.problems import Problems
from ssdlite.data.formats.single_file import (
    FileSource,
    ImageFinder,
    SingleFileFormat,
    annotated_size,
    box_of_points,
    finite,
)
from ssdlite.data.formats.voc import NoDoctype
from ssdlite.data.records import check_class_name
from ssdlite.errors import DataError
from ssdlite.io import one_line, quoted, read_bytes

SUBSET = re.compile(rb'\ssubset="([^"]*)"')


SHAPES = ("box", "polygon", "polyline", "ellipse", "mask", "cuboid")


@dataclass(frozen=True)
class CvatSource(FileSource):
    """A file of CVAT for images, and the folder under which its images lie.

    `subset` is the one subset of a project to read (default: all images of the file).
    """

    subset: str = ""

    def __str__(self) -> str:
        return f"{self.file} (subset {self.subset})" if self.subset else str(self.file)


class CvatFormat(SingleFileFormat[CvatSource]):
    """CVAT for images 1.1."""

    name = "cvat"
    title = "CVAT"
    looked_for = "annotations.xml of CVAT for images"
    suffixes = (".xml",)
    source_type = CvatSource

    def first_images(self, file: Path, start: bytes) -> list[str] | None:
        if b"<annotations>" not in start or b"<image " not in start:
            return None
        names = re.findall(rb'<image\s[^>]*?\bname="([^"]*)"', start)
        return [html.unescape(name.decode("utf-8", "replace")) for name in names]

    def by_split(self, source: CvatSource) -> dict[str | None, list[CvatSource]]:
        """Subsets of a project, where they are called as splits; images of other subsets are training images."""
        try:
            subsets = _subsets(source.file)
        except OSError:
            return {None: [source]}
        splits = {subset: split_of_name(subset) for subset in subsets}
        if "" in subsets or len({split or "train" for split in splits.values()}) < 2:
            return {None: [source]}
        found: dict[str | None, list[CvatSource]] = {}
        for subset, split in splits.items():
            found.setdefault(split or "train", []).append(replace(source, subset=subset))
        return found

    def read(self, source: CvatSource, problems: Problems) -> Annotations:
        """Classes are the labels of shapes, sorted by name."""
        found = Annotations(source, source.file)
        with problems.catch("annotations-unreadable", source.file):
            root = _parse(source.file)
            entries = [*enumerate(root.iter("image"), 1)]
            if source.subset:
                subsets = {image.get("subset") or "" for _, image in entries}
                if source.subset not in subsets:
                    listed = ", ".join(map(quoted, sorted(subsets)))
                    raise DataError(
                        f"{source.file}: has no image of the subset {quoted(source.subset)}; its subsets are "
                        f"{listed}"
                    )
                entries = [each for each in entries if each[1].get("subset") == source.subset]
            images = ImageFinder(found, problems, (_name(image) for _, image in entries))
            for position, image in entries:
                name = _name(image)
                with problems.catch("image-entry-broken", source.file, f"image {position}"):
                    if not name:
                        raise DataError(f"{source.file}: image {position} has no name; correct or remove it")
                    owner = images.add(name, annotated_size(image.get("height"), image.get("width")))
                    if owner is not None:
                        _read_shapes(found, owner, image, problems)
            images.finish()
        return found


def _parse(path: Path) -> ET.Element:
    try:
        root = ET.fromstring(read_bytes(path), ET.XMLParser(target=NoDoctype()))
    except OSError as error:
        raise unopened(path, error) from error
    except (ET.ParseError, ValueError, LookupError) as error:
        raise DataError(f"{path}: not a usable XML file ({one_line(str(error))}); export it again") from error
    if root.tag != "annotations":
        raise DataError(f"{path}: its outermost tag is not 'annotations', as CVAT writes; export it again")
    return root


def _name(image: ET.Element) -> str:
    """Path of an image, in the folder of its subset as CVAT exports a project; "" where it has no name."""
    name, subset = image.get("name") or "", image.get("subset")
    return f"{subset}/{name}" if name and subset else name


def _subsets(path: Path) -> list[str]:
    """Return the subsets of a file in their order, with "" if an image has none; a file without any is only looked
    at to its first image. Raises OSError."""
    data = read_bytes(path)
    first = re.search(rb"<image\s[^>]*>", data)
    if first is None or not SUBSET.search(first[0]):
        return [""]
    given = (SUBSET.search(tag[0]) for tag in re.finditer(rb"<image\s[^>]*>", data))
    texts = dict.fromkeys(found[1] if found else b"" for found in given)
    return [html.unescape(text.decode("utf-8", "replace")) for text in texts]


def _read_shapes(found: Annotations, owner: int, image: ET.Element, problems: Problems) -> None:
    path, name = found.file, found.items[owner]
    for number, shape in enumerate(image, 1):
        where = f"{name} object {number}"
        with problems.catch("object-broken", path, where):
            label = shape.get("label")
            if shape.tag in ("tag", "skeleton", "points") or shape.tag not in SHAPES:
                if shape.tag in ("points", "skeleton"):
                    text = "points have no area, and are left out"
                    problems.add("object-without-box", path, text, item=where)
                continue
            if not label:
                raise DataError(f"{path}: {where} has no label; correct or remove it")
            check_class_name(label, where, path)
            found.add_object(owner, found.label_of(label), _box(shape, where, path), position=number)


def _box(shape: ET.Element, where: str, path: Path) -> Box:
    """xyxy around a shape. Raises DataError."""

    def numbers(*names: str) -> Iterator[float]:
        return (finite(shape.get(name), f"{where} has {name}", path) for name in names)

    match shape.tag:
        case "box":
            x1, y1, x2, y2 = numbers("xtl", "ytl", "xbr", "ybr")
        case "ellipse":
            x, y, across, down = numbers("cx", "cy", "rx", "ry")
            x1, y1, x2, y2 = x - across, y - down, x + across, y + down
        case "mask":
            x1, y1, width, height = numbers("left", "top", "width", "height")
            x2, y2 = x1 + width, y1 + height
        case "cuboid":
            values = [
                *numbers(
                    *(
                        f"{axis}{corner}{end}"
                        for axis in "xy"
                        for corner in ("tl", "bl", "tr", "br")
                        for end in "12"
                    )
                )
            ]
            return box_of_points(values[:8], values[8:])
        case _:
            pairs = [pair.split(",") for pair in (shape.get("points") or "").split(";") if pair.strip()]
            if not pairs or any(len(pair) != 2 for pair in pairs):
                raise DataError(f"{path}: {where} has 'points' that are no list of x,y; correct or remove it")
            xs, ys = ([finite(pair[axis], f"{where} has {'xy'[axis]}", path) for pair in pairs] for axis in (0, 1))
            return box_of_points(xs, ys)
    rotation = finite(shape.get("rotation") or "0", f"{where} has rotation", path)
    return _rotated((x1, y1, x2, y2), rotation) if rotation else (x1, y1, x2, y2)


def _rotated(box: Box, degrees: float) -> Box:
    """xyxy around a box that is turned about its centre."""
    from math import cos, radians, sin

    x1, y1, x2, y2 = box
    x, y, half_width, half_height = (x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) / 2, (y2 - y1) / 2
    cosine, sine = abs(cos(radians(degrees))), abs(sin(radians(degrees)))
    across, down = half_width * cosine + half_height * sine, half_width * sine + half_height * cosine
    return x - across, y - down, x + across, y + down
