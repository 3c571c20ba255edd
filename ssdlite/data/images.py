"""Image files as RGB arrays, whatever their colour model, depth and orientation, resized to the network's input."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from ssdlite.errors import DataError
from ssdlite.io import read_bytes, require_regular
from ssdlite.structures import Record, ResizeAlignment

EXIF_ORIENTATION = 0x0112


JPEG_START, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"


MOST_MISSING = 0.25  # of the rows of a JPEG that is taken although its file ends early


TIFF_SIGNATURES = (b"II*\0", b"MM\0*")


def read_image(path: str | Path, annotated_size: tuple[int, int] | None = None) -> np.ndarray:
    """(H, W, 3) uint8 RGB, upright.

    Grey and palette images become RGB, 16 bit is scaled to 8, CMYK is converted, an alpha channel is dropped (the
    colours under it stay as they were stored), and of an animation the first frame is taken.

    A photograph that carries an EXIF orientation is turned upright, except where `annotated_size`
    (height, width) fits only the stored image: then its labels were made on that, and it is read as stored.

    A JPEG that ends early is taken if at most `MOST_MISSING` of its rows are not there, which are grey.

    Raises `DataError` for a file that is missing or cannot be decoded.
    """
    path = Path(path)
    try:
        data = read_bytes(path)
    except OSError as error:
        raise DataError(f"{path}: the image cannot be opened ({error.strerror}); check the path") from error
    image = decode_image(data, path)
    if annotated_size is not None and image.shape[:2] != annotated_size == image.shape[1::-1]:
        as_stored = _decode(data, path, upright=False)
        if as_stored.shape[:2] == annotated_size:
            return as_stored
    return image


def decode_image(data: bytes, path: Path) -> np.ndarray:
    """`read_image` for the bytes of a file; `path` is what a message calls it."""
    return _decode(data, path, upright=True)


def read_annotated(record: Record) -> np.ndarray:
    """The image of `record` as `read_image` gives it. Raises `DataError` also if it has not the annotated size."""
    image = read_image(record.image_path, annotated_size=record.size)
    if image.shape[:2] != record.size:
        (height, width), (annotated_height, annotated_width) = image.shape[:2], record.size
        raise DataError(
            f"{record.image_path}: the image is {width}x{height} but its annotation says "
            f"{annotated_width}x{annotated_height}; correct the size in the annotation, and the boxes with it"
        )
    return image


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of the upright image, from the file's header alone. Raises `DataError` as `read_image`."""
    try:
        require_regular(Path(path))
        with Image.open(path) as image:
            width, height = image.size
            # Pillow turns TIFF by itself and reports the size after the turn.
            turned = image.format != "TIFF" and image.getexif().get(EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not a readable image; replace it or take it out of the data set") from error
    return (width, height) if turned else (height, width)


def missing_images(paths: Iterable[Path]) -> list[Path]:
    """Return the `paths` that do not exist; each folder being listed once (cheap on network drives)."""
    listings: dict[Path, set[str]] = {}
    missing = []
    for path in paths:
        folder = path.parent
        if folder not in listings:
            listings[folder] = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
        if path.name not in listings[folder]:
            missing.append(path)
    return missing


def _decode(data: bytes, path: Path, upright: bool) -> np.ndarray:
    if not _is_tiff_with_alpha(data):  # OpenCV would multiply its colours by alpha
        flags = cv2.IMREAD_COLOR if upright else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error:  # an empty file, or one of more than 2^30 pixels
            image = None
        if image is not None:
            return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)
    try:  # formats that this build of OpenCV does not know, such as GIF before 4.11
        with Image.open(io.BytesIO(data)) as other:
            return np.array((ImageOps.exif_transpose(other) if upright else other).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        if (cut := decode_cut(data, upright)) is not None:
            return cut
        raise DataError(f"{path}: not a readable image; replace it or take it out of the data set") from error


def decode_cut(data: bytes, upright: bool = True) -> np.ndarray | None:
    """Return (H, W, 3) uint8 RGB of a JPEG whose last bytes are missing; None where it is none, or more rows than
    `MOST_MISSING` of all are."""
    if not data.startswith(JPEG_START):
        return None
    try:
        with Image.open(io.BytesIO(data + JPEG_END)) as image:  # what is missing becomes flat
            stored = np.array(image.convert("RGB"))
            pixels = np.array(ImageOps.exif_transpose(image).convert("RGB")) if upright else stored
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    is_flat = (stored == stored[-1, -1]).all(axis=(1, 2))
    num_flat = len(is_flat) if is_flat.all() else int(np.argmin(is_flat[::-1]))
    return pixels if num_flat <= MOST_MISSING * len(is_flat) else None


def _is_tiff_with_alpha(data: bytes) -> bool:
    if not data.startswith(TIFF_SIGNATURES):
        return False
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.mode == "RGBA"
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def resize(image: np.ndarray, size: tuple[int, int], alignment: ResizeAlignment = "half_pixel") -> np.ndarray:
    """(H, W, 3) -> (*size, 3) with size (height, width); training, validation and prediction share it.

    Bilinear, as in the published models; pixels are averaged where both sides shrink to less than half, since
    bilinear interpolation would skip some of them. `asymmetric` never averages: it gives the pixels of TensorFlow
    1's resize_bilinear. With OpenCV 5 they differ by rounding alone; OpenCV 4 rounds positions to 1/32 pixel, which
    is up to five grey levels on noise and one on photographs.
    """
    height, width = image.shape[:2]
    if alignment == "asymmetric":
        scale = np.array([[width / size[1], 0, 0], [0, height / size[0], 0]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(image, scale, size[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
    shrinks = height > 2 * size[0] and width > 2 * size[1]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def halvings(size: tuple[int, int], target: tuple[int, int]) -> int:
    """Return how often both sides of `size` can be halved and stay at `target` (height, width) or above."""
    ratio = min(size[0] / target[0], size[1] / target[1])
    return max(0, math.ceil(math.log2(ratio)) - 1) if ratio > 1 else 0


def shrink(image: np.ndarray, size: tuple[int, int], alignment: ResizeAlignment = "half_pixel") -> np.ndarray:
    """`resize` for windows of training, where it would average: halve until bilinear interpolation skips nothing.

    Averages of 2x2 pixels are vectorised in OpenCV, those of 2.13x2.13 are not: 640x640 to 150x150 takes 0.17 ms
    in place of 1.0. Where the sides of `image` are no multiples of the power of two it is right but slow.
    """
    return resize(halve(image, size, alignment), size, alignment)


def halve(image: np.ndarray, size: tuple[int, int], alignment: ResizeAlignment = "half_pixel") -> np.ndarray:
    """The first part of `shrink`: (H, W, 3) -> what is left to interpolate."""
    if alignment == "half_pixel":
        for _ in range(halvings(image.shape[:2], size)):
            half = (image.shape[1] // 2, image.shape[0] // 2)
            image = cv2.resize(image, half, interpolation=cv2.INTER_AREA)
    return image
