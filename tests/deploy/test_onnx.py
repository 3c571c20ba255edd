import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from ssdlite.deploy.metadata import OUTPUT_NAMES
from ssdlite.deploy.onnx import build_model, export_onnx, require_opset, trace_detector, write_verified
from ssdlite.deploy.runtime import OnnxPredictor
from ssdlite.errors import CheckpointError, ConfigError, UserError
from ssdlite.model.architecture import TENSORFLOW, PriorLevel, PriorShape
from ssdlite.model.decode import decode_output

from .conftest import DECODER, HEADS, METADATA, SIZE, assert_same_detections, draw_images, make_detector


@torch.no_grad()
def pytorch_outputs(detector, images):
    output = detector(torch.from_numpy(images))
    boxes, scores = decode_output(output, detector.input_size)
    tensors = {"logits": output.logits, "deltas": output.deltas, "boxes": boxes, "scores": scores}
    return {name: tensor.numpy() for name, tensor in tensors.items()}


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("head", ["decoded", "raw"])
def test_outputs_are_those_of_pytorch(detector, files, images, head, batch_size):
    expected = pytorch_outputs(detector, images)
    for name, value in OnnxPredictor(files[head]).run(images, batch_size).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-3, atol={"boxes": 0.05}.get(name, 1e-3))


def test_suppression_is_that_of_the_decoder(detector, files, images):
    predictor = OnnxPredictor(files["nms"])
    with torch.no_grad():
        expected = DECODER(detector(torch.from_numpy(images)), [SIZE] * len(images))
    assert min(len(found.scores) for found in expected) > 5
    for found, wanted in zip(predictor.select(predictor.run(images)), expected, strict=True):
        assert_same_detections(found, wanted)


def test_every_image_of_a_batch_is_answered_as_if_alone(files, images):
    predictor = OnnxPredictor(files["nms"])
    together = list(predictor.select(predictor.run(images)))
    assert len({len(found.scores) for found in together}) > 1
    for i in range(len(images)):
        (alone,) = predictor.select(predictor.run(images[i : i + 1]))
        assert_same_detections(alone, together[i])


def test_padding_follows_the_detections_of_each_image(traced, detector, images, tmp_path):
    # A threshold between the best scores of the images: some have detections, some have none.
    best = np.sort(pytorch_outputs(detector, images)["scores"].max(axis=(1, 2)))
    decoder = dataclasses.replace(DECODER, score_threshold=float(best[2:4].mean()))
    outputs = run_nms(traced, detector, decoder, images, tmp_path)
    assert sorted(outputs["num_detections"] > 0) == [False] * 3 + [True] * 3
    for boxes, scores, labels, count in zip(*outputs.values(), strict=True):
        assert (scores[:count] > decoder.score_threshold).all() and (np.diff(scores[:count]) <= 0).all()
        assert (labels[:count] >= 0).all() and (labels[:count] < 3).all()
        assert (labels[count:] == -1).all() and not scores[count:].any() and not boxes[count:].any()


def test_nothing_at_all_is_found(traced, detector, images, tmp_path):
    decoder = dataclasses.replace(DECODER, score_threshold=1.0)
    outputs = run_nms(traced, detector, decoder, images, tmp_path)
    assert not outputs["num_detections"].any() and (outputs["detection_labels"] == -1).all()


def test_more_detections_than_boxes_are_cut_to_what_there_is(traced, detector, images, tmp_path):
    decoder = dataclasses.replace(DECODER, max_detections=10_000)
    assert run_nms(traced, detector, decoder, images, tmp_path)["detection_scores"].shape == (6, 258 * 3)


def run_nms(traced, detector, decoder, images, tmp_path):
    model = build_model(traced, detector, head="nms", decoder=decoder, metadata=METADATA)
    write_verified(model, tmp_path / "nms.onnx", detector, images)
    return OnnxPredictor(tmp_path / "nms.onnx").run(images)


