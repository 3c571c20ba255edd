"""The Python names: three lines, the same answers from a checkpoint and from its exported file."""

import json
import subprocess
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

import ssdlite
from ssdlite import Detector
from ssdlite.api import ImageDetections
from ssdlite.errors import CheckpointError, ConfigError, DataError, UserError
from ssdlite.structures import Detections
from tests.export.conftest import assert_same_detections

NAMES = ("cat", "dog")


@pytest.fixture(scope="module")
def detector(lively):
    return Detector.load(lively / "model.pt", device="cpu")


@pytest.fixture(scope="module")
def images(drawn):
    return sorted((drawn / "val").glob("*.jpg"))


@pytest.fixture
def two():
    image = np.full((60, 80, 3), 128, np.uint8)
    boxes = np.array([[10, 20, 30, 50], [40, 10, 70.126, 55]], np.float32)
    return ImageDetections(
        image, Detections(boxes, np.array([0.9, 0.5], np.float32), np.array([2, 1], np.int64)), NAMES
    )


def test_three_lines(lively, images):
    detector = ssdlite.Detector.load(str(lively / "model.pt"))
    detections = detector.predict(str(images[0]), score_threshold=0.3)
    assert len(detections) and detector.class_names == detections.class_names and detector.input_size == (96, 96)
    assert detections.boxes.shape == (len(detections), 4) and (np.diff(detections.scores) <= 0).all()
    assert set(detections.labels.tolist()) <= set(range(1, 7)) and "classes" in repr(detector)


def test_a_checkpoint_and_its_exported_file_find_the_same(detector, lively, images):
    from_onnx = Detector.load(lively / "model.onnx")
    assert (from_onnx.class_names, from_onnx.input_size) == (detector.class_names, detector.input_size)
    both = [model.predict(images, score_threshold=0.3) for model in (detector, from_onnx)]
    assert sum(map(len, both[0])) > 20
    for pair in zip(*both, strict=True):
        for one, other in (pair, pair[::-1]):
            alike = one.labels[:, None] == other.labels
            alike &= np.abs(one.scores[:, None] - other.scores) < 1e-4
            alike &= np.abs(one.boxes[:, None] - other.boxes).max(axis=2, initial=0) < 0.05
            assert (alike.any(axis=1) | (one.scores < 0.301)).all()  # what lies on the threshold may be on one side


def test_every_kind_of_image_gives_the_same(detector, images):
    path = images[1]
    expected = detector.predict(path, score_threshold=0.3)
    assert len(expected)
    array = cv2.imread(str(path))[..., ::-1]  # BGR turned to RGB, and not contiguous
    for given in (str(path), Image.open(path), array):
        assert_same_detections(detector.predict(given, score_threshold=0.3), expected, pixels=0.5, score=2e-3)
    np.testing.assert_array_equal(detector.predict(array).image, array)
    several = detector.predict([str(path), Image.open(path), array], score_threshold=0.3, batch_size=2)
    assert isinstance(several, list) and len(several) == 3
    for one in several:
        assert_same_detections(one, expected, pixels=0.5, score=2e-3)
    assert detector.predict([]) == []


def test_pillow_images_are_turned_upright_and_made_rgb(detector):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    picture = Image.fromarray(np.zeros((40, 60, 3), np.uint8))
    picture.getexif().update(exif)
    assert detector.predict(picture).image.shape == (60, 40, 3)
    assert detector.predict(Image.new("L", (30, 20))).image.shape == (20, 30, 3)


def test_thresholds(detector, images):
    everything = detector.predict(images[0], score_threshold=0.3)
    name, number = next(iter(everything)).class_name, len(everything) // 2
    middle = float(everything.scores[number - 1 : number + 1].mean())  # between two, so that rounding moves neither
    above = detector.predict(images[0], score_threshold=middle)
    assert_same_detections(above, everything.above(middle), pixels=1e-3, score=1e-6)
    assert 0 < len(above) < len(everything)
    only = everything.above({name: 0.0})  # the others have .4
    assert [found.class_name for found in only if found.score <= 0.4] == [
        found.class_name for found in everything if found.class_name == name and found.score <= 0.4
    ]
    with pytest.raises(ConfigError, match="no class 'hart' in this model; did you mean 'heart'"):
        detector.predict(images[0], score_threshold={"hart": 0.3})


def test_tiles(detector, images):
    whole, tiled = (detector.predict(images[0], score_threshold=0.3, **tile) for tile in ({}, {"tile": 200}))
    assert_same_detections(tiled, whole, pixels=1e-3, score=1e-6)
    large = np.hstack([np.asarray(Image.open(path)) for path in images[:2]])
    tiled = detector.predict(large, tile=96, tile_overlap=0, score_threshold=0.3)
    assert tiled.image.shape == (96, 192, 3) and tiled.boxes.max() <= 192


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tile": 4}, "tile must be a number, 16 or more"),
        ({"tile": -5}, "tile must be"),
        ({"tile": 96, "tile_overlap": 1.0}, r"tile_overlap must be a number, from 0 to 0\.9"),
        ({"batch_size": 0}, "batch_size must be a number, 1 or more"),
        ({"score_threshold": 2}, "score_threshold must be a number, from 0 to 1"),
        ({"score_threshold": "a"}, "score_threshold must be a number"),
        ({"score_threshold": {"heart": float("nan")}}, "score_threshold must be a number"),
    ],
)
def test_numbers_out_of_bounds_are_one_sentence(detector, images, options, said):
    with pytest.raises(ConfigError, match=said):
        detector.predict(images[0], **options)


