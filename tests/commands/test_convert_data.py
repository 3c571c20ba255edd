"""Verbs `convert-data` and `label`: data sets that are written, and read again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssdlite.build.data import read_data
from ssdlite.config.schema import load_config
from ssdlite.data.formats.layout import find_layout, read_split
from ssdlite.data.formats.write import WRITERS
from tests.conftest import TINY


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


def test_the_command_that_comes_next(cli, drawn, tmp_path):
    """Quoted for the shell; without images it says what is missing."""
    result = cli("convert-data", drawn, tmp_path / "my set")
    assert f"train on it with: ssdlite train 'data={tmp_path / 'my set'}'\n" in result.out
    result = cli("convert-data", drawn, tmp_path / "bare", "--images", "none")
    assert (
        f"it has no images, which must be added under their names before: ssdlite train data={tmp_path}"
        in result.out
    )
    assert not [*(tmp_path / "bare").rglob("*.jpg")]
    for split in ("train", "val"):
        (tmp_path / "bare" / split).rmdir()
        (tmp_path / "bare" / split).symlink_to(drawn / split)
    parts = [read_data(load_config(None, [f"data={path}"]).data) for path in (drawn, tmp_path / "bare")]
    before, after = ([[record.boxes.tolist() for record in split.records] for split in part] for part in parts)
    assert before == after


@pytest.mark.parametrize("kind", WRITERS)
def test_a_second_round_starts_from_the_first(cli, lively, drawn, tmp_path, kind):
    """Odd names and a photograph on its side are labelled, and the result is trained on."""
    folder = tmp_path / "new photos"
    folder.mkdir()
    names = ["a.jpg", "two words.jpg", "UP.JPG", "back\\slash.jpg", ".hidden.jpg"]
    for name, source in zip(names, sorted((drawn / "val").glob("*.jpg")), strict=False):
        (folder / name).write_bytes(source.read_bytes())
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(sorted((drawn / "val").glob("*.jpg"))[6]) as picture:
        picture.crop((0, 0, 96, 64)).save(folder / "turned.jpg", exif=exif, quality=95)
    result = cli("label", lively / "model.pt", folder, tmp_path / "out", "--to", kind, "--score-threshold", "0.1")
    assert result.code == 0, result.err
    (split,) = read_data(load_config(None, [f"data={tmp_path / 'out'}", "data.val_fraction=0"]).data, ["train"])
    assert {record.image_path.name for record in split.records} == {*names[:3], "back_slash.jpg", "turned.jpg"}
    assert {record.size for record in split.records} == {(96, 96), (96, 64)}  # upright
    assert sum(len(record.boxes) for record in split.records) > 5
    run = [f"run.dir={tmp_path / 'runs'}", "train.epochs=1", *TINY]
    assert cli("train", f"data={tmp_path / 'out'}", *run).code == 0


def test_mistakes_get_one_sentence(cli, drawn, tmp_path):
    for arguments, sentence in (
        ([drawn, tmp_path / "a", "--to", "kitti"], "--to is coco, voc or yolo, not 'kitti'"),
        ([drawn, tmp_path / "a", "--images", "move"], "--images is link, copy or none, not 'move'"),
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
