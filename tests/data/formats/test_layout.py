from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from ssdlite.data.formats.coco import CocoSource
from ssdlite.data.formats.layout import find_layout, read_split
from ssdlite.data.formats.voc import VocSource
from ssdlite.errors import DataError

from ..conftest import voc_xml

CAT = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 5, 20, 10]}
BOX = (1, 1, 9, 9)


@pytest.mark.parametrize("folder", ["train2017", "images/train2017", "train", "images/train", "images"])
def test_coco_images_are_found(make_coco, tmp_path: Path, folder: str) -> None:
    make_coco([CAT], folder=folder, file="annotations/instances_train2017.json")
    make_coco([CAT], folder="val2017", file="annotations/instances_val2017.json")
    layout = find_layout(tmp_path)
    annotations = tmp_path / "annotations"
    assert layout.train == [CocoSource(tmp_path / folder, annotations / "instances_train2017.json")]
    assert layout.val == [CocoSource(tmp_path / "val2017", annotations / "instances_val2017.json")]


def test_roboflow(make_coco, tmp_path: Path) -> None:
    for name in ("train", "valid", "test"):
        make_coco([CAT], folder=name, file=f"{name}/_annotations.coco.json")
    layout = find_layout(tmp_path)
    assert [source.images.name for source in (*layout.train, *layout.val)] == ["train", "valid"]
    assert len(read_split(layout.train)) == 1


def test_a_lone_training_set_has_no_validation_set(make_coco, tmp_path: Path) -> None:
    make_coco([CAT])
    layout = find_layout(tmp_path)
    assert len(layout.train) == 1 and layout.val == []
    assert "there is no validation set" in layout.description


def test_a_lone_validation_set_cannot_be_trained_on(make_coco, tmp_path: Path) -> None:
    make_coco([CAT], file="annotations/instances_val.json")
    layout = find_layout(tmp_path)
    assert "there is no training set" in layout.description
    with pytest.raises(DataError, match="no images for this split"):
        read_split(layout.train)


@pytest.mark.parametrize("prefix", ["", "VOCdevkit/"])
def test_voc_years_with_a_test_list(make_voc, tmp_path: Path, prefix: str) -> None:
    """VOC's customary 07+12: trainval of both, test of 2007."""
    files = {"a": voc_xml([])}
    old = make_voc({"train": files, "val": files, "trainval": files, "test": files}, root=f"{prefix}VOC2007")
    new = make_voc({"train": files, "trainval": files, "cat_train": files}, root=f"{prefix}VOC2012")
    layout = find_layout(tmp_path)
    assert layout.train == [VocSource(old, ("trainval",)), VocSource(new, ("trainval",))]
    assert layout.val == [VocSource(old, ("test",))]


def test_voc_without_a_test_list(make_voc) -> None:
    files = {"a": voc_xml([])}
    root = make_voc({"train": files, "val": files, "trainval": files})
    layout = find_layout(root)
    assert layout.train == [VocSource(root, ("train",))]
    assert layout.val == [VocSource(root, ("val",))]


def test_voc_with_a_lone_list_of_any_name(make_voc) -> None:
    root = make_voc({"default": {"a": voc_xml([])}})
    assert find_layout(root).train == [VocSource(root, ("default",))]


def test_unrecognised_places(make_coco, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"looked for annotations/instances_train\*.json.*Roboflow.*VOC"):
        find_layout(tmp_path)
    with pytest.raises(DataError, match="there is no such folder"):
        find_layout(tmp_path / "nowhere")
    make_coco([CAT], folder="elsewhere")
    with pytest.raises(DataError, match="its images were not found"):
        find_layout(tmp_path)
    make_coco([CAT], file="annotations/instances_train_2.json")
    with pytest.raises(DataError, match="several files could be the train set"):
        find_layout(tmp_path)


def test_c30_union_of_names_and_the_same_labels_for_validation(make_voc) -> None:
    first = VocSource(make_voc({"train": {"a": voc_xml([("dog", BOX)])}}, root="1"), ("train",))
    second = VocSource(make_voc({"train": {"b": voc_xml([("cat", BOX), ("dog", BOX)])}}, root="2"), ("train",))
    train = read_split([first, second])
    assert train.class_names == ("cat", "dog")
    assert [record.labels.tolist() for record in train.records] == [[2], [1, 2]]
    val = read_split([first], train.class_names)
    assert val.class_names == train.class_names
    assert val.records[0].labels.tolist() == [2]
    assert val.category_ids == train.category_ids == (1, 2)
    with pytest.raises(DataError, match="unknown class names 'cat'; the known ones are 'dog'"):
        read_split([second], ["dog"])


