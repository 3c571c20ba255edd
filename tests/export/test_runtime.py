"""The stand-alone runtime: its functions, and a copy of the file without the rest of ssdlite."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

import ssdlite.export.runtime
from ssdlite import boxes as box_ops
from ssdlite import boxes_np
from ssdlite.data.images import resize as resize_of_training
from ssdlite.export.metadata import FileForm, Selection
from ssdlite.export.onnx.model import QuantizationData, build_model, narrow
from ssdlite.export.onnxruntime import OnnxPredictor
from ssdlite.export.predictor import select
from ssdlite.export.runtime import FRAME, class_scores, decode_boxes, resize, suppress
from ssdlite.inference.images import Finder
from ssdlite.models.decode import Decoder
from ssdlite.structures import Detections, HeadOutput

from .conftest import DECODER, HEADS, METADATA, SIZE, assert_same_detections, save_and_verify

PROGRAM = """
import json, sys
import numpy as np
from detector import OnnxDetector

assert not [name for name in sys.modules if name.split(".")[0] in ("ssdlite", "torch", "cv2", "PIL", "onnx")]
answers = {}
for path in sys.argv[2:]:
    detector = OnnxDetector(path, threads=1)
    answers[path] = [[part.tolist() for part in detector(image)] for image in np.load(sys.argv[1])]
    assert detector.class_names == ["Maß", "dog", "train"]
