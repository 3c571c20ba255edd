"""A VOC folder read to its end, whatever is wrong in it.

Each object goes through `data.voc`'s own functions by itself, so that what training refuses is what is found here.
"""

from __future__ import annotations

import copy
import xml.etree.ElementTree as ET
from pathlib import Path, PurePath

import numpy as np

from ssdlite.data.formats import voc as reader
from ssdlite.data.formats.layout import VocSource
from ssdlite.data.records import RawObject
from ssdlite.errors import DataError
from ssdlite.io import read_text
from ssdlite.validate.problems import Contents, reason

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def inspect_voc(source: VocSource) -> Contents:
    """What `source` holds, with a finding for each mistake that shows without opening the images."""
    contents = Contents(source)
    folder = source.root / "JPEGImages"
    images: dict[str, list[Path]] = {}
    try:
        images = reader.list_images(folder)
    except DataError as error:
        contents.add("image-folder-missing", "", reason(error, folder), folder)
    labels: dict[str, int] = {}
    sizes = []
    for stem in _read_stems(contents, source):
        xml_path = source.root / "Annotations" / f"{stem}.xml"
        try:
            annotation = reader.parse_annotation(xml_path)
        except DataError as error:
            contents.add("annotations-unreadable", stem, reason(error, xml_path), xml_path)
            continue
        objects = _read_objects(contents, annotation, xml_path, stem)
        size = _read_size(contents, annotation, xml_path, stem)
        try:
            image_path = reader.find_image(annotation, xml_path, images)
        except DataError as error:
            if images:  # otherwise the folder has a finding, or is empty
                contents.add("image-missing", stem, reason(error, xml_path), xml_path)
            continue
        if len(images[image_path.stem]) > 1 and image_path.name != (annotation.findtext("filename") or "").strip():
            text = f"several images are called so, and <filename> names none of them; {image_path.name} is taken"
            contents.add("image-ambiguous", stem, text, xml_path)
        for name, corners, ignore, position in objects:
            contents.add_object(
                len(contents.paths), labels.setdefault(name, len(labels)), corners, ignore, position
            )
        contents.paths.append(image_path)
        contents.files.append(xml_path)
        contents.items.append(stem)
        contents.entries.append(stem)
        sizes.append(size)
    contents.sizes = np.array(sizes, np.int64).reshape(-1, 2)
    contents.class_names = list(labels)
    return contents


def _read_stems(contents: Contents, source: VocSource) -> list[str]:
    """The names of all lists, each once."""
    lists = contents.lists
    for split in source.splits:
        path = source.root / "ImageSets" / "Main" / f"{split}.txt"
        try:
            listed = reader.read_list(source.root, split)
        except DataError as error:
            contents.add("list-unreadable", "", reason(error, path), path)
            listed = _usable_lines(source.root, path)
        for stem in listed:
            if stem in lists:
                where = "named twice" if lists[stem] == split else f"also named in {lists[stem]}.txt"
                contents.add("image-listed-twice", stem, f"it is {where}, and taken once", path)
            lists.setdefault(stem, split)
    return list(lists)


def _usable_lines(root: Path, path: Path) -> list[str]:
    """The lines of a list with a mistake that name an annotation."""
    try:
        lines = [line.strip() for line in read_text(path).splitlines()]
        names = [line for line in lines if line.isprintable() and PurePath(line).name == line]
        return [name for name in names if (root / "Annotations" / f"{name}.xml").is_file()]
    except (OSError, UnicodeDecodeError):
        return []


def _read_size(contents: Contents, annotation: ET.Element, path: Path, stem: str) -> tuple[int, int]:
    """(height, width), (0, 0) where it is missing or broken."""
    try:
        size = reader.read_size(annotation, path)
    except DataError as error:
        contents.add("image-size-broken", stem, reason(error, path), path)
        return 0, 0
    if size is None:
        contents.add("image-without-size", stem, "has no <size>; it is read from the image", path)
    return size or (0, 0)


def _read_objects(
    contents: Contents, annotation: ET.Element, path: Path, stem: str
) -> list[tuple[str, tuple[float, float, float, float], bool, int]]:
    """Name, corners as written, whether it is difficult, and number of each object that can be used."""
    objects = []
    for position, item in enumerate(annotation.findall("object"), 1):
        try:
            raw = read_object(item, path)
        except DataError as error:
            text = reason(error, path).removeprefix("object 1 ")
            contents.add("object-broken", f"{stem} object {position}", text, path)
            item = copy.deepcopy(item)  # `difficult` is not needed, so that a cleaned copy can do without
            for tag in item.findall("difficult"):
                item.remove(tag)
            try:
                raw = read_object(item, path)
            except DataError:
                continue
        x1, y1, x2, y2 = (float(item.findtext(f"bndbox/{tag}") or "") for tag in CORNERS)
        objects.append((str(raw.category), (x1, y1, x2, y2), raw.ignore, position))
    return objects


def read_object(item: ET.Element, path: Path) -> RawObject:
    """One object as the reader takes it, which calls it object 1."""
    alone = ET.Element("annotation")
    alone.append(item)
    (raw,) = reader.read_objects(alone, path)
    return raw
