from __future__ import annotations

import logging
from pathlib import Path

import pytest

from ssdlite.data.formats.voc import read_voc
from ssdlite.errors import DataError

from ..conftest import voc_xml, write_image


def test_c32_boxes_hold_their_last_pixel(make_voc) -> None:
    """1..60 x 1..40 is all of the image; a side of one pixel and fractions are legal; the rest is cut."""
    boxes = [(1, 1, 60, 40), (7, 3, 7, 20), (2.5, 3, 10.5, 8), (0, 0, 99, 99)]
    split = read_voc(make_voc({"train": {"a": voc_xml([("x", box) for box in boxes])}}), ["train"])
    (record,) = split.records
    assert record.boxes.tolist() == [[0, 0, 60, 40], [6, 2, 7, 20], [1.5, 2, 10.5, 8], [0, 0, 60, 40]]
    assert record.areas.tolist() == [2400, 18, 54, 2400]


def test_points_and_inverted_boxes_are_named_once(make_voc, caplog) -> None:
    xml = voc_xml([("x", (5, 5, 5, 5)), ("x", (9, 5, 8, 9)), ("x", ("nan", 5, 8, 9)), ("x", (1, 1, 9, 9))])
    with caplog.at_level(logging.WARNING):
        split = read_voc(make_voc({"train": {"a": xml}}), ["train"])
    assert split.records[0].boxes.tolist() == [[0, 0, 9, 9]]
    (message,) = caplog.messages
    assert all(f"a object {number} (x)" in message for number in (1, 2, 3))


def test_c35_images_with_only_difficult_or_no_objects(make_voc) -> None:
    hard = voc_xml([("x", (1, 1, 9, 9))], extra="<difficult>1</difficult>")
    split = read_voc(make_voc({"train": {"hard": hard, "empty": voc_xml([])}}), ["train"])
    assert split.records[0].ignore.tolist() == [True]
    assert split.records[0].crowd.tolist() == [False]
    assert split.records[1].boxes.shape == (0, 4)
    assert [record.image_id for record in split.records] == ["hard", "empty"]


def test_c31_names_are_taken_as_written(make_voc) -> None:
    box = (1, 1, 9, 9)
    root = make_voc({"train": {"a": voc_xml([("traffic light", box), ("Car", box), ("car", box)])}})
    split = read_voc(root, ["train"])
    assert split.class_names == ("Car", "car", "traffic light")
    assert split.category_ids == (1, 2, 3)
    assert split.records[0].labels.tolist() == [3, 1, 2]
    with pytest.raises(DataError, match=r"unknown class names 'Car'; the known ones are 'car', 'traffic light'"):
        read_voc(root, ["train"], class_names=["car", "traffic light"])


def test_c30_class_missing_from_a_split_shifts_nothing(make_voc) -> None:
    root = make_voc({"train": {"a": voc_xml([("dog", (1, 1, 9, 9))])}})
    split = read_voc(root, ["train"], class_names=["cat", "dog"])
    assert split.records[0].labels.tolist() == [2]
    assert split.category_ids == (1, 2)


def test_sloppy_files_are_read(make_voc) -> None:
    """No size, no difficult, a byte order mark, UTF-16, spaces in names, and a <filename> of another image."""
    xml = voc_xml([("é", (1, 1, 9, 9))], size="")
    files = {"a b": xml.encode("utf-8-sig"), "c": xml.encode("utf-16"), "d.e": voc_xml([], size="<size/>")}
    split = read_voc(make_voc({"train": files}), ["train"])
    assert split.class_names == ("é",)
    assert [record.size for record in split.records] == [(40, 60)] * 3
    assert [record.image_path.name for record in split.records] == ["a b.png", "c.png", "d.e.png"]


def test_filename_decides_between_images_and_suffix_is_free(make_voc) -> None:
    root = make_voc({"train": {"wrong": voc_xml([])}})
    (root / "JPEGImages" / "wrong.jpg").write_bytes((root / "JPEGImages" / "wrong.png").read_bytes())
    assert read_voc(root, ["train"]).records[0].image_path.name == "wrong.jpg"
    (root / "JPEGImages" / "wrong.jpg").unlink()
    (root / "JPEGImages" / "wrong.png").rename(root / "JPEGImages" / "wrong.JPEG")
    assert read_voc(root, ["train"]).records[0].image_path.name == "wrong.JPEG"


def test_lists_of_one_class_have_a_second_column(make_voc) -> None:
    root = make_voc({"train": {"a": voc_xml([]), "b 1": voc_xml([])}})
    (root / "ImageSets" / "Main" / "cat_train.txt").write_text("a -1\nb 1\nb 1  1\n\n")
    assert [record.image_id for record in read_voc(root, ["cat_train"]).records] == ["a", "b 1"]


def test_parts_of_objects_are_no_objects(make_voc) -> None:
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    xml = voc_xml([("person", (1, 1, 9, 9))]).replace("</object>", f"{part}</object>")
    assert read_voc(make_voc({"train": {"a": xml}}), ["train"]).class_names == ("person",)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_document_types_are_refused(make_voc, encoding: str) -> None:
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><annotation><filename>&b;</filename></annotation>'
    with pytest.raises(DataError, match=r"a\.xml.*DOCTYPE"):
        read_voc(make_voc({"train": {"a": bomb.encode(encoding)}}), ["train"])


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("<annotation>", "a.xml: not a usable XML"),
        ("<annotation><object><name>x</name></object></annotation>", "a.xml: object 1 has no name or no complete"),
        (voc_xml([("", (1, 1, 2, 2))]), "a.xml: object 1 has no name"),
        (voc_xml([("x", ("one", 1, 2, 2))]), "a.xml: object 1 has xmin 'one' where a number"),
    ],
)
def test_malformed_annotations_get_a_sentence(make_voc, xml: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_voc(make_voc({"train": {"a": xml}}), ["train"])


def test_missing_files_get_a_sentence(make_voc, tmp_path: Path) -> None:
    root = make_voc({"train": {"a": voc_xml([])}})
    with pytest.raises(DataError, match=r"test\.txt"):
        read_voc(root, ["test"])
    (root / "JPEGImages" / "a.png").unlink()
    with pytest.raises(DataError, match="there is no image 'a'"):
        read_voc(root, ["train"])
    (root / "Annotations" / "a.xml").unlink()
    write_image(root / "JPEGImages" / "a.png")
    with pytest.raises(DataError, match=r"a\.xml: the annotation is not there"):
        read_voc(root, ["train"])
    with pytest.raises(DataError, match="no such folder of images"):
        read_voc(tmp_path / "nowhere", ["train"])


def test_the_two_points_of_bccd_are_named(real_data: Path, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        split = read_voc(real_data / "bccd", ["trainval", "test"])
    (message,) = caplog.messages
    assert "2 unusable" in message
    assert "BloodImage_00338" in message
    assert "BloodImage_00343" in message
    assert len(split) == 364
    assert split.class_names == ("Platelets", "RBC", "WBC")
