"""Writing a file and proving it, with a runtime that is always there in place of a real one."""

import copy
import json

import numpy as np
import onnx
import pytest
import torch

from ssdlite.deploy.formats import export as room
from ssdlite.deploy.formats.document import read_card
from ssdlite.deploy.formats.export import export_file, require_choice
from ssdlite.deploy.onnx_predictor import OnnxPredictor
from ssdlite.errors import CheckpointError, ConfigError, UserError
from ssdlite.model.architecture import DIALECTS
from ssdlite.model.corner import CornerDetector

from ..conftest import DECODER, METADATA, SIZE


@pytest.fixture
def fake_ncnn(files, monkeypatch):
    """ncnn's place is taken by the ONNX file of head raw, whatever is to be converted."""

    def convert(source, name, path):
        path.write_bytes(files["raw"].read_bytes())
        path.with_suffix(".bin").write_text("weights")
        return {entry.key: entry.value for entry in onnx.load(files["raw"]).metadata_props}

    monkeypatch.setattr(room, "convert", convert)
    monkeypatch.setattr(room, "open_file", lambda path: OnnxPredictor(files["raw"]))


def write(network, path, images, **options):
    return export_file(network, path, "ncnn", decoder=DECODER, metadata=METADATA, images=images, **options)


def test_a_file_that_agrees_gets_its_name_and_a_document(fake_ncnn, detector, images, tmp_path):
    path = tmp_path / "new" / "best.ncnn.param"
    proof = write(detector, path, images)
    quantities = {deviation.quantity for deviation in proof.deviations}
    assert quantities == {"logits", "deltas", "boxes", "scores", "priors"}
    assert proof.batch_sizes == (1, 4) and proof.num_images == 6
    assert proof.num_detections > 100 and abs(proof.num_detections - proof.num_expected) <= 2
    names = {"best.ncnn.param", "best.ncnn.bin", "best.ncnn.param.json"}
    assert {file.name for file in path.parent.iterdir()} == names
    document = json.loads((path.parent / "best.ncnn.param.json").read_text())
    assert document["files"]["best.ncnn.bin"] == len("weights") and document["verification"]["passed"]
    assert {"torch", "onnx"} <= set(document["versions"]) and read_card(path).head == "raw"


def shift_mean(network):
    network.normalize.mean += 1


def swap_channels(network):
    stem = network.backbone.features[0][0]
    stem.weight.copy_(stem.weight.flip(1))


def shift_priors(network):
    network.priors[:, 0] += 0.5


@pytest.mark.parametrize(
    ("plant", "said"),
    [(shift_mean, "deltas|logits"), (swap_channels, "deltas|logits"), (shift_priors, "priors")],
)
def test_a_file_of_another_network_is_not_written(fake_ncnn, detector, images, tmp_path, plant, said):
    wrong, path = copy.deepcopy(detector), tmp_path / "best.ncnn.param"
    path.write_text("what was there before")
    with torch.no_grad():
        plant(wrong)
    with pytest.raises(CheckpointError, match=f"was not written, because ncnn does not.*: ({said}) differ"):
        write(wrong, path, images)
    assert [file.name for file in tmp_path.iterdir()] == [path.name] and path.read_text() == "what was there before"


def test_weights_in_float16_may_be_off_by_more_but_priors_may_not(fake_ncnn, detector, images, tmp_path):
    near, path = copy.deepcopy(detector), tmp_path / "best.ncnn.param"
    with torch.no_grad():
        near.normalize.mean += 0.01
    with pytest.raises(CheckpointError, match="was not written"):
        write(near, path, images)
    assert write(near, path, images, precision="fp16").passed
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
    assert json.loads((tmp_path / "best.ncnn.param.json").read_text())["verification"] is None


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
        require_choice(name, tmp_path / file, head, precision)
