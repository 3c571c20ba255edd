"""A real network on a photograph, in every runtime: `make test-runtimes`."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ssdlite import build
from ssdlite.data.images import read_image
from ssdlite.data.resize import resize
from ssdlite.deploy.formats.export import export_file
from ssdlite.deploy.formats.kinds import FORMATS
from ssdlite.deploy.formats.opencv import OpenCvRuntime
from ssdlite.deploy.formats.opening import open_file
from ssdlite.deploy.formats.source import Source
from ssdlite.deploy.predictor import FilePredictor
from ssdlite.model.decode import decode_output

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
    return build.load_detector(Path(path))


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
    return {"boxes": boxes.numpy(), "scores": scores.numpy()}


@pytest.fixture(scope="module")
def choices(pedestrian):
    decoder = build.build_decoder(pedestrian.config.eval, pedestrian.detector.input_size)
    return {"decoder": decoder, "metadata": replace(METADATA, class_names=pedestrian.class_names)}


def assert_close(predictor, photo, expected):
    found = predictor.run(photo)
    for name, value in expected.items():
        assert np.abs(found[name] - value).max() < CLOSE, name
    ours, theirs = (next(predictor.select(answers)) for answers in (found, expected))
    assert ours.scores[0] > 0.9  # there is a person in the picture
    assert_same_detections(ours, theirs)


@pytest.mark.parametrize("head", ["decoded", "raw"])
@pytest.mark.parametrize("name", RUNNABLE)
def test_answers_are_those_of_pytorch(pedestrian, photo, expected, choices, tmp_path, name, head):
    if head not in FORMATS[name].heads:
        pytest.skip(f"{FORMATS[name].program} has no file of head {head}")
    require_runtime(name)
    path = tmp_path / f"pedestrian{FORMATS[name].name_suffix}"
    export_file(pedestrian.detector, path, name, images=None, head=head, **choices)
    assert_close(open_file(path), photo, expected)


@pytest.mark.parametrize("head", ["decoded", "raw"])
def test_opencv_answers_as_pytorch(pedestrian, photo, expected, choices, tmp_path, head):
    model = Source(pedestrian.detector, head, "fp32", **choices).onnx()
    (tmp_path / "pedestrian.onnx").write_bytes(model.SerializeToString())
    for engine in ENGINES:
        assert_close(FilePredictor(OpenCvRuntime(tmp_path / "pedestrian.onnx", engine=engine)), photo, expected)
