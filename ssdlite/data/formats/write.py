"""Images and objects written as COCO, VOC or YOLO, in a layout that `layout.find_layout` recognises.

Start with `write_splits`. Numbers are written so that reading them gives the same boxes to the last bit; VOC counts
from 1, so that there corners within 1e-7 pixels of the border are on it. File names are the images' own, unless a
reader would not find them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import yaml

from ssdlite.data.formats.folders import IMAGE_SUFFIXES, name_key
from ssdlite.data.headers import EXIF_ORIENTATION, read_headers
from ssdlite.data.records import check_class_name
from ssdlite.errors import ConfigError, DataError
from ssdlite.io import is_usable, quoted, write_text
from ssdlite.structures import DataSplit, Record

ImageMode: TypeAlias = Literal["link", "copy", "none"]
"""Hard links, which take no space and fall back to copies on another disk; copies; or no images at all."""


SUFFIX_OF_FORMAT = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "BMP": ".bmp", "WEBP": ".webp", "TIFF": ".tif"}
"""Suffix of an image whose own is not among `IMAGE_SUFFIXES`, by Pillow's name of the format."""


def write_splits(
    splits: Mapping[str, DataSplit], directory: Path, kind: str, *, images: ImageMode = "link"
) -> Counter[str]:
    """Write data sets by the name of their split ('train', 'val', 'test') into a new folder.

    Flags are kept where the format has them: COCO has crowds (objects that are ignored become crowds), VOC has
    `difficult`, and YOLO has none, so that objects to ignore are left out.

    Args:
        splits: data sets with the same classes.
        directory: a folder that is not there, or is empty.
        kind: 'coco', 'voc' or 'yolo'.
        images: how the image files get there.

    Returns:
        How many things of a kind could not be written, by what they are.

    Raises:
        ConfigError: the folder is not empty, or the kind is none.
        DataError: an image cannot be copied, or a class name cannot be written.
    """
    if kind not in WRITERS:
        raise ConfigError(f"--to {kind} is no format that can be written; they are {', '.join(WRITERS)}.")
    require_empty(directory)
    for split in splits.values():
        for class_name in split.class_names:
            _require_writable_name(class_name, directory)
    directory.mkdir(parents=True, exist_ok=True)
    return WRITERS[kind](splits, directory, images)


def require_empty(directory: Path) -> None:
    """Raise ConfigError if there is anything at `directory` but an empty folder."""
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise ConfigError(f"{directory}: there is something already; name a new folder.")


def _require_writable_name(class_name: str, directory: Path) -> None:
    """Raise DataError for a class name that the readers would refuse, or that XML cannot hold."""
    check_class_name(class_name, "a class", directory)
    if re.search("[\ufffe\uffff]", class_name):
        raise DataError(f"{directory}: the class name {quoted(class_name)} cannot be written; use plain characters")


def _write_coco(splits: Mapping[str, DataSplit], directory: Path, mode: ImageMode) -> Counter[str]:
    """annotations/instances_SPLIT.json, and the images in a folder of the split's name."""
    for split_name, split in splits.items():
        document = coco_document(split, distinct_names(split.records))
        write_text(directory / f"annotations/instances_{split_name}.json", json.dumps(document, ensure_ascii=False))
        (directory / split_name).mkdir(exist_ok=True)
        for record, name in zip(split.records, distinct_names(split.records), strict=True):
            place_image(record.image_path, directory / split_name / name, mode)
    return Counter()


