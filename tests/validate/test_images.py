from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from ssdlite.data.formats.problems import KINDS
from ssdlite.data.images import read_image
from ssdlite.errors import DataError
from ssdlite.validate import images as checked
from ssdlite.validate.images import ImageFacts, examine, examine_images

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


RGB = Image.fromarray(PIXELS)
TURNED = Image.Exif()
TURNED[0x0112] = 6
JPEG, PNG = encoded(RGB, "JPEG"), encoded(RGB)

UNUSABLE = {
    "nothing": ("a.jpg", b"", "image-without-bytes"),
    "a web page": ("a.jpg", b"<html>not found</html>", "image-unreadable"),
    "half a JPEG": ("a.jpg", JPEG[: len(JPEG) // 2], "image-truncated"),
    "half a PNG": ("a.png", PNG[: len(PNG) // 2], "image-truncated"),
    "half a BMP": ("a.bmp", encoded(RGB, "BMP")[:3000], "image-truncated"),
}
USABLE = {
    "JPEG": ("a.JPG", JPEG, []),
    "PNG": ("a.png", PNG, []),
    "WebP": ("a.webp", encoded(RGB, "WEBP"), []),
    "TIFF": ("a.tif", encoded(RGB, "TIFF"), []),
    "GIF": ("a.gif", encoded(RGB, "GIF"), []),
    "PNG with the name of a JPEG": ("a.jpg", PNG, ["image-misnamed"]),
    "no extension": ("a", PNG, ["image-misnamed"]),
    "grey": ("a.png", encoded(RGB.convert("L")), ["image-grey"]),
    "black and white": ("a.png", encoded(RGB.convert("1")), ["image-grey"]),
    "16 bit": (
        "a.png",
        encoded(Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257)),
        ["image-16-bit", "image-grey"],
    ),
    "CMYK": ("a.jpg", encoded(RGB.convert("CMYK"), "JPEG"), ["image-cmyk"]),
    "animated": (
        "a.gif",
        encoded(RGB, "GIF", save_all=True, append_images=[Image.fromarray(255 - PIXELS)]),
        ["image-animated"],
    ),
    "turned PNG": ("a.png", encoded(RGB, exif=TURNED), ["image-rotated"]),
    "turned": ("a.jpg", encoded(RGB, "JPEG", exif=TURNED), ["image-rotated"]),
}


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(("name", "data", "kind"), UNUSABLE.values(), ids=UNUSABLE)
def test_images_that_are_left_out_are_those_that_the_reader_refuses(tmp_path, name, data, kind):
    path = write(tmp_path / name, data)
    (facts,) = examine_images([path]).values()
    assert [found for found, _ in facts.found] == [kind] and KINDS[kind] == "warning" and not facts.usable
    with pytest.raises(DataError):
        read_image(path)


@pytest.mark.parametrize(("name", "data", "kinds"), USABLE.values(), ids=USABLE)
def test_what_can_be_read_is_no_error(tmp_path, name, data, kinds):
    path = write(tmp_path / name, data)
    (facts,) = examine_images([path]).values()
    assert sorted(kind for kind, _ in facts.found) == kinds
    assert all(KINDS[kind] != "error" for kind in kinds) and facts.usable
    assert facts.size == read_image(path).shape[:2]


def test_sizes_that_the_reader_takes(tmp_path):
    turned = examine(write(tmp_path / "a.jpg", encoded(RGB, "JPEG", exif=TURNED)))
    assert turned.size == (60, 40) and turned.fits((60, 40)) and turned.fits((40, 60)) and not turned.fits((41, 60))
    straight = examine(write(tmp_path / "b.jpg", JPEG))
    assert straight.fits((40, 60)) and not straight.fits((60, 40))
    assert not ImageFacts().fits((40, 60))


def test_missing_files_and_folders(tmp_path):
    for path in (tmp_path / "none.jpg", tmp_path):
        assert [kind for kind, _ in examine(path).found] == ["image-missing"]


def test_nothing_huge_is_decoded(tmp_path, monkeypatch):
    """A PNG of 20000 x 20000 black pixels is 50 kB; limits are lowered to tell the two kinds apart."""
    path = tmp_path / "a.png"
    Image.new("1", (20_000, 20_000)).save(path)
    for method in ("_decode", "_decode_by_pillow"):
        monkeypatch.setattr(checked, method, lambda *_: pytest.fail("it was decoded"))
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("it was decoded"))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("it was decoded"))
    (huge,) = examine_images([path]).values()
    assert huge.size == (20_000, 20_000) and huge.usable
    assert [kind for kind, _ in huge.found] == ["image-grey", "image-huge"]
    monkeypatch.setattr(checked, "OPENCV_LIMIT", 300_000_000)
    (bomb,) = examine_images([path]).values()
    assert not bomb.usable and [kind for kind, _ in bomb.found] == ["image-grey", "image-bomb"]


def test_state_of_the_libraries_comes_back(tmp_path):
    before = Image.MAX_IMAGE_PIXELS
    assert examine_images([]) == {}
    assert before == Image.MAX_IMAGE_PIXELS is not None


def test_equal_bytes_have_equal_digests(tmp_path):
    paths = [write(tmp_path / "a.jpg", JPEG), write(tmp_path / "b.jpg", JPEG), write(tmp_path / "c.png", PNG)]
    seen = []

    def track(items):
        for item in items:
            seen.append(item)
            yield item

    first, second, third = (facts.digest for facts in examine_images(paths, track).values())
    assert first == second != third and seen == paths
