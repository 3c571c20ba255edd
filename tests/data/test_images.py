"""Every kind of image file gives upright 8 bit RGB; the reference is Pillow or the array that was written."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from ssdlite.data.images import image_size, missing_images, read_image
from ssdlite.errors import DataError

NOISE = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
PIXELS = cv2.resize(NOISE, (64, 48), interpolation=cv2.INTER_CUBIC)


def largest_difference(image: np.ndarray, expected: np.ndarray) -> float:
    assert image.dtype == np.uint8
    assert image.shape == expected.shape
    return np.abs(image.astype(float) - expected).max()


@pytest.mark.parametrize("with_adobe_marker", [True, False])
def test_cmyk_jpeg_is_read_as_pillow_does(tmp_path: Path, with_adobe_marker: bool) -> None:
    """Adobe stores CMYK inverted, and says so in the segment APP14 (FF EE)."""
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).convert("CMYK").save(buffer, "JPEG", quality=95)
    data = buffer.getvalue()
    start = data.index(b"\xff\xee")
    if not with_adobe_marker:
        data = data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]
    path = tmp_path / "cmyk.jpg"
    path.write_bytes(data)
    assert largest_difference(read_image(path), np.asarray(Image.open(path).convert("RGB"))) <= 1


@pytest.mark.parametrize("suffix", [".png", ".gif", ".bmp"])
def test_palette(tmp_path: Path, suffix: str) -> None:
    image = Image.fromarray(PIXELS).quantize(16)
    image.save(tmp_path / f"palette{suffix}")
    expected = np.asarray(image.convert("RGB"))
    assert largest_difference(read_image(tmp_path / f"palette{suffix}"), expected) == 0


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    first, second = Image.fromarray(PIXELS).quantize(16), Image.fromarray(255 - PIXELS).quantize(16)
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    assert largest_difference(read_image(tmp_path / "a.gif"), np.asarray(first.convert("RGB"))) == 0


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_is_scaled(tmp_path: Path, suffix: str, channels: int) -> None:
    """65535 is 255, so a value is divided by 257; decoders may round down."""
    pixels = np.random.default_rng(1).integers(0, 65536, (48, 64, channels), dtype=np.uint16)
    pixels[0, :2] = [[0] * channels, [65535] * channels]
    cv2.imwrite(str(tmp_path / f"deep{suffix}"), pixels[..., ::-1])
    image = read_image(tmp_path / f"deep{suffix}")
    assert largest_difference(image, np.broadcast_to(pixels / 257, (48, 64, 3))) < 1
    assert image[0, :2].tolist() == [[0] * 3, [255] * 3]


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_alpha_is_dropped(tmp_path: Path, suffix: str) -> None:
    alpha = np.full((48, 64, 1), 10, np.uint8)
    Image.fromarray(np.concatenate([PIXELS, alpha], axis=2)).save(tmp_path / f"alpha{suffix}")
    assert largest_difference(read_image(tmp_path / f"alpha{suffix}"), PIXELS) == 0


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(PIXELS).convert("L").convert(mode)
    image.save(tmp_path / "grey.png")
    assert largest_difference(read_image(tmp_path / "grey.png"), np.asarray(image.convert("RGB"))) == 0


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, file_format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"photo.{file_format.lower()}"
    Image.fromarray(PIXELS).save(path, file_format, exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert largest_difference(read_image(path), expected) <= 1
    assert image_size(path) == expected.shape[:2]


def test_labels_of_the_stored_image_keep_it_as_stored(tmp_path: Path) -> None:
    """Stored 64x48 with "turn right": upright it is 48x64, unless the annotation speaks of 64x48."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "photo.png"
    Image.fromarray(PIXELS).save(path, exif=exif)
    upright = np.rot90(PIXELS, -1)
    assert largest_difference(read_image(path), upright) == 0
    assert largest_difference(read_image(path, annotated_size=(64, 48)), upright) == 0
    assert largest_difference(read_image(path, annotated_size=(48, 64)), PIXELS) == 0
    assert largest_difference(read_image(path, annotated_size=(5, 5)), upright) == 0


def test_names_with_spaces_and_accents(tmp_path: Path) -> None:
    path = tmp_path / "un été 山.png"
    Image.fromarray(PIXELS).save(path)
    assert largest_difference(read_image(path), PIXELS) == 0


@pytest.mark.parametrize("content", [None, b"", b"no image"])
@pytest.mark.parametrize("read", [read_image, image_size])
def test_c35_unreadable_image_is_named(tmp_path: Path, content: bytes | None, read) -> None:
    path = tmp_path / "broken.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.jpg"):
        read(path)


def test_missing_images(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    there, gone, nowhere = tmp_path / "a.png", tmp_path / "b.png", tmp_path / "no" / "c.png"
    assert missing_images([there, gone, nowhere]) == [gone, nowhere]
