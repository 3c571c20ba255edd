"""Pascal VOC: one XML file an image, and lists of names for the splits."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePath

from ssdlite.data.images import image_size
from ssdlite.data.records import (
    MAX_SIDE,
    RawObject,
    check_class_name,
    make_record,
    number_classes,
    relabel,
    report_problems,
)
from ssdlite.errors import DataError
from ssdlite.io import is_usable, one_line, quoted, read_bytes, read_text
from ssdlite.structures import DataSplit

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")


def read_voc(root: str | Path, splits: Sequence[str], class_names: Sequence[str] | None = None) -> DataSplit:
    """Read the images that ImageSets/Main/<split>.txt under `root` names, for each of `splits`.

    Without `class_names` the classes are the names as written, sorted. Category ids are 1..K. VOC counts
    pixels from 1 and includes the last, so the continuous box is (xmin − 1, ymin − 1, xmax, ymax): its sides
    are those of the devkit's "+ 1", and a mirrored box is exact. `difficult` objects are `ignore`. Points and
    boxes without area are left out and reported once.

    Raises `DataError` for lists, annotations or images that are missing or malformed, and unknown class names.
    """
    root = Path(root)
    images = list_images(root / "JPEGImages")
    stems = dict.fromkeys(stem for split in splits for stem in read_list(root, split))
    found = []
    for stem in stems:
        xml_path = root / "Annotations" / f"{stem}.xml"
        annotation = parse_annotation(xml_path)
        image_path = find_image(annotation, xml_path, images)
        size = read_size(annotation, xml_path) or image_size(image_path)
        found.append((image_path, stem, size, read_objects(annotation, xml_path)))
    names = tuple(sorted({str(item.category) for *_, objects in found for item in objects}))
    labels = {name: label for label, name in enumerate(names, 1)}
    problems: list[str] = []
    records = [make_record(*item, labels=labels, problems=problems) for item in found]
    report_problems(root, problems)
    split = DataSplit(records, names, number_classes(names, {}))
    if class_names is None:
        return split
    split = relabel(split, class_names, root / "Annotations")
    return DataSplit(split.records, split.class_names, number_classes(split.class_names, {}))


def list_images(folder: Path) -> dict[str, list[Path]]:
    """The image files of `folder` by stem."""
    images: dict[str, list[Path]] = defaultdict(list)
    try:
        if not folder.is_dir():
            raise DataError(f"{folder}: there is no such folder of images; check the path")
        found = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(
            f"{folder}: the images cannot be listed ({error.strerror}); check its permissions"
        ) from error
    for path in found:
        if path.suffix.lower() in IMAGE_SUFFIXES:
            images[path.stem].append(path)
    return images


def read_list(root: Path, split: str) -> list[str]:
    """The names in a split file, without the ±1 or 0 that the lists of a single class carry."""
    path = root / "ImageSets" / "Main" / f"{split}.txt"
    try:
        lines = read_text(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise DataError(f"{path}: the list of images cannot be read ({reason}); check the split's name") from error
    stems = []
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line:
            continue
        file_name = PurePath(f"{line}.xml")
        if not is_usable(line):
            raise DataError(f"{path}: line {number} is {quoted(line)}, which names no file; correct or remove it")
        if file_name.is_absolute() or ".." in file_name.parts:
            raise DataError(
                f"{path}: line {number}, {quoted(line)}, leads out of the data set; give the image's name alone"
            )
        # Names may hold spaces, so a second column is one only where no annotation has the whole name.
        try:
            is_name = (root / "Annotations" / file_name).is_file()
        except OSError as error:
            raise DataError(
                f"{path}: line {number}, {quoted(line)}: {error.strerror}; correct or remove it"
            ) from error
        stems.append(line if is_name else re.sub(r"\s+(-1|0|1)$", "", line))
    if not stems:
        raise DataError(f"{path}: the list names no images; choose another split")
    return stems


class _NoDoctype(ET.TreeBuilder):
    """Refuses document types: their entities can expand to gigabytes or name local files."""

    def doctype(self, name: str, *_: str | None) -> None:
        raise ValueError("it declares a DOCTYPE, which is refused")


def parse_annotation(path: Path) -> ET.Element:
    """The <annotation> of a file. Raises DataError, as all that follows, for what is not there or not right."""
    try:
        annotation = ET.fromstring(read_bytes(path), ET.XMLParser(target=_NoDoctype()))
    except OSError as error:
        raise DataError(
            f"{path}: the annotation cannot be opened ({error.strerror}); check the split file"
        ) from error
    except (ET.ParseError, ValueError, LookupError) as error:  # the last for an encoding that Python does not know
        raise DataError(
            f"{path}: not a usable XML file ({one_line(str(error))}); export the annotation again"
        ) from error
    if annotation.tag.lower() != "annotation":  # otherwise a web page would be an image without objects
        raise DataError(f"{path}: its outermost tag is {quoted(annotation.tag)}, not 'annotation'; export it again")
    return annotation


def find_image(annotation: ET.Element, xml_path: Path, images: dict[str, list[Path]]) -> Path:
    """The image with the annotation's own stem, otherwise the one that <filename> names.

    Tools leave wrong names in <filename>, and where a stem has several images it decides.
    """
    file_name = Path((annotation.findtext("filename") or "").strip())
    candidates = images.get(xml_path.stem) or images.get(file_name.stem)
    if not candidates:
        raise DataError(
            f"{xml_path}: there is no image '{xml_path.stem}' ({', '.join(IMAGE_SUFFIXES)}) in JPEGImages; "
            "add it or take the name out of the split file"
        )
    return next((path for path in candidates if path.name == file_name.name), candidates[0])


def read_size(annotation: ET.Element, path: Path) -> tuple[int, int] | None:
    """(height, width), or None where the tag is missing or 0."""
    height, width = (
        _number(_text(annotation, f"size/{side}", "the file", path) or "0", "size", path)
        for side in ("height", "width")
    )
    for side in (height, width):
        if not (side <= 0 or (side <= MAX_SIDE and side.is_integer())):
            raise DataError(f"{path}: size has {side:g} where a whole number of pixels belongs; correct it")
    return (int(height), int(width)) if min(height, width) > 0 else None


def read_objects(annotation: ET.Element, path: Path) -> list[RawObject]:
    """All objects, whatever their boxes are worth."""
    objects = []
    for position, item in enumerate(annotation.findall("object"), 1):
        where = f"object {position}"
        name = _text(item, "name", where, path)
        corners = [_text(item, f"bndbox/{tag}", where, path) for tag in ("xmin", "ymin", "xmax", "ymax")]
        if not name or None in corners:
            raise DataError(f"{path}: {where} has no name or no complete bndbox; correct or remove it")
        if "\n" in name:  # the layout of a pretty-printer; other spaces count
            name = name.strip()
        check_class_name(name, where, path)
        xmin, ymin, xmax, ymax = (_number(corner or "", where, path) for corner in corners)
        is_point = xmin == xmax and ymin == ymax  # a slip of the mouse; one side of a single pixel is legal
        first = 0 if is_point else 1
        difficult = _number(_text(item, "difficult", where, path) or "0", where, path)
        if math.isnan(difficult):
            raise DataError(f"{path}: {where} has difficult 'nan' where 0 or 1 belongs; correct it")
        objects.append(
            RawObject(
                box=(xmin - first, ymin - first, xmax, ymax),
                category=name,
                ignore=difficult != 0,
                crowd=False,
                area=None,
                where=f"{path.stem} {where} ({name})",
            )
        )
    return objects


def _text(item: ET.Element, tag: str, where: str, path: Path) -> str | None:
    """The text of the one element at `tag`, None where there is none."""
    found = item.findall(tag)
    if len(found) > 1:
        raise DataError(f"{path}: {where} has {len(found)} times {tag}; keep the one that is right")
    return (found[0].text or "") if found else None


def _number(text: str, where: str, path: Path) -> float:
    try:
        if "_" in text:  # float takes 1_000
            raise ValueError
        return float(text)
    except ValueError as error:
        raise DataError(f"{path}: {where} has {quoted(text.strip())} where a number belongs; correct it") from error
