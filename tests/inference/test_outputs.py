import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from ssdlite.inference.frames import Frame, Prediction, prediction_to_json
from ssdlite.inference.inputs import ImageFile
from ssdlite.inference.outputs import Crops, JsonFile, Outputs, Pictures, TextFiles
from ssdlite.inference.video import Video
from ssdlite.structures import Detections

from .films import read_film

NAMES = ("cat", "big/dog")
CLIP = Video("films/clip.mov", "clip", every=2)
NONE = Detections.empty()
TWO = Detections(
    np.array([[10, 5, 30.126, 25], [40, 0, 60, 50]], np.float32),
    np.array([0.9, 0.5], np.float32),
    np.array([2, 1], np.int64),
)


def image_file(name):
    return ImageFile(Path(name), Path(name).stem)


def predict(source, detections=NONE, number=None, value=128):
    frame = Frame(source, lambda: None, number, 25.0 if number is not None else None)
    return Prediction(frame, np.full((50, 60, 3), value, np.uint8), detections)


def write_all(writers, predictions):
    with Outputs(writers, NAMES) as outputs:
        for prediction in predictions:
            outputs.write(prediction)
    return outputs


def test_json_by_hand(tmp_path):
    predictions = [predict(image_file("a.jpg"), TWO), predict(image_file("b.jpg")), predict(CLIP, number=4)]
    outputs = write_all([JsonFile(tmp_path / "new" / "found.json", NAMES)], predictions)
    assert json.loads((tmp_path / "new" / "found.json").read_text()) == [
        {
            "image": "a.jpg",
            "width": 60,
            "height": 50,
            "detections": [
                {"label": "big/dog", "score": 0.9, "box": [10, 5, 30.13, 25]},
                {"label": "cat", "score": 0.5, "box": [40, 0, 60, 50]},
            ],
        },
        {"image": "b.jpg", "width": 60, "height": 50, "detections": []},
        {"image": "films/clip.mov", "frame": 4, "time": 0.16, "width": 60, "height": 50, "detections": []},
    ]
    text = (tmp_path / "new" / "found.json").read_text()
    assert text == json.dumps([prediction_to_json(p, NAMES) for p in predictions], indent=1) + "\n"
    assert (outputs.num_images, outputs.num_objects) == (3, 2)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["found.json"]


def test_json_of_nothing(tmp_path):
    write_all([JsonFile(tmp_path / "found.json", NAMES)], [])
    assert json.loads((tmp_path / "found.json").read_text()) == []


def test_json_is_there_though_it_ended_badly(tmp_path):
    with pytest.raises(KeyError), Outputs([JsonFile(tmp_path / "found.json", NAMES)], NAMES) as outputs:
        outputs.write(predict(image_file("a.jpg")))
        raise KeyError
    assert len(json.loads((tmp_path / "found.json").read_text())) == 1


def test_text_by_hand(tmp_path):
    write_all([TextFiles(tmp_path, NAMES)], [predict(image_file("a.jpg"), TWO), predict(image_file("b.jpg"))])
    assert (tmp_path / "a.txt").read_text() == (
        "1 0.334383 0.300000 0.335433 0.400000 0.90000\n"  # (10 + 30.126) / 2 / 60, 15 / 50, 20.126 / 60, 20 / 50
        "0 0.833333 0.500000 0.333333 1.000000 0.50000\n"
    )
    assert (tmp_path / "b.txt").read_text() == ""
    assert (tmp_path / "classes.txt").read_text() == "cat\nbig/dog\n"


def test_crops_show_the_boxes(tmp_path):
    prediction = predict(image_file("a.jpg"), TWO)
    prediction.image[5:25, 10:30] = (200, 0, 0)
    outside = Detections(
        np.array([[-20, -20, -5, -5], [55, 45, 80, 70]], np.float32), TWO.scores, np.array([1, 1], np.int64)
    )
    write_all([Crops(tmp_path, NAMES)], [prediction, predict(CLIP, outside, 6), predict(image_file("b.jpg"))])
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.jpg")) == [
        "big_dog/a-1.jpg", "cat/a-1.jpg", "cat/clip-000006-1.jpg"
    ]  # fmt: skip
    dog = cv2.imread(str(tmp_path / "big_dog" / "a-1.jpg"))
    assert dog.shape == (20, 20, 3) and np.abs(dog.mean(axis=(0, 1)) - [0, 0, 200]).max() < 8
    assert cv2.imread(str(tmp_path / "cat" / "clip-000006-1.jpg")).shape == (5, 5, 3)


def test_pictures_and_films(tmp_path):
    other = Video("films/other.mp4", "other")
    predictions = [
        predict(image_file("a.PNG"), TWO),
        *(predict(CLIP, number=number, value=10 * number) for number in (0, 2, 8, 10)),  # 4 and 6 were lost
        *(predict(other, number=number) for number in (0, 1)),
        predict(image_file("b.gif")),
    ]
    write_all([Pictures(tmp_path)], predictions)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.jpg", "clip.mp4", "other.mp4"]
    picture = cv2.imread(str(tmp_path / "a.png"))
    assert picture.shape == (50, 60, 3) and (picture != 128).any()
    frames, rate = read_film(tmp_path / "clip.mp4")
    assert rate == 12.5  # half of what it was filmed at, so that it lasts as long
    assert [round(float(frame.mean()) / 10) for frame in frames] == [0, 2, 8, 8, 8, 10]
    assert len(read_film(tmp_path / "other.mp4")[0]) == 2


def test_nothing_is_drawn_for_writers_that_do_not_show_it(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("ssdlite.inference.outputs.draw_detections", lambda image, *_: drawn.append(1) or image)
    prediction = predict(image_file("a.jpg"), TWO)
    write_all([JsonFile(tmp_path / "x.json", NAMES), Crops(tmp_path, NAMES)], [prediction])
    assert drawn == []
    write_all([Pictures(tmp_path), Pictures(tmp_path / "2")], [prediction])
    assert drawn == [1]


def test_each_writer_is_closed_though_another_fails(tmp_path):
    class Broken(JsonFile):
        def close(self):
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_all([JsonFile(tmp_path / "a.json", NAMES), Broken(tmp_path / "b.json", NAMES)], [])
    assert (tmp_path / "a.json").exists()
