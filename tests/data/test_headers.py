from __future__ import annotations

import io
import os

import numpy as np
import pytest
from PIL import Image

from ssdlite.data import headers
from ssdlite.data.headers import CACHE_VARIABLE, Header, read_header, read_headers
from ssdlite.data.images import image_size, read_image
from ssdlite.data.settle import settle_images
from ssdlite.errors import DataError
from ssdlite.structures import DataSplit, Record

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def encoded(format: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, format, **options)
    return file.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


FILES = {
    "a.jpg": (encoded(), Header(40, 60, False, "good")),
    "turned.jpg": (encoded(exif=turned(6)), Header(60, 40, True, "good")),
    "upside down.jpg": (encoded(exif=turned(3)), Header(40, 60, False, "good")),
    "no such orientation.jpg": (encoded(exif=turned(65537 % 2**16)), Header(40, 60, False, "good")),
    "turned.png": (encoded("PNG", exif=turned(8)), Header(60, 40, True, "good")),
    "a.webp": (encoded("WEBP"), Header(40, 60, False, "good")),
    "turned.webp": (encoded("WEBP", exif=turned(6)), Header(60, 40, True, "good")),
    "a.bmp": (encoded("BMP"), Header(40, 60, False, "good")),
    "gif in name only.png": (encoded("GIF"), Header(40, 60, False, "good")),
    "padded.jpg": (encoded() + b"\0" * 20, Header(40, 60, False, "good")),
    "more behind.jpg": (encoded() + b"written by a camera " * 20, Header(40, 60, False, "good")),
    "cut.jpg": (encoded()[:-40], Header(40, 60, False, "cut")),
    "half.jpg": (encoded()[: len(encoded()) // 2], Header(40, 60, False, "unreadable")),
    "half.png": (encoded("PNG")[: len(encoded("PNG")) // 2], Header(40, 60, False, "unreadable")),
    "empty.jpg": (b"", Header(0, 0, False, "unreadable")),
    "page.jpg": (b"<html>", Header(0, 0, False, "unreadable")),
}


@pytest.mark.parametrize("name", FILES)
def test_headers_agree_with_what_is_decoded(tmp_path, name):
    data, expected = FILES[name]
    path = tmp_path / name
    path.write_bytes(data)
    header = read_header(path)
    assert header == expected
    if header.usable:
        assert read_image(path).shape[:2] == (header.height, header.width) == image_size(path)
    else:
        with pytest.raises(DataError):
            read_image(path)


def test_what_is_no_file_is_missing(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    found = read_headers([tmp_path / "folder.jpg", tmp_path / "none.jpg"])
    assert [header.state for header in found.values()] == ["missing", "missing"]


def test_the_rows_that_are_missing_of_a_cut_jpeg_are_grey(tmp_path):
    """Of 200 rows the last tenth of the bytes: what is there is what the whole file has, to the last full block."""
    big = np.random.default_rng(1).integers(0, 256, (200, 64, 3), dtype=np.uint8)
    Image.fromarray(big).save(tmp_path / "whole.jpg", subsampling=0)
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: int(len(data) * 0.9)])
    whole, cut = (read_image(tmp_path / name) for name in ("whole.jpg", "cut.jpg"))
    assert cut.shape == whole.shape
    assert (np.abs(cut[:168].astype(int) - whole[:168]) <= 1).all()
    assert (cut[-8:] == cut[-1, -1]).all()


def test_headers_are_remembered_until_the_file_changes(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(headers, "MANY", 2)
    paths = [tmp_path / name for name in ("a.jpg", "b.jpg", "gone.jpg")]
    for path in paths[:2]:
        path.write_bytes(encoded())
    first = read_headers(paths)
    assert [header.state for header in first.values()] == ["good", "good", "missing"]
    asked = []
    monkeypatch.setattr(headers, "read_header", lambda path: asked.append(path.name) or read_header(path))
    assert read_headers(paths) == first and asked == ["gone.jpg"]
    Image.new("RGB", (8, 9)).save(paths[0])
    assert read_headers(paths)[paths[0]] == Header(9, 8, False, "good") and asked == [
        "gone.jpg",
        "a.jpg",
        "gone.jpg",
    ]
    for file in (tmp_path / "cache/headers").iterdir():
        file.write_text("[[1]]")
    assert len(read_headers(paths)) == 3  # a damaged memory is passed over


def test_a_memory_that_cannot_be_written_is_no_matter(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    monkeypatch.setattr(headers, "MANY", 1)
    (tmp_path / "a.jpg").write_bytes(encoded())
    assert read_headers([tmp_path / "a.jpg"])[tmp_path / "a.jpg"].state == "good"


def split_of(folder, names, size=(40, 60), box=(1, 1, 50, 30)) -> DataSplit:
    flags, area = np.zeros(1, bool), np.ones(1, np.float32)
    boxes, labels = np.array([box], np.float32), np.ones(1, np.int64)
    records = [Record(folder / name, name, size, boxes, labels, flags, flags, area) for name in names]
    return DataSplit(records, ("x",), (1,))


def test_images_that_cannot_be_used_are_left_out_with_a_count(tmp_path, caplog):
    for name, (data, _) in FILES.items():
        (tmp_path / name).write_bytes(data)
    names = ["a.jpg", "a.bmp", "cut.jpg", "half.jpg", "gone.jpg", "turned.png", "padded.jpg"]
    settled = settle_images(split_of(tmp_path, names), "set")
    assert [record.image_path.name for record in settled.records] == [
        "a.jpg",
        "a.bmp",
        "cut.jpg",
        "turned.png",
        "padded.jpg",
    ]
    for text in (
        "set: left out 1 image whose file is not there: gone.jpg",
        "set: left out 1 image whose file cannot be read: half.jpg",
        "set: took 1 image whose file ends early, so that the last rows are missing: cut.jpg",
    ):
        assert text in caplog.text
    with pytest.raises(
        DataError, match=r"set: 2 of its 3 images cannot be used, the first is .*gone\.jpg \(missing\)"
    ):
        settle_images(split_of(tmp_path, ["a.jpg", "gone.jpg", "half.jpg"]), "set")


def test_annotated_sizes_give_way_to_the_images(tmp_path, caplog):
    (tmp_path / "a.jpg").write_bytes(encoded())
    assert settle_images(split_of(tmp_path, ["a.jpg"], (80, 120)), "set").records[0].size == (40, 60)
    assert "took the own size of 1 image whose annotation has another one" in caplog.text
    with pytest.raises(DataError, match=r"1 of its 1 images cannot be used"):
        settle_images(split_of(tmp_path, ["a.jpg"], (80, 120), (1, 1, 100, 30)), "set")
    assert "left out 1 image of another size than its annotation" in caplog.text
    fine = split_of(tmp_path, ["a.jpg"])
    assert settle_images(fine, "set") is fine


def test_a_folder_that_may_not_be_looked_into(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("nothing is closed to the superuser")
    (tmp_path / "a.jpg").write_bytes(encoded())
    tmp_path.chmod(0)
    assert read_header(tmp_path / "a.jpg").state == "missing"
