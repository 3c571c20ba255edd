"""Folders of data sets: the names that splits have, files by kind, and images by the names that annotations give.

Start with `split_folders` and `ImageIndex`. Files and folders whose names begin with a dot are never data, nor are
those that archivers and file managers leave behind.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")


SPLIT_NAMES: dict[str, tuple[str, ...]] = {
    "train": ("train", "training", "trainset"),
    "val": ("valid", "val", "validation", "dev"),
    "test": ("test", "testing"),
}
"""Names of folders and files that hold a split, in lower case; the first one that is there counts."""


IGNORED_NAMES = {"__macosx", "thumbs.db", "desktop.ini"}


def is_data(name: str) -> bool:
    """Return whether a file or folder of this name can belong to a data set: `._a.jpg` cannot."""
    return not name.startswith(".") and name.lower() not in IGNORED_NAMES


def list_folder(folder: Path) -> list[Path]:
    """Return the files and folders in `folder` that can be data, sorted by name; [] where there is no such folder.

    Raises OSError for a folder that may not be looked into.
    """
    return _list_where(folder, lambda _: True)


def list_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Return the files in `folder` that can be data and end on one of `suffixes`, in any case, sorted by name."""

    def is_wanted(entry: os.DirEntry[str]) -> bool:
        if not entry.name.lower().endswith(tuple(suffixes)):
            return False
        return Path(entry.path).is_file() if entry.is_symlink() else entry.is_file()

    return _list_where(folder, is_wanted)


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in `folder` that can be data, sorted by name."""
    return _list_where(folder, lambda entry: Path(entry.path).is_dir() if entry.is_symlink() else entry.is_dir())


def _list_where(folder: Path, is_wanted: Callable[[os.DirEntry[str]], bool]) -> list[Path]:
    """Return the names that can be data; only those that are wanted become a Path, because a folder may hold
    100,000 images."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if is_data(entry.name) and is_wanted(entry))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [folder / name for name in names]


def walk_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Return the files under `folder`, at any depth, that can be data and end on one of `suffixes`."""
    found: list[Path] = []
    for parent, files in _walk(folder):
        found += [
            parent / name for name in sorted(files) if is_data(name) and name.lower().endswith(tuple(suffixes))
        ]
    return found


def _walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield each folder from `folder` on, with the names of its files; links are followed, each folder once."""
    seen: set[tuple[int, int]] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(root)  # noqa: PTH116 (of thousands of folders)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(filter(is_data, folders))
        yield Path(root), files


def has_suffix(folder: Path, suffixes: Sequence[str]) -> bool:
    """Return whether a file that can be data lies in `folder` itself and ends on one of `suffixes`."""
    try:
        with os.scandir(folder) as entries:
            return any(entry.name.lower().endswith(tuple(suffixes)) and is_data(entry.name) for entry in entries)
    except OSError:
        return False


def child(folder: Path, names: Iterable[str]) -> Path | None:
    """Return the folder in `folder` that has the first of `names` (lower case) in any case; None without one."""
    there = {path.name.lower(): path for path in subfolders(folder)}
    return next((there[name] for name in names if name in there), None)


def split_folders(folder: Path) -> dict[str, Path]:
    """Return the folders of `folder` that have the name of a split, by 'train', 'val' and 'test'."""
    there = {path.name.lower(): path for path in subfolders(folder)}
    found = {}
    for split, names in SPLIT_NAMES.items():
        if name := next((name for name in names if name in there), None):
            found[split] = there[name]
    return found


def split_of_name(stem: str) -> str | None:
    """Return the split that the name of a file or folder speaks of: 'train' for instances_Train2017; else None."""
    words = "".join(letter if letter.isalpha() else " " for letter in stem.lower()).split()
    for split, names in SPLIT_NAMES.items():
        if any(name in words for name in names):
            return split
    return None


def plain_path(text: str) -> PurePosixPath:
    """Return a path that an annotation gives, in POSIX form: Windows' separators and drive become plain parts."""
    return PurePosixPath(text.strip().replace("\\", "/"))


