from __future__ import annotations

import pytest

from ssdlite.data.formats.layout import find_layout, read_split
from ssdlite.data.formats.voc_xml import VocXmlSource
from ssdlite.errors import DataError

from ..conftest import voc_xml
from .sets import read_train, rows_of, write, write_images

BOX = (15, 10, 45, 30)
XML = voc_xml([("cat", BOX)])
READ = [("cat", [*map(float, BOX)])]

LAYOUTS = {
    "beside the images": ("", ""),
    "images and annotations": ("images", "annotations"),
    "images and annots": ("images", "annots"),
    "images and labels": ("images", "labels"),
    "JPEGImages and Annotations without lists": ("JPEGImages", "Annotations"),
    "images here, xmls there": ("", "xmls"),
    "all in images": ("images", "images"),
}


@pytest.mark.parametrize(("images", "annotations"), LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("above", [False, True])
def test_layouts(tmp_path, images, annotations, above):
    root = tmp_path / "set"
    write_images(root / images, "a.JPG")
    write(root / annotations / "a.xml", XML)
    layout = find_layout(tmp_path if above else root)
    assert layout.description.startswith("VOC XML data at")
    assert rows_of(read_split(layout.train)) == {"a.JPG": READ} and layout.val == []


@pytest.mark.parametrize(
    "names", [("train", "valid", "test"), ("Train", "val", "Test"), ("training", "validation")]
)
def test_a_folder_for_each_split(tmp_path, names):
    for name in names:
        write_images(tmp_path / name, f"{name}.jpg")
        write(tmp_path / name / f"{name}.xml", XML)
    layout = find_layout(tmp_path)
    found = [[*rows_of(read_split(part))] for part in (layout.train, layout.val, layout.test) if part]
    assert found == [[f"{name}.jpg"] for name in names]


def test_train_and_test_alone(tmp_path):
    """The test set validates."""
    for name in ("train", "test"):
        write_images(tmp_path / "images" / name, f"{name}.jpg")
        write(tmp_path / "images" / name / f"{name}.xml", XML)
    layout = find_layout(tmp_path)
    assert layout.val == layout.test == [VocXmlSource(tmp_path / "images/test", tmp_path / "images/test")]


def test_split_folders_within_images_and_annotations(tmp_path):
    for name in ("train", "val"):
        write_images(tmp_path / "images" / name, f"{name}.jpg")
        write(tmp_path / "annotations" / name / f"{name}.xml", XML)
    layout = find_layout(tmp_path)
    assert [*rows_of(read_split(layout.train))] == ["train.jpg"] and [*rows_of(read_split(layout.val))] == [
        "val.jpg"
    ]


def test_folders_of_any_name(tmp_path):
    write_images(tmp_path / "photos", "a.jpg")
    write(tmp_path / "ground truth/a.xml", XML)
    assert rows_of(read_train(tmp_path)) == {"a.jpg": READ}


def test_the_stem_decides_and_then_filename(tmp_path):
    write_images(tmp_path, "a.jpg", "b.jpg", "c d.png")
    write(tmp_path / "a.xml", XML.replace("wrong.jpg", "b.jpg"))
    write(tmp_path / "label 7.xml", XML.replace("wrong.jpg", r"C:\Users\me\b"))
    write(tmp_path / "c d.xml", XML)
    assert rows_of(read_train(tmp_path)) == {"a.jpg": READ, "b.jpg": READ, "c d.png": READ}


def test_children_of_bndbox_in_any_order_and_bare_fractions(tmp_path):
    write_images(tmp_path, "a.jpg")
    box = "<bndbox><xmin>15.5</xmin><xmax>45</xmax><ymin>10</ymin><ymax>30</ymax></bndbox>"
    write(tmp_path / "a.xml", f"<annotation><object><name>cat</name>{box}</object></annotation>")
    assert rows_of(read_train(tmp_path)) == {"a.jpg": [("cat", [15.5, 10, 45, 30])]}


def test_images_without_an_annotation_are_left_out_with_a_count(tmp_path, caplog):
    write_images(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    write(tmp_path / "a.xml", XML)
    assert [*rows_of(read_train(tmp_path))] == ["a.jpg"]
    assert "left out 2 images without an annotation: b.jpg; c.jpg" in caplog.text


def test_annotations_without_an_image(tmp_path, caplog):
    write_images(tmp_path, "a.jpg")
    for stem in ("a", "b"):
        write(tmp_path / f"{stem}.xml", XML)
    assert [*rows_of(read_train(tmp_path))] == ["a.jpg"]
    assert "left out 1 image whose file is not there: b" in caplog.text
    write(tmp_path / "c.xml", XML)
    with pytest.raises(DataError, match="there is no image 'b'"):
        read_train(tmp_path)


def test_what_a_mac_leaves_behind_is_no_data(tmp_path):
    write_images(tmp_path / "set", "a.jpg")
    write(tmp_path / "set/a.xml", XML)
    for name in ("._a.jpg", "._a.xml", ".DS_Store", "Thumbs.db"):
        write(tmp_path / "set" / name, b"\0\5\26\7")
    write(tmp_path / "__MACOSX/set/._a.xml", b"\0")
    assert rows_of(read_train(tmp_path)) == {"a.jpg": READ}


SIZES = {
    "0": ("<width>0</width><height>0</height>", (40, 60)),
    "swapped": ("<width>40</width><height>60</height>", (40, 60)),
    "of a smaller image": ("<width>30</width><height>20</height>", (40, 60)),
    "right": ("<width>60</width><height>40</height>", (40, 60)),
}


@pytest.mark.parametrize(("size", "expected"), SIZES.values(), ids=SIZES)
def test_a_size_that_is_not_the_images_gives_way(tmp_path, size, expected):
    """Where boxes reach out of the annotated size and all fit the image."""
    write_images(tmp_path, "a.jpg")
    write(tmp_path / "a.xml", voc_xml([("cat", (15, 10, 58, 30))], size=f"<size>{size}</size>"))
    (record,) = read_train(tmp_path).records
    assert record.size == expected and record.boxes.tolist() == [[15, 10, 58, 30]]


def test_composed_and_decomposed_names(tmp_path):
    """A Mac's disk has e and an accent, its XML's name the one letter of both."""
    write_images(tmp_path, "caf\u0065\u0301.jpg")
    write(tmp_path / "caf\u00e9.xml", XML)
    assert list(rows_of(read_train(tmp_path)).values()) == [READ]


def test_other_xml_is_not_voc(tmp_path):
    write_images(tmp_path, "a.jpg")
    write(tmp_path / "a.xml", "<html><body/></html>")
    with pytest.raises(DataError, match=r"there are 1 \.jpg and 1 \.xml; a\.xml is not VOC's XML"):
        find_layout(tmp_path)


def test_linked_folders_are_looked_into_once(tmp_path):
    write_images(tmp_path / "elsewhere", "a.jpg")
    write(tmp_path / "elsewhere/a.xml", XML)
    (tmp_path / "set").mkdir()
    (tmp_path / "set/train").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/loop").symlink_to(tmp_path / "elsewhere")
    assert rows_of(read_train(tmp_path / "set")) == {"a.jpg": READ}
