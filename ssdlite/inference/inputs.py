"""Inputs as a person names them on the command line: files, folders, cameras, streams and pipes of JPEG images."""

from __future__ import annotations

import glob
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

from ssdlite.data.formats.folders import IMAGE_SUFFIXES
from ssdlite.data.images import decode_image, read_image
from ssdlite.errors import ConfigError, DataError
from ssdlite.inference.frames import Frame, Source
from ssdlite.inference.video import VIDEO_SUFFIXES, Video

CHUNK = 1 << 16  # bytes read at a time


START, SCAN, END = b"\xff\xd8", 0xDA, 0xD9  # markers: of the image, of its coded pixels, of its end


WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}  # TEM, RST0..7 and another SOI: nothing belongs to them


def split_images(stream: BinaryIO) -> Iterator[bytes]:
    """The images in `stream`, each as soon as all of it is there, if reading gives what has come and does not wait.

    What begins as a JPEG image is taken as one such image after the other, whatever thumbnails they hold inside;
    what lies between two is skipped. Anything else is one image up to the end of the stream, as is the rest of a
    JPEG image that is broken off: decoding will tell. Nothing at all gives nothing.
    """
    data = _Ahead(stream)
    if not data.starts_with(START):
        if rest := data.take_all():
            yield rest
        return
    while data.seek(START):
        end = _end_of_jpeg(data)
        yield data.take(end) if end is not None else data.take_all()


class _Ahead:
    """A stream whose bytes can be looked at before they are taken."""

    def __init__(self, stream: BinaryIO) -> None:
        self._read = stream.read
        self._held = bytearray()
        self._ended = False

    def reaches(self, count: int) -> bool:
        """Return whether there are `count` bytes or more, reading on if need be."""
        while len(self._held) < count and not self._ended:
            chunk = self._read(CHUNK)
            self._held += chunk
            self._ended = not chunk
        return len(self._held) >= count

    def __getitem__(self, position: int) -> int:
        return self._held[position]

    def starts_with(self, prefix: bytes) -> bool:
        return self.reaches(len(prefix)) and self._held.startswith(prefix)

    def find(self, sign: bytes, start: int) -> int:
        """The position of `sign` at `start` or after, reading on; -1 if there is none."""
        while (position := self._held.find(sign, start)) < 0:
            start = max(start, len(self._held) - len(sign) + 1)
            if not self.reaches(len(self._held) + 1):
                return -1
        return position

    def seek(self, sign: bytes) -> bool:
        """Drop what comes before `sign`, or everything."""
        position = self.find(sign, 0)
        del self._held[: position if position >= 0 else len(self._held)]
        return position >= 0

    def take(self, count: int) -> bytes:
        taken = bytes(self._held[:count])
        del self._held[:count]
        return taken

    def take_all(self) -> bytes:
        while self.reaches(len(self._held) + 1):
            pass
        return self.take(len(self._held))


def _end_of_jpeg(data: _Ahead) -> int | None:
    """The length of the JPEG image that `data` begins with; None if it is broken off.

    By its markers (ITU-T T.81, B.1): segments say how long they are, so that a thumbnail within one is stepped
    over. Coded pixels do not: in them 0xFF is followed by 0 or by a marker.
    """
    position = len(START)
    while data.reaches(position + 2):
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF:  # padding
            position += 1
            continue
        position += 2
        if marker == END:
            return position
        if marker in WITHOUT_LENGTH:
            continue
        if not data.reaches(position + 2):
            return None
        position += (data[position] << 8) + data[position + 1]
        if marker == SCAN:
            if (after := _end_of_scan(data, position)) is None:
                return None
            position = after
    return None


def _end_of_scan(data: _Ahead, position: int) -> int | None:
    """Return the position of the next marker that ends coded pixels."""
    while (position := data.find(b"\xff", position)) >= 0:
        if not data.reaches(position + 2):
            return None
        if data[position + 1] != 0 and data[position + 1] not in WITHOUT_LENGTH:
            return position
        position += 2
    return None


PATIENCE = 10.0  # seconds that a live source may be silent


STANDARD_INPUT = "-"


@dataclass(frozen=True)
class ImageFile:
    """A picture of its own."""

    path: Path
    stem: str
    patience: float | None = None

    @property
    def name(self) -> str:
        return str(self.path)

    def __iter__(self) -> Iterator[Frame]:
        yield Frame(self, partial(read_image, self.path))


