"""Data sets at a path: finding the sources of its splits, and reading sources into one split.

Start with `find_layout` and `read_split`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ssdlite.data.formats import registry
from ssdlite.data.formats.base import Format, Found, Source, make_split, without_collector
from ssdlite.data.formats.folders import Seen, subfolders
from ssdlite.data.formats.problems import StrictProblems
from ssdlite.data.formats.registry import format_of
from ssdlite.data.records import number_classes, relabel
from ssdlite.errors import DataError
from ssdlite.structures import DataSplit, ImageId, Record

logger = logging.getLogger(__name__)


ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".bz2", ".xz")


DEPTH = 3  # folders below a path that are looked into for a data set


MOST_FOLDERS = 200  # of one depth


@dataclass(frozen=True)
class Layout:
    """The splits at a path, and the sentence that tells the user so."""

    train: list[Source]  # empty where there is only something to evaluate on
    val: list[Source]  # empty where there is no validation set
    test: list[Source]  # empty where there is no test set
    description: str
    folder: Path  # where the data set was found: the path, or a folder below it


def find_layout(path: str | Path) -> Layout:
    """Return what the first format that recognises `path` finds there, or in a folder below it.

    `path` is a folder, a file of annotations, or YOLO's data.yaml. Where it is not a data set itself, the folders
    in it are looked into, and those in them. Raises `DataError` where no format recognises anything, or where
    several data sets lie beside each other.
    """
    path = Path(path)
    try:
        return _find_layout(path)
    except OSError as error:  # of a folder that may not be looked into, or a name that is too long
        raise DataError(
            f"{path}: the folder cannot be looked through ({error.strerror}); check the path and its permissions"
        ) from error


def is_data_set(path: Path) -> bool:
    """Return whether a path on the command line is data and no config file: a folder, or a file that a format
    knows."""
    if path.is_dir():
        return True
    try:
        return path.is_file() and bool(path.suffix.lower() in ARCHIVES or _matches(path))
    except (DataError, OSError):  # recognised, and not usable
        return True


def _find_layout(path: Path) -> Layout:
    if path.is_file():
        if path.suffix.lower() in ARCHIVES:
            raise DataError(f"{path}: this is an archive; unpack it and give the folder")
        if matches := _matches(path):
            return _make_layout(matches, path)
        looked_for = " or ".join(dict.fromkeys(one.looked_for for one in registry.FORMATS))
        raise DataError(
            f"{path}: no annotation format was recognised in this file; give the folder of the data set, or a file "
            f"such as {looked_for}"
        )
    if not path.is_dir():
        raise DataError(f"{path}: there is no such folder; check the path to the data set")
    level = [path]
    for _ in range(DEPTH + 1):
        found = {folder: matches for folder in level if (matches := _matches(folder))}
        if len(found) > 1:
            listed = ", ".join(f"{folder} ({matches[0][1].title})" for folder, matches in [*found.items()][:8])
            more = f" and {len(found) - 8} more" if len(found) > 8 else ""
            raise DataError(f"{path}: there are several data sets in this folder; choose one: {listed}{more}")
        for folder, matches in found.items():
            return _make_layout(matches, folder)
        level = [inner for folder in level for inner in subfolders(folder)][:MOST_FOLDERS]
    raise DataError(_refusal(path))


def _matches(path: Path) -> list[tuple[Format[Any], Found]]:
    """The formats that recognise `path`, in the order of the registry.

    A format that recognises but cannot use it is heard only where no other can.
    """
    found: list[tuple[Format[Any], Found]] = []
    refused: DataError | None = None
    for one in registry.FORMATS:
        try:
            if match := one.find(path):
                found.append((one, match))
        except DataError as error:
            refused = refused or error
    if refused and not found:
        raise refused
    return found


def _make_layout(matches: Sequence[tuple[Format[Any], Found]], path: Path) -> Layout:
    (_, found), *others = matches
    description = _describe(found, path)
    if titles := ", ".join(dict.fromkeys(other.title for _, other in others if other.title != found.title)):
        description += f"; there are {titles} annotations as well, which are not read"
    for remark in found.remarks:
        description += f"; {remark}"
    return Layout(found.train, found.val, found.test, description, path)


def _refusal(path: Path) -> str:
    """Sentence about a folder that no format recognises: the files in it, and the nearest format."""
    seen = Seen(path)
    start = f"{path}: no data set was recognised; there are {seen}"
    archives = [suffix for suffix in ARCHIVES if suffix in seen.first]
    explained = [reason for one in registry.FORMATS if (reason := one.explain(seen))]
    if explained:
        return f"{start}; {max(explained)[1]}"
    if archives:
        return f"{start}; unpack {seen.first[archives[0]].name} first, and give the folder"
    if seen.num_images:
        return f"{start}; there are images but no annotations that are known: give the folder that holds both"
    *formats, last = (one.looked_for for one in registry.FORMATS)
    return f"{start}; looked for {', '.join(formats)}, and {last}"


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
    train_part, val_part, test_part = (
        " and ".join(map(str, sources)) for sources in (found.train, found.val, found.test)
    )
    test_part = f"; test {test_part}" if found.test and found.test != found.val else ""
    if not found.train:
        return f"{found.title} data at {path}: validation {val_part}{test_part}; there is no training set"
    if not found.val:
        return f"{found.title} data at {path}: training {train_part}{test_part}; there is no validation set"
    return f"{found.title} data at {path}: training {train_part}; validation {val_part}{test_part}"


def source_line(split: str, options: dict[str, Any]) -> str:
    """Return the option of the command line that names a source, such as data.train={kind: yolo, ...}."""
    return f"'data.{split}={json.dumps(options, ensure_ascii=False)}'"