def test_a_fixed_batch_answers_any_number_of_images(tmp_path):
    # The other dialect, at opset 16, which the exporter has to convert down to.
    detector = make_detector("pytorch-ssd", (96, 96))
    before, path = copy.deepcopy(detector.state_dict()), tmp_path / "new" / "fixed.onnx"
    images = draw_images(3, (96, 96), seed=2)
    decoder = dataclasses.replace(DECODER, input_size=(96, 96))
    detector.train()
    verification = export_onnx(detector, path, decoder=decoder, metadata=METADATA, images=images, batch=2, opset=16)
    assert verification.passed and verification.batch_sizes == (2,)
    assert detector.training and all(torch.equal(before[key], v) for key, v in detector.state_dict().items())
    assert [entry.version for entry in onnx.load(path).opset_import] == [16]
    predictor = OnnxPredictor(path)
    assert predictor.batch_size == 2
    found = list(predictor.select(predictor.run(images)))
    with torch.no_grad():
        expected = decoder(detector.eval()(torch.from_numpy(images)), [(96, 96)] * 3)
    for ours, theirs in zip(found, expected, strict=True):
        assert_same_detections(ours, theirs)
    assert list(path.parent.iterdir()) == [path]


@pytest.fixture(scope="module")
def sigmoid_detector():
    """Of the tensorflow dialect, on maps of 48, 24, 12, 6, 3, 2, 1: SAME padding of even and odd sides and of 1.

    It has priors of its own, dense ones among them.
    """
    shapes = (PriorShape(0.08, 1.0, density=2), PriorShape(0.2, 2.0))
    return make_detector("tensorflow", (96, 96), prior_levels=(PriorLevel(shapes), *TENSORFLOW.prior_levels[1:]))


@pytest.fixture(scope="module")
def sigmoid_trace(sigmoid_detector):
    return trace_detector(sigmoid_detector, batch=2)


@pytest.mark.parametrize("head", HEADS)
def test_the_tensorflow_dialect_as_a_file(sigmoid_detector, sigmoid_trace, tmp_path, head):
    """SAME padding, sigmoid scores, the alignment of its images and its own priors, with every head."""
    images = draw_images(3, (96, 96), seed=2)
    decoder = dataclasses.replace(DECODER, input_size=(96, 96))
    model = build_model(sigmoid_trace, sigmoid_detector, head=head, decoder=decoder, metadata=METADATA)
    path = tmp_path / f"{head}.onnx"
    assert write_verified(model, path, sigmoid_detector, images).passed
    predictor = OnnxPredictor(path)
    assert predictor.card.resize_alignment == "asymmetric"
    assert predictor.card.score_activation == ("sigmoid" if head == "raw" else None)
    assert len(sigmoid_detector.priors) == 36 * 5 + (9 + 4 + 3) * 6
    if head == "raw":
        np.testing.assert_array_equal(predictor.card.priors, sigmoid_detector.priors.numpy())
    outputs, expected = predictor.run(images), pytorch_outputs(sigmoid_detector, images)
    if head != "nms":
        for name, value in outputs.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-3, atol={"boxes": 0.05}.get(name, 1e-3))
    assert expected["scores"].sum(axis=2).max() > 1.5  # no softmax
    with torch.no_grad():
        wanted = decoder(sigmoid_detector(torch.from_numpy(images)), [(96, 96)] * 3)
    assert min(len(found.scores) for found in wanted) > 5
    for ours, theirs in zip(predictor.select(outputs), wanted, strict=True):
        assert_same_detections(ours, theirs)


def test_a_file_of_before_alignments_is_read(files, tmp_path):
    model = onnx.load(files["raw"])
    for entry in model.metadata_props:
        entry.value = entry.value.replace('"resize_alignment": "half_pixel", ', "")
    onnx.save(model, tmp_path / "old.onnx")
    card = OnnxPredictor(tmp_path / "old.onnx").card
    assert "resize_alignment" not in card.document["input"] and card.resize_alignment == "half_pixel"


