"""Formats that describe all images of a split in one file: finding the files, their splits and their images.

Start with `SingleFileFormat`: a format adds how a file is recognised, and how it is read.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from ssdlite.data.formats.base import (
    Annotations,
    Box,
    Format,
    Found,
    require_file,
    require_folder,
    require_most,
    unopened,
)
from ssdlite.data.formats.folders import ImageIndex, Seen, child, list_files, split_folders, split_of_name
from ssdlite.data.formats.problems import Problems
from ssdlite.errors import DataError
from ssdlite.io import one_line, quoted, read_json

ANNOTATION_FOLDERS = ("annotations", "labels", "annotation", "annots")


GLANCE = 1 << 20  # bytes at the start of a file that are looked at


NUM_NAMES = 20  # images of a file that are looked for


MOST_FILES = 50  # of one folder that are opened


@dataclass(frozen=True)
class FileSource:
    """One file of annotations, and the folder under which its images lie."""

    file: Path
    images: Path

    def __str__(self) -> str:
        return str(self.file)


S = TypeVar("S", bound=FileSource)


class SingleFileFormat(Format[S]):
    """A format of one file for each split."""

    title: ClassVar[str]
    """Name of the format in messages."""
    suffixes: ClassVar[tuple[str, ...]]

    @abstractmethod
    def first_images(self, file: Path, start: bytes) -> list[str] | None:
        """Return the names of some images that a file describes, from its first `GLANCE` bytes; None where it is
        not of this format."""

    def find(self, path: Path) -> Found | None:
        if path.is_file():
            source = self._source(path, path.parent) if path.suffix.lower() in self.suffixes else None
            return Found(self.title, [source], []) if source else None
        splits: dict[str | None, list[S]] = {}
        for split, folder in split_folders(path).items():
            for file in list_files(folder, self.suffixes)[:MOST_FILES]:
                if source := self._source(file, path):
                    splits.setdefault(split, []).append(source)
        if not splits:
            places = [path, *filter(None, [child(path, ANNOTATION_FOLDERS)])]
            for file in [file for place in places for file in list_files(place, self.suffixes)][:MOST_FILES]:
                if source := self._source(file, path):
                    splits.setdefault(split_of_name(file.stem), []).append(source)
        if not splits:
            return None
        train = splits.get("train") or splits.get(None, [])
        val, test = splits.get("val", []), splits.get("test", [])
        return Found(self.title, train, val or test, test)

    def require(self, source: S) -> None:
        require_folder(source.images)
        require_file(source.file)

    def explain(self, seen: Seen) -> tuple[int, str] | None:
        first = seen.first_of(*self.suffixes)
        if first is None or self.first_images(first, _start(first)) is None:
            return None
        text = (
            f"{first.relative_to(seen.root)} is of the format {self.title}, but its images were not found; name "
            f"their folder: 'data.train={{kind: {self.name}, file: {first}, images: FOLDER}}'"
        )
        return seen.num_images + 1, text

    def _source(self, file: Path, root: Path) -> S | None:
        """The source of `file`, with the folder below which its images are; None where they are not there."""
        names = self.first_images(file, _start(file))
        if names is None:
            return None
        # Not above the data set: the images of another one beside it may have the same names.
        above = [file.parent.parent] if file.parent != root or is_annotation_folder(root) else []
        for folder in dict.fromkeys([file.parent, root, *above]):
            index = ImageIndex([folder])
            if not names or any(index.of_name(name) for name in names[:NUM_NAMES]):
                return self.source_type(file, folder)
        return None


def is_annotation_folder(folder: Path) -> bool:
    """Return whether a folder is one for annotations by its name, so that images are beside it."""
    return folder.name.lower() in ANNOTATION_FOLDERS


def _start(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(GLANCE)
    except OSError:
        return b""


class ImageFinder:
    """Images of a single-file source by the names in the file; those that are not there become problems."""

    def __init__(self, found: Annotations, problems: Problems) -> None:
        self.found, self.problems = found, problems
        self._index = ImageIndex([found.source.images])
        self._owners: dict[Path, int] = {}
        self._ids: set[str] = set()
        self._absent: dict[str, None] = {}

    def add(self, name: str, size: tuple[int, int] | None = None) -> int | None:
        """Return the index of the image called `name`, which is added if it is new; None where it is not there.

        `size` is (height, width) as annotated.
        """
        path = self._index.of_name(name)
        if path is None:
            if name not in self._absent:
                self._absent[name] = None
                text = "the image is not there, and is left out"
                self.problems.add("image-missing", self.found.file, text, item=one_line(name))
            return None
        if path not in self._owners:
            root = self.found.source.images
            image_id = path.relative_to(root).with_suffix("").as_posix()
            if image_id in self._ids:
                image_id = path.relative_to(root).as_posix()
            self._owners[path] = self.found.add_image(path, image_id, size, item=path.name)
            self._ids.add(image_id)
        return self._owners[path]

    def finish(self) -> None:
        """Add an error where most images are not there."""
        first = next(iter(self._absent), "")
        message = (
            f"{self.found.file}: {len(self._absent)} of its images are not under {self.found.source.images}, the "
            f"first is {one_line(first)}; check the images folder"
        )
        require_most(self.found, len(self._absent), message, self.problems)


def load_json(path: Path) -> Any:
    """Return the value in a JSON file. Raises DataError."""
    try:
        return read_json(path)
    except OSError as error:
        raise unopened(path, error) from error
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({one_line(str(error))}); export or download it again") from error


def finite(value: Any, where: str, path: Path) -> float:
    """Return a number of a file. Raises DataError for what is none, such as true, NaN and text without digits."""
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str) or "_" in str(value):
            raise ValueError
        number = float(value)
        if not math.isfinite(number):
            raise ValueError
    except (ValueError, OverflowError):
        raise DataError(f"{path}: {where} {quoted(value)} where a number belongs; correct it") from None
    return number


def box_of_points(xs: Sequence[float], ys: Sequence[float]) -> Box:
    """Return the xyxy box around points."""
    return min(xs), min(ys), max(xs), max(ys)
