import numpy as np

from ssdlite.data.images import read_image
from ssdlite.data.transforms import augment, build_augmentation
from ssdlite.export.onnxruntime import OnnxPredictor
from ssdlite.inference.images import Finder
from ssdlite.structures import Detections


class Recorder:
    """A predictor that keeps what it is given, and finds one box that tells which image it was."""

    def __init__(self):
        self.batches = []

    def __call__(self, batch):
        self.batches.append(batch)
        return [
            Detections(np.full((1, 4), height, np.float32), np.ones(1, np.float32), np.ones(1, np.int64))
            for height, _ in batch.original_sizes
        ]


def test_images_go_through_in_batches():
    images = [np.full((40 + i, 60, 3), 50 * i, np.uint8) for i in range(5)]
    predictor = Recorder()
    found = Finder(predictor, (32, 48), batch_size=2)(images)
    assert [tuple(batch.images.shape) for batch in predictor.batches] == [
        (2, 3, 32, 48),
        (2, 3, 32, 48),
        (1, 3, 32, 48),
    ]
    assert predictor.batches[1].original_sizes == [(42, 60), (43, 60)]
    assert predictor.batches[0].boxes.shape == (2, 0, 4)
    assert [float(detections.boxes[0, 0]) for detections in found] == [40, 41, 42, 43, 44]
    assert Finder(predictor, (32, 48))([]) == []


def test_images_are_resized_as_in_validation():
    image = np.random.default_rng(0).integers(0, 256, (100, 130, 3), np.uint8)
    none = np.zeros((0, 4)), np.zeros(0), np.zeros(0)
    for size in ((32, 48), (96, 96), (200, 64)):
        for alignment in ("half_pixel", "asymmetric"):
            predictor = Recorder()
            Finder(predictor, size, alignment)([image])
            expected = augment(build_augmentation("none", size, alignment=alignment), image, *none)[0]
            np.testing.assert_array_equal(predictor.batches[0].images[0].transpose(1, 2, 0), expected)


def test_real_images_through_a_file(lively, real_data):
    predictor = OnnxPredictor(lively / "model.onnx")
    paths = sorted((real_data / "bccd" / "JPEGImages").glob("*.jpg"))[:3]
    images = [read_image(path) for path in paths]
    for image, found in zip(images, Finder(predictor, predictor.input_size, batch_size=2)(images), strict=True):
        height, width = image.shape[:2]
        assert (
            len(found.boxes) and (found.boxes >= 0).all() and (found.boxes <= [width, height, width, height]).all()
        )
