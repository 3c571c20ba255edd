"""Broken and malicious annotation files: each gets a sentence with file and item, or is read right."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssdlite.data.formats.coco import read_coco
from ssdlite.data.formats.layout import find_layout
from ssdlite.data.formats.voc import read_voc
from ssdlite.errors import DataError
from ssdlite.structures import DataSplit

from .conftest import as_nobody, assert_refused
from .samples import COCO, VOC, changed, make_images, make_voc

DEEP = 100_000
TEXT = json.dumps(COCO)


def read_coco_bytes(folder: Path, content: bytes | str) -> DataSplit:
    path = folder / "instances_train.json"
    path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
    return read_coco(make_images(folder / "images"), path)


FIRST_BOX = ("annotations", 0, "bbox")
FIRST_SIDE = ("images", 0, "height")
FIRST_NAME = ("images", 0, "file_name")

COCO_VALUES: list[tuple[tuple[Any, ...], Any, str]] = [
    (FIRST_BOX, ["10", "5", "20", "10"], "annotation 1 has neither a bbox"),
    (FIRST_BOX, "1234", "bbox is '1234'"),
    (FIRST_BOX, [True, False, True, True], "bbox is [True, False, True, True]"),
    (FIRST_BOX, {"0": 1, "1": 2, "2": 3, "3": 4}, "annotation 1 has neither a bbox"),
    (FIRST_BOX, [1, 2, 3], "bbox is [1, 2, 3]"),
    (FIRST_BOX, [1, 2, 3, 4, 5], "annotation 1 has neither a bbox"),
    (FIRST_BOX, [[1, 2, 3, 4]], "annotation 1 has neither a bbox"),
    (FIRST_BOX, [1, 2, 3, None], "annotation 1 has neither a bbox"),
    (FIRST_BOX, [1, 2, 3, 10**400], "annotation 1 has neither a bbox"),
    (FIRST_BOX, [], "annotation 1 has neither a bbox"),
    (FIRST_BOX, False, "bbox is False"),
    (FIRST_BOX, "x" * 100_000, "annotation 1 has neither a bbox"),
    (("annotations", 0, "area"), "99", "annotation 1 has area '99'"),
    (("annotations", 0, "area"), True, "annotation 1 has area True"),
    (("annotations", 0, "area"), 10**400, "annotation 1 has area 1000"),
    (("annotations", 0, "iscrowd"), "0", "annotation 1 has iscrowd '0'"),
    (("annotations", 0, "iscrowd"), 2, "annotation 1 has iscrowd 2"),
    (("annotations", 0, "iscrowd"), [], "annotation 1 has iscrowd []"),
    (("annotations", 0, "category_id"), "3", "annotation 1 has category_id '3'"),
    (("annotations", 0, "category_id"), [3], "annotation 1 has category_id [3]"),
    (("annotations", 0, "category_id"), True, "annotation 1 has category_id True"),
    (("annotations", 0, "category_id"), None, "annotation 1 has no 'category_id'"),
    (("annotations", 0, "category_id"), 99, "annotation 1 has category_id 99"),
    (("annotations", 0, "image_id"), "1", "annotation 1 has image_id '1', but its image has the id 1"),
    (("annotations", 0, "image_id"), {}, "annotation 1 has image_id {}"),
    (("annotations", 0, "image_id"), True, "annotation 1 has image_id True"),
    (("annotations", 0, "image_id"), None, "annotation 1 has no 'image_id'"),
    (("annotations", 0), 7, "an annotation has no 'image_id'"),
    (("annotations", 0), None, "an annotation has no 'image_id'"),
    (("annotations", 1, "segmentation"), [[1, 2, 3, 4]], "annotation 2 has neither"),
    (("annotations", 1, "segmentation"), [[1, 2, 3, 4, 5, "6"]], "annotation 2 has neither"),
    (("annotations", 1, "segmentation"), "abc", "annotation 2 has neither"),
    (("annotations", 1, "segmentation"), [], "annotation 2 has neither"),
    (("annotations", 2, "segmentation", "counts"), "\u00ff\u0000", "annotation 3 has neither"),
    (("annotations", 2, "segmentation", "counts"), "o" * 10_000, "annotation 3 has neither"),
    (("annotations", 2, "segmentation", "counts"), [10**30], "annotation 3 has neither"),
    (("annotations", 2, "segmentation", "counts"), [-5, 10], "annotation 3 has neither"),
    (("annotations", 2, "segmentation", "counts"), [1.5, 10], "annotation 3 has neither"),
    (("annotations", 2, "segmentation", "size"), [0, 0], "annotation 3 has neither"),
    (("annotations", 2, "segmentation", "size"), [10**9, 10**9], "annotation 3 has neither"),
    (FIRST_SIDE, "40", "image 1 has height '40'"),
    (FIRST_SIDE, -40, "image 1 has height -40"),
    (FIRST_SIDE, 40.5, "image 1 has height 40.5"),
    (FIRST_SIDE, True, "image 1 has height True"),
    (FIRST_SIDE, [40], "image 1 has height [40]"),
    (FIRST_SIDE, 10**9, "image 1 has height 1000000000"),
    (FIRST_SIDE, 10**400, "image 1 has height 1000"),
    (FIRST_SIDE, float("nan"), "image 1 has height nan"),
    (FIRST_SIDE, float("inf"), "image 1 has height inf"),
    (FIRST_NAME, "/etc/passwd", "file_name '/etc/passwd' leads out of"),
    (FIRST_NAME, "../a.png", "file_name '../a.png' leads out of"),
    (FIRST_NAME, "sub/../../a.png", "leads out of"),
    (FIRST_NAME, "a.png\0.jpg", "image 1 has file_name"),
    (FIRST_NAME, "a\n.png", "image 1 has file_name"),
    (FIRST_NAME, "\ud800.png", "image 1 has file_name"),
    (FIRST_NAME, "", "image 1 has file_name ''"),
    (FIRST_NAME, ".", "image 1 has file_name '.'"),
    (FIRST_NAME, 5, "image 1 has file_name 5"),
    (FIRST_NAME, ["a.png"], "image 1 has file_name ['a.png']"),
    (FIRST_NAME, None, "image 1 has no 'file_name'"),
    (FIRST_NAME, "x" * 5000 + "/a.png", "cannot be listed"),
    (("images", 0, "id"), [1], "an image has the id [1]"),
    (("images", 0, "id"), True, "an image has the id True"),
    (("images", 0, "id"), 1.5, "an image has the id 1.5"),
    (("images", 0, "id"), 10**30, "an image has the id 1000"),
    (("images", 0, "id"), "\ud800", "an image has the id '\\ud800'"),
    (("images", 0, "id"), "two", "image id 'two' is used by several"),
    (("images", 0), "a.png", "an image has no 'id'"),
    (("images",), {"0": 1}, "no list 'images'"),
    (("categories", 0, "id"), "7", "a category has the id '7'"),
    (("categories", 0, "id"), [7], "a category has the id [7]"),
    (("categories", 0, "id"), True, "a category has the id True"),
    (("categories", 0, "id"), float("nan"), "a category has the id nan"),
    (("categories", 0, "id"), 3, "category 3 'cat' repeats an id or a name"),
    (("categories", 0, "name"), ["dog"], "category 7 has the name ['dog']"),
    (("categories", 0, "name"), "", "category 7 has the name ''"),
    (("categories", 0, "name"), "do\x00g", "category 7 has the name 'do\\x00g'"),
    (("categories", 0, "name"), "\udfff", "category 7 has the name '\\udfff'"),
    (("categories", 0, "name"), "\x1b[31mdog", "category 7 has the name '\\x1b[31mdog'"),
    (("categories", 0), 7, "a category has no 'id'"),
]


@pytest.mark.parametrize(("where", "value", "sentence"), COCO_VALUES)
def test_a_wrong_value_in_coco(tmp_path: Path, where: tuple[Any, ...], value: Any, sentence: str) -> None:
    text = json.dumps(changed(COCO, where, value))
    assert_refused(lambda: read_coco_bytes(tmp_path, text), "instances_train.json", sentence)


COCO_FILES: list[tuple[bytes | str, str]] = [
    (b"", "not valid JSON"),
    (b"\0" * 100, "not valid JSON"),
    (b"\xff\xfe\xff", "not valid JSON"),
    (TEXT[: len(TEXT) // 2], "not valid JSON"),
    (TEXT + "]", "not valid JSON"),
    (TEXT.replace('"id": 1,', '"id": 1, "id": 2,', 1), "the key 'id' twice"),
    (TEXT.replace('"categories"', '"images": [], "categories"', 1), "the key 'images' twice"),
    ("[" * DEEP + "]" * DEEP, "nested too deeply"),
    ('{"images":' + '{"a":' * DEEP + "1" + "}" * DEEP + "}", "nested too deeply"),
    ("[]", "no list 'images'"),
    ("null", "no list 'images'"),
    ('"text"', "no list 'images'"),
    ("{}", "no list 'images'"),
    (json.dumps({"images": [], "annotations": []}), "no list 'categories'"),
    (TEXT.replace("99.5", "9" * 5000, 1), "instances_train.json"),  # Python 3.10 reads it, later ones refuse to
    ("version https://git-lfs.github.com/spec/v1\n", "not valid JSON"),
    ("<html></html>", "not valid JSON"),
]


@pytest.mark.parametrize(("content", "sentence"), COCO_FILES, ids=range(len(COCO_FILES)))
def test_no_coco_file(tmp_path: Path, content: bytes | str, sentence: str) -> None:
    assert_refused(lambda: read_coco_bytes(tmp_path, content), "instances_train.json", sentence)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_coco_in_any_utf(tmp_path: Path, encoding: str, ends: str) -> None:
    document = changed(COCO, ("categories", 0, "name"), "chien à 山 🐕")
    text = json.dumps(document, ensure_ascii=False, indent=1).replace("\n", ends)
    split = read_coco_bytes(tmp_path, text.encode(encoding))
    assert split.class_names == ("cat", "chien à 山 🐕")
    assert [record.image_id for record in split.records] == [1, "two"]
    # 3: runs of 5 off and 10 on from the top of the first column; 2: around the polygon.
    assert [record.boxes.tolist() for record in split.records] == [
        [[10, 5, 30, 15.5], [0, 5, 1, 15]],
        [[1, 1, 9, 9]],
    ]
    assert split.records[0].areas.tolist() == [99.5, 10]


def test_whole_numbers_as_fractions_are_whole(tmp_path: Path) -> None:
    """As exporters that go through a table of floats write them."""
    document = copy.deepcopy(COCO)
    document["images"][0] |= {"id": 1.0, "height": 40.0}
    document["categories"][0]["id"] = 7.0
    split = read_coco_bytes(tmp_path, json.dumps(document))
    assert split.category_ids == (3, 7) and type(split.category_ids[1]) is int
    assert split.records[0].image_id == 1 and type(split.records[0].image_id) is int
    assert split.records[0].size == (40, 60) and len(split.records[0].boxes) == 2


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "-1e400"])
@pytest.mark.parametrize("place", range(4))
def test_boxes_that_are_not_finite_are_left_out_and_named(tmp_path: Path, caplog, number: str, place: int) -> None:
    numbers = ["10", "5", "20", "10"]
    numbers[place] = number
    text = TEXT.replace("[10, 5, 20, 10.5]", f"[{', '.join(numbers)}]")
    assert text != TEXT
    with caplog.at_level(logging.WARNING):
        split = read_coco_bytes(tmp_path, text)
    assert len(split.records[0].boxes) == 1
    assert "annotation 1 of a.png" in caplog.text


@pytest.mark.parametrize("area", ["NaN", "Infinity", "1e39", "1e400", "-5", "null"])
def test_an_area_that_says_nothing_is_that_of_the_box(tmp_path: Path, area: str) -> None:
    with np.errstate(all="raise"):
        split = read_coco_bytes(tmp_path, TEXT.replace("99.5", area))
    assert split.records[0].areas[0] == 20 * 10.5


def test_an_id_of_control_characters_does_not_reach_the_screen(tmp_path: Path, caplog) -> None:
    document = changed(COCO, ("annotations", 0, "id"), "a\nb\x1b[31m" + "c" * 9999)
    document["annotations"][0]["bbox"] = [1, 1, 0, 0]
    with caplog.at_level(logging.WARNING):
        read_coco_bytes(tmp_path, json.dumps(document))
    (message,) = caplog.messages
    assert message.isprintable() and "'a\\nb\\x1b[31mccc" in message and len(message) < 1000


def test_a_link_inside_the_folder_is_followed(tmp_path: Path) -> None:
    make_images(tmp_path / "images")
    (tmp_path / "elsewhere.png").write_bytes((tmp_path / "images" / "a.png").read_bytes())
    (tmp_path / "images" / "link.png").symlink_to(tmp_path / "elsewhere.png")
    document = changed(COCO, FIRST_NAME, "link.png")
    assert read_coco_bytes(tmp_path, json.dumps(document)).records[0].image_path.name == "link.png"


def test_a_hundred_thousand_categories_take_no_time(tmp_path: Path) -> None:
    """Their names are compared by hash: pair by pair it would be minutes."""
    names = [{"id": number, "name": f"class {number}"} for number in range(100_000)]
    split = read_coco_bytes(tmp_path, json.dumps({**COCO, "annotations": [], "categories": names}))
    assert len(split.class_names) == 100_000
    make_images(tmp_path / "images")
    again = read_coco(tmp_path / "images", tmp_path / "instances_train.json", split.class_names)
    assert again.category_ids[-1] == 99_999


def test_an_image_folder_that_may_not_be_opened(tmp_path: Path) -> None:
    (tmp_path / "instances.json").write_text(TEXT)
    images = make_images(tmp_path / "images")
    images.chmod(0)
    with as_nobody():
        assert_refused(lambda: read_coco(images, tmp_path / "instances.json"), tmp_path, "Permission denied")
        assert_refused(lambda: find_layout(images), images, "Permission denied")
    images.chmod(0o700)


def declared(encoding: str, text: str = VOC) -> str:
    return f'<?xml version="1.0" encoding="{encoding}"?>{text}'


LAUGHS = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
VOC_FILES: list[tuple[str | bytes, str]] = [
    (b"", "not a usable XML file"),
    (b"\0\0\0", "not a usable XML file"),
    (VOC[:100], "not a usable XML file"),
    (VOC + "<more/>", "not a usable XML file"),
    (VOC.encode("utf-16")[:-7], "not a usable XML file"),
    (VOC.replace("dog", "d\0g"), "not a usable XML file"),
    (VOC.replace("dog", "&undefined;"), "not a usable XML file"),
    (VOC.replace("dog", "\udcff").encode("utf-8", "surrogateescape"), "not a usable XML file"),
    (declared("no-such-encoding"), "unknown encoding"),
    (declared("utf-7"), "not a usable XML file"),
    (declared("x" * 5000), "not a usable XML file"),
    (f'<!DOCTYPE x [<!ENTITY l0 "lol">{LAUGHS}]>' + VOC.replace("dog", "&l9;"), "DOCTYPE"),
    ('<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/hostname">]>' + VOC.replace("dog", "&f;"), "DOCTYPE"),
    ('<!DOCTYPE x SYSTEM "http://localhost/x.dtd">' + VOC, "DOCTYPE"),
    ('<!DOCTYPE x [<!ENTITY % p SYSTEM "file:///dev/zero"> %p;]>' + VOC, "DOCTYPE"),
    ("<html><body>404</body></html>", "its outermost tag is 'html'"),
    ('<annotation xmlns="urn:x"/>', "its outermost tag is"),
    ("<" + "x" * 50_000 + "/>", "its outermost tag is"),
    (VOC.replace("<name>dog</name>", ""), "object 1 has no name"),
    (VOC.replace("<name>dog</name>", "<name/>"), "object 1 has no name"),
    (VOC.replace("dog", "  "), "object 1 has the name '  '"),
    (VOC.replace("dog", "a&#x85;b"), "object 1 has the name"),
    (VOC.replace("<name>cat", "<name>owl</name><name>cat"), "object 2 has 2 times name"),
    (VOC.replace("<xmin>5</xmin>", ""), "object 1 has no name or no complete bndbox"),
    (VOC.replace("<xmin>5</xmin>", "<xmin/>"), "object 1 has xmin '' where a number"),
    (VOC.replace("<xmin>5", "<xmin>7</xmin><xmin>5"), "object 1 has 2 times bndbox/xmin"),
    (VOC.replace("<xmin>5", "<xmin>five"), "object 1 has xmin 'five' where a number"),
    (VOC.replace("<xmin>5", "<xmin>1_0"), "object 1 has xmin '1_0' where a number"),
    (VOC.replace("<xmin>5", "<xmin>0x10"), "object 1 has xmin '0x10' where a number"),
    (VOC.replace("<xmin>5", "<xmin>1,5"), "object 1 has xmin '1,5' where a number"),
    (VOC.replace("<xmin>5", "<xmin>" + "z" * 99_999), "object 1 has xmin 'zzz"),
    (VOC.replace("<width>60", "<width>wide"), "size has width 'wide' where a number"),
    (VOC.replace("<width>60", "<width>nan"), "size has nan where a whole number"),
    (VOC.replace("<width>60", "<width>inf"), "size has inf where a whole number"),
    (VOC.replace("<width>60", "<width>1e400"), "size has inf where a whole number"),
    (VOC.replace("<width>60", "<width>60.5"), "size has 60.5 where a whole number"),
    (VOC.replace("<width>60", "<width>9999999"), "size has 1e+07 where a whole number"),
    (VOC.replace("<width>60", "<width>61</width><width>60"), "2 times size/width"),
]


@pytest.mark.parametrize(("content", "sentence"), VOC_FILES, ids=range(len(VOC_FILES)))
def test_no_voc_file(tmp_path: Path, content: str | bytes, sentence: str) -> None:
    root = make_voc(tmp_path, content)
    assert_refused(lambda: read_voc(root, ["train"]), root / "Annotations" / "a.xml", sentence)


@pytest.mark.parametrize(
    "data",
    [
        VOC.encode("utf-16"),
        declared("utf-16").encode("utf-16"),
        declared("utf-16").encode("utf-16-be"),
        VOC.encode("utf-8-sig"),
        declared("iso-8859-1").encode("latin-1"),
        declared("windows-1252").encode("cp1252"),
        VOC.replace(">", ">\r\n  ").encode(),
        VOC.replace("<size>", "<size> <!-- &amp; --> <?php x ?>").encode(),
        VOC.replace("60</width>", "-60</width>").encode(),
        VOC.replace("60</width>", "60.0</width>").encode(),
        VOC.replace("dog", "<![CDATA[dog]]>").encode(),
        VOC.replace("<filename>a.png", "<filename>../../etc/passwd").encode(),
        b"<annotation>" + b"<x>" * DEEP + b"</x>" * DEEP + VOC.removeprefix("<annotation>").encode(),
    ],
)
def test_odd_voc_files_are_read_right(tmp_path: Path, data: bytes) -> None:
    split = read_voc(make_voc(tmp_path, data), ["train"])
    (record,) = split.records
    assert split.class_names == ("cat", "dog")
    assert record.labels.tolist() == [2, 1] and record.ignore.tolist() == [False, True]
    assert record.boxes.tolist() == [[4, 5, 30, 20], [0.5, 0, 60, 40]]
    assert (record.size, record.image_path) == ((40, 60), tmp_path / "JPEGImages" / "a.png")


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e400"])
def test_corners_that_are_not_finite_are_left_out_and_named(tmp_path: Path, caplog, number: str) -> None:
    with caplog.at_level(logging.WARNING):
        split = read_voc(make_voc(tmp_path, VOC.replace("<xmax>30", f"<xmax>{number}")), ["train"])
    assert len(split.records[0].boxes) == 1 and "a object 1 (dog)" in caplog.text


LISTS: list[tuple[bytes | str, str]] = [
    ("", "names no images"),
    ("\n\r\n  \n", "names no images"),
    (b"\xff\x00\x9f", "not UTF-8 text"),
    ("a\0b\n", "line 1 is 'a\\x00b', which names no file"),
    ("a\n\x1b[31m\n", "line 2 is '\\x1b[31m', which names no file"),
    ("../Annotations/a\n", "line 1, '../Annotations/a', leads out of the data set"),
    ("/etc/passwd\n", "line 1, '/etc/passwd', leads out of the data set"),
    ("a\n" + "x" * 10_000 + "\n", "line 2, 'xxx"),
    ("a\n" + "x/" * 10_000 + "\n", "line 2, 'x/x/"),
]


@pytest.mark.parametrize(("content", "sentence"), LISTS, ids=range(len(LISTS)))
def test_no_list_of_images(tmp_path: Path, content: bytes | str, sentence: str) -> None:
    root = make_voc(tmp_path, names=content)
    assert_refused(lambda: read_voc(root, ["train"]), root / "ImageSets" / "Main" / "train.txt", sentence)


@pytest.mark.parametrize(
    "content", [b"\xef\xbb\xbfa\r\n", "a\r\n".encode("utf-16"), b"a", b"a\na\n", b"\n a  1 \n", b"a -1\n"]
)
def test_odd_lists_are_read_right(tmp_path: Path, content: bytes) -> None:
    assert [record.image_id for record in read_voc(make_voc(tmp_path, names=content), ["train"]).records] == ["a"]


def test_an_annotation_of_no_image(tmp_path: Path) -> None:
    root = make_voc(tmp_path, names="gone\n")
    assert_refused(
        lambda: read_voc(root, ["train"]), root / "Annotations" / "gone.xml", "the annotation is not there"
    )
    with pytest.raises(DataError, match="no file can have this name"):
        read_voc(root, ["no\0pe"])
