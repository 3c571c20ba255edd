"""A real network on a photograph, in every runtime: `make test-runtimes`."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ssdlite.build.model import build_decoder, load_detector
from ssdlite.data.images import read_image, resize
from ssdlite.export.exporters.formats import export_file
from ssdlite.export.formats.conversion import Conversion
from ssdlite.export.formats.opencv import OpenCvSession
from ssdlite.export.formats.registry import RUNTIMES, open_file
from ssdlite.export.onnxruntime import OnnxPredictor
from ssdlite.export.predictor import FilePredictor, select
from ssdlite.export.runtime import OnnxDetector
from ssdlite.inference.images import Finder
from ssdlite.models.decode import decode_output

from ..conftest import METADATA, assert_same_detections
from .conftest import RUNNABLE, require_runtime
from .test_opencv import ENGINES

PHOTO = Path(__file__).parents[2] / "importers" / "parity" / "astronaut.jpg"
CLOSE = 1e-3  # of a score, and of a pixel


@pytest.fixture(scope="module")
def pedestrian():
    """The checkpoint that scripts/download_pedestrian.py fetches."""
    path = os.environ.get("SSDLITE_PEDESTRIAN")
    if not path:
        pytest.skip("SSDLITE_PEDESTRIAN names no checkpoint of scripts/download_pedestrian.py")
    return load_detector(Path(path))


@pytest.fixture(scope="module")
def photo(pedestrian):
    detector = pedestrian.detector
    image = resize(read_image(PHOTO), detector.input_size, detector.dialect.resize_alignment)
    return np.ascontiguousarray(image.transpose(2, 0, 1))[None]


@pytest.fixture(scope="module")
def expected(pedestrian, photo):
    detector = pedestrian.detector.eval()
    with torch.inference_mode():
        boxes, scores = decode_output(detector(torch.from_numpy(photo)), detector.input_size)
    return boxes.numpy(), scores.numpy()


@pytest.fixture(scope="module")
def choices(pedestrian):
    decoder = build_decoder(pedestrian.config.eval, pedestrian.detector.input_size)
    return {"decoder": decoder, "metadata": replace(METADATA, class_names=pedestrian.class_names)}


def assert_close(predictor, photo, expected):
    found = predictor.decode(predictor.run(photo))
    for name, ours, theirs in zip(("boxes", "scores"), found, expected, strict=True):
        assert np.abs(ours - theirs).max() < CLOSE, name
    ours, theirs = (
        select(boxes[0], scores[0], predictor.metadata.selection, predictor.input_size)
        for boxes, scores in (found, expected)
    )
    assert ours.scores[0] > 0.9  # there is a person in the picture
    assert_same_detections(ours, theirs)


@pytest.mark.parametrize("head", ["decoded", "raw"])
@pytest.mark.parametrize("name", RUNNABLE)
def test_answers_are_those_of_pytorch(pedestrian, photo, expected, choices, tmp_path, name, head):
    if head not in RUNTIMES[name].heads:
        pytest.skip(f"{RUNTIMES[name].program} has no file of head {head}")
    require_runtime(name)
    path = tmp_path / f"pedestrian{RUNTIMES[name].name_suffix}"
    export_file(pedestrian.detector, path, name, verification_images=None, head=head, **choices)
    assert_close(open_file(path), photo, expected)


@pytest.mark.parametrize("head", ["decoded", "raw"])
def test_opencv_answers_as_pytorch(pedestrian, photo, expected, choices, tmp_path, head):
    model = Conversion(pedestrian.detector, head, "fp32", **choices).onnx()
    (tmp_path / "pedestrian.onnx").write_bytes(model.SerializeToString())
    for engine in ENGINES:
        assert_close(FilePredictor(OpenCvSession(tmp_path / "pedestrian.onnx", engine=engine)), photo, expected)


def test_the_runtime_to_copy_sees_what_predict_sees(pedestrian, choices, tmp_path):
    """Of a larger photograph, which both make smaller: their pixels differ by one grey level at most."""
    path = tmp_path / "pedestrian.onnx"
    path.write_bytes(Conversion(pedestrian.detector, "decoded", "fp32", **choices).onnx().SerializeToString())
    image, detector, predictor = resize(read_image(PHOTO), (450, 520)), OnnxDetector(path), OnnxPredictor(path)
    (expected,) = Finder(predictor, predictor.input_size, predictor.metadata.resize_alignment)([image])
    boxes, scores, labels = detector(image)
    strong = expected.scores > 0.3
    assert (
        strong.any()
        and [detector.class_names[label] for label in labels[scores > 0.3]] == ["person"] * strong.sum()
    )
    assert np.abs(boxes[: strong.sum()] - expected.boxes[strong]).max() < 1  # pixel of the photograph
    assert np.abs(scores[: strong.sum()] - expected.scores[strong]).max() < 0.01
