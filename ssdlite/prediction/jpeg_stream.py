"""JPEG images one after the other, as cameras and `ffmpeg -f mjpeg -` give them, taken apart without decoding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

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
        """Whether there are `count` bytes or more, reading on if need be."""
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
    """Where the next marker that ends coded pixels stands."""
    while (position := data.find(b"\xff", position)) >= 0:
        if not data.reaches(position + 2):
            return None
        if data[position + 1] != 0 and data[position + 1] not in WITHOUT_LENGTH:
            return position
        position += 2
    return None