def test_unknown_classes_are_left_out_when_asked(make_coco, caplog) -> None:
    """Every column of a record goes together, images stay, and the message counts and names what went."""
    crowd = {"id": 2, "image_id": 1, "category_id": 7, "bbox": [1, 1, 30, 30], "area": 5, "iscrowd": 1}
    dog = {"id": 3, "image_id": 1, "category_id": 7, "bbox": [2, 3, 20, 30], "area": 77}
    bird = {"id": 4, "image_id": 2, "category_id": 9, "bbox": [0, 0, 5, 5]}
    images = [{"id": i, "file_name": f"{i}.png", "height": 40, "width": 60} for i in (1, 2)]
    source = CocoSource(*make_coco([CAT, crowd, dog, bird], {7: "dog", 3: "cat", 9: "bird"}, images))
    with pytest.raises(DataError, match=r"unknown class names .*'cat'.*data\.ignore_unknown=true"):
        read_split([source], ["fox", "dog"])
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        split = read_split([source], ["fox", "dog"], ignore_unknown=True)
    assert "left out 2 objects of 2 other classes: cat, bird" in caplog.text and len(caplog.records) == 1
    both, none = split.records
    assert both.labels.tolist() == [2, 2] and both.boxes.tolist() == [[1, 1, 31, 31], [2, 3, 22, 33]]
    assert both.ignore.tolist() == both.crowd.tolist() == [True, False] and both.areas.tolist() == [5, 77]
    assert none.boxes.shape == (0, 4) and none.labels.shape == none.ignore.shape == none.areas.shape == (0,)
    assert split.class_names == ("fox", "dog") and split.category_ids == (10, 7)


def test_nothing_is_said_where_nothing_is_left_out(make_coco, caplog) -> None:
    """A class without objects is no loss."""
    source = CocoSource(*make_coco([CAT]))
    with caplog.at_level(logging.WARNING):
        plain, asked = (read_split([source], ["cat"], ignore_unknown=flag) for flag in (False, True))
    assert not caplog.records
    assert plain.records[0].labels.tolist() == asked.records[0].labels.tolist() == [1]


def test_unknown_classes_of_several_sources_are_counted_source_by_source(make_voc, caplog) -> None:
    first = VocSource(make_voc({"train": {"a": voc_xml([("dog", BOX)])}}, root="1"), ("train",))
    second = VocSource(make_voc({"train": {"b": voc_xml([("cat", BOX), ("dog", BOX)])}}, root="2"), ("train",))
    with caplog.at_level(logging.WARNING):
        split = read_split([first, second], ["dog"], ignore_unknown=True)
    assert [record.labels.tolist() for record in split.records] == [[1], [1]]
    assert len(caplog.records) == 1 and str(second.root) in caplog.text


def test_coco_numbers_are_kept_when_joined_with_voc(make_coco, make_voc) -> None:
    coco = CocoSource(*make_coco([CAT]))
    voc = VocSource(make_voc({"train": {"a": voc_xml([("ant", BOX), ("cat", BOX)])}}), ("train",))
    split = read_split([voc, coco])
    assert split.class_names == ("cat", "dog", "ant")
    assert split.category_ids == (3, 7, 8)
    assert split.records[0].labels.tolist() == [3, 1]


def test_clashing_image_ids_are_renamed_with_a_warning(make_coco, tmp_path: Path, caplog) -> None:
    source = CocoSource(*make_coco([CAT]))
    with caplog.at_level(logging.WARNING):
        split = read_split([source, source])
    assert [record.image_id for record in split.records] == [1, "2/1"]
    assert "1 image ids are also those of an earlier source" in caplog.text


@pytest.mark.parametrize(
    ("name", "num_train", "num_val", "num_classes"),
    [("bccd", 292, 72, 3), ("helmet", 1868, 467, 2), ("coco128", 128, 0, 80)],
)
def test_real_sets(real_data: Path, name: str, num_train: int, num_val: int, num_classes: int) -> None:
    layout = find_layout(real_data / name)
    train = read_split(layout.train)
    assert (len(train), len(train.class_names)) == (num_train, num_classes)
    if num_val:
        val = read_split(layout.val, train.class_names)
        assert len(val) == num_val and val.category_ids == train.category_ids
    assert ("no validation set" in layout.description) == (name == "coco128")
    if name == "coco128":
        path = real_data / "coco128" / "annotations" / "instances_train2017.json"
        crowds = sum(item["iscrowd"] for item in json.loads(path.read_text())["annotations"])
        assert sum(int(record.crowd.sum()) for record in train.records) == crowds == 10
        assert train.category_ids[-1] == 90
