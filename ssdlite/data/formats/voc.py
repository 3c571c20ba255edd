"""Pascal VOC: one XML file an image, and lists of names for the splits.

Start with `VocFormat`. VOC counts pixels from 1 and includes the last, so the continuous box is
(xmin − 1, ymin − 1, xmax, ymax): its sides are those of the devkit's "+ 1", and a mirrored box is exact.
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import NamedTuple

from ssdlite.data.formats.base import Annotations, Box, Format, Found, make_split, require_folder, require_most
from ssdlite.data.formats.folders import IMAGE_SUFFIXES, ImageIndex, list_files, plain_path
from ssdlite.data.formats.problems import Problems, StrictProblems
from ssdlite.data.records import MAX_SIDE, check_class_name, number_classes, relabel
from ssdlite.errors import DataError
from ssdlite.io import is_usable, one_line, quoted, read_bytes, read_text
from ssdlite.structures import DataSplit

CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class VocSource:
    """A VOC folder (Annotations, ImageSets/Main, JPEGImages) and the splits to read from it."""

    root: Path
    splits: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.root} ({' + '.join(self.splits)})"


class VocAnnotations(Annotations):
    """Annotations of a VOC folder, with what a cleaned copy of it is made from."""

    counts_from_one = True

    def __init__(self, source: VocSource) -> None:
        super().__init__(source, source.root)
        self.lists: dict[str, str] = {}  # the list that names a stem first


class VocFormat(Format[VocSource]):
    """Pascal VOC with lists of the splits."""

    name = "voc"
    looked_for = "Annotations, JPEGImages and ImageSets/Main here, in VOC20* or in VOCdevkit/VOC20* (VOC)"
    source_type = VocSource

    def find(self, path: Path) -> Found | None:
        """Find VOC's lists: with trainval and test somewhere, train on trainval and validate on test, as is
        customary.

        Otherwise train, val and test are what they say; without val, test validates.
        """
        candidates = [path, *sorted(path.glob("VOC20*")), *sorted(path.glob("VOCdevkit/VOC20*"))]
        lists = {root: names for root in candidates if (names := _list_names(root))}
        every = set().union(*lists.values())
        train: list[VocSource] = []
        val: list[VocSource] = []
        test: list[VocSource] = []
        for root, names in lists.items():
            development = ("trainval",) if "trainval" in names else tuple(sorted(names & {"train", "val"}))
            val_lists = tuple(names & {"val"})
            if "test" in every and ("trainval" in every or "val" not in every):
                train_lists, val_lists = development, ()
            elif every == {"val"}:
                train_lists = ()
            elif "test" in every or {"train", "val"} <= names:
                train_lists = tuple(names & {"train"})
            else:  # a lone list, whatever its name: CVAT writes default.txt
                train_lists, val_lists = development or (tuple(names) if len(names) == 1 else ()), ()
            train += [VocSource(root, train_lists)] if train_lists else []
            val += [VocSource(root, val_lists)] if val_lists else []
            test += [VocSource(root, ("test",))] if "test" in names else []
        return Found("VOC", train, val or test, test) if train or val or test else None

    def require(self, source: VocSource) -> None:
        require_folder(source.root / "JPEGImages")
        for split in source.splits:
            read_list(source.root, split)

    def read(self, source: VocSource, problems: Problems) -> VocAnnotations:
        """`difficult` objects are `ignore`. The classes are the names as written."""
        found = VocAnnotations(source)
        folder = source.root / "JPEGImages"
        with problems.catch("image-folder-missing", folder):
            images = _list_images(folder)
            reader = XmlReader(found, images, folder.name, problems)
            for stem in _read_stems(found, source, problems):
                reader.read(source.root / "Annotations" / f"{stem}.xml", stem)
            reader.finish()
        return found


class XmlReader:
    """Reads XML files of VOC's form into `found`, one after the other."""

    def __init__(self, found: Annotations, images: ImageIndex, place: str, problems: Problems) -> None:
        """`place` is what messages call the folder of `images`."""
        self.found, self.images, self.place, self.problems = found, images, place, problems
        self.lost: list[str] = []  # sentences about images that are not there
        self.used: set[Path] = set()

    def read(self, xml_path: Path, item: str) -> None:
        """Add the image of an annotation, with its objects, or a problem; `item` is its id and its name."""
        found, problems = self.found, self.problems
        annotation: ET.Element | None = None
        if not xml_path.exists():
            self.lost.append(f"{xml_path}: the annotation is not there; check the split file")
            problems.add(
                "annotation-missing", xml_path, "the annotation is not there, and its image is left out", item=item
            )
            return
        with problems.catch("annotations-unreadable", xml_path, item):
            annotation = parse_annotation(xml_path)
        if annotation is None:
            return
        path = self._find_image(annotation, xml_path)
        if path is None:
            text = f"there is no image '{xml_path.stem}' ({', '.join(IMAGE_SUFFIXES)}) in {self.place}"
            self.lost.append(f"{xml_path}: {text}; add it or take its annotation out")
            problems.add("image-missing", xml_path, f"{text}, so it is left out", item=item)
        size: tuple[int, int] | None = None
        with problems.catch("image-size-broken", xml_path, item):
            size = _parse_size(annotation, xml_path)
            if size is None:
                text = "has no <size>; it is read from the image"
                problems.add("image-without-size", xml_path, text, item=item)
        objects = _read_objects(annotation, xml_path, problems)
        if path is None:
            return
        self.used.add(path)
        several = [other for other in self.images.of_stem(path.stem) if other.stem == path.stem]
        if len(several) > 1 and path.name != (annotation.findtext("filename") or "").strip():
            text = f"several images are called so, and <filename> names none of them; {path.name} is taken"
            problems.add("image-ambiguous", xml_path, text, item=item)
        owner = found.add_image(path, item, size, file=xml_path, item=item)
        for position, raw in objects:
            label = found.label_of(raw.name)
            found.add_object(owner, label, raw.corners, position=position, ignore=raw.is_difficult)

    def finish(self) -> None:
        """Add a problem where most images are not there."""
        require_most(self.found, len(self.lost), self.lost[0] if self.lost else "", self.problems)

    def _find_image(self, annotation: ET.Element, xml_path: Path) -> Path | None:
        """The image with the annotation's own stem, otherwise the one that <filename> names; None without one.

        Tools leave wrong names in <filename>, and where a stem has several images it decides.
        """
        file_name = plain_path(annotation.findtext("filename") or "")
        candidates = self.images.of_stem(xml_path.stem)
        candidates = [path for path in candidates if path.stem == xml_path.stem] or candidates
        if len(candidates) > 1:
            named = [path for path in candidates if path.name == file_name.name]
            beside = [path for path in candidates if path.parent == xml_path.parent]
            return (named or beside or candidates)[0]
        return candidates[0] if candidates else self.images.of_name(str(file_name))