@dataclass(frozen=True)
class EncodedImages:
    """Source of images through a pipe: one encoded image, or JPEG images one after the other."""

    stream: BinaryIO
    name: str = STANDARD_INPUT
    stem: str = "stdin"
    patience: float | None = None

    def __iter__(self) -> Iterator[Frame]:
        number = -1
        for number, data in enumerate(split_images(self.stream)):
            name = f"image {number} of standard input"
            yield Frame(self, partial(decode_image, data, Path(name)), number)
        if number < 0:
            raise DataError(
                "standard input is empty: pipe an image in, as in 'ssdlite predict MODEL - < street.jpg'."
            )


def find_inputs(
    inputs: Sequence[str], *, recursive: bool = False, every: int = 1, patience: float = PATIENCE
) -> list[Source]:
    """The sources that `inputs` name, each once and each with a stem of its own, in the order given.

    An input is an image or video file, a folder of them (with `recursive` also what lies deeper), a pattern with *,
    ? or **, the number of a camera, the address of a stream, or - for standard input. A folder and a pattern give
    files by suffix, in order of name. `every` and `patience` are those of `Video`.

    Raises DataError for what does not exist or holds nothing, ConfigError for a live source beside another source.
    """
    found: dict[object, Source] = {}
    for text in inputs:
        for key, source in _read_input(text, recursive, every, patience):
            found.setdefault(key, source)
    if not found:
        raise DataError("nothing was given to look at; name images, folders, videos, a camera or a stream.")
    live = [source for source in found.values() if source.patience is not None]
    if live and len(found) > 1:
        raise ConfigError(f"{live[0].name} may never end, so it must be the only input.")
    return _with_own_stems(list(found.values()))


def _read_input(text: str, recursive: bool, every: int, patience: float) -> Iterator[tuple[object, Source]]:
    """The sources of one input, each with what makes it the same as another."""
    path = Path(text)
    if text == STANDARD_INPUT:
        if sys.stdin is None or sys.stdin.isatty():
            raise ConfigError("'-' reads images from standard input, but nothing is piped into it.")
        # Without Python's buffer, whose lock a thread that waits for bytes would hold when the program ends.
        yield text, EncodedImages(getattr(sys.stdin.buffer, "raw", sys.stdin.buffer))
    elif "://" in text:
        yield text, Video(text, _stem_of_address(text), every, patience)
    elif text.isdigit() and text.isascii() and not path.exists():
        yield text, Video(str(int(text)), f"camera-{int(text)}", every, patience)
    else:
        for file in _find_files(text, path, recursive):
            is_video = file.suffix.lower() in VIDEO_SUFFIXES
            yield file, Video(str(file), file.stem, every) if is_video else ImageFile(file, file.stem)


def _find_files(text: str, path: Path, recursive: bool) -> list[Path]:
    try:
        if path.is_dir():
            files = [file for file in sorted(path.rglob("*") if recursive else path.iterdir()) if _is_picture(file)]
            if not files:
                deeper = (
                    "" if recursive or not any(map(Path.is_dir, path.iterdir())) else "; --recursive looks deeper"
                )
                raise DataError(f"{path}: there are no images or videos ({_suffixes()}) in this folder{deeper}.")
            return files
        if path.is_file():
            return [path]
    except (OSError, ValueError) as error:  # a name that is too long, or that no file can have
        raise DataError(f"{text[:200]}: {getattr(error, 'strerror', None) or error}; check the path") from None
    if glob.has_magic(text):
        matching = sorted(glob.glob(text, recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
        files = [file for file in map(Path, matching) if _is_picture(file)]
        if not files:
            raise DataError(f"{text}: no image or video ({_suffixes()}) matches this pattern.")
        return files
    raise DataError(f"{path}: there is no such file or folder; check the path")


def _is_picture(path: Path) -> bool:
    """Return whether a file in a folder is an image or a video; one whose name begins with a dot, such as a Mac's
    ._a.jpg, is neither."""
    is_named = path.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES) and not path.name.startswith(".")
    return is_named and path.is_file()


def _suffixes() -> str:
    return ", ".join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))


def _stem_of_address(address: str) -> str:
    """rtsp://user:password@camera.local:554/live -> camera.local: no secrets, nothing that a path cannot hold."""
    host = address.split("://", 1)[1].split("/", 1)[0].rpartition("@")[2].partition(":")[0]
    return "".join(sign if sign.isalnum() or sign in ".-" else "-" for sign in host).strip(".-") or "stream"


def _with_own_stems(sources: Sequence[Source]) -> list[Source]:
    """Return the sources with distinct stems: those that are taken are numbered."""
    taken: set[str] = set()
    distinct: list[Source] = []
    for source in sources:
        stem, number = source.stem, 2
        while stem.lower() in taken:  # some file systems see no difference between A.jpg and a.jpg
            stem, number = f"{source.stem}-{number}", number + 1
        taken.add(stem.lower())
        distinct.append(replace(source, stem=stem))  # type: ignore[type-var]
    return distinct