def test_what_is_no_image(detector, tmp_path):
    with pytest.raises(DataError, match="cannot be opened"):
        detector.predict(tmp_path / "gone.jpg")
    for given in (
        np.zeros((5, 5)),
        np.zeros((5, 5, 3)),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros((0, 5, 3), np.uint8),
    ):
        with pytest.raises(ConfigError, match=r"\(H, W, 3\) uint8 RGB"):
            detector.predict(given)
    with pytest.raises(ConfigError, match="but int was given"):
        detector.predict([3])
    with pytest.raises(ConfigError, match="an image or a list of them, but int was given"):
        detector.predict(3)
    with pytest.raises(CheckpointError, match="there is no"):
        Detector.load(tmp_path / "gone.pt")


def test_iteration_by_hand(two):
    first, second = two
    assert (first.class_name, first.score, first.box) == ("dog", pytest.approx(0.9), (10, 20, 30, 50))
    name, score, _ = second
    assert (name, score) == ("cat", 0.5)
    assert repr(two) == "ImageDetections(dog 0.90, cat 0.50)"
    assert len(two.above(0.5)) == 1 and list(two.above(0.95)) == [] and len(two) == 2


def test_pictures(two, tmp_path):
    picture = two.plot()
    assert picture.shape == (60, 80, 3) and picture.dtype == np.uint8
    assert (two.image == 128).all() and (picture != 128).any()
    two.save(tmp_path / "new" / "two.png")
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "new" / "two.png"))[..., ::-1], picture)
    assert (two.above(0.95).plot() == 128).all()


def test_coco_by_hand(two):
    assert two.to_coco("street", category_ids=[7, 9]) == [
        {"image_id": "street", "category_id": 9, "bbox": [10, 20, 20, 30], "score": pytest.approx(0.9)},
        {"image_id": "street", "category_id": 7, "bbox": [40, 10, 30.13, 45], "score": 0.5},
    ]
    assert [row["category_id"] for row in two.to_coco(3)] == [2, 1] and two.above(0.95).to_coco(3) == []
    with pytest.raises(ConfigError, match="1 category ids for 2 classes"):
        two.to_coco(3, [7])


def test_coco_is_what_eval_writes(cli, lively, detector, drawn, images, tmp_path):
    results = tmp_path / "results.json"
    assert cli("eval", lively / "model.pt", "--no-report", "--detections", results).code == 0
    document = json.loads((drawn / "annotations" / "instances_val.json").read_text())
    ids = {image["file_name"]: image["id"] for image in document["images"]}
    numbers = {category["name"]: category["id"] for category in document["categories"]}
    rows = [
        row
        for path in images
        for row in detector.predict(path, score_threshold=0.0).to_coco(
            ids[path.name], [numbers[name] for name in detector.class_names]
        )
    ]
    written = json.loads(results.read_text())

    def as_table(rows):
        return np.array([(r["image_id"], r["category_id"], r["score"], *r["bbox"]) for r in rows])

    # As sets: neither file is sorted by more than scores, and rounding may swap two that nearly tie.
    assert rows and len(rows) == len(written)
    is_same = np.abs(as_table(rows)[:, None] - as_table(written)) <= [0, 0, 1e-5, 0.02, 0.02, 0.02, 0.02]
    assert is_same.all(axis=2).any(axis=1).all() and is_same.all(axis=2).any(axis=0).all()


def test_supervision(two):
    supervision = pytest.importorskip("supervision")
    found = two.to_supervision()
    assert isinstance(found, supervision.Detections) and len(found) == 2
    np.testing.assert_array_equal(found.xyxy, two.boxes)
    np.testing.assert_array_equal(found.confidence, two.scores)
    assert found.class_id.tolist() == [1, 0] and found["class_name"].tolist() == ["dog", "cat"]
    assert len(two.above(0.95).to_supervision()) == 0


def test_supervision_may_be_missing(two, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UserError, match="supervision is not installed"):
        two.to_supervision()
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(Detections=lambda **given: given))
    assert two.to_supervision()["class_id"].tolist() == [1, 0]


def test_the_package_is_light_until_it_is_used():
    code = (
        "import sys, ssdlite; assert not {'torch', 'numpy', 'cv2'} & set(sys.modules);"
        "from ssdlite import Detector; assert 'torch' not in sys.modules; print(Detector.__module__)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "ssdlite.api\n", result.stderr
    with pytest.raises(AttributeError, match="no attribute 'Detecter'"):
        _ = ssdlite.Detecter
