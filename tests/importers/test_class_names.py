"""Class names: files of lines, label maps, and what is guessed where there is none."""

import pytest

from ssdlite.data.records import number_classes
from ssdlite.errors import ConfigError
from ssdlite.importers.names import guess_class_names, read_class_names


@pytest.fixture
def names_of(tmp_path):
    def read(text, num_classes, name="names.txt", encoding="utf-8"):
        path = tmp_path / name
        path.write_text(text, encoding=encoding)
        return read_class_names(path, num_classes)

    return read


@pytest.mark.parametrize("first", ["BACKGROUND", "background", "__background__", "  Background "])
def test_a_first_line_for_the_background_is_no_class(names_of, first):
    assert names_of(f"{first}\ncat\ndog\n", 2) == ("cat", "dog")


def test_lines(names_of):
    assert names_of("cat\n\n  stop sign \nbackground\n\n", 3) == ("cat", "stop sign", "background")
    assert names_of("BACKGROUND\r\nchat\r\nchaîne\r\n", 2) == ("chat", "chaîne")


def test_an_editors_byte_order_mark(names_of):
    assert names_of("BACKGROUND\ncat\n", 1, encoding="utf-8-sig") == ("cat",)


LABEL_MAP = """
item {
  name: "/m/01g317"
  id: 1
  display_name: "person"
}
item { id: 4 name: 'traffic light' }
item {
  id: 2
  display_name: "Jack-o'-lantern"
}
"""


def test_a_label_map_with_gaps(names_of):
    expected = ("person", "Jack-o'-lantern", "unused 3", "traffic light")
    assert names_of(LABEL_MAP, 4, "map.pbtxt") == expected
    assert names_of(LABEL_MAP, 5, "map.pbtxt") == (*expected, "unused 5")


@pytest.mark.parametrize(
    ("text", "name", "sentence"),
    [
        ("cat\ndog\n", "names.txt", "names 2 classes, but the network has 3"),
        ("cat\ndog\newe\nfox\n", "names.txt", "names 4 classes, but the network has 3"),
        ("", "names.txt", "names 0 classes, but the network has 3"),
        ("BACKGROUND\n", "names.txt", "names 0 classes"),
        ("cat\ndog\ncat\n", "names.txt", "names 'cat' twice"),
        (LABEL_MAP, "map.pbtxt", "has the id 4, but the network has 3 classes"),
        ("item { id: 0 name: 'a' }", "map.pbtxt", "has the id 0"),
        ("item { id: 1 }", "map.pbtxt", "has an item without an id or a name"),
        ("item { name: 'cat' }", "map.pbtxt", "has an item without an id or a name"),
        ("item { id: 1 name: 'a' } item { id: 1 name: 'b' }", "map.pbtxt", "gives the id 1 to both 'a' and 'b'"),
    ],
)
def test_files_that_do_not_fit(names_of, tmp_path, text, name, sentence):
    with pytest.raises(ConfigError) as raised:
        names_of(text, 3, name)
    assert sentence in str(raised.value) and str(tmp_path / name) in str(raised.value)


def test_files_that_cannot_be_read(names_of, tmp_path):
    with pytest.raises(ConfigError, match="cannot read the class names"):
        read_class_names(tmp_path / "none.txt", 1)
    with pytest.raises(ConfigError, match="cannot read the class names"):
        read_class_names(tmp_path, 1)
    with pytest.raises(ConfigError, match="cannot read the class names"):
        names_of("chaîne", 1, encoding="latin-1")


def test_guesses(caplog):
    voc, coco, by_id = guess_class_names(20), guess_class_names(80), guess_class_names(90)
    assert (voc[0], voc[14], voc[-1]) == ("aeroplane", "person", "tvmonitor")
    assert (coco[0], coco[11], coco[-1]) == ("person", "stop sign", "toothbrush")
    # COCO has no category 12; its id 13 is a stop sign.
    assert (by_id[0], by_id[11], by_id[12], by_id[-1]) == ("person", "unused 12", "stop sign", "toothbrush")
    assert [len(set(names)) for names in (voc, coco, by_id)] == [20, 80, 90]
    assert [record.getMessage().split(";")[0] for record in caplog.records] == [
        "the 20 classes are taken for VOC's",
        "the 80 classes are taken for COCO's",
        "the 90 classes are taken for COCO's by id",
    ]


def test_no_guess(caplog):
    assert guess_class_names(3) == ("class 1", "class 2", "class 3")
    assert "are numbered; --class-names FILE gives them" in caplog.text


def test_names_of_coco_have_its_ids():
    names = guess_class_names(80)
    assert number_classes(names, {})[10:13] == (11, 13, 14)  # no 12
    assert number_classes(names[::-1], {"person": 1, "toothbrush": 90})[:2] == (90, 89)
    # A data set that numbers one of them itself, or another class so, is not COCO's.
    assert number_classes(names, {"person": 0})[:3] == (0, 1, 2)
    assert number_classes(names, {"ring": 1})[:3] == (2, 3, 4)
    assert number_classes(names[:79], {})[10:13] == (11, 12, 13)
