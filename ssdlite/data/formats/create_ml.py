"""Apple's Create ML: a JSON list of images with labelled boxes, whose x and y are the centre, in pixels.

Start with `CreateMlFormat`. See https://developer.apple.com/documentation/createml/building-an-object-detector-data-source
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssdlite.data.formats.base import Annotations, Box
from ssdlite.data.formats.problems import Problems
from ssdlite.data.formats.single_file import FileSource, ImageFinder, SingleFileFormat, finite, load_json
from ssdlite.data.records import check_class_name
from ssdlite.errors import DataError
from ssdlite.io import parse_json, quoted

IMAGE_KEYS = ("image", "imagefilename", "filename")  # in any case


OBJECT_KEYS = ("annotations", "annotation")


@dataclass(frozen=True)
class CreateMlSource(FileSource):
    """A file of Create ML, and the folder under which its images lie."""

    def __str__(self) -> str:
        return str(self.file)


class CreateMlFormat(SingleFileFormat[CreateMlSource]):
    """Boxes of Create ML."""

    name = "createml"
    title = "Create ML"
    looked_for = "a JSON file of Create ML"
    suffixes = (".json",)
    source_type = CreateMlSource

    def first_images(self, file: Path, start: bytes) -> list[str] | None:
        if not start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
            return None
        if b'"coordinates"' not in start and not file.name.lower().endswith("createml.json"):
            return None  # by its name it may be one in which the first images have no objects
        names = []
        for text in re.findall(rb'(?i)"(?:image|imagefilename|filename)"\s*:\s*("(?:[^"\\]|\\.)*")', start):
            with suppress(ValueError):
                names.append(str(parse_json(text)))
        return names

    def read(self, source: CreateMlSource, problems: Problems) -> Annotations:
        """Classes are sorted by name: Create ML numbers none."""
        found = Annotations(source, source.file)
        with problems.catch("annotations-unreadable", source.file):
            content = load_json(source.file)
            if not isinstance(content, list):
                raise DataError(f"{source.file}: is no list of images, as Create ML writes; export it again")
            images = ImageFinder(found, problems)
            for position, entry in enumerate(content, 1):
                with problems.catch("image-entry-broken", source.file, f"image {position}"):
                    name, objects = _parse_entry(entry, position, source.file)
                    owner = images.add(name)
                    if owner is None:
                        continue
                    for number, item in enumerate(objects, 1):
                        where = f"{name} object {number}"
                        with problems.catch("object-broken", source.file, where):
                            class_name, box = _parse_object(item, where, source.file)
                            found.add_object(owner, found.label_of(class_name), box, position=number)
            images.finish()
        return found


def _parse_entry(entry: Any, position: int, path: Path) -> tuple[str, list[Any]]:
    """Image name and objects. Raises DataError."""
    entry = {key.lower(): value for key, value in entry.items()} if isinstance(entry, dict) else {}
    name = next((entry[key] for key in IMAGE_KEYS if isinstance(entry.get(key), str) and entry[key].strip()), None)
    if name is None:
        raise DataError(f"{path}: image {position} of the list has no 'image'; correct or remove it")
    objects: Any = next((entry[key] for key in OBJECT_KEYS if entry.get(key) is not None), [])
    if not isinstance(objects, list):
        raise DataError(
            f"{path}: image {position} ({quoted(name)}) has 'annotations' that are no list; correct them"
        )
    return name, objects


def _parse_object(item: Any, where: str, path: Path) -> tuple[str, Box]:
    """Class name and xyxy. Raises DataError."""
    label = item.get("label") if isinstance(item, dict) else None
    corners = item.get("coordinates") if isinstance(item, dict) else None
    if not isinstance(label, str | int) or isinstance(label, bool) or not isinstance(corners, dict):
        raise DataError(f"{path}: {where} has no 'label' or no 'coordinates'; correct or remove it")
    check_class_name(str(label), where, path)
    x, y, width, height = (
        finite(corners.get(name), f"{where} has {name}", path) for name in ("x", "y", "width", "height")
    )
    return str(label), (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
