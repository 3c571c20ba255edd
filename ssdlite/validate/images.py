"""Checks of image files: each is read once, for its hash, its header, and to see that it can be decoded.

Start with `examine_images`.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from PIL import Image, ImageOps

from ssdlite.data.images import EXIF_ORIENTATION, decode_cut
from ssdlite.io import read_bytes
from ssdlite.machine import usable_cores

Track: TypeAlias = Callable[[Iterable[Path]], Iterable[Path]]


OPENCV_LIMIT = 1 << 30  # pixels; OpenCV and Pillow decode no more


HUGE = 2 * 89_478_485  # pixels: where Pillow by itself takes an image for an attack. Such are never decoded here


PHOTOGRAPH = ("JPEG", "MPO")  # MPO: what some cameras write, a JPEG with a second one behind it


BITS_PER_SAMPLE = 258  # TIFF


QUARTER_TURNS = (5, 6, 7, 8)


@dataclass(frozen=True)
class ImageFacts:
    """Facts that the bytes of one image file tell."""

    digest: bytes = b""  # of the whole file
    size: tuple[int, int] | None = None  # (height, width) upright; None where it cannot be read
    turned: bool = False  # stored on its side, and turned upright by EXIF
    usable: bool = True  # training can read it
    found: tuple[tuple[str, str], ...] = ()  # kind and text of each problem

    def fits(self, annotated: tuple[int, int]) -> bool:
        """Return whether `data.images.read_annotated` takes the annotated (height, width)."""
        return self.size is not None and (self.size == annotated or (self.turned and self.size[::-1] == annotated))


def examine_images(paths: Sequence[Path], track: Track | None = None) -> dict[Path, ImageFacts]:
    """Examine each file of `paths` (which are distinct), on all cores; `track` wraps them to show how far it is."""
    with _unbounded(), ThreadPoolExecutor(usable_cores()) as pool:  # decoding and hashing hold no lock
        facts = pool.map(examine, paths)
        return {path: next(facts) for path in (track(paths) if track else paths)}


def examine(path: Path) -> ImageFacts:
    """Return the facts of one file."""
    try:
        data = read_bytes(path)
    except OSError as error:
        return _useless("image-missing", f"the image cannot be opened ({error.strerror}); check the path")
    if not data:
        return _useless("image-without-bytes", "the file is empty; replace it or take it out of the data set")
    digest = hashlib.blake2b(data, digest_size=16).digest()
    header = _read_header(data)
    if header is None:
        decoded = _decode(data, cv2.IMREAD_COLOR)  # formats that only OpenCV knows
        if decoded is None:
            return _useless(
                "image-unreadable", "not a readable image; replace it or take it out of the data set", digest
            )
        return ImageFacts(digest, decoded)
    found = [*_check_name(path, header), *header.found]
    num_pixels = header.size[0] * header.size[1]
    if num_pixels > HUGE:
        kind, end = "image-huge", "decoding takes gigabytes; make it smaller"
        if num_pixels > OPENCV_LIMIT:
            kind, end = "image-bomb", "it is never decoded; take it out of the data set"
        found.append((kind, f"it is {header.size[1]}x{header.size[0]} pixels; {end}"))
        return ImageFacts(digest, header.size, header.turned, kind == "image-huge", tuple(found))
    # A JPEG is read to its end at an eighth of the size in half the time.
    is_photograph = header.format in PHOTOGRAPH
    decoded = _decode(data, cv2.IMREAD_REDUCED_COLOR_8 if is_photograph else cv2.IMREAD_COLOR)
    if decoded is None:
        decoded = _decode_by_pillow(data)
    if decoded is None and (cut := decode_cut(data)) is not None:
        decoded = cut.shape[:2]
        found.append(("image-cut", "the file ends early; what is missing of the image is grey"))
    if decoded is None:
        text = f"{header.format} data end early or are damaged; replace it or take it out of the data set"
        return ImageFacts(digest, header.size, header.turned, False, (*found, ("image-truncated", text)))
    return ImageFacts(digest, header.size if is_photograph else decoded, header.turned, True, tuple(found))


@dataclass(frozen=True)
class _Header:
    format: str
    size: tuple[int, int]  # (height, width) upright
    turned: bool
    found: tuple[tuple[str, str], ...]


def _read_header(data: bytes) -> _Header | None:
    """Return the header of an image; None for a file that Pillow does not recognise."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            name = image.format or "unknown"
            orientation = _orientation(image)
            # Pillow turns TIFF by itself and reports the size after the turn.
            turned = orientation in QUARTER_TURNS
            size = (width, height) if turned and name != "TIFF" else (height, width)
            return _Header(name, size, turned, tuple(_describe(image, data, orientation)))
    except Exception:  # a damaged header makes Pillow raise nearly anything
        return None


