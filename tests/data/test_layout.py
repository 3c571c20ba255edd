from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from ssdlite.data.layout import CocoSource, VocSource, find_layout, read_split
from ssdlite.errors import DataError

from .conftest import voc_xml

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


def test_a_lone_training_set_validates_on_itself_and_says_so(make_coco, tmp_path: Path) -> None:
    make_coco([CAT])
    layout = find_layout(tmp_path)
    assert layout.val == layout.train
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
    [("bccd", 292, 72, 3), ("helmet", 1868, 467, 2), ("coco128", 128, 128, 80)],
)
def test_real_sets(real_data: Path, name: str, num_train: int, num_val: int, num_classes: int) -> None:
    layout = find_layout(real_data / name)
    train = read_split(layout.train)
    val = read_split(layout.val, train.class_names)
    assert (len(train), len(val), len(train.class_names)) == (num_train, num_val, num_classes)
    assert val.category_ids == train.category_ids
    assert ("no validation set" in layout.description) == (name == "coco128")
    if name == "coco128":
        path = real_data / "coco128" / "annotations" / "instances_train2017.json"
        crowds = sum(item["iscrowd"] for item in json.loads(path.read_text())["annotations"])
        assert sum(int(record.crowd.sum()) for record in train.records) == crowds == 10
        assert train.category_ids[-1] == 90
