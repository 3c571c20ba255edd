"""VGG Image Annotator, versions 1 and 2: a JSON file of regions for each image.

Start with `ViaFormat`. The regions of an image are a list, or in version 1 an object; a project of version 2 has
the images in `_via_img_metadata`. Polygons, polylines, circles and ellipses become their boxes; points are left
out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssdlite.data.formats.base import Annotations, Box
from ssdlite.data.formats.problems import Problems
from ssdlite.data.formats.single_file import (
    FileSource,
    ImageFinder,
    SingleFileFormat,
    box_of_points,
    finite,
    load_json,
)
from ssdlite.data.records import check_class_name
from ssdlite.errors import DataError
from ssdlite.io import parse_json, quoted

CLASS_ATTRIBUTES = ("class", "label", "name", "category", "type", "class_name", "object")
"""Names of the region attribute that is the class, the likeliest first."""


@dataclass(frozen=True)
class ViaSource(FileSource):
    """A file of VGG Image Annotator, and the folder under which its images lie.

    `class_attribute` is the region attribute with the class (default: the likeliest), and `class_name` the one
    class of regions without such an attribute.
    """

    class_attribute: str = ""
    class_name: str = "object"

    def __str__(self) -> str:
        return str(self.file)


class ViaFormat(SingleFileFormat[ViaSource]):
    """Regions of VGG Image Annotator."""

    name = "via"
    title = "VIA"
    looked_for = "a JSON file of VGG Image Annotator"
    suffixes = (".json",)
    source_type = ViaSource

    def first_images(self, file: Path, start: bytes) -> list[str] | None:
        if b'"shape_attributes"' not in start and b'"_via_img_metadata"' not in start:
            return None
        names = []
        for text in re.findall(rb'"filename"\s*:\s*("(?:[^"\\]|\\.)*")', start):
            with suppress(ValueError):
                names.append(str(parse_json(text)))
        return names

    def read(self, source: ViaSource, problems: Problems) -> Annotations:
        """Classes are sorted by name: VIA numbers none."""
        found = Annotations(source, source.file)
        with problems.catch("annotations-unreadable", source.file):
            entries = _entries(load_json(source.file), source.file)
            attribute = source.class_attribute or _class_attribute(entries)
            images = ImageFinder(found, problems, filter(None, map(_name_of, entries)))
            for position, entry in enumerate(entries, 1):
                with problems.catch("image-entry-broken", source.file, f"image {position}"):
                    name, regions = _parse_entry(entry, position, source.file)
                    owner = images.add(name)
                    if owner is None:
                        continue
                    for number, region in enumerate(regions, 1):
                        where = f"{found.items[owner]} region {number}"
                        with problems.catch("object-broken", source.file, where):
                            box = _box(region, where, source.file)
                            class_name = _class_of(region, attribute, source, where)
                            if class_name is None:
                                class_name = source.class_name
                                if attribute:
                                    text = f"has no {quoted(attribute)}, and is taken as {quoted(class_name)}"
                                    problems.add("class-missing", source.file, text, item=where)
                            if box is None:
                                text = "a point has no area, and is left out"
                                problems.add("object-without-box", source.file, text, item=where)
                                continue
                            found.add_object(owner, found.label_of(class_name), box, position=number)
            images.finish()
        return found


def _entries(content: Any, path: Path) -> list[Any]:
    """The images of a file. Raises DataError where it is none of VIA."""
    if isinstance(content, dict) and isinstance(content.get("_via_img_metadata"), dict):
        content = content["_via_img_metadata"]
    entries = list(content.values()) if isinstance(content, dict) else content
    if not isinstance(entries, list) or not any(isinstance(each, dict) and "regions" in each for each in entries):
        raise DataError(f"{path}: has no images with 'regions', so it is not a file of VIA; export it again")
    return entries


def _name_of(entry: Any) -> str | None:
    """File name of an image; None where it has none."""
    name = entry.get("filename") if isinstance(entry, dict) else None
    return name if isinstance(name, str) and name.strip() else None


def _parse_entry(entry: Any, position: int, path: Path) -> tuple[str, list[Any]]:
    """File name and regions of an image. Raises DataError."""
    name = _name_of(entry)
    if name is None:
        raise DataError(f"{path}: image {position} has no 'filename'; correct or remove it")
    regions = entry.get("regions") or []
    regions = list(regions.values()) if isinstance(regions, dict) else regions
    if not isinstance(regions, list):
        raise DataError(f"{path}: image {position} ({quoted(name)}) has 'regions' that are no list; correct them")
    return name, regions


def _attributes(region: Any) -> dict[str, Any]:
    given = region.get("region_attributes") if isinstance(region, dict) else None
    return given if isinstance(given, dict) else {}


def _class_attribute(entries: list[Any]) -> str:
    """Return the region attribute that is the class, "" for none.

    Of those that regions have at least half as often as the most frequent one it is the one with the likeliest name
    (`CLASS_ATTRIBUTES`), otherwise the most frequent.
    """
    counts: Counter[str] = Counter()
    for position, entry in enumerate(entries, 1):
        with suppress(DataError):
            for region in _parse_entry(entry, position, Path())[1]:
                counts.update(name for name, value in _attributes(region).items() if value)
    ranked = counts.most_common()
    common = [name for name, count in ranked if 2 * count >= ranked[0][1]]
    usual = [name for word in CLASS_ATTRIBUTES for name in common if name.strip().lower() == word]
    return (usual or common or [""])[0]


def _class_of(region: Any, attribute: str, source: ViaSource, where: str) -> str | None:
    """The class of a region, None where it has none. Raises DataError for a name that cannot be shown."""
    value = _attributes(region).get(attribute)
    if isinstance(value, dict):  # a choice of several: {"cat": true}
        value = next((name for name, chosen in value.items() if chosen), None)
    if value is None or value == "":
        return None
    if not isinstance(value, str | int):
        raise DataError(f"{source.file}: {where} has the class {quoted(value)}; make it text")
    check_class_name(str(value), where, source.file)
    return str(value).strip()


def _box(region: Any, where: str, path: Path) -> Box | None:
    """xyxy around a shape; None for a point. Raises DataError."""
    shape = region.get("shape_attributes") if isinstance(region, dict) else None
    if not isinstance(shape, dict):
        raise DataError(f"{path}: {where} has no 'shape_attributes'; correct or remove it")

    def numbers(*names: str) -> Iterator[float]:
        return (finite(shape.get(name), f"{where} has {name}", path) for name in names)

    match shape.get("name"):
        case "rect":
            x, y, width, height = numbers("x", "y", "width", "height")
            return x, y, x + width, y + height
        case "circle":
            x, y, radius = numbers("cx", "cy", "r")
            return x - radius, y - radius, x + radius, y + radius
        case "ellipse":
            x, y, across, down = numbers("cx", "cy", "rx", "ry")
            return x - across, y - down, x + across, y + down
        case "polygon" | "polyline":
            xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
            if not isinstance(xs, list) or not isinstance(ys, list) or not xs or len(xs) != len(ys):
                raise DataError(f"{path}: {where} has no points, or not as many x as y; correct or remove it")
            return box_of_points(
                [finite(x, f"{where} has x", path) for x in xs], [finite(y, f"{where} has y", path) for y in ys]
            )
        case "point":
            return None
    raise DataError(f"{path}: {where} has the shape {quoted(shape.get('name'))}, which is not known; remove it")
