from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ssdlite.build.data import read_data
from ssdlite.config.schema import load_config
from ssdlite.data.formats.layout import find_layout, read_split
from ssdlite.data.formats.registry import FORMATS
from ssdlite.data.formats.write import WRITERS, distinct_names, place_image, shortest, write_splits
from ssdlite.errors import ConfigError, DataError
from ssdlite.structures import DataSplit, Record

from ..conftest import write_image

NAMES = ("traffic light", "été: x", "2024")


@pytest.fixture
def splits(tmp_path) -> dict[str, DataSplit]:
    """Random boxes in single precision, flags, an image without objects, and two images of one name."""
    rng = np.random.default_rng(0)
    made: dict[str, DataSplit] = {}
    for split, names in {
        "train": ["a.png", "x/a.png", "b c.jpg", "none.png"],
        "val": ["v.png"],
        "test": ["t.png"],
    }.items():
        records = []
        for number, name in enumerate(names):
            path = tmp_path / "images" / split / name
            write_image(path)
            num = 0 if name == "none.png" else 7
            corners = rng.uniform(0, 1, (num, 2, 2)).astype(np.float32) * np.array([60, 40], np.float32)
            boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
            boxes[:1] = [0, 0, 60, 40]
            ignore = np.arange(num) == 3
            areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
            labels = rng.integers(1, 4, num)
            crowd = np.zeros(num, bool)
            records.append(Record(path, 10 * number + 7, (40, 60), boxes, labels, ignore, crowd, areas))
        made[split] = DataSplit(records, NAMES, (1, 5, 9))
    return made


def read_back(directory: Path, class_names=NAMES) -> dict[str, DataSplit]:
    layout = find_layout(directory)
    parts = {"train": layout.train, "val": layout.val, "test": layout.test}
    return {name: read_split(sources, class_names) for name, sources in parts.items()}


@pytest.mark.parametrize("kind", WRITERS)
def test_what_is_written_is_read_to_the_last_bit(splits, tmp_path, kind):
    left_out = write_splits(splits, tmp_path / "out", kind)
    found = read_back(tmp_path / "out")
    for name, split in splits.items():
        assert len(found[name]) == len(split)
        by_name = {record.image_path.name: record for record in found[name].records}
        names = distinct_names(split.records, by_stem=kind != "coco")
        if kind == "voc" and name != "train":
            names = [record.image_path.name for record in split.records]
        for record, file_name in zip(split.records, names, strict=True):
            other = by_name[file_name]
            kept = ~record.ignore if kind == "yolo" else np.ones(len(record.boxes), bool)
            assert other.size == record.size
            assert np.array_equal(other.boxes, record.boxes[kept]), (name, file_name)
            assert np.array_equal(other.labels, record.labels[kept])
            assert np.array_equal(other.ignore, record.ignore[kept])
            assert other.image_path.read_bytes() == record.image_path.read_bytes()
            if kind == "coco":
                assert (other.image_id, other.areas.tolist()) == (record.image_id, record.areas.tolist())
    num_ignored = sum(int(record.ignore.sum()) for split in splits.values() for record in split.records)
    assert sum(left_out.values()) == (num_ignored if kind == "yolo" else 0)
    if kind == "coco":
        assert found["train"].category_ids == (1, 5, 9)


def test_kinds_are_those_of_formats():
    assert set(WRITERS) <= {one.name for one in FORMATS}


def test_a_single_pixel_is_counted_where_voc_cannot_write_it(tmp_path):
    write_image(tmp_path / "a.png")
    boxes, flags = np.array([[4, 5, 5, 6], [4, 5, 5, 7]], np.float32), np.zeros(2, bool)
    record = Record(
        tmp_path / "a.png", 1, (40, 60), boxes, np.ones(2, np.int64), flags, flags, np.ones(2, np.float32)
    )
    left_out = write_splits({"train": DataSplit([record], ("x",), (1,))}, tmp_path / "voc", "voc")
    assert sum(left_out.values()) == 1
    assert read_split(find_layout(tmp_path / "voc").train).records[0].boxes.tolist() == [[4, 5, 5, 7]]


@pytest.mark.parametrize("mode", ["link", "copy"])
def test_images_are_linked_or_copied(tmp_path, mode):
    write_image(tmp_path / "a.png")
    place_image(tmp_path / "a.png", tmp_path / "b.png", mode)
    assert (tmp_path / "a.png").samefile(tmp_path / "b.png") == (mode == "link")
    with pytest.raises(DataError, match=r"none\.png: the image cannot be copied"):
        place_image(tmp_path / "none.png", tmp_path / "c.png", mode)


