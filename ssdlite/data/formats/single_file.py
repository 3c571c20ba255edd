"""Formats that describe all images of a split in one file: finding the files, their splits and their images.

Start with `SingleFileFormat`: a format adds how a file is recognised, and how it is read.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from ssdlite.data.formats.base import (
    MOST_LOST,
    Annotations,
    Box,
    Format,
    Found,
    require_file,
    require_folder,
    require_most,
    unopened,
)
from ssdlite.data.formats.folders import (
    IMAGE_SUFFIXES,
    ImageIndex,
    Seen,
    child,
    list_files,
    name_key,
    num_shared_folders,
    plain_path,
    split_folders,
    split_of_name,
)
from ssdlite.data.formats.problems import Problems
from ssdlite.data.records import MAX_SIDE, spread_indices
from ssdlite.errors import DataError
from ssdlite.io import one_line, quoted, read_json

ANNOTATION_FOLDERS = ("annotations", "labels", "annotation", "annots")


IMAGE_FOLDERS = ("images", "imgs", "jpegimages")


GLANCE = 1 << 20  # bytes at the start of a file that are looked at


NUM_NAMES = 20  # images of a file that are looked for


LEAST_THERE = 0.25  # of them: with fewer it is a stray file of another data set


SAME_IMAGES = 0.5  # two files that share as many of their first images are about the same ones


MOST_FILES = 50  # of one folder that are opened


@dataclass(frozen=True)
class FileSource:
    """One file of annotations, and the folder under which its images lie."""

    file: Path
    images: Path

    def __str__(self) -> str:
        return str(self.file)


S = TypeVar("S", bound=FileSource)


class _Glance(NamedTuple, Generic[S]):
    """A file of the format, and the images that its beginning is about."""

    source: S
    images: frozenset[Path]


class SingleFileFormat(Format[S]):
    """A format of one file for each split."""

    title: ClassVar[str]
    """Name of the format in messages."""
    suffixes: ClassVar[tuple[str, ...]]

    @abstractmethod
    def first_images(self, file: Path, start: bytes) -> list[str] | None:
        """Return the names of some images that a file describes, from its first `GLANCE` bytes; None where it is
        not of this format."""

    def choose(self, files: list[Path]) -> list[Path]:
        """Return the files of one folder that are to be read."""
        return files

    def by_split(self, source: S) -> dict[str | None, list[S]]:
        """Return the parts of a file by split, where the format can have several in one file; None is the split
        that the name of the file or its folder speaks of."""
        return {None: [source]}

    def find(self, path: Path) -> Found | None:
        indices = _Indices()
        if path.is_file():
            return self._find_file(path, indices)
        glances: dict[str | None, list[_Glance[S]]] = {}
        for of_folder, folder in split_folders(path).items():
            for file in self._files([folder]):
                if glance := self._glance(file, path, of_folder, indices):
                    glances.setdefault(of_folder, []).append(glance)
        if not glances:
            for file in self._files([path, *filter(None, [child(path, ANNOTATION_FOLDERS)])]):
                named = split_of_name(file.stem)
                if glance := self._glance(file, path, named, indices):
                    glances.setdefault(named, []).append(glance)
        if not glances:
            return None
        sources: dict[str | None, list[S]] = {}
        remarks: list[str] = []
        for split, several in glances.items():
            for source in _without_doubles(several, remarks):
                for part, parts in self.by_split(source).items():
                    sources.setdefault(part or split, []).extend(parts)
        return self._found(sources, remarks)

    def require(self, source: S) -> None:
        require_folder(source.images)
        require_file(source.file)

    def explain(self, seen: Seen) -> tuple[int, str] | None:
        first = seen.first_of(*self.suffixes)
        if first is None or self.first_images(first, _start(first)) is None:
            return None
        return seen.num_images + 1, f"{first.relative_to(seen.root)} {self._lacks_images(first)}"

    def _lacks_images(self, file: Path) -> str:
        return (
            f"is of the format {self.title}, but its images were not found; name their folder: "
            f"'data.train={{kind: {self.name}, file: {file}, images: FOLDER}}'"
        )

    def _find_file(self, file: Path, indices: _Indices) -> Found | None:
        """Return a file that was given itself. Raises DataError where its images are elsewhere."""
        if file.suffix.lower() not in self.suffixes:
            return None
        split = split_of_name(file.parent.name) or split_of_name(file.stem)
        if glance := self._glance(file, file.parent, split, indices):
            return self._found(self.by_split(glance.source), [])
        if self.first_images(file, _start(file)) is None:
            return None
        raise DataError(f"{file}: it {self._lacks_images(file)}")

    def _found(self, sources: dict[str | None, list[S]], remarks: Sequence[str]) -> Found:
        train = sources.get("train") or sources.get(None, [])
        val, test = sources.get("val", []), sources.get("test", [])
        return Found(self.title, train, val or test, test, tuple(remarks))

    def _files(self, folders: Sequence[Path]) -> list[Path]:
        files = [file for folder in folders for file in self.choose(list_files(folder, self.suffixes))]
        return files[:MOST_FILES]

    def _glance(self, file: Path, root: Path, split: str | None, indices: _Indices) -> _Glance[S] | None:
        """Return a file with the folder below which its images are; None where most of them are not there.

        `split` is the one that the file is of, as far as its name or folder says.
        """
        names = self.first_images(file, _start(file))
        if names is None:
            return None
        # Not above the data set: the images of another one beside it may have the same names.
        above = [file.parent.parent] if file.parent != root or is_annotation_folder(root) else []
        places = list(dict.fromkeys([file.parent, root, *above]))
        if split:  # images of other splits may have the same names
            inner = [folder for place in places for folder in _folders_of_split(place, split)]
            places = [folder for folder in inner if indices.share(folder, names) >= MOST_LOST] + places
        for folder in places:
            if not names or indices.share(folder, names) >= LEAST_THERE:
                images = filter(None, map(indices.of(folder).of_name, dict.fromkeys(names)))
                return _Glance(self.source_type(file, folder), frozenset(images))
        return None


class _Indices:
    """Images below some folders, each of which is listed once."""

    def __init__(self) -> None:
        self._made: dict[Path, ImageIndex] = {}

    def of(self, folder: Path) -> ImageIndex:
        if folder not in self._made:
            self._made[folder] = ImageIndex([folder])
        return self._made[folder]

    def share(self, folder: Path, names: Sequence[str]) -> float:
        """Return how large a part of the images is there, of a sample of `NUM_NAMES`; 0 of none."""
        distinct = list(dict.fromkeys(names))
        sample = [distinct[index] for index in spread_indices(len(distinct), NUM_NAMES)] if distinct else []
        return sum(self.of(folder).of_name(name) is not None for name in sample) / max(1, len(sample))


def _folders_of_split(place: Path, split: str) -> list[Path]:
    """Return the folders of a split in `place` and in its images/."""
    inner = child(place, IMAGE_FOLDERS)
    return [folders[split] for folder in (place, inner) if folder and split in (folders := split_folders(folder))]


def _without_doubles(glances: Sequence[_Glance[S]], remarks: list[str]) -> list[S]:
    """Return the files of a split without those about the images of a larger one, which `remarks` then says."""
    taken: list[_Glance[S]] = []
    for glance in sorted(glances, key=lambda one: -one.source.file.stat().st_size):
        for other in taken:
            least = min(len(glance.images), len(other.images))
            if least and len(glance.images & other.images) >= SAME_IMAGES * least:
                name, larger = glance.source.file.name, other.source.file.name
                remarks.append(f"{name} describes images of {larger} as well, and is not read")
                break
        else:
            taken.append(glance)
    return sorted((glance.source for glance in taken), key=lambda source: source.file)


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
    """Images of a single-file source by the names in the file; those that are not there become problems.

    With the `names` of all images of the file, an image that several of them lead to is that of the name that is
    most like its path: where cam1/1.jpg is there and cam2/1.jpg is not, it does not get the objects of both.
    """

    def __init__(self, found: Annotations, problems: Problems, names: Iterable[str] = ()) -> None:
        self.found, self.problems = found, problems
        self._index = ImageIndex([found.source.images])
        self._paths: dict[str, Path | None] = {}  # by name
        self._owners: dict[Path, int] = {}
        self._ids: set[str] = set()
        self._owners_by_name: dict[str, int | None] = {}
        self._absent: list[str] = []
        names_of: dict[Path, list[str]] = defaultdict(list)
        for name in dict.fromkeys(names):
            path = self._paths[name] = self._index.of_name(name)
            if path is not None:
                names_of[path].append(name)
        for path, several in names_of.items():
            if len(several) > 1:
                self._paths.update(dict.fromkeys(_names_of_others(path, several)))

    def add(self, name: str, size: tuple[int, int] | None = None) -> int | None:
        """Return the index of the image called `name`, which is added if it is new; None where it is not there.

        `size` is (height, width) as annotated.
        """
        if name in self._owners_by_name:
            return self._owners_by_name[name]
        path = self._paths[name] if name in self._paths else self._index.of_name(name)
        owner = None if path is None else self._add_path(path, size)
        self._owners_by_name[name] = owner
        if path is None:
            self._absent.append(name)
            text = "the image is not there, and is left out"
            self.problems.add("image-missing", self.found.file, text, item=one_line(name))
        elif (given := plain_path(name)).name != path.name and given.suffix.lower() in IMAGE_SUFFIXES:
            text = f"the file {one_line(given.name)} is not there, and {path.name} is taken"
            self.problems.add("image-respelt", self.found.file, text, item=one_line(name))
        return owner

    def _add_path(self, path: Path, size: tuple[int, int] | None) -> int:
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
        first = self._absent[0] if self._absent else ""
        message = (
            f"{self.found.file}: {len(self._absent)} of its images are not under {self.found.source.images}, the "
            f"first is {one_line(first)}; check the images folder"
        )
        require_most(self.found, len(self._absent), message, self.problems)


def _names_of_others(path: Path, names: Sequence[str]) -> list[str]:
    """Return those of the `names` that lead to an image which are those of others, because one is more like it.

    A name is less like it by another suffix, then by a folder that is not the image's where more are.
    """
    likeness, agrees = {}, {}
    for name in names:
        given = plain_path(name)
        shared = num_shared_folders(given, path)
        likeness[name] = name_key(given.name) in (name_key(path.name), name_key(path.stem)), shared
        agrees[name] = shared == len(given.parts) - 1  # also without any folder
    same_name, shared = max(likeness.values())
    return [
        name for name in names if likeness[name] < (same_name, 0 if agrees[name] and likeness[name][0] else shared)
    ]


def load_json(path: Path) -> Any:
    """Return the value in a JSON file. Raises DataError."""
    try:
        return read_json(path)
    except OSError as error:
        raise unopened(path, error) from error
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({one_line(str(error))}); export or download it again") from error


def annotated_size(height: str | None, width: str | None) -> tuple[int, int] | None:
    """Return (height, width) from the texts of a file; None where one is no whole number of pixels."""
    sides = []
    for text in (height, width):
        try:
            side = float(text or "")
        except ValueError:
            return None
        if "_" in (text or "") or not 0 < side <= MAX_SIDE or not side.is_integer():
            return None
        sides.append(int(side))
    return sides[0], sides[1]


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