def _orientation(image: Image.Image) -> int:
    if image.format != "PNG":
        return int(image.getexif().get(EXIF_ORIENTATION, 1))
    exif = Image.Exif()  # `getexif` would decode the whole image, since a PNG may have it at its end
    exif.load(image.info.get("exif", b""))
    return int(exif.get(EXIF_ORIENTATION, 1))


def _describe(image: Image.Image, data: bytes, orientation: int) -> Iterator[tuple[str, str]]:
    if orientation != 1:
        yield (
            "image-rotated",
            f"EXIF orientation {orientation}: it is turned upright, unless its annotated size forbids",
        )
    if image.mode in ("1", "L", "LA", "La") or image.mode.startswith(("I", "F")):
        yield "image-grey", "it is grey, and each channel gets the same"
    if _bits(image, data) > 8:
        yield "image-16-bit", f"it has {_bits(image, data)} bits a channel, which are scaled to 8"
    if image.mode == "CMYK":
        yield "image-cmyk", "it is CMYK and is converted to RGB without its colour profile"
    if image.format not in PHOTOGRAPH and getattr(image, "is_animated", False):
        yield "image-animated", "it has several frames, of which the first is taken"


def _bits(image: Image.Image, data: bytes) -> int:
    """Bits a channel."""
    if image.format == "PNG":
        return data[24]  # after the signature (8), length and name of IHDR (8), width and height (8)
    if image.format == "TIFF":
        bits: Any = image.tag_v2.get(BITS_PER_SAMPLE, (8,))  # type: ignore[attr-defined]
        return max(bits) if isinstance(bits, tuple) else int(bits)
    return 16 if image.mode.startswith("I") else 8


def _check_name(path: Path, header: _Header) -> Iterator[tuple[str, str]]:
    named = Image.registered_extensions().get(path.suffix.lower(), "none")
    if named != header.format and not (named in PHOTOGRAPH and header.format in PHOTOGRAPH):
        yield "image-misnamed", f"it is {header.format}, which its name does not say; the content counts"


def _decode(data: bytes, flags: int) -> tuple[int, int] | None:
    """(height, width), None where OpenCV cannot decode it."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    return None if image is None else image.shape[:2]


def _decode_by_pillow(data: bytes) -> tuple[int, int] | None:
    """(height, width) by Pillow, to which `data.images.read_image` turns where OpenCV fails; None if that fails."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = ImageOps.exif_transpose(image).convert("RGB").size
    except Exception:  # as for headers
        return None
    return height, width


def _useless(kind: str, text: str, digest: bytes = b"") -> ImageFacts:
    return ImageFacts(digest, usable=False, found=((kind, text),))


@contextmanager
def _unbounded() -> Iterator[None]:
    """Pillow tells the size of any image, since nothing huge is decoded here; OpenCV keeps its complaints."""
    pixels, level = Image.MAX_IMAGE_PIXELS, cv2.utils.logging.getLogLevel()
    Image.MAX_IMAGE_PIXELS = None
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    Image.init()  # once, before the threads do
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = pixels
        cv2.utils.logging.setLogLevel(level)
