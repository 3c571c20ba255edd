"""`ssdlite view-data`: what is on the sheet."""

import json

import cv2
import numpy as np
import pytest
import torch

from ssdlite.build.data import read_data
from ssdlite.build.training import build_loader
from ssdlite.commands.view_data import CELL, NUM_DRAWS, _training_inputs
from ssdlite.config.schema import load_config
from ssdlite.drawing import GREY

SIDE = CELL + 8  # a cell and its margin


def make_coco(folder, objects):
    """Two images of 100x80, the first with `objects` as (box xywh, iscrowd), the second with none."""
    (folder / "annotations").mkdir(parents=True)
    images = [{"id": i, "file_name": f"{i}.png", "width": 100, "height": 80} for i in (1, 2)]
    annotations = [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": box, "area": 1, "iscrowd": crowd}
        for i, (box, crowd) in enumerate(objects, 1)
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    for split in ("train", "val"):
        (folder / split).mkdir()
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
        for image in images:
            cv2.imwrite(str(folder / split / image["file_name"]), np.full((80, 100, 3), 90, np.uint8))
    return folder


def test_a_sheet_of_a_folder(cli, drawn, tmp_path):
    result = cli("view-data", drawn, "--output", tmp_path / "sheet.png", "--count", 6)
    assert result.code == 0, result.err
    assert "6 of 24 images (train)" in result.out
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape == (2 * SIDE + 8, 4 * SIDE + 8, 3)
    assert (sheet[SIDE + 8 :, 2 * SIDE + 8 :] == 255).all()  # six of eight places are taken
    assert cli("view-data", drawn, "--split", "val", "--output", tmp_path / "val.png").code == 0
    assert cv2.imread(str(tmp_path / "val.png")).shape == sheet.shape  # all eight


def test_objects_are_named_and_those_that_are_ignored_are_grey(cli, tmp_path):
    data = make_coco(tmp_path / "data", [([10, 40, 20, 30], 0), ([60, 40, 30, 30], 1)])
    assert cli("view-data", data, "--output", tmp_path / "sheet.png").code == 0
    sheet = cv2.imread(str(tmp_path / "sheet.png"))[..., ::-1].astype(int)
    first, second = sheet[8 : 8 + CELL, 8 : 8 + CELL], sheet[8 : 8 + CELL, 8 + SIDE : 8 + SIDE + CELL]
    is_grey_dash = (np.abs(first - GREY) <= 3).all(axis=2)
    columns = np.flatnonzero(is_grey_dash.any(axis=0))
    scale, top = CELL / 100, (CELL - 0.8 * CELL) / 2
    assert columns.min() >= 60 * scale - 3  # the crowd alone
    colored = first.max(axis=2) - first.min(axis=2) > 60
    rows, columns = np.flatnonzero(colored.any(axis=1)), np.flatnonzero(colored.any(axis=0))
    assert abs(columns.min() - 10 * scale) < 3 and abs(rows.max() - (top + 70 * scale)) < 3
    assert set(np.unique(second)) == {90, 240}  # the image without objects, and what lies around it


@pytest.mark.parametrize(
    ("recipe", "start", "alignment"),
    [
        ("data.augmentation=ssd", "none", "half_pixel"),
        ("data.cache=memory", "none", "half_pixel"),
        ("data.augment_on=device", "none", "half_pixel"),
        ("data.augmentation=ssd", "coco", "asymmetric"),  # as TensorFlow, where it comes from
    ],
)
def test_augmented_pictures_are_those_that_training_sees(drawn, recipe, start, alignment):
    options = [f"data={drawn}", "model.input_size=96", "train.batch_size=6", "run.seed=3", recipe]
    config = load_config(None, [*options, f"model.weights={start}"])
    (data,) = read_data(config.data, ["train"])
    indices = [0, 5, 17]
    shown = _training_inputs(config, data, indices)
    assert len(shown) == NUM_DRAWS
    from ssdlite.data.device import finish_images

    loader = build_loader(config, data, training=True, alignment=alignment, device=torch.device("cpu"), workers=0)
    for epoch, batch in enumerate(shown):
        loader.sampler.set_epoch(epoch)
        seen = {}
        for trained in loader:
            trained = finish_images(trained, (96, 96))
            for row, index in enumerate(trained.indices):
                real = trained.labels[row] > 0
                seen[index] = trained.images[row], trained.boxes[row][real], trained.labels[row][real]
        for row, index in enumerate(indices):
            image, boxes, labels = seen[index]
            assert torch.equal(batch.images[row], image)
            real = batch.labels[row] > 0
            assert torch.equal(batch.boxes[row][real], boxes) and torch.equal(batch.labels[row][real], labels)


def test_augmented_rows(cli, drawn, tmp_path, monkeypatch):
    options = [
        "--augmented",
        "--count",
        2,
        "model.input_size=96",
        "data.cache=disk",
    ]
    monkeypatch.chdir(tmp_path)
    result = cli("view-data", f"data={drawn}", *options, "--output", tmp_path / "sheet.png")
    assert result.code == 0, result.err
    assert "96x96 with data.augmentation=ssd" in result.out
    assert cv2.imread(str(tmp_path / "sheet.png")).shape == (2 * SIDE + 8, 4 * SIDE + 8, 3)
    assert not (tmp_path / "runs").exists()  # looking leaves no cache behind


def test_an_image_that_is_broken_is_left_out(cli, tmp_path):
    data = make_coco(tmp_path / "data", [([10, 40, 20, 30], 0)])
    (data / "train" / "2.png").write_bytes(b"no image")
    for options, columns in (([], 1), (["--augmented", "model.input_size=96"], 4)):
        result = cli("view-data", data, "--output", tmp_path / "sheet.png", *options)
        assert result.code == 0, result.err
        assert "left out" in result.out and "2.png" in result.out
        assert cv2.imread(str(tmp_path / "sheet.png")).shape == (SIDE + 8, columns * SIDE + 8, 3)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        ([], 2, "there is no data to look at"),
        (["gone"], 2, "gone: there is no such folder or config file"),
        (["DATA", "--split", "none"], 2, "--split is train, val or test, not 'none'"),
        (["DATA", "--augmented", "--split", "val"], 2, "validation images are not"),
        (["DATA", "--output", "sheet.doc"], 1, "cannot write images as '.doc'"),
        (["DATA", "data.augmentaton=ssd"], 2, "did you mean 'data.augmentation'?"),
    ],
)
def test_mistakes_get_one_sentence(cli, drawn, tmp_path, monkeypatch, arguments, code, sentence):
    monkeypatch.chdir(tmp_path)
    result = cli("view-data", *(str(drawn) if text == "DATA" else text for text in arguments))
    assert (result.code, sentence in result.err) == (code, True), result.err
    assert len(result.err.strip().splitlines()) == 1
