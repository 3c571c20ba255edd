import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from ssdlite.data.transforms import augment, build_augmentation
from ssdlite.deploy.predict import Prediction, detections_to_json, find_images, predict_images
from ssdlite.deploy.runtime import OnnxPredictor
from ssdlite.errors import DataError
from ssdlite.structures import Detections


def write(path, height=40, width=60, value=128):
    cv2.imwrite(str(path), np.full((height, width, 3), value, np.uint8))
    return path


def test_files_and_folders_give_each_image_once(tmp_path):
    for name in ("b.JPG", "a.png", "c.jpeg"):
        write(tmp_path / name)
    (tmp_path / "notes.txt").touch()
    (tmp_path / "deeper.png").mkdir()
    a, b, c = (tmp_path / name for name in ("a.png", "b.JPG", "c.jpeg"))
    assert find_images([tmp_path]) == [a, b, c]
    assert find_images([c, tmp_path, a]) == [c, a, b]
    assert find_images([tmp_path / "notes.txt"]) == [tmp_path / "notes.txt"]  # asked for by name


def test_nothing_to_predict(tmp_path):
    for inputs, sentence in (([], "no images"), ([tmp_path], "no images"), ([tmp_path / "gone.jpg"], "gone.jpg")):
        with pytest.raises(DataError, match=sentence):
            find_images(inputs)


def test_images_go_through_in_batches_and_unreadable_ones_are_left_out(tmp_path, caplog):
    paths = [write(tmp_path / f"{i}.png", 40 + i, 60, 50 * i) for i in range(5)]
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    paths.insert(1, tmp_path / "broken.jpg")
    batches = []

    def predictor(batch):
        batches.append(batch)
        return [Detections.empty()._replace(boxes=np.full((0, 4), i)) for i in range(len(batch.images))]

    predictions = list(predict_images(predictor, paths, input_size=(32, 48), batch_size=2))
    assert [p.path.name for p in predictions] == ["0.png", "1.png", "2.png", "3.png", "4.png"]
    assert [tuple(batch.images.shape) for batch in batches] == [(2, 3, 32, 48), (2, 3, 32, 48), (1, 3, 32, 48)]
    assert batches[1].original_sizes == [(42, 60), (43, 60)] and batches[0].boxes.shape == (2, 0, 4)
    assert "broken.jpg" in caplog.text and len(caplog.records) == 1
    assert list(predict_images(predictor, [], input_size=(32, 48))) == []


def test_images_are_resized_as_in_validation(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (100, 130, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "x.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    seen = []

    def predictor(batch):
        seen.append(batch.images[0].permute(1, 2, 0).numpy())
        return [Detections.empty()]

    none = np.zeros((0, 4)), np.zeros(0), np.zeros(0)
    for size in ((32, 48), (96, 96), (200, 64)):
        for alignment in ("half_pixel", "asymmetric"):
            list(predict_images(predictor, [tmp_path / "x.png"], input_size=size, alignment=alignment))
            expected = augment(build_augmentation("none", size, alignment=alignment), image, *none)[0]
            np.testing.assert_array_equal(seen.pop(), expected)


def test_json_by_hand():
    found = Detections(
        np.array([[1, 2, 30.126, 40]], np.float32), np.array([0.9], np.float32), np.array([2], np.int64)
    )
    image = np.zeros((50, 60, 3), np.uint8)
    predictions = [
        Prediction(Path("a.jpg"), image, found),
        Prediction(Path("b.jpg"), image, Detections.empty()),
    ]
    content = json.loads(json.dumps(detections_to_json(predictions, ["cat", "dog"])))
    assert content == [
        {
            "image": "a.jpg",
            "width": 60,
            "height": 50,
            "detections": [{"label": "dog", "score": 0.9, "box": [1, 2, 30.13, 40]}],
        },
        {"image": "b.jpg", "width": 60, "height": 50, "detections": []},
    ]


def test_real_images_through_a_file(files):
    if "SSDLITE_TEST_DATA" not in os.environ:
        pytest.skip("SSDLITE_TEST_DATA names no folder with bccd/")
    predictor = OnnxPredictor(files["nms"])
    paths = find_images([Path(os.environ["SSDLITE_TEST_DATA"], "bccd", "JPEGImages")])[:3]
    for prediction in predict_images(predictor, paths, input_size=predictor.input_size, batch_size=2):
        height, width = prediction.image.shape[:2]
        boxes = prediction.detections.boxes
        assert len(boxes) and (boxes >= 0).all() and (boxes <= [width, height, width, height]).all()