print(json.dumps(answers))
"""


def random_output(num_priors=300, num_classes=4, seed=0, activation="softmax"):
    generator = torch.Generator().manual_seed(seed)
    priors = torch.rand(num_priors, 4, generator=generator) * 60 + 20
    logits = torch.randn(2, num_priors, num_classes + 1, generator=generator) * 2
    return HeadOutput(logits, torch.randn(2, num_priors, 4, generator=generator), priors, activation)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("candidates", [20, 400])
@pytest.mark.parametrize("score_threshold", [0.05, 0.999])
def test_it_is_the_twin_of_the_decoder(candidates, score_threshold, activation):
    output, size = random_output(activation=activation), (80, 100)
    expected = Decoder(size, score_threshold, 0.45, candidates, max_detections=50)(output, [size] * 2)
    selection = Selection(score_threshold, 0.45, candidates, 50)
    boxes = decode_boxes(output.deltas.numpy(), output.priors.numpy(), (0.1, 0.2), size)
    scores = class_scores(output.logits.numpy(), activation)
    for image in range(2):
        found = select(boxes[image], scores[image], selection, size)
        np.testing.assert_array_equal(found.labels, expected[image].labels)
        np.testing.assert_allclose(found.scores, expected[image].scores, atol=1e-6)
        np.testing.assert_allclose(found.boxes, expected[image].boxes, atol=1e-4)


def test_scores_by_hand():
    logits = np.array([[-5, 0, np.log(3)], [0, 1e4, -1e4]], np.float32)
    np.testing.assert_allclose(class_scores(logits, "sigmoid"), [[0.5, 0.75], [1, 0]], rtol=1e-6)
    total = np.exp(-5) + 1 + 3
    np.testing.assert_allclose(class_scores(logits, "softmax"), [[1 / total, 3 / total], [1, 0]], rtol=1e-6)


def test_decoding_undoes_encoding():
    priors = torch.tensor([[20.0, 20, 10, 10], [50, 40, 30, 20]])
    boxes = torch.tensor([[[12.0, 15, 30, 28], [40, 30, 70, 50]]])
    deltas = box_ops.encode(boxes, priors)
    np.testing.assert_allclose(decode_boxes(deltas.numpy(), priors.numpy(), (0.1, 0.2), (64, 80)), boxes, rtol=1e-5)


def test_an_overflowing_size_is_the_whole_frame():
    """Boxes are clipped one side beyond the image, so that overlaps are finite."""
    deltas = np.array([[0, 0, 1000, 1000], [0, 0, 1000, 0]], np.float32)
    boxes = decode_boxes(deltas, np.array([[5, 5, 4, 4]], np.float32), (0.1, 0.2), (32, 64))
    np.testing.assert_array_equal(boxes, [[-64, -32, 128, 64], [-64, 3, 128, 7]])
    assert suppress(boxes[[0, 0, 1]], 0.5).tolist() == [0, 2]


def test_suppression_by_hand():
    # .67 with the first, .33 with the first and .54 with the second, which is gone by then.
    boxes = np.array([[0, 0, 10, 10], [2, 0, 12, 10], [5, 0, 15, 10]], np.float32)
    assert suppress(boxes, 0.5).tolist() == [0, 2]
    assert suppress(boxes, 0.7).tolist() == [0, 1, 2]
    assert suppress(boxes, 0.3).tolist() == [0]
    assert suppress(np.zeros((2, 4), np.float32), 0.5).tolist() == [0, 1]  # without area: no overlap
    assert suppress(np.zeros((0, 4), np.float32), 0.5).tolist() == []


def test_its_limits_are_those_of_training():
    assert FRAME == boxes_np.FRAME


def run_copy(folder, images, paths):
    """Run a copy of the file in a process that imports nothing of ssdlite: path -> Detections per image."""
    shutil.copy(ssdlite.export.runtime.__file__, folder / "detector.py")
    (folder / "program.py").write_text(PROGRAM, encoding="utf-8")
    np.save(folder / "images.npy", images)
    command = [sys.executable, folder / "program.py", folder / "images.npy", *paths]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=folder)
    assert done.returncode == 0, done.stderr
    return {
        path: [Detections(*(np.array(part) for part in found)) for found in answers]
        for path, answers in json.loads(done.stdout).items()
    }


def test_a_copy_of_it_runs_every_head(files, images, tmp_path):
    # Enlarged so that making them smaller again gives the same pixels in any program.
    large = images.transpose(0, 2, 3, 1).repeat(2, axis=1).repeat(3, axis=2)
    expected = Finder(OnnxPredictor(files["nms"]), SIZE)(list(large))
    answers = run_copy(tmp_path, large, [files[head] for head in HEADS])
    assert len(answers) == len(HEADS) and sum(len(found.scores) for found in expected) > 100
    for found in answers.values():
        for ours, theirs in zip(found, expected, strict=True):
            assert_same_detections(ours._replace(labels=ours.labels + 1), theirs)


def test_a_copy_of_it_runs_every_form(traced, detector, images, tmp_path):
    pixels = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    for name, form in {
        "bytes": FileForm("raw", input="uint8-nhwc"),
        "planes": FileForm("raw-levels", input="uint8-nchw"),
        "last": FileForm("decoded", input="float-nhwc", precision="fp16"),
        "int8": FileForm("nms", precision="int8"),
    }.items():
        calibration = QuantizationData(images, reduce_range=True) if form.precision == "int8" else None
        model = narrow(traced, form.precision, calibration)
        model = build_model(model, detector, form=form, decoder=DECODER, metadata=METADATA)
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
        path = tmp_path / f"{name}.onnx"
        assert save_and_verify(model, path, detector, images).passed
        (found,) = run_copy(tmp_path, pixels, [path]).values()
        expected = Finder(OnnxPredictor(path), SIZE)(list(pixels))
        assert sum(len(theirs.scores) for theirs in expected) > 100
        for ours, theirs in zip(found, expected, strict=True):
            assert_same_detections(ours._replace(labels=ours.labels + 1), theirs)


@pytest.mark.parametrize("alignment", ["half_pixel", "asymmetric"])
@pytest.mark.parametrize("size", [(480, 640), (640, 480), (480, 700), (1213, 801), (96, 128), (50, 31), (1, 1)])
def test_it_resizes_as_in_training(size, alignment):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    ours, theirs = resize(image, (300, 300), alignment), resize_of_training(image, (300, 300), alignment)
    assert ours.dtype == np.uint8
    assert np.abs(ours.astype(int) - theirs).max() <= 1
