"""VGG Image Annotator: which attribute is the class, and regions that have none."""

from __future__ import annotations

import json

import pytest

from ssdlite.data.formats.layout import find_layout, read_split
from ssdlite.errors import DataError

from .sets import read_train, rows_of, write, write_images

RECT = {"name": "rect", "x": 15, "y": 10, "width": 30, "height": 20}


def via(*attributes: dict[str, object], name: str = "a.jpg", shape: dict[str, object] = RECT) -> dict[str, object]:
    """Return the document of one image with a region for each of `attributes`."""
    regions = [{"shape_attributes": shape, "region_attributes": each} for each in attributes]
    return {f"{name}123": {"filename": name, "size": 123, "regions": regions, "file_attributes": {}}}


@pytest.mark.parametrize(
    ("attributes", "classes"),
    [
        ([{"kind": "cat"}, {"kind": "dog"}, {"kind": "dog", "name": "Rex"}], ["cat", "dog", "dog"]),
        ([{"name": "Rex", "class": "dog"}, {"name": "Tom", "class": "cat"}], ["dog", "cat"]),
        ([{"colour": "red", "kind": "cat"}, {"kind": "dog"}], ["cat", "dog"]),
        ([{"Class": "cat", "quality": {"good": True}}, {"Class": "dog", "quality": {}}], ["cat", "dog"]),
        ([{"x": "1", "label": 3}, {"x": "2", "label": 4}], ["3", "4"]),
        ([{}, {}], ["object", "object"]),
    ],
)
def test_the_class_is_a_usual_attribute_of_most_regions(tmp_path, attributes, classes):
    """A name that one region has is no class, though `name` is a usual one."""
    write_images(tmp_path, "a.jpg")
    write(tmp_path / "via.json", json.dumps(via(*attributes)))
    assert [name for name, _ in rows_of(read_train(tmp_path))["a.jpg"]] == classes


def test_regions_without_the_class_of_others_are_counted(tmp_path, caplog):
    write_images(tmp_path, "a.jpg")
    write(tmp_path / "via.json", json.dumps(via({"class": "cat"}, {"class": ""}, {"class": "cat"}, {})))
    assert [name for name, _ in rows_of(read_train(tmp_path))["a.jpg"]] == ["cat", "object", "cat", "object"]
    assert "took 2 regions without a class as class_name: a.jpg region 2; a.jpg region 4" in caplog.text


def test_no_class_at_all_is_no_loss(tmp_path, caplog):
    write_images(tmp_path, "a.jpg")
    write(tmp_path / "via.json", json.dumps(via({}, {})))
    read_train(tmp_path)
    assert not caplog.records


def test_a_project_and_its_export_are_read_once(tmp_path):
    write_images(tmp_path, "a.jpg", "b.jpg")
    document = via({"class": "cat"})
    write(tmp_path / "via_project.json", json.dumps({"_via_settings": {}, "_via_img_metadata": document}))
    write(tmp_path / "via_region_data.json", json.dumps(document))
    write(tmp_path / "via_more.json", json.dumps(via({"class": "dog"}, name="b.jpg")))
    layout = find_layout(tmp_path)
    assert [source.file.name for source in layout.train] == ["via_more.json", "via_project.json"]
    assert "via_region_data.json describes images of via_project.json as well" in layout.description
    box = [15, 10, 45, 30]
    assert rows_of(read_split(layout.train)) == {"a.jpg": [("cat", box)], "b.jpg": [("dog", box)]}


@pytest.mark.parametrize("folder", ["\ud800", "a\nb", "\x1b[31m"])
def test_sentences_have_the_name_of_the_file_on_the_disk(tmp_path, folder):
    """The name in the annotations may have halves of UTF-16 pairs, which no terminal shows, or break lines."""
    write_images(tmp_path, "a.jpg")
    path = write(tmp_path / "via.json", json.dumps(via({}, name=f"{folder}/a.jpg", shape={"name": "star"})))
    with pytest.raises(DataError) as caught:
        read_train(tmp_path)
    assert str(caught.value) == f"{path}: a.jpg region 1 has the shape 'star', which is not known; remove it"
