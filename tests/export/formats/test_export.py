"""Writing a file and verifying it, with a runtime that is always there in place of a real one."""

import copy
import dataclasses
import json

import numpy as np
import onnx
import pytest
import torch

from ssdlite.errors import CheckpointError, ConfigError, UserError
from ssdlite.export.exporters import formats as room
from ssdlite.export.exporters.formats import export_file
from ssdlite.export.formats.registry import RUNTIMES, require_choice
from ssdlite.export.metadata import read_metadata
from ssdlite.export.onnxruntime import OnnxPredictor
from ssdlite.export.verify.verify import VerificationImages
from ssdlite.models.corner import CornerDetector
from ssdlite.models.variants import DIALECTS

from ..conftest import DECODER, METADATA, SIZE, shift_mean, shift_priors, swap_channels


@pytest.fixture
def fake_ncnn(files, monkeypatch):
    """ncnn's place is taken by the ONNX file of head raw, whatever is to be converted."""

    def convert(conversion, path):
        path.write_bytes(files["raw"].read_bytes())
        path.with_suffix(".bin").write_text("weights")
        return {entry.key: entry.value for entry in onnx.load(files["raw"]).metadata_props}

    monkeypatch.setitem(RUNTIMES, "ncnn", dataclasses.replace(RUNTIMES["ncnn"], convert=convert))
    monkeypatch.setattr(room, "open_file", lambda path: OnnxPredictor(files["raw"]))


def write(network, path, images, evaluator=None, **options):
    verification_images = None if images is None else VerificationImages(images, evaluator, num_evaluated=9)
    return export_file(
        network,
        path,
        "ncnn",
        decoder=DECODER,
        metadata=METADATA,
        verification_images=verification_images,
        **options,
    )


def test_a_file_that_agrees_gets_its_name_and_a_document(fake_ncnn, detector, images, tmp_path):
    path = tmp_path / "new" / "best.ncnn.param"
    report = write(detector, path, images, evaluator=lambda predictor: 0.5)
    quantities = {difference.quantity for difference in report.verification.differences}
    assert quantities == {"logits", "deltas", "boxes", "scores", "priors"}
    assert report.verification.batch_sizes == (1, 4) and report.verification.num_images == 6
    assert report.verification.num_detections > 100 and report.latency.file.p50 > 0
    names = {"best.ncnn.param", "best.ncnn.bin", "best.ncnn.param.json"}
    assert {file.name for file in path.parent.iterdir()} == names
    document = json.loads((path.parent / "best.ncnn.param.json").read_text())
    assert document["files"]["best.ncnn.bin"] == len("weights") and document["proof"]["passed"]
    assert document["proof"]["accuracy"]["file"] == 0.5 and document["proof"]["accuracy"]["num_images"] == 9
    assert {"torch", "onnx"} <= set(document["versions"]) and read_metadata(path).head == "raw"


@pytest.mark.parametrize(
    ("plant", "said"),
    [(shift_mean, "deltas|logits|boxes"), (swap_channels, "deltas|logits|boxes"), (shift_priors, "priors")],
)
def test_a_file_of_another_network_is_not_written(fake_ncnn, detector, images, tmp_path, plant, said):
    wrong, path = copy.deepcopy(detector), tmp_path / "best.ncnn.param"
    path.write_text("what was there before")
    with torch.no_grad():
        plant(wrong)
    with pytest.raises(CheckpointError, match=f"was not written, because ncnn does not.*: ({said}) differ"):
        write(wrong, path, images)
    assert [file.name for file in tmp_path.iterdir()] == [path.name] and path.read_text() == "what was there before"


def test_a_file_that_scores_worse_is_not_written(fake_ncnn, detector, images, tmp_path):
    with pytest.raises(
        CheckpointError, match=r"ncnn does not.*: AP is 0.4970 on 9 images, where PyTorch has 0.5000"
    ):
        write(
            *(detector, tmp_path / "best.ncnn.param", images),
            evaluator=lambda predictor: 0.497 if isinstance(predictor, OnnxPredictor) else 0.5,
        )
    assert not list(tmp_path.iterdir())


def test_weights_in_float16_may_be_off_by_more_but_priors_may_not(
    fake_ncnn, files, detector, images, tmp_path, monkeypatch
):
    def open_half(path):
        predictor = OnnxPredictor(files["raw"])
        predictor.metadata = dataclasses.replace(predictor.metadata, precision="fp16")
        return predictor

    near, path = copy.deepcopy(detector), tmp_path / "best.ncnn.param"
    with torch.no_grad():
        near.normalize.mean += 0.01
    with pytest.raises(CheckpointError, match="was not written"):
        write(near, path, images)
    monkeypatch.setattr(room, "open_file", open_half)
    assert write(near, path, images, precision="fp16").passed
    swap_channels(far := copy.deepcopy(detector))
    with pytest.raises(CheckpointError, match=r"noise of (logits|deltas) is"):
        write(far, path, images, precision="fp16")
    near.priors[:, 0] += 0.01
    with pytest.raises(CheckpointError, match=r"priors differ by 0\.01 px"):
        write(near, path, images, precision="fp16")


def test_a_network_that_gives_no_numbers_does_not_pass(fake_ncnn, detector, images, tmp_path):
    broken = copy.deepcopy(detector)
    with torch.no_grad():
        broken.head.regression[0][-1].bias[0] = float("nan")
    with pytest.raises(CheckpointError, match="differ by inf"):
        write(broken, tmp_path / "best.ncnn.param", images)


def test_without_images_nothing_is_compared(fake_ncnn, detector, tmp_path):
    path = tmp_path / "best.ncnn.param"
    assert write(detector, path, None) is None
    assert json.loads((tmp_path / "best.ncnn.param.json").read_text())["proof"] is None


def test_a_folder_that_cannot_be_written_is_named(fake_ncnn, detector, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*best.ncnn.param"):
        write(detector, tmp_path / "file" / "best.ncnn.param", None)


def test_a_corner_network_is_refused(tmp_path):
    network = CornerDetector(DIALECTS["paper"], num_classes=3, input_size=SIZE, width=0.25)
    with pytest.raises(ConfigError, match=r"a corner network cannot be written for ncnn; .*export-onnx"):
        write(network, tmp_path / "best.ncnn.param", np.zeros((1, 3, *SIZE), np.uint8))


@pytest.mark.parametrize(
    ("name", "file", "head", "precision", "said"),
    [
        ("ncnn", "x.param", "decoded", "fp32", "--head is raw for ncnn, not 'decoded'"),
        ("openvino", "x.xml", "nms", "fp32", "--head is decoded or raw for openvino, not 'nms'"),
        ("litert", "x.tflite", "raw", "fp16", "--precision is fp32 for litert, not 'fp16'"),
        ("openvino", "x.onnx", "raw", "fp16", "--output ends with .xml for openvino"),
    ],
)
def test_choices_that_a_format_does_not_have_are_refused(tmp_path, name, file, head, precision, said):
    with pytest.raises(ConfigError, match=said):
        require_choice(RUNTIMES[name], tmp_path / file, head, precision)


def test_a_folder_of_the_same_name_is_left_alone(fake_ncnn, detector, tmp_path):
    thesis = tmp_path / "best.ncnn.bin" / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("years of work")
    with pytest.raises(UserError, match=r"best.ncnn.bin: there is a folder of that name"):
        write(detector, tmp_path / "best.ncnn.param", None)
    assert thesis.read_text() == "years of work" and [path.name for path in tmp_path.iterdir()] == ["best.ncnn.bin"]