def test_a_folder_with_something_in_it_is_refused(splits, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/a").touch()
    with pytest.raises(ConfigError, match="there is something already"):
        write_splits(splits, tmp_path / "full", "coco")
    with pytest.raises(ConfigError, match="--to kitti is no format"):
        write_splits(splits, tmp_path / "new", "kitti")
    assert not (tmp_path / "new").exists()


def test_shortest():
    assert shortest(np.float32(0.1)) == 0.1 and shortest(np.float32(16777216)) == 16777216


@pytest.mark.parametrize("kind", WRITERS)
def test_convert_data(cli, drawn, tmp_path, kind):
    """The command, at a set with a validation set, and at one without."""
    result = cli("convert-data", drawn, tmp_path / "out", "--to", kind)
    assert result.code == 0, result.err
    before = read_data(load_config(None, [f"data={drawn}"]).data)
    after = read_data(load_config(None, [f"data={tmp_path / 'out'}"]).data)
    for one, other in zip(before, after, strict=True):
        assert len(one) == len(other)
        rows, others = (
            sorted(
                (place, split.class_names[label - 1], *box)
                for place, record in enumerate(sorted(split.records, key=lambda record: record.image_path))
                for label, box in zip(record.labels.tolist(), record.boxes.tolist(), strict=True)
            )
            for split in (one, other)
        )
        assert rows == others
    (drawn_copy := tmp_path / "lone").mkdir()
    for name in ("annotations/instances_train.json", "train"):
        (drawn_copy / name).parent.mkdir(exist_ok=True)
        (drawn_copy / name).symlink_to(drawn / name)
    result = cli("convert-data", drawn_copy, tmp_path / "split", "--to", kind)
    assert "train: 19 images" in result.out and "val: 5 images" in result.out, result.out
    result = cli("convert-data", drawn_copy, tmp_path / "whole", "data.val_fraction=0", "--to", kind)
    assert "train: 24 images" in result.out and "val:" not in result.out


def test_mistakes_get_one_sentence(cli, drawn, tmp_path):
    for arguments, sentence in (
        ([drawn, tmp_path / "a", "--to", "kitti"], "--to is coco, voc or yolo, not 'kitti'"),
        ([drawn, tmp_path / "a", "--images", "move"], "--images is link or copy, not 'move'"),
        ([drawn, drawn], "there is something already; name a new folder"),
        ([drawn, tmp_path / "a", "train.epochs=3"], "train.epochs has no effect on the conversion of a data set"),
        ([tmp_path / "none", tmp_path / "a"], "none: there is no such folder"),
    ):
        result = cli("convert-data", *arguments)
        assert result.code in (1, 2) and sentence in result.err, result.err


@pytest.mark.parametrize("kind", WRITERS)
def test_label(cli, lively, drawn, tmp_path, kind):
    """A second round starts from the first: what predict finds is what the annotations hold."""
    model, images = lively / "model.pt", drawn / "val"
    result = cli("label", model, images, tmp_path / "out", "--to", kind, "--score-threshold", "0.05")
    assert result.code == 0, result.err
    predicted = tmp_path / "found.json"
    options = ["--no-pictures", "--json", predicted, "--score-threshold", "0.05"]
    assert cli("predict", model, images, *options).code == 0
    rows = json.loads(predicted.read_text())
    expected = {
        Path(row["image"]).name: sorted((each["label"], *each["box"]) for each in row["detections"]) for row in rows
    }
    assert any(expected.values())
    split = read_split(find_layout(tmp_path / "out").train)
    found = {
        record.image_path.name: sorted(
            (split.class_names[label - 1], *(round(side, 2) for side in box))
            for label, box in zip(record.labels.tolist(), record.boxes.tolist(), strict=True)
        )
        for record in split.records
    }
    assert {name: [row[0] for row in rows] for name, rows in found.items()} == {
        name: [row[0] for row in rows] for name, rows in expected.items()
    }
    for name, rows in expected.items():
        boxes, others = (np.array([row[1:] for row in each]).reshape(-1, 4) for each in (rows, found[name]))
        assert np.allclose(boxes, others, atol=0.011)


def test_label_takes_images_only(cli, lively, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    for pattern, sentence in (
        (tmp_path / "a.mp4", "only images can be labelled"),
        (tmp_path / "no", "no such file"),
    ):
        result = cli("label", lively / "model.pt", pattern, tmp_path / "out")
        assert result.code in (1, 2) and sentence in result.err, result.err