def read_voc(root: str | Path, splits: Sequence[str], class_names: Sequence[str] | None = None) -> DataSplit:
    """Read the images that ImageSets/Main/<split>.txt under `root` names, for each of `splits`.

    Without `class_names` the classes are the names as written, sorted. Category ids are 1..K. `difficult` objects
    are `ignore`. Points and boxes without area are left out and reported once.

    Raises `DataError` for lists, annotations or images that are missing or malformed, and unknown class names.
    """
    problems = StrictProblems()
    source = VocSource(Path(root), tuple(splits))
    split = make_split(VocFormat().read(source, problems), problems)
    if class_names is None:
        return split
    split = relabel(split, class_names, source.root / "Annotations")
    return DataSplit(split.records, split.class_names, number_classes(split.class_names, {}))


def _list_names(root: Path) -> set[str]:
    """The names of the lists in ImageSets/Main, without those of a single class (such as cat_train)."""
    if not (root / "Annotations").is_dir():
        return set()
    names = {file.stem for file in list_files(root / "ImageSets" / "Main", (".txt",))}
    return {name for name in names if not re.search(r"_(train|val|trainval|test)$", name)}


def _list_images(folder: Path) -> ImageIndex:
    """The image files of `folder`. Raises DataError where they cannot be listed."""
    try:
        if not folder.is_dir():
            raise DataError(f"{folder}: there is no such folder of images; check the path")
        return ImageIndex([folder], deep=False)
    except OSError as error:
        raise DataError(
            f"{folder}: the images cannot be listed ({error.strerror}); check its permissions"
        ) from error


def _read_stems(found: VocAnnotations, source: VocSource, problems: Problems) -> list[str]:
    """The names of all lists, each once."""
    lists = found.lists
    for split in source.splits:
        path = _list_path(source.root, split)
        listed: list[str] | None = None
        with problems.catch("list-unreadable", path):
            listed = read_list(source.root, split)
        for stem in _usable_lines(source.root, path) if listed is None else listed:
            if stem in lists:
                where = "named twice" if lists[stem] == split else f"also named in {lists[stem]}.txt"
                problems.add("image-listed-twice", path, f"it is {where}, and taken once", item=stem)
            lists.setdefault(stem, split)
    return list(lists)


