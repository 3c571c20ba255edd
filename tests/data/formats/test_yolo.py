from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssdlite.config.schema import parse_options
from ssdlite.data.formats.layout import find_layout, read_split
from ssdlite.data.formats.yolo import YoloSource, read_names
from ssdlite.errors import DataError

from .sets import read_train, rows_of, write, write_images

HALF = "0.5 0.5 0.5 0.5"  # of 60x40: the middle
MIDDLE = [15, 10, 45, 30]


def write_set(root: Path, train: str = "../train/images", val: str | None = "../valid/images") -> Path:
    """Roboflow's layout, whose paths lead out of the folder."""
    lines = [f"train: {train}", "nc: 2", "names: [cat, dog]", *([f"val: {val}"] if val else [])]
    write(root / "data.yaml", "\n".join(lines))
    for split, names in {"train": ("a.jpg", "b.JPG", "none.jpg"), "valid": ("v.jpg",)}.items():
        write_images(root / split / "images", *names)
        for name in names:
            write(root / split / "labels" / f"{Path(name).stem}.txt", f"1 {HALF}\n")
    (root / "train/labels/none.txt").write_text("")
    (root / "train/labels/b.txt").unlink()
    return root


@pytest.mark.parametrize("place", ["", "data.yaml", ".."])
def test_roboflow(tmp_path, place):
    """At the folder, at its data.yaml and at the folder above; images without labels have no objects."""
    root = write_set(tmp_path / "set")
    layout = find_layout(root / place)
    assert rows_of(read_split(layout.train)) == {"a.jpg": [("dog", MIDDLE)], "b.JPG": [], "none.jpg": []}
    assert rows_of(read_split(layout.val, ["cat", "dog"])) == {"v.jpg": [("dog", MIDDLE)]}
    assert read_split(layout.train).category_ids == (0, 1)
    assert layout.description.startswith(f"YOLO data at {(root / place).resolve() if place != '..' else root}")


def test_a_split_that_is_named_and_absent(tmp_path):
    root = write_set(tmp_path, val="../nothing/images")
    layout = find_layout(root)
    assert layout.val == []
    assert layout.description.endswith("data.yaml names '../nothing/images' for val, which is not there")


@pytest.mark.parametrize("train", ["train", "./train/images", "[train/images]", "/home/you/set/train/images"])
def test_paths_of_data_yaml(tmp_path, train):
    """Relative to the file's own folder, a list of them, and of another machine."""
    assert find_layout(write_set(tmp_path, train)).train[0].images.name in ("train", "images")
    assert len(read_train(tmp_path)) == 3


def test_path_key_and_names_by_number(tmp_path):
    write_images(tmp_path / "set/images/train", "a.jpg")
    write(tmp_path / "set/labels/train/a.txt", f"2 {HALF}")
    write(tmp_path / "conf/my.yaml", "path: ../set\ntrain: images/train\nval: images/train\nnames: {0: a, 2: c}")
    layout = find_layout(tmp_path / "conf/my.yaml")
    split = read_split(layout.train)
    assert split.class_names == ("a", "class 1", "c") and rows_of(split) == {"a.jpg": [("c", MIDDLE)]}
    assert layout.val == layout.train  # the training set under another name


def test_a_data_yaml_in_a_folder_of_its_own(tmp_path):
    write_images(tmp_path / "images/train", "a.jpg")
    write(tmp_path / "labels/train/a.txt", f"0 {HALF}")
    write(tmp_path / "config/data.yaml", "train: images/train\nnames: [cat]")
    assert rows_of(read_train(tmp_path)) == {"a.jpg": [("cat", MIDDLE)]}


def test_a_yaml_of_names_alone(tmp_path):
    for split in ("train", "val"):
        write_images(tmp_path / split / "images", f"{split}.jpg")
        write(tmp_path / split / "labels" / f"{split}.txt", f"1 {HALF}")
    write(tmp_path / "names.yaml", "names: [cat, dog]")
    layout = find_layout(tmp_path)
    assert rows_of(read_split(layout.train)) == {"train.jpg": [("dog", MIDDLE)]} and layout.val


def test_a_list_of_images(tmp_path):
    root = write_set(tmp_path, train="train.txt")
    write(root / "train.txt", "./train/images/a.jpg\n/elsewhere/train/images/b.jpg\ntrain\\images\\none.jpg\n")
    assert list(rows_of(read_train(root))) == ["a.jpg", "b.JPG", "none.jpg"]