def test_metadata_comes_back(files, detector):
    for head in HEADS:
        properties = {entry.key: entry.value for entry in onnx.load(files[head]).metadata_props}
        assert json.loads(properties["names"]) == ["Maß", "dog", "train"]
        document = json.loads(properties["ssdlite"])
        assert document["schema"] == 1 and document["head"] == head
        assert document["input"] == {
            "size": [96, 128],
            "resize_alignment": "half_pixel",
            "layout": "NCHW",
            "dtype": "float32",
            "color": "RGB",
            "range": [0, 255],
        }
        assert document["output"]["score_activation"] == ("softmax" if head == "raw" else "none")
        assert ("clipped" in document["output"]["box_format"]) == (head != "raw")
        assert document["output"]["variances"] == [0.1, 0.2] and document["output"]["max_detections"] == 100
        assert document["config"] == METADATA.config and document["metrics"] == {"AP": 0.5, "AP75": None}
        assert ("ssdlite.priors" in properties) == (head == "raw")
    np.testing.assert_array_equal(OnnxPredictor(files["raw"]).card.priors, detector.priors.numpy())


@pytest.mark.parametrize("head", HEADS)
def test_the_file_is_one_clean_model(files, head):
    data, model = files[head].read_bytes(), onnx.load(files[head])
    for trace in (b".py", b"site-packages", str(Path.cwd()).encode(), b"pkg.torch"):
        assert trace not in data
    assert (model.producer_name, model.ir_version) == ("ssdlite", 8)  # IR 8 came with opset 18's ONNX 1.13
    assert [value.name for value in model.graph.output] == list(OUTPUT_NAMES[head])
    assert {value.type.tensor_type.shape.dim[0].dim_param for value in model.graph.output} == {"batch"}


def test_depthwise_kernels_on_single_cells_are_folded(traced):
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in traced.graph.initializer}
    depthwise = [
        weights[node.input[1]].shape
        for node in traced.graph.node
        if node.op_type == "Conv" and weights[node.input[1]].shape[1] == 1
    ]
    # Three 1×1 maps with two heads each, and the two extra levels whose input is 1×1 already.
    assert sum(shape[2:] == (1, 1) for shape in depthwise) == 3 * 2 + 2


def test_the_old_file_stays_when_verification_fails(traced, detector, images, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    other = copy.deepcopy(detector)
    other.normalize.mean += 1
    model = build_model(traced, detector, head="decoded", decoder=DECODER, metadata=METADATA)
    with pytest.raises(CheckpointError, match=r"model.onnx was not written.* differ by"):
        write_verified(model, path, other, images)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_the_proof_can_be_left_out(traced, detector, tmp_path):
    model = build_model(traced, detector, head="raw", decoder=DECODER, metadata=METADATA)
    assert write_verified(model, tmp_path / "model.onnx", detector, None) is None
    assert OnnxPredictor(tmp_path / "model.onnx").card.head == "raw"


def test_a_folder_that_cannot_be_made(traced, detector, images, tmp_path):
    (tmp_path / "file").touch()
    model = build_model(traced, detector, head="decoded", decoder=DECODER, metadata=METADATA)
    with pytest.raises(UserError, match="cannot write"):
        write_verified(model, tmp_path / "file" / "model.onnx", detector, images)


def test_opsets_that_cannot_be_written(detector, traced):
    with pytest.raises(ConfigError, match="opset 13 cannot be written; choose 16 or above"):
        trace_detector(detector, opset=13)
    with pytest.raises(ConfigError, match=r"cannot write opset 99 \(it gave 18\)"):
        require_opset(traced, 99)


def test_a_failing_exporter_is_one_sentence(detector, monkeypatch, capfd):
    def fail(*args, **kwargs):
        print("🎉 2000 lines")
        raise RuntimeError("noise") from ValueError("Unsupported\n  operator")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(CheckpointError, match=r"opset 18 \(Unsupported operator\)"):
        trace_detector(detector)
    assert capfd.readouterr().out == ""
