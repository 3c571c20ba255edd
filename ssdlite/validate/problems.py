"""What a source holds, as far as it can be read: the form that all checks share.

Arrays have I images and N objects. An image or object that cannot be used at all is not among them: it has only a
finding.

MERGED: What a check says: findings, and how grave each kind is.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from ssdlite.data.formats.coco import name_entry
from ssdlite.data.formats.layout import CocoSource, Source
from ssdlite.errors import DataError

Severity: TypeAlias = Literal["error", "warning", "note"]
"""error: training refuses it. warning: training leaves it out or changes it, or cannot see that it is most likely a
mistake. note: training handles it, but it may surprise."""


SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


KINDS: dict[str, Severity] = {
    "annotations-unreadable": "error",  # missing, no JSON or XML, no COCO instances, with a DOCTYPE
    "list-unreadable": "error",  # of VOC's ImageSets/Main: missing, or without a name
    "image-folder-missing": "error",
    "image-entry-broken": "error",  # COCO: no id, no file_name, or one outside the folder
    "image-size-broken": "error",  # the annotated size is no size
    "image-id-repeated": "error",
    "category-broken": "error",  # COCO: no id or no name
    "category-repeated": "error",  # COCO: an id or a name
    "category-unknown": "error",  # COCO: an id that 'categories' does not list
    "object-broken": "error",  # no box, no class, or text where a number belongs
    "class-unknown": "error",  # a name that only the validation set has, or that data.class_names lacks
    "no-images": "error",
    "no-classes": "error",
    "image-missing": "error",
    "image-without-bytes": "error",
    "image-unreadable": "error",
    "image-truncated": "error",
    "image-bomb": "error",  # more pixels than are ever decoded
    "size-mismatch": "error",  # annotation and image disagree
    "box-degenerate": "warning",  # a side of 0, or not a number
    "box-inverted": "warning",
    "box-outside": "warning",  # all of it
    "box-clipped": "warning",  # a part of it is outside
    "boxes-look-xyxy": "warning",
    "boxes-look-xywh": "warning",
    "object-without-image": "warning",  # COCO: of an image that the file does not list
    "class-left-out": "warning",  # data.ignore_unknown
    "class-spelling": "warning",  # differs from another in capitals or spaces only
    "class-without-objects": "warning",
    "image-listed-twice": "warning",
    "image-repeated": "warning",  # another file of this split has the same bytes
    "image-in-both-splits": "warning",
    "image-huge": "warning",
    "image-16-bit": "warning",
    "image-cmyk": "warning",
    "image-animated": "warning",
    "no-validation": "note",
    "class-with-few-objects": "note",
    "class-not-in-validation": "note",
    "annotation-id-repeated": "note",
    "image-without-objects": "note",
    "image-without-size": "note",  # in the annotation; it is read from the image
    "image-ambiguous": "note",  # VOC: several images have the stem
    "image-misnamed": "note",  # the extension is that of another format
    "image-rotated": "note",  # by EXIF
    "image-grey": "note",
}


SAID_BY_READERS = {"box-degenerate", "box-inverted", "box-outside", "class-left-out"}
"""Kinds that the readers warn of themselves."""


@dataclass(frozen=True)
class Problem:
    """One thing that was found."""

    kind: str  # one of KINDS
    file: Path  # the annotation file, or the image
    item: str  # what it is about within the file; "" for all of it
    text: str  # a sentence without its full stop

    @property
    def severity(self) -> Severity:
        return KINDS[self.kind]

    def __str__(self) -> str:
        where = f"{self.file}: {self.item}" if self.item else str(self.file)
        return f"{where}: {self.text}"


class KindSummary(NamedTuple):
    """The findings of one kind."""

    kind: str
    severity: Severity
    num: int
    first: Problem


def count_errors(problems: Iterable[Problem]) -> int:
    return sum(problem.severity == "error" for problem in problems)


def by_severity(problems: Iterable[Problem]) -> list[Problem]:
    """The gravest first; of the same severity in the order of KINDS, and of the same kind as they were found."""
    order = {kind: (SEVERITIES.index(severity), place) for place, (kind, severity) in enumerate(KINDS.items())}
    return sorted(problems, key=lambda problem: order[problem.kind])


def summarise(problems: Sequence[Problem]) -> list[KindSummary]:
    """One row a kind, the gravest first."""
    rows: dict[str, KindSummary] = {}
    for problem in by_severity(problems):
        old = rows.get(problem.kind)
        first, count = (old.first, old.num) if old else (problem, 0)
        rows[problem.kind] = KindSummary(problem.kind, problem.severity, count + 1, first)
    return list(rows.values())


def summary_lines(problems: Sequence[Problem]) -> list[str]:
    """A line for each kind of error and warning, with its first example: what `train` shows."""
    return [
        f"{row.num} x {row.kind}: {row.first}" + (", and so on" if row.num > 1 else "")
        for row in summarise(problems)
        if row.severity != "note"
    ]


class Contents:
    """One source. Its lists and objects are added one by one; the arrays are made when they are first asked for."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.problems: list[Problem] = []
        self.class_names: list[str] = []
        self.paths: list[Path] = []  # I, of the image files
        self.files: list[Path] = []  # I, of the annotations
        self.items: list[str] = []  # I, what findings call the images
        self.entries: list[Any] = []  # I: COCO's position in "images", VOC's stem
        self.sizes = np.zeros((0, 2), np.int64)  # (I, 2) height, width; 0 where the annotation does not say
        self.document: Any = None  # COCO: the parsed file
        self.categories: dict[Any, int] = {}  # COCO: index of the class name by category id
        self.lists: dict[str, str] = {}  # VOC: the list that names a stem first
        self._objects = array("d")  # eight numbers each; integers are exact up to 2^53

    def add_object(
        self, owner: int, label: int, corners: tuple[float, float, float, float], ignore: bool, position: int
    ) -> None:
        """Add an object of image `owner` and class `label`; the others as in the arrays of these names."""
        self._objects.extend((owner, label, *corners, ignore, position))

    def add_objects(self, table: np.ndarray) -> None:
        """Add (n, 8) float64 objects: image, class, x1, y1, x2, y2, ignore, position."""
        self._objects.frombytes(table.tobytes())

    @cached_property
    def _table(self) -> np.ndarray:
        return np.array(self._objects).reshape(-1, 8)

    @cached_property
    def owners(self) -> np.ndarray:
        """(N,) int64 index of each object's image."""
        return self._table[:, 0].astype(np.int64)

    @cached_property
    def labels(self) -> np.ndarray:
        """(N,) int64 index of the class name."""
        return self._table[:, 1].astype(np.int64)

    @cached_property
    def corners(self) -> np.ndarray:
        """(N, 4) float64 xyxy as written."""
        return np.ascontiguousarray(self._table[:, 2:6])

    @cached_property
    def ignore(self) -> np.ndarray:
        """(N,) bool: crowd or difficult."""
        return self._table[:, 6] != 0

    @cached_property
    def positions(self) -> np.ndarray:
        """(N,) int64. COCO: position in "annotations", from 0. VOC: number of the object in its file, from 1."""
        return self._table[:, 7].astype(np.int64)

    @property
    def is_coco(self) -> bool:
        return isinstance(self.source, CocoSource)

    @property
    def file(self) -> Path:
        """Where findings about the whole are."""
        return self.source.annotations if isinstance(self.source, CocoSource) else self.source.root

    def boxes(self, corners: np.ndarray | None = None) -> np.ndarray:
        """(N, 4) float64 xyxy as the readers compute them before clipping, from `corners` (default: the file's)."""
        corners = self.corners if corners is None else corners
        if self.is_coco:
            return corners
        # VOC counts pixels from 1 and includes the last one; a point has no area, however.
        is_point = (corners[:, :2] == corners[:, 2:]).all(axis=1)
        return np.concatenate([corners[:, :2] - ~is_point[:, None], corners[:, 2:]], axis=1)

    def name_object(self, index: int) -> str:
        """What findings call an object."""
        image, position = self.items[self.owners[index]], int(self.positions[index])
        if self.is_coco:
            return f"{name_entry(self.document['annotations'][position])} of {image}"
        return f"{image} object {position} ({self.class_names[self.labels[index]]})"

    def object_file(self, index: int) -> Path:
        return self.files[self.owners[index]]

    def add(self, kind: str, item: str, text: str, file: Path | None = None) -> None:
        self.problems.append(Problem(kind, file or self.file, item, text))


def reason(error: DataError, path: Path) -> str:
    """A reader's message without the path, which a finding has by itself."""
    return str(error).removeprefix(f"{path}: ")
