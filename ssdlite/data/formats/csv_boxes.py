"""CSV files with one box per line: TensorFlow's with a header, RetinaNet's without one.

Start with `CsvFormat`. TensorFlow's header is `filename,width,height,class,xmin,ymin,xmax,ymax`, in any order, and
the size may be missing. RetinaNet's lines are `path,x1,y1,x2,y2,class`, with empty fields for an image without
objects.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ssdlite.data.formats.base import Annotations, unopened
from ssdlite.data.formats.folders import IMAGE_SUFFIXES, plain_path
from ssdlite.data.formats.problems import Problems
from ssdlite.data.formats.single_file import (
    FileSource,
    ImageFinder,
    SingleFileFormat,
    annotated_size,
    finite,
)
from ssdlite.data.records import check_class_name
from ssdlite.errors import DataError
from ssdlite.io import read_text

COLUMNS: dict[str, tuple[str, ...]] = {
    "image": (
        "filename",
        "file_name",
        "image",
        "image_path",
        "path",
        "file",
        "image_name",
        "img",
        "image_id",
        "imagename",
    ),
    "class": ("class", "label", "class_name", "name", "category", "labels"),
    "xmin": ("xmin", "x_min", "x1", "left"),
    "ymin": ("ymin", "y_min", "y1", "top"),
    "xmax": ("xmax", "x_max", "x2", "right"),
    "ymax": ("ymax", "y_max", "y2", "bottom"),
    "width": ("width", "image_width", "img_width"),
    "height": ("height", "image_height", "img_height"),
}
"""Names of the columns of a header, in lower case."""


RETINANET = ("image", "xmin", "ymin", "xmax", "ymax", "class")


NEEDED = ("image", "xmin", "ymin", "xmax", "ymax")


NO_CLASS = "object"  # the one class of a file without a column for it


@dataclass(frozen=True)
class CsvSource(FileSource):
    """A CSV file with one box per line, and the folder under which its images lie."""

    def __str__(self) -> str:
        return str(self.file)


class LineAnnotations(Annotations):
    """Annotations with one object per line: the position of an object is the number of its line, from 1."""

    def name_object(self, index: int, *, with_id: bool = True) -> str:
        name, item = self.class_names[self.labels[index]], self.items[self.owners[index]]
        return f"line {int(self.positions[index])} ({name}) of {item}"


class CsvFormat(SingleFileFormat[CsvSource]):
    """One box per line, as TensorFlow or RetinaNet write it."""

    name = "csv"
    title = "CSV"
    looked_for = "a .csv file with one box per line (TensorFlow or RetinaNet)"
    suffixes = (".csv",)
    source_type = CsvSource

    def first_images(self, file: Path, start: bytes) -> list[str] | None:
        rows = first_rows(start)
        columns = _columns(rows[0]) if rows else None
        if columns is None:
            return None
        body = rows if _is_box_row(rows[0]) else rows[1:]
        return [row[columns["image"]] for row in body if len(row) > columns["image"]]

    def read(self, source: CsvSource, problems: Problems) -> Annotations:
        """Classes are sorted by name: a CSV file numbers none."""
        found = LineAnnotations(source, source.file)
        with problems.catch("annotations-unreadable", source.file):
            rows = list(read_rows(source.file))
            if not rows:
                return found
            number, first = rows[0]
            columns = _columns(first)
            if columns is None:
                raise DataError(
                    f"{source.file}: line {number} is neither a header with filename, class, xmin, ymin, xmax and "
                    "ymax nor path,x1,y1,x2,y2,class; correct it"
                )
            if not _is_box_row(first):
                del rows[0]
            position = columns["image"]
            images = ImageFinder(found, problems, (row[position] for _, row in rows if len(row) > position))
            for number, row in rows:
                with problems.catch("object-broken", source.file, f"line {number}"):
                    _read_row(found, images, row, columns, number)
            images.finish()
        return found


def read_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the lines with something in them, with their numbers. Raises DataError for what is no CSV text."""
    try:
        text = read_text(path)
    except OSError as error:
        raise unopened(path, error) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text; save the file as UTF-8") from error
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text[:4000].splitlines()))
    try:
        for row in reader:
            if any(map(str.strip, row)):
                yield reader.line_num, [field.strip() for field in row]
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num} is not CSV ({error}); correct it") from error


def first_rows(start: bytes) -> list[list[str]]:
    """Return the rows with something in them at the start of a file, up to what is no CSV; cut at any byte."""
    is_utf16 = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    lines = start.decode("utf-16" if is_utf16 else "utf-8-sig", "replace").splitlines()
    rows = []
    with suppress(csv.Error):
        for row in csv.reader(lines, delimiter=_delimiter(lines)):
            if any(map(str.strip, row)):
                rows.append([field.strip() for field in row])
    return rows


def _delimiter(lines: Sequence[str]) -> str:
    first = lines[0] if lines else ""
    return max(",;\t", key=first.count)


def _is_box_row(row: Sequence[str]) -> bool:
    """Return whether a row is RetinaNet's: an image, and four numbers and a class or nothing."""
    if len(row) != len(RETINANET) or plain_path(row[0]).suffix.lower() not in IMAGE_SUFFIXES:
        return False
    numbers = [text.strip() for text in row[1:5]]
    return not any(numbers) or all(text.replace(".", "", 1).replace("-", "", 1).isdigit() for text in numbers)


def _columns(row: Sequence[str]) -> dict[str, int] | None:
    """Positions of the columns that a first line names, or RetinaNet's; None where it is neither."""
    if _is_box_row(row):
        return {name: position for position, name in enumerate(RETINANET)}
    words = [word.strip().strip('"').lower() for word in row]
    found = {}
    for column, names in COLUMNS.items():
        position = next((words.index(name) for name in names if name in words), None)
        if position is not None:
            found[column] = position
    return found if all(column in found for column in NEEDED) else None


def _read_row(
    found: Annotations, images: ImageFinder, row: Sequence[str], columns: dict[str, int], number: int
) -> None:
    path, where = found.file, f"line {number}"
    if len(row) <= max(columns[name] for name in (*NEEDED, "class") if name in columns):
        raise DataError(
            f"{path}: {where} has {len(row)} values where {max(columns.values()) + 1} belong; correct it"
        )
    name = row[columns["image"]]
    if not name:
        raise DataError(f"{path}: {where} names no image; correct or remove it")
    size = None
    if "width" in columns and "height" in columns and len(row) > max(columns.values()):
        size = annotated_size(row[columns["height"]], row[columns["width"]])
    fields = [row[columns[side]] for side in ("xmin", "ymin", "xmax", "ymax")]
    owner = images.add(name, size)
    class_name = row[columns["class"]] if "class" in columns else NO_CLASS
    if owner is None or not (any(fields) or ("class" in columns and class_name)):
        return  # an image without objects, or one that is not there
    check_class_name(class_name, where, path)
    x1, y1, x2, y2 = (
        finite(field, f"{where} has {side}", path)
        for side, field in zip(("xmin", "ymin", "xmax", "ymax"), fields, strict=True)
    )
    found.add_object(owner, found.label_of(class_name), (x1, y1, x2, y2), position=number)