def coco_document(split: DataSplit, file_names: Iterable[str]) -> dict[str, Any]:
    """Return a COCO instances document of a split; `file_names` are those of its images."""
    ids = [record.image_id for record in split.records]
    keeps_ids = all(type(image_id) is int for image_id in ids) and len(set(ids)) == len(ids)
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for number, (record, file_name) in enumerate(zip(split.records, file_names, strict=True), 1):
        image_id = record.image_id if keeps_ids else number
        height, width = record.size
        images.append({"id": image_id, "file_name": file_name, "height": height, "width": width})
        for index, box in enumerate(record.boxes):
            x1, y1, x2, y2 = map(shortest, box)
            objects.append(
                {
                    "id": len(objects) + 1,
                    "image_id": image_id,
                    "category_id": split.category_ids[int(record.labels[index]) - 1],
                    "bbox": [x1, y1, plain(x2 - x1), plain(y2 - y1)],
                    "area": shortest(record.areas[index]),
                    "iscrowd": int(record.ignore[index]),
                }
            )
    categories = [
        {"id": number, "name": name} for number, name in zip(split.category_ids, split.class_names, strict=True)
    ]
    return {"images": images, "annotations": objects, "categories": categories}


def _write_voc(splits: Mapping[str, DataSplit], directory: Path, mode: ImageMode) -> Counter[str]:
    """Annotations, JPEGImages and ImageSets/Main, in pixels counted from 1."""
    left_out: Counter[str] = Counter()
    records = [record for split in splits.values() for record in split.records]
    names = iter(distinct_names(records, by_stem=True))
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (directory / folder).mkdir(parents=True, exist_ok=True)
    for split_name, split in splits.items():
        stems = []
        for record in split.records:
            name = next(names)
            stems.append(Path(name).stem)
            tree = ET.ElementTree(_voc_element(record, name, split.class_names, left_out))
            ET.indent(tree)
            tree.write(directory / "Annotations" / f"{stems[-1]}.xml", encoding="utf-8")
            place_image(record.image_path, directory / "JPEGImages" / name, mode)
        write_text(directory / "ImageSets/Main" / f"{split_name}.txt", "".join(f"{stem}\n" for stem in stems))
    return left_out


def _voc_element(
    record: Record, file_name: str, class_names: tuple[str, ...], left_out: Counter[str]
) -> ET.Element:
    root = ET.Element("annotation")
    ET.SubElement(root, "filename").text = file_name
    size = ET.SubElement(root, "size")
    for tag, side in zip(("width", "height", "depth"), (*record.size[::-1], 3), strict=True):
        ET.SubElement(size, tag).text = str(side)
    for box, label, ignore in zip(record.boxes, record.labels.tolist(), record.ignore.tolist(), strict=True):
        x1, y1, x2, y2 = map(shortest, box)
        first = plain(x1 + 1), plain(y1 + 1)
        if first == (x2, y2):  # which is how VOC writes a point
            left_out["objects of a single pixel, which VOC cannot tell from a point"] += 1
            continue
        item = ET.SubElement(root, "object")
        ET.SubElement(item, "name").text = class_names[label - 1]
        ET.SubElement(item, "difficult").text = str(int(ignore))
        corners = ET.SubElement(item, "bndbox")
        for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), (*first, x2, y2), strict=True):
            ET.SubElement(corners, tag).text = f"{value:.15g}"
    return root


def _write_yolo(splits: Mapping[str, DataSplit], directory: Path, mode: ImageMode) -> Counter[str]:
    """data.yaml, and images/SPLIT beside labels/SPLIT."""
    left_out: Counter[str] = Counter()
    class_names: tuple[str, ...] = ()
    for split_name, split in splits.items():
        class_names = split.class_names
        for folder in ("images", "labels"):
            (directory / folder / split_name).mkdir(parents=True, exist_ok=True)
        headers = read_headers(record.image_path for record in split.records)
        for record, name in zip(split.records, distinct_names(split.records, by_stem=True), strict=True):
            boxes, (height, width) = record.boxes, record.size
            header = headers[record.image_path]
            if header.turned and record.size == (header.width, header.height) != record.size[::-1]:
                boxes, (height, width) = _turned_upright(record), (width, height)
            lines = []
            for box, label, ignore in zip(boxes, record.labels.tolist(), record.ignore.tolist(), strict=True):
                if ignore:
                    left_out["objects to ignore, which YOLO has no flag for"] += 1
                    continue
                x1, y1, x2, y2 = box.astype(np.float64) / (width, height, width, height)
                values = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
                lines.append(" ".join([str(label - 1), *(repr(float(value)) for value in values)]))
            write_text(
                directory / "labels" / split_name / f"{Path(name).stem}.txt", "".join(f"{line}\n" for line in lines)
            )
            place_image(record.image_path, directory / "images" / split_name / name, mode)
    description = {
        **{split_name: f"images/{split_name}" for split_name in splits},
        "nc": len(class_names),
        "names": list(class_names),
    }
    write_text(directory / "data.yaml", yaml.safe_dump(description, sort_keys=False, allow_unicode=True))
    return left_out