def _list_path(root: Path, split: str) -> Path:
    return root / "ImageSets" / "Main" / f"{split}.txt"


def read_list(root: Path, split: str) -> list[str]:
    """Return the names in a split file, without the ±1 or 0 that the lists of a single class carry.

    Raises DataError for a file that is missing or empty, and for a line that names no file of the data set.
    """
    path = _list_path(root, split)
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


def _usable_lines(root: Path, path: Path) -> list[str]:
    """Lines that name an annotation, of a list with others."""
    try:
        lines = [line.strip() for line in read_text(path).splitlines()]
        names = [line for line in lines if line.isprintable() and PurePath(line).name == line]
        return [name for name in names if (root / "Annotations" / f"{name}.xml").is_file()]
    except (OSError, UnicodeDecodeError):
        return []


class NoDoctype(ET.TreeBuilder):
    """Builder that refuses document types: their entities can expand to gigabytes or name local files."""

    def doctype(self, name: str, *_: str | None) -> None:
        raise ValueError("it declares a DOCTYPE, which is refused")


def parse_annotation(path: Path) -> ET.Element:
    """Return the <annotation> of a file. Raises DataError for what is not there or is none."""
    try:
        annotation = ET.fromstring(read_bytes(path), ET.XMLParser(target=NoDoctype()))
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


def _parse_size(annotation: ET.Element, path: Path) -> tuple[int, int] | None:
    """(height, width), None where the tag is missing or 0. Raises DataError for what is no size."""
    height, width = (
        _number(_text(annotation, f"size/{side}", "the file", path) or "0", f"size has {side}", path)
        for side in ("height", "width")
    )
    for side in (height, width):
        if not (side <= 0 or (side <= MAX_SIDE and side.is_integer())):
            raise DataError(f"{path}: size has {side:g} where a whole number of pixels belongs; correct it")
    return (int(height), int(width)) if min(height, width) > 0 else None


class RawObject(NamedTuple):
    """One <object> as written."""

    name: str
    corners: Box  # xyxy in VOC's own counting
    is_difficult: bool
    is_unclear: bool = False  # `difficult` is neither 0 nor 1


def _read_objects(annotation: ET.Element, path: Path, problems: Problems) -> list[tuple[int, RawObject]]:
    """The objects that can be used, each with its number in the file, from 1."""
    objects = []
    for position, item in enumerate(annotation.findall("object"), 1):
        where = f"object {position}"
        try:
            raw = parse_object(item, path, where)
        except DataError as error:
            text = str(error).removeprefix(f"{path}: ").removeprefix(f"{where} ")
            problems.add("object-broken", path, text, item=f"{path.stem} {where}", message=str(error))
            continue
        if raw.is_unclear:
            flag = quoted((item.findtext("difficult") or "").strip())
            text = f"difficult is {flag}, which is neither 0 nor 1; it is taken as 0"
            problems.add("flag-unclear", path, text, item=f"{path.stem} {where} ({raw.name})")
        objects.append((position, raw))
    return objects


def parse_object(item: ET.Element, path: Path, where: str = "object 1") -> RawObject:
    """Return an <object>, whatever its box is worth; messages call it `where`.

    Raises DataError for what is missing or malformed.
    """
    name = _text(item, "name", where, path)
    corners = [_text(item, f"bndbox/{tag}", where, path) for tag in CORNERS]
    if not name or None in corners:
        raise DataError(f"{path}: {where} has no name or no complete bndbox; correct or remove it")
    if "\n" in name:  # the layout of a pretty-printer; other spaces count
        name = name.strip()
    check_class_name(name, where, path)
    xmin, ymin, xmax, ymax = (
        _number(corner or "", f"{where} has {tag}", path) for tag, corner in zip(CORNERS, corners, strict=True)
    )
    is_difficult = parse_flag(_text(item, "difficult", where, path))
    return RawObject(name, (xmin, ymin, xmax, ymax), bool(is_difficult), is_difficult is None)


def parse_flag(text: str | None) -> bool | None:
    """Return the meaning of a flag such as `difficult`; None for a text that is none, such as 'Unspecified'.

    No tag and an empty one are False.
    """
    word = (text or "0").strip().lower() or "0"
    if word in ("true", "yes"):
        return True
    if word in ("false", "no"):
        return False
    try:
        number = float(word)
    except ValueError:
        return None
    return None if math.isnan(number) else number != 0


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
        raise DataError(f"{path}: {where} {quoted(text.strip())} where a number belongs; correct it") from error
