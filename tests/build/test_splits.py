"""Splits of a data set through the options: a validation set that is made, one under another name, a test set."""

from __future__ import annotations

import shutil

import pytest

from ssdlite.build.data import read_data, require_objects
from ssdlite.config.schema import config_from_checkpoint, load_config
from ssdlite.errors import ConfigError, DataError

from ..data.formats.sets import write, write_images

HALF = "0.5 0.5 0.5 0.5"
LETTERS = "abcdefghij"


@pytest.fixture
def yolo(tmp_path):
    """Ten images to train on, and five to test on."""
    root = tmp_path / "set"
    for split, names in {"train": LETTERS, "test": "vwxyz"}.items():
        for name in names:
            write_images(root / "images" / split, f"{name}.png")
            write(
                root / "images" / split / f"{name}.png",
                (root / "images" / split / f"{name}.png").read_bytes() + name.encode(),
            )
            write(root / "labels" / split / f"{name}.txt", f"0 {HALF}\n")
    write(root / "data.yaml", "train: images/train\nval: images/train\ntest: images/test\nnames: [thing]\n")
    return root


def names(split):
    return {record.image_path.stem for record in split.records}


def test_a_validation_set_under_the_name_of_the_training_set_is_split_off(yolo, caplog):
    caplog.set_level("INFO")
    train, val = read_data(load_config(None, [f"data={yolo}"]).data)
    assert len(train) == 8 and len(val) == 2 and names(train) | names(val) == set(LETTERS)
    assert (
        "2 of the 10 images validate, chosen by groups that belong together (data.val_fraction=0.2)" in caplog.text
    )


def test_each_split_is_the_same_however_it_is_asked_for(yolo):
    config = load_config(None, [f"data={yolo}"]).data
    train, val = read_data(config)
    assert names(read_data(config, ["val"], ["thing"])[0]) == names(val)
    assert names(read_data(config, ["train"])[0]) == names(train)
    (test,) = read_data(config, ["test"])
    assert names(test) == set("vwxyz")


def test_the_share_is_an_option(yolo, caplog):
    train, val = read_data(load_config(None, [f"data={yolo}", "data.val_fraction=0.5"]).data)
    assert len(train) == len(val) == 5
    train, val = read_data(load_config(None, [f"data={yolo}", "data.val_fraction=0"]).data)
    assert len(train) == len(val) == 10 and "so the figures will flatter the model" in caplog.text
    with pytest.raises(ConfigError, match=r"data\.val_fraction"):
        load_config(None, ["data.val_fraction=1"])


def test_explicit_sources(yolo):
    """A training source alone is split; a test source is read; one that is not named is missing."""
    source = f"{{kind: yolo, images: {yolo}/images/train, names: {yolo}/data.yaml}}"
    config = load_config(None, [f"data.train={source}"]).data
    assert [len(split) for split in read_data(config)] == [8, 2]
    with pytest.raises(ConfigError, match=r"there is no test set: give data=PATH, or data.test with a source"):
        read_data(config, ["test"])
    config = load_config(None, [f"data.train={source}", f"data.val={source}"]).data
    assert [len(split) for split in read_data(config)] == [10, 10]  # which is what was asked for
    test = source.replace("images/train", "images/test")
    config = load_config(None, [f"data.train={source}", f"data.test={test}"]).data
    assert names(read_data(config, ["test"])[0]) == set("vwxyz")


def test_a_data_set_without_a_test_set(yolo):
    shutil.rmtree(yolo / "images/test")
    with pytest.raises(DataError, match="the data set has no test set"):
        read_data(load_config(None, [f"data={yolo}"]).data, ["test"])


def test_copies_of_one_original_cannot_be_split(tmp_path, caplog):
    root = tmp_path / "set"
    for number in range(4):
        write_images(root, f"a_jpg.rf.{number}.png")
        write(root / f"a_jpg.rf.{number}.txt", f"0 {HALF}")
    write(root / "classes.txt", "thing")
    train, val = read_data(load_config(None, [f"data={root}"]).data)
    assert train is val and "the images cannot be split: all are of one group" in caplog.text


def test_checkpoints_from_before_validate_on_all_training_images(yolo):
    old = {"data": {"path": str(yolo)}}
    assert [len(split) for split in read_data(config_from_checkpoint(old).data)] == [10, 10]
    assert config_from_checkpoint({}).data.val_fraction == 0.2


def test_a_training_set_from_which_nothing_can_be_learnt(yolo, cli, tmp_path):
    for path in (yolo / "labels/train").iterdir():
        path.write_text("")
    with pytest.raises(DataError, match="the 8 training images have no objects"):
        require_objects(read_data(load_config(None, [f"data={yolo}"]).data)[0])
    result = cli("train", f"data={yolo}", f"run.dir={tmp_path / 'runs'}")
    assert result.code == 1 and "the 8 training images have no objects" in result.err
    assert not (tmp_path / "runs").exists()


def test_a_run_writes_the_list_of_its_validation_images(yolo, cli, tmp_path):
    from tests.conftest import TINY

    result = cli("train", f"data={yolo}", f"run.dir={tmp_path / 'runs'}", "train.epochs=1", *TINY)
    assert result.code == 0, result.err
    listed = (tmp_path / "runs/set/validation-images.txt").read_text().splitlines()
    assert {path.rpartition("/")[2] for path in listed} == {
        f"{name}.png" for name in names(read_data(load_config(None, [f"data={yolo}"]).data)[1])
    }
    result = cli("eval", tmp_path / "runs/set/best.pt", "--split", "test", "--no-report")
    assert result.code == 0 and "on 5 images (test)" in result.out, result.err
