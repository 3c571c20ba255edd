"""Problems of a data set, and what a reader does with them: collect them all, or stop at the first error.

Start with `Problems`, which `check-data` hands to a reader, and `StrictProblems`, which training does: so one
parser serves both.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from ssdlite.errors import DataError

Severity: TypeAlias = Literal["error", "warning", "note"]
"""error: training refuses it. warning: training leaves it out or changes it, or cannot see that it is most likely
wrong. note: training handles it, but it may surprise."""


SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


KINDS: dict[str, Severity] = {
    "boxes-look-xyxy": "error",  # the four numbers of all boxes are of the other form
    "boxes-look-xywh": "error",
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
    "images-unusable": "error",  # most of them: not there, or not readable
    "no-classes": "error",
    "image-bomb": "error",  # more pixels than are ever decoded
    "image-missing": "warning",
    "image-without-bytes": "warning",
    "image-unreadable": "warning",
    "image-truncated": "warning",
    "size-mismatch": "warning",  # of annotation and image: the image's is taken where all boxes fit it
    "image-cut": "warning",  # the file ends early, with a strip of the image missing
    "image-respelt": "warning",  # its file is there with other capitals, Unicode form, suffix or folder
    "category-root": "warning",  # COCO: groups all others, and has no objects
    "annotation-missing": "warning",  # of an image, in formats where that does not mean that it has no objects
    "annotation-without-image": "warning",
    "annotation-repeated": "warning",  # LabelMe: another file is of the same image
    "flag-unclear": "warning",  # difficult, truncated or occluded is neither 0 nor 1
    "class-missing": "warning",  # VIA: a region has not the attribute that is the class of the others
    "object-without-box": "warning",  # a point, or a shape of no area
    "box-degenerate": "warning",  # a side of 0, or not a number
    "box-inverted": "warning",
    "box-outside": "warning",  # all of it
    "box-clipped": "warning",  # a part of it is outside
    "object-repeated": "warning",  # the class and the box of another object of the image
    "area-impossible": "warning",  # larger than the box
    "mostly-crowds": "warning",
    "object-without-image": "warning",  # COCO: of an image that the file does not list
    "class-left-out": "warning",  # data.ignore_unknown
    "class-spelling": "warning",  # differs from another in capitals or spaces only
    "class-without-objects": "warning",
    "image-listed-twice": "warning",
    "image-repeated": "warning",  # another file of this split has the same bytes
    "image-in-both-splits": "warning",
    "group-in-both-splits": "warning",  # copies of one original, made by augmentation
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
"""Severity of each kind of problem, in the order in which a check lists them."""


REPAIRS: dict[str, str] = {
    "image-missing": "left out {} whose file is not there",
    "image-unreadable": "left out {} whose file cannot be read",
    "image-respelt": "found {} under another spelling or in another folder",
    "category-root": "left out {} without objects, the root of all others",
    "size-mismatch": "took the own size of {}, because boxes reach out of the annotated one",
    "annotation-missing": "left out {} without an annotation",
    "annotation-without-image": "left out {} without an image",
    "annotation-repeated": "left out {} of images that have another one",
    "flag-unclear": "took {} as not difficult, because a flag is neither 0 nor 1",
    "class-missing": "took {} without a class as class_name",
    "object-without-box": "left out {} without an area, such as points",
}
"""Sentences about warnings that training mends or leaves out, said once for each kind with a count of `ITEMS`."""


ITEMS: dict[str, tuple[str, str]] = {
    "image-missing": ("image", "images"),
    "image-unreadable": ("image", "images"),
    "image-respelt": ("image", "images"),
    "category-root": ("category", "categories"),
    "size-mismatch": ("image", "images"),
    "annotation-missing": ("image", "images"),
    "annotation-without-image": ("annotation", "annotations"),
    "annotation-repeated": ("annotation", "annotations"),
    "flag-unclear": ("object", "objects"),
    "class-missing": ("region", "regions"),
    "object-without-box": ("object", "objects"),
}
"""Singular and plural of what the count in `REPAIRS` is of."""


@dataclass(frozen=True)
class Problem:
    """One problem of a data set."""

    kind: str  # one of KINDS
    file: Path  # the annotation file, or the image
    item: str  # what it is about within the file; "" for all of it
    text: str  # a sentence without its full stop
    message: str = field(default="", repr=False, compare=False)
    """Sentence of training where it is not `FILE: text`. For a warning, the clause of its one line about objects
    that were left out; training is silent about a warning without."""

    @property
    def severity(self) -> Severity:
        return KINDS[self.kind]

    def __str__(self) -> str:
        where = f"{self.file}: {self.item}" if self.item else str(self.file)
        return f"{where}: {self.text}"


class Problems:
    """Collector of all problems: a reader adds one and goes on with the next item."""

    strict = False
    """Reading ends at the first error, and notes are not wanted: a reader need not look for them."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def add(self, kind: str, file: Path, text: str, *, item: str = "", message: str = "") -> None:
        """Add a problem; the arguments are the fields of `Problem`."""
        self.found.append(Problem(kind, file, item, text, message))

    def catch(self, kind: str, file: Path, item: str = "") -> AbstractContextManager[None]:
        """Make a problem of the DataError that ends the block, whose sentence may begin with "FILE: "."""
        return self._catch(kind, file, item)

    @contextmanager
    def _catch(self, kind: str, file: Path, item: str) -> Iterator[None]:
        try:
            yield
        except DataError as error:
            self.add(kind, file, str(error).removeprefix(f"{file}: "), item=item, message=str(error))


class StrictProblems(Problems):
    """Raiser of the first error, as DataError.

    `left_out` has a clause for each warning about an object, and `repairs` the items of each kind of `REPAIRS`.
    """

    strict = True

    def __init__(self) -> None:
        super().__init__()
        self.left_out: list[str] = []
        self.repairs: dict[str, list[str]] = {}

    def add(self, kind: str, file: Path, text: str, *, item: str = "", message: str = "") -> None:
        if KINDS[kind] == "error":
            raise DataError(message or f"{file}: {text}")
        if kind in REPAIRS:
            self.repair(kind, item or file.name)
        elif message:
            self.left_out.append(message)

    def repair(self, kind: str, item: str) -> None:
        """Count an item that is left out or changed; `kind` is one of `REPAIRS`."""
        self.repairs.setdefault(kind, []).append(item)

    def catch(self, kind: str, file: Path, item: str = "") -> AbstractContextManager[None]:
        return nullcontext()