def name_key(name: str) -> str:
    """Return what two names of one file share: Unicode's composed form (a Mac decomposes), in lower case."""
    return unicodedata.normalize("NFC", name).casefold()


class ImageIndex:
    """Images of some folders by the name or path that an annotation gives, whatever machine wrote it.

    A name is looked for as it is, then in Unicode's composed form and in any case, then by its stem with another
    image suffix. Paths of another machine are shortened from the front until they lead to an image.
    """

    def __init__(self, folders: Iterable[Path], *, deep: bool = True) -> None:
        self.paths: list[Path] = []
        self._by_key: dict[str, list[Path]] = defaultdict(list)
        self._by_stem: dict[str, list[Path]] = defaultdict(list)
        for folder in dict.fromkeys(folders):
            listed = walk_files(folder, IMAGE_SUFFIXES) if deep else list_files(folder, IMAGE_SUFFIXES)
            for path in listed:
                self.paths.append(path)
                self._by_key[name_key(path.name)].append(path)
                self._by_stem[name_key(path.stem)].append(path)

    def of_name(self, text: str) -> Path | None:
        """Return the image that `text`, a file name or a path in any form, means; None where there is none.

        Of several images with the name it is the one that shares most of the path's last parts.
        """
        given = plain_path(text)
        if not given.name:
            return None
        candidates = self._by_key.get(name_key(given.name)) or self._by_stem.get(
            name_key(given.stem if given.suffix.lower() in IMAGE_SUFFIXES else given.name), []
        )
        return _most_alike(given, candidates)

    def of_stem(self, stem: str) -> list[Path]:
        """Return the images with the stem of an annotation file."""
        return self._by_stem.get(name_key(stem), [])


def num_shared_folders(given: PurePosixPath, path: Path) -> int:
    """Return how many folders two paths share, counted from the file up."""
    shared = 0
    for part, other in zip(reversed(given.parts[:-1]), reversed(path.parts[:-1]), strict=False):
        if name_key(part) != name_key(other):
            break
        shared += 1
    return shared


def _most_alike(given: PurePosixPath, candidates: Sequence[Path]) -> Path | None:
    if len(candidates) < 2:
        return candidates[0] if candidates else None
    return max(candidates, key=lambda path: (num_shared_folders(given, path), path.name == given.name))


MOST_SEEN = 100_000  # files that are counted in a folder that no format recognises


class Seen:
    """Files under a folder, counted by the folder that they lie in and by suffix: for a sentence about it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.counts: Counter[tuple[str, str]] = Counter()  # by folder, relative to the root, and suffix
        self.first: dict[str, Path] = {}  # by suffix
        num = 0
        for parent, files in _walk(root):
            relative = "" if parent == root else f"{parent.relative_to(root).as_posix()}/"
            for name in sorted(filter(is_data, files)):
                suffix = Path(name).suffix.lower() or name
                self.counts[relative, suffix] += 1
                self.first.setdefault(suffix, parent / name)
            num += len(files)
            if num > MOST_SEEN:
                break

    def num(self, *suffixes: str) -> int:
        """Return how many files end on one of `suffixes`."""
        return sum(count for (_, suffix), count in self.counts.items() if suffix in suffixes)

    @property
    def num_images(self) -> int:
        return self.num(*IMAGE_SUFFIXES)

    def first_of(self, *suffixes: str) -> Path | None:
        """Return the first file that ends on one of `suffixes`."""
        return next((self.first[suffix] for suffix in suffixes if suffix in self.first), None)

    def __str__(self) -> str:
        """Such as "412 .jpg in images/, 398 .xml in labels/ and 1 .md"."""
        listed = self.counts.most_common(6)
        parts = [f"{count} {suffix}" + (f" in {folder}" if folder else "") for (folder, suffix), count in listed]
        if (more := self.counts.total() - sum(count for _, count in listed)) > 0:
            parts.append(f"{more} other files")
        return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1] if parts else "nothing"]))