def test_darknet_as_cvat_exports_it(tmp_path):
    """The paths begin with data/, which is not there."""
    write(tmp_path / "obj.data", "classes = 1\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    write(tmp_path / "obj.names", "bar\n")
    write(tmp_path / "train.txt", "data/obj_train_data/a.png\ndata/obj_train_data/b.png\n")
    write_images(tmp_path / "obj_train_data", "a.png", "b.png")
    write(tmp_path / "obj_train_data/a.txt", f"0 {HALF}\n")
    write(tmp_path / "annotations.xml", '<annotations><image name="other.png" width="9" height="9"/></annotations>')
    layout = find_layout(tmp_path)
    assert layout.description.startswith("Darknet YOLO data")
    assert rows_of(read_split(layout.train)) == {"a.png": [("bar", MIDDLE)], "b.png": []}


@pytest.mark.parametrize("names", ["classes.txt", "../classes.txt", "obj.names"])
def test_labels_beside_the_images(tmp_path, names):
    write_images(tmp_path / "set", "a.jpg")
    write(tmp_path / "set/a.txt", f"0 {HALF}")
    write(tmp_path / "set" / names, "bar\n\n")
    assert rows_of(read_train(tmp_path if ".." in names else tmp_path / "set")) == {"a.jpg": [("bar", MIDDLE)]}


def test_images_and_labels_as_label_studio_exports_them(tmp_path):
    write_images(tmp_path / "images", "0a-x.jpg")
    write(tmp_path / "labels/0a-x.txt", f"1 {HALF}")
    write(tmp_path / "classes.txt", "cat\ndog")
    write(tmp_path / "notes.json", json.dumps({"categories": []}))
    assert rows_of(read_train(tmp_path)) == {"0a-x.jpg": [("dog", MIDDLE)]}


def test_images_train_and_labels_train_without_yaml(tmp_path):
    for split in ("train", "val", "test"):
        write_images(tmp_path / "images" / split, f"{split}.jpg")
        write(tmp_path / "labels" / split / f"{split}.txt", f"0 {HALF}")
    write(tmp_path / "classes.txt", "cat")
    layout = find_layout(tmp_path)
    found = [[*rows_of(read_split(part))] for part in (layout.train, layout.val, layout.test)]
    assert found == [["train.jpg"], ["val.jpg"], ["test.jpg"]]


LINES = {
    "a polygon becomes its box": ("0 .25 .25 .75 .25 .75 .75", MIDDLE),
    "an oriented box": ("0 .5 .25 .75 .5 .5 .75 .25 .5", MIDDLE),
    "a confidence is passed over": (f"0 {HALF} 0.9", MIDDLE),
    "a box a little outside is cut": ("0 0 .5 .5 .5", [0, 10, 15, 30]),
    "exponents": ("0 5e-1 .5 0.5 .5", MIDDLE),
}


@pytest.mark.parametrize(("line", "box"), LINES.values(), ids=LINES)
def test_lines(tmp_path, line, box):
    root = write_set(tmp_path)
    write(root / "train/labels/a.txt", f"\n{line}\n")
    assert rows_of(read_train(root))["a.jpg"] == [("cat", box)]


def test_keypoints_stand_behind_the_box(tmp_path):
    root = write_set(tmp_path)
    write(root / "data.yaml", "train: train/images\nkpt_shape: [2, 3]\nnames: [cat, dog]")
    write(root / "train/labels/a.txt", f"0 {HALF} .1 .1 2 .2 .2 2")
    assert rows_of(read_train(root))["a.jpg"] == [("cat", MIDDLE)]


BROKEN = {
    "a class beyond the names": (
        f"2 {HALF}",
        "line 1 has the class 2, but there are 2 class names, so that the last",
    ),
    "a class that is no number": (f"cat {HALF}", "line 1 has 'cat' where a number belongs"),
    "three numbers": ("0 .5 .5 .5", "line 1 has 4 numbers, where a class and a box"),
    "pixels": ("0 30 20 30 20", "line 1 has 30 20 30 20, but YOLO's numbers are fractions"),
    "not a number": ("0 nan .5 .5 .5", "line 1 has nan .5 .5 .5, but"),
    "half a class": (f"0.5 {HALF}", "line 1 has the class 0.5"),
    "a negative class": (f"-1 {HALF}", "line 1 has the class -1"),
}


@pytest.mark.parametrize(("line", "message"), BROKEN.values(), ids=BROKEN)
def test_broken_lines_are_named(tmp_path, line, message):
    root = write_set(tmp_path)
    write(root / "train/labels/a.txt", line)
    with pytest.raises(DataError) as caught:
        read_train(root)
    assert str(caught.value).startswith(f"{root / 'train/labels/a.txt'}: {message}")


def test_names_that_cannot_be_used(tmp_path):
    for content, message in {
        "": "it names no classes",
        "a\na": "'a' is there twice",
        "a\n\x07": "plain characters",
    }.items():
        with pytest.raises(DataError, match=message):
            read_names(write(tmp_path / "classes.txt", content))
    for content, message in {
        "names: 3": "'names' is 3",
        "names: {a: b}": "keys of 'names'",
        "[": "not a YAML file",
        "nc: 0": "'names' is None",
    }.items():
        with pytest.raises(DataError, match=message):
            read_names(write(tmp_path / "data.yaml", content))
    assert read_names(write(tmp_path / "data.yaml", "nc: 2")) == ["class 0", "class 1"]


def test_images_that_are_not_there_or_not_readable_are_left_out(tmp_path, caplog):
    root = write_set(tmp_path, train="train.txt")
    write(root / "train.txt", "train/images/a.jpg\ntrain/images/b.JPG\ntrain/images/none.jpg\ngone.jpg\n")
    write(root / "train/images/none.jpg", "<html>")
    assert list(rows_of(read_train(root))) == ["a.jpg", "b.JPG"]
    assert "left out 1 image whose file is not there: gone.jpg" in caplog.text
    assert "left out 1 image whose file cannot be read: none.jpg" in caplog.text
    write(root / "train.txt", "train/images/a.jpg\ngone.jpg\nlost.jpg\n")
    with pytest.raises(DataError, match=r"its images are not there, the first is gone\.jpg"):
        read_train(root)


def test_labels_without_an_image_are_counted(tmp_path, caplog):
    root = write_set(tmp_path)
    write(root / "train/labels/lone.txt", f"0 {HALF}")
    write(root / "train/labels/classes.txt", "cat\ndog")
    assert list(rows_of(read_train(root))) == ["a.jpg", "b.JPG", "none.jpg"]
    assert "left out 1 annotation without an image: lone.txt" in caplog.text


def test_training_images_that_are_not_there(tmp_path):
    write(tmp_path / "data.yaml", "train: images/train\nnames: [a]")
    with pytest.raises(DataError, match=r"data\.yaml names 'images/train' for train, which is not there"):
        find_layout(tmp_path)


def test_images_of_one_name_in_two_folders_have_ids_of_their_own(tmp_path):
    write_images(tmp_path / "images/x", "a.jpg")
    write_images(tmp_path / "images/y", "a.jpg")
    names = write(tmp_path / "classes.txt", "cat")
    write(tmp_path / "labels/x/a.txt", f"0 {HALF}")
    split = read_split([YoloSource(tmp_path / "images", names)])
    assert [record.image_id for record in split.records] == ["x/a.jpg", "y/a.jpg"]
    assert [len(record.boxes) for record in split.records] == [1, 0]


@pytest.mark.parametrize("text", ["/", "../../..", "//"])
def test_folders_far_above_are_no_data_set(tmp_path, text):
    """A slip in data.yaml must not look through the whole disk."""
    root = write_set(tmp_path / "a/b/set", train=text)
    assert find_layout(root).train[0].images.is_relative_to(root)
    write(root / "data.yaml", f"path: {text}\ntrain: .\nnames: [cat, dog]")
    assert find_layout(root).train[0].images.is_relative_to(root)


def test_labels_in_another_spelling_are_those_of_the_image(tmp_path):
    """A Mac's disk decomposes letters with accents, and some tools write .TXT."""
    write_images(tmp_path / "images", "caf\u00e9.jpg", "b.jpg")
    write(tmp_path / "labels/cafe\u0301.txt", f"0 {HALF}")
    write(tmp_path / "labels/b.TXT", f"0 {HALF}")
    write(tmp_path / "classes.txt", "cat")
    assert [*rows_of(read_train(tmp_path)).values()] == [[("cat", MIDDLE)]] * 2


def test_the_option_that_is_proposed_can_be_read(tmp_path):
    write_images(tmp_path, "a.jpg")
    write(tmp_path / "a.txt", f"0 {HALF}")
    with pytest.raises(DataError) as caught:
        find_layout(tmp_path)
    option = str(caught.value).split("'")[-2]
    assert option.startswith("data.train={kind: yolo, ") and parse_options([option])
