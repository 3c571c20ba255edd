"""Sizes of image files and whether they can be read, from their first and last bytes, remembered between runs.

Start with `read_headers`. An image that ends before its last row is decoded once, to see how much of it is there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from PIL import Image

from ssdlite.io import require_regular
from ssdlite.machine import usable_cores, user_cache_dir

logger = logging.getLogger(__name__)


CACHE_VARIABLE = "SSDLITE_CACHE_DIR"


EXIF_ORIENTATION = 0x0112


QUARTER_TURNS = (5, 6, 7, 8)


State: TypeAlias = Literal["good", "cut", "missing", "unreadable"]
"""cut: the file ends early, but enough of the image is there (see `images.read_image`)."""


END_MARKS: dict[str, bytes] = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}
"""Bytes near the end of a whole file, by Pillow's name of the format."""


TAIL = 64  # bytes at the end of a file that hold the mark; some programs pad a file with zeros


MANY = 1000  # headers that are worth remembering


class Header(NamedTuple):
    """Facts about an image file that cost no decoding."""

    height: int  # upright, pixels; 0 where it cannot be read
    width: int
    turned: bool  # stored on its side and turned by EXIF
    state: State

    @property
    def usable(self) -> bool:
        return self.state in ("good", "cut")

    def fits(self, annotated: tuple[int, int]) -> bool:
        """Return whether `images.read_annotated` takes the annotated (height, width)."""
        size = (self.height, self.width)
        return size == annotated or (self.turned and size[::-1] == annotated)


MISSING = Header(0, 0, False, "missing")


UNREADABLE = Header(0, 0, False, "unreadable")


def read_header(path: Path) -> Header:
    """Return the header of one file; never raises for what the file holds."""
    try:
        require_regular(path)
    except OSError:
        return MISSING
    try:
        with path.open("rb") as file:
            with Image.open(file) as image:
                width, height = image.size
                name = image.format or ""
                # Pillow turns TIFF by itself and reports the size after the turn.
                turned = name != "TIFF" and _orientation(image) in QUARTER_TURNS
            if turned:
                height, width = width, height
            mark = END_MARKS.get(name)
            if mark is None:
                return Header(height, width, turned, "good")
            file.seek(-min(TAIL, file.seek(0, os.SEEK_END)), os.SEEK_END)
            if mark in file.read(TAIL):
                return Header(height, width, turned, "good")
        return Header(height, width, turned, _state_without_mark(path, mark))
    except Exception:  # a damaged file makes Pillow raise nearly anything
        return _decoded_header(path)


def _orientation(image: Image.Image) -> int:
    if image.format == "PNG":  # `getexif` would decode the whole image, since a PNG may have it at its end
        exif = Image.Exif()
        exif.load(image.info.get("exif", b""))
        return int(exif.get(EXIF_ORIENTATION, 1))
    return int(image.getexif().get(EXIF_ORIENTATION, 1)) if "exif" in image.info or image.format == "WEBP" else 1


def _state_without_mark(path: Path, mark: bytes) -> State:
    """Decode a file whose last bytes are not its end mark, to see whether enough of it is there.

    Some programs write more behind the mark; a thumbnail's own is in the first half.
    """
    from ssdlite.data.images import decode_image  # here, because OpenCV takes a tenth of a second
    from ssdlite.errors import DataError

    try:
        data = path.read_bytes()
        decode_image(data, path)
    except (OSError, DataError):
        return "unreadable"
    return "good" if mark in data[len(data) // 2 :] else "cut"


def _decoded_header(path: Path) -> Header:
    """Size of a file that Pillow does not know, from OpenCV."""
    from ssdlite.data.images import decode_image
    from ssdlite.errors import DataError

    try:
        height, width = decode_image(path.read_bytes(), path).shape[:2]
    except (OSError, DataError):
        return UNREADABLE
    return Header(height, width, False, "good")


def read_headers(paths: Iterable[Path]) -> dict[Path, Header]:
    """Return the header of each of `paths`, those of many files in parallel and remembered between runs.

    A remembered header counts as long as the file has its size and time of change. What cannot be remembered (a
    home folder that may not be written) is read again the next time.
    """
    wanted = dict.fromkeys(paths)
    if len(wanted) < MANY:
        return {path: read_header(path) for path in wanted}
    by_folder: dict[Path, list[Path]] = {}
    for path in wanted:
        by_folder.setdefault(path.parent, []).append(path)
    found: dict[Path, Header] = {}
    with ThreadPoolExecutor(usable_cores()) as pool:
        for folder, members in by_folder.items():
            memory = _memory_of(folder) if len(members) >= MANY else None
            known = memory.known(members) if memory else {}
            fresh = [path for path in members if path not in known]
            known.update(zip(fresh, pool.map(read_header, fresh, chunksize=64), strict=True))
            if memory and fresh:
                memory.keep(known)
            found.update(known)
    return {path: found[path] for path in wanted}


def _memory_of(folder: Path) -> _Memory | None:
    try:
        return _Memory(folder, header_cache_dir())
    except RuntimeError:  # no home folder
        return None


STATES: tuple[State, ...] = ("good", "cut", "missing", "unreadable")


class _Memory:
    """Headers of the files in one folder, as a file in the user's cache folder."""

    def __init__(self, folder: Path, cache_dir: Path) -> None:
        self.stamps: dict[str, tuple[int, int]] = {}  # bytes and time of change, by name
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    status = entry.stat()
                    self.stamps[entry.name] = status.st_size, status.st_mtime_ns
        self.file = cache_dir / f"{hashlib.sha256(os.fsencode(folder.absolute())).hexdigest()[:32]}.json"

    def known(self, paths: Iterable[Path]) -> dict[Path, Header]:
        try:
            rows = json.loads(self.file.read_bytes())
            table = {
                name: (tuple(stamp), Header(row[0], row[1], row[2], STATES[state]))
                for name, stamp, row, state in rows
            }
        except (OSError, ValueError, TypeError, IndexError):
            return {}
        found = {}
        for path in paths:
            row = table.get(path.name)
            if row is not None and row[0] == self.stamps.get(path.name):
                found[path] = row[1]
        return found

    def keep(self, headers: dict[Path, Header]) -> None:
        rows = [
            [path.name, self.stamps[path.name], list(header[:3]), STATES.index(header.state)]
            for path, header in headers.items()
            if path.name in self.stamps
        ]
        temporary = self.file.with_suffix(f".{os.getpid()}.tmp")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(rows), encoding="utf-8")
            temporary.replace(self.file)
        except (OSError, UnicodeEncodeError) as error:
            logger.debug("headers are not remembered: %s", error)
            with contextlib.suppress(OSError):
                temporary.unlink()


def header_cache_dir() -> Path:
    """Return the folder of remembered headers: in SSDLITE_CACHE_DIR, or in the user's cache folder.

    Raises RuntimeError where that would be in a home folder that is not known.
    """
    return (
        Path(given).expanduser() / "headers"
        if (given := os.environ.get(CACHE_VARIABLE))
        else user_cache_dir() / "headers"
    )