def _turned_upright(record: Record) -> np.ndarray:
    """(N, 4) float32 xyxy in the upright image, for boxes in one that is stored on its side.

    YOLO has no sizes, from which a reader could tell that the boxes are those of the stored image.
    """
    from PIL import Image  # rarely needed

    with Image.open(record.image_path) as image:
        orientation = image.getexif().get(EXIF_ORIENTATION)
    height, width = record.size
    x1, y1, x2, y2 = record.boxes.T
    match orientation:
        case 5:
            corners = (y1, x1, y2, x2)
        case 6:
            corners = (height - y2, x1, height - y1, x2)
        case 7:
            corners = (height - y2, width - x2, height - y1, width - x1)
        case _:
            corners = (y1, width - x2, y2, width - x1)
    return np.stack(corners, axis=1)


WRITERS: dict[str, Callable[[Mapping[str, DataSplit], Path, ImageMode], Counter[str]]] = {
    "coco": _write_coco,
    "voc": _write_voc,
    "yolo": _write_yolo,
}
"""By the `kind` of the format."""


def shortest(value: float | np.floating[Any]) -> float:
    """Return the shortest decimal number that is the same in single precision: 0.1 for 0.10000000149."""
    return float(str(np.float32(value)))


def plain(value: float) -> float:
    """Return a sum or difference of short decimals without the noise of binary fractions: 0.3 for 0.1 + 0.2."""
    return float(f"{value:.15g}")


def distinct_names(records: Iterable[Record], *, by_stem: bool = False) -> list[str]:
    """Return a file name for each image that no other has in any case, or whose stem no other has.

    It is the image's own, as far as readers find that; those that repeat it get a number.
    """

    def key_of(name: str) -> str:
        return name_key(Path(name).stem if by_stem else name)

    last: dict[str, int] = {}  # number of each name that is taken; folders of one image each may hold thousands
    names = []
    for record in records:
        own = Path(_findable_name(record.image_path))
        name, first = own.name, key_of(own.name)
        number = last.get(first, 0)
        while key_of(name) in last:
            number += 1
            name = f"{own.stem}-{number + 1}{own.suffix}"
        last[first] = number
        last.setdefault(key_of(name), 0)
        names.append(name)
    return names


def _findable_name(path: Path) -> str:
    """The name of an image, changed where a reader would take it for hidden, for a path or for no image."""
    stem, suffix = path.stem, path.suffix
    if suffix.lower() not in IMAGE_SUFFIXES:
        stem, suffix = path.name, _suffix_of_content(path)
    stem = "".join("_" if letter == "\\" or not is_usable(letter) else letter for letter in stem).strip()
    return (f"_{stem.lstrip('.')}" if stem.startswith(".") or not stem else stem) + suffix


def _suffix_of_content(path: Path) -> str:
    from PIL import Image  # rarely needed

    try:
        with Image.open(path) as image:
            return SUFFIX_OF_FORMAT.get(image.format or "", ".jpg")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ".jpg"


def place_image(source: Path, target: Path, mode: ImageMode) -> None:
    """Link or copy an image file, or leave it. Raises DataError."""
    if mode == "none":
        return
    try:
        if mode == "link":
            try:
                os.link(source.resolve(), target)
                return
            except OSError:  # another disk, or a system without links
                pass
        shutil.copyfile(source, target)
    except OSError as error:
        raise DataError(f"{source}: the image cannot be copied to {target} ({error.strerror})") from error
