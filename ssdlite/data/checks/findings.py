"""What a check says: findings, and how grave each kind is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

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
class Finding:
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
    first: Finding


def count_errors(findings: Iterable[Finding]) -> int:
    return sum(finding.severity == "error" for finding in findings)


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """The gravest first; of the same severity in the order of KINDS, and of the same kind as they were found."""
    order = {kind: (SEVERITIES.index(severity), place) for place, (kind, severity) in enumerate(KINDS.items())}
    return sorted(findings, key=lambda finding: order[finding.kind])


def summarise(findings: Sequence[Finding]) -> list[KindSummary]:
    """One row a kind, the gravest first."""
    rows: dict[str, KindSummary] = {}
    for finding in by_severity(findings):
        old = rows.get(finding.kind)
        first, count = (old.first, old.num) if old else (finding, 0)
        rows[finding.kind] = KindSummary(finding.kind, finding.severity, count + 1, first)
    return list(rows.values())


def summary_lines(findings: Sequence[Finding]) -> list[str]:
    """A line for each kind of error and warning, with its first example: what `train` shows."""
    return [
        f"{row.num} x {row.kind}: {row.first}" + (", and so on" if row.num > 1 else "")
        for row in summarise(findings)
        if row.severity != "note"
    ]
