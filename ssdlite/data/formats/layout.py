"""From a path to the sources of its training and validation split, and from sources to one split.

Start with `find_layout` and `read_split`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ssdlite.data.formats import registry
from ssdlite.data.formats.base import Found, Source, make_split, without_collector
from ssdlite.data.formats.problems import StrictProblems
from ssdlite.data.formats.registry import format_of
from ssdlite.data.records import number_classes, relabel
from ssdlite.errors import DataError
from ssdlite.structures import DataSplit, ImageId, Record

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """The two splits at a path, and the sentence that tells the user so."""

    train: list[Source]  # empty where there is only something to evaluate on
    val: list[Source]
    description: str


def find_layout(path: str | Path) -> Layout:
    """Return what the first format that recognises `path` finds there. Raises `DataError` where none does."""
    path = Path(path)
    try:
        return _find_layout(path)
    except OSError as error:  # of a folder that may not be looked into, or a name that is too long
        raise DataError(
            f"{path}: the folder cannot be looked through ({error.strerror}); check the path and its permissions"
        ) from error


def _find_layout(path: Path) -> Layout:
    if not path.is_dir():
        raise DataError(f"{path}: there is no such folder; check the path to the data set")
    for one in registry.FORMATS:
        if found := one.find(path):
            return Layout(found.train, found.val or found.train, _describe(found, path))
    *others, last = (one.looked_for for one in registry.FORMATS)
    raise DataError(
        f"{path}: no data set was recognised; looked for {', '.join(others)}, and {last}; lay the files out in one "
        "of these ways"
    )


def require_files(sources: Sequence[Source]) -> None:
    """Raise DataError, as reading them would, where images, annotations or a list are not there."""
    for source in sources:
        format_of(source).require(source)


def read_split(
    sources: Sequence[Source], class_names: Sequence[str] | None = None, *, ignore_unknown: bool = False
) -> DataSplit:
    """Read `sources` and join them into one split.

    Without `class_names` the classes are the union of all names: those of formats whose classes have an order (as
    COCO's by their ids), then the others, sorted. The validation set must be read with the names of the training
    set, so that a class which it lacks shifts no label. Objects of other names are an error, or left out with
    `ignore_unknown`. A class keeps the category id of the first source that numbers it. Image ids that clash become
    "<position of the source>/<id>".

    Raises `DataError` as the readers do, and where there are no sources.
    """
    if not sources:
        raise DataError("the data set has no images for this split; add the split, or name another data set")
    parts: list[tuple[Path, DataSplit]] = []
    known: dict[str, int] = {}
    unordered: set[str] = set()
    for source in sources:
        problems = StrictProblems()
        with without_collector():
            annotations = format_of(source).read(source, problems)
            part = make_split(annotations, problems)
        parts.append((annotations.file, part))
        if annotations.category_ids is None:
            unordered.update(part.class_names)
            continue
        for name, category_id in zip(part.class_names, part.category_ids, strict=True):
            known.setdefault(name, category_id)
    if class_names is None:
        class_names = [*known, *sorted(unordered - known.keys())]
    records: list[Record] = []
    taken: set[ImageId] = set()
    for position, (file, part) in enumerate(parts, 1):
        known_part = relabel(part, class_names, file, ignore_unknown=ignore_unknown)
        fresh = _rename_clashes(known_part.records, taken, position, file)
        taken.update(record.image_id for record in fresh)
        records += fresh
    return DataSplit(records, tuple(class_names), number_classes(class_names, known))


def _rename_clashes(records: list[Record], taken: set[ImageId], position: int, file: Path) -> list[Record]:
    clashes = [record.image_id for record in records if record.image_id in taken]
    if not clashes:
        return records
    logger.warning(
        "%s: %d image ids are also those of an earlier source, the first is %s; renamed to '%d/%s' and so on",
        *(file, len(clashes), clashes[0], position, clashes[0]),
    )
    return [
        replace(record, image_id=f"{position}/{record.image_id}") if record.image_id in taken else record
        for record in records
    ]


def _describe(found: Found, path: Path) -> str:
    train_part, val_part = (" and ".join(map(str, sources)) for sources in (found.train, found.val))
    if not found.train:
        return f"{found.title} data at {path}: validation {val_part}; there is no training set"
    if not found.val:
        return (
            f"{found.title} data at {path}: training {train_part}; there is no validation set, so it is validated "
            "on the training images and the numbers will flatter the model"
        )
    return f"{found.title} data at {path}: training {train_part}; validation {val_part}"
