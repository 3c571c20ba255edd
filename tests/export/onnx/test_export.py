import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from ssdlite.errors import CheckpointError, ConfigError, UserError
from ssdlite.export.exporters.onnx import VerificationError, export_onnx, write_verified
from ssdlite.export.metadata import FileForm, output_names
from ssdlite.export.onnx.model import build_model, trace_detector
from ssdlite.export.onnxruntime import OnnxPredictor
from ssdlite.export.verify.verify import VerificationImages, verify_onnx_export
from ssdlite.models.decode import decode_output
from ssdlite.models.variants import TENSORFLOW, PriorLevel, PriorShape

from ..conftest import DECODER, FORMS, HEADS, METADATA, SIZE, assert_same_detections, draw_images, make_detector
from ..conftest import save_and_verify as save

NUM_LEVELS = 6
SUPPRESSED = ("nms", "tensor")


@torch.no_grad()
def pytorch_outputs(detector, images):
    logit_maps, delta_maps = detector.maps(torch.from_numpy(images))
    output = detector.join(logit_maps, delta_maps)
    boxes, scores = decode_output(output, detector.input_size)
    tensors = {"logits": output.logits, "deltas": output.deltas, "boxes": boxes, "scores": scores}
    tensors |= dict(zip(output_names("raw-levels", NUM_LEVELS), [*logit_maps, *delta_maps], strict=True))
    return {name: tensor.numpy() for name, tensor in tensors.items()}


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("head", ["decoded", "raw", "raw-levels"])
def test_outputs_are_those_of_pytorch(detector, files, images, head, batch_size):
    expected, found = pytorch_outputs(detector, images), OnnxPredictor(files[head]).run(images, batch_size)
    assert tuple(found) == output_names(FORMS[head].head, NUM_LEVELS)
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-3, atol={"boxes": 0.05}.get(name, 1e-3))


@pytest.mark.parametrize("head", HEADS)
def test_the_choice_of_boxes_is_that_of_the_decoder(detector, files, images, head):
    predictor = OnnxPredictor(files[head])
    with torch.no_grad():
        expected = DECODER(detector(torch.from_numpy(images)), [SIZE] * len(images))
    assert min(len(found.scores) for found in expected) > 5
    for found, wanted in zip(predictor.select(predictor.run(images)), expected, strict=True):
        assert_same_detections(found, wanted)


@pytest.mark.parametrize("head", SUPPRESSED)
def test_every_image_of_a_batch_is_answered_as_if_alone(files, images, head):
    predictor = OnnxPredictor(files[head])
    together = list(predictor.select(predictor.run(images)))
    assert len({len(found.scores) for found in together}) > 1
    for i in range(len(images)):
        (alone,) = predictor.select(predictor.run(images[i : i + 1]))
        assert_same_detections(alone, together[i])


@pytest.mark.parametrize("head", SUPPRESSED)
def test_padding_follows_the_detections_of_each_image(traced, detector, images, tmp_path, head):
    # A threshold between the best scores of the images: some have detections, some have none.
    best = np.sort(pytorch_outputs(detector, images)["scores"].max(axis=(1, 2)))
    decoder = dataclasses.replace(DECODER, score_threshold=float(best[2:4].mean()))
    outputs = run_nms(traced, detector, decoder, images, tmp_path, head)
    assert sorted(outputs["num_detections"] > 0) == [False] * 3 + [True] * 3
    for boxes, scores, labels, count in zip(*outputs.values(), strict=True):
        assert (scores[:count] > decoder.score_threshold).all() and (np.diff(scores[:count]) <= 0).all()
        assert (labels[:count] >= 0).all() and (labels[:count] < 3).all()
        assert (labels[count:] == -1).all() and not scores[count:].any() and not boxes[count:].any()


@pytest.mark.parametrize("head", SUPPRESSED)
def test_nothing_at_all_is_found(traced, detector, images, tmp_path, head):
    decoder = dataclasses.replace(DECODER, score_threshold=1.0)
    outputs = run_nms(traced, detector, decoder, images, tmp_path, head)
    assert not outputs["num_detections"].any() and (outputs["detection_labels"] == -1).all()


@pytest.mark.parametrize(("head", "rows"), [("nms", 258 * 3), ("tensor", 30 * 3)])
def test_more_detections_than_candidates_are_cut_to_what_there_is(traced, detector, images, tmp_path, head, rows):
    decoder = dataclasses.replace(DECODER, max_detections=10_000)
    assert run_nms(traced, detector, decoder, images, tmp_path, head)["detection_scores"].shape == (6, rows)


def run_nms(traced, detector, decoder, images, tmp_path, head):
    model = build_model(traced, detector, form=FORMS[head], decoder=decoder, metadata=METADATA)
    assert save(model, tmp_path / "nms.onnx", detector, images).passed
    return OnnxPredictor(tmp_path / "nms.onnx").run(images)


@pytest.mark.parametrize("form", ["float-nhwc", "uint8-nchw", "uint8-nhwc"])
def test_every_input_form_gives_the_same(traced, detector, files, images, tmp_path, form):
    file_form = FileForm("decoded", input=form)
    model = build_model(traced, detector, form=file_form, decoder=DECODER, metadata=METADATA)
    assert save(model, tmp_path / "bytes.onnx", detector, images).passed
    (value,) = model.graph.input
    shape = [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]
    assert shape == (["batch", *SIZE, 3] if form.endswith("nhwc") else ["batch", 3, *SIZE])
    element = onnx.TensorProto.FLOAT if form.startswith("float") else onnx.TensorProto.UINT8
    assert value.type.tensor_type.elem_type == element
    predictor, floats = OnnxPredictor(tmp_path / "bytes.onnx"), OnnxPredictor(files["decoded"])
    assert predictor.metadata.input_form == form
    assert predictor.metadata.document["input"]["layout"] == form[-4:].upper()
    for name, found in predictor.run(images).items():
        np.testing.assert_allclose(found, floats.run(images)[name], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("opset", [13, 20])
def test_a_fixed_batch_answers_any_number_of_images(tmp_path, opset):
    """The other dialect, at an opset below the traced one and at one above."""
    detector = make_detector("pytorch-ssd", (96, 96))
    before, path = copy.deepcopy(detector.state_dict()), tmp_path / "new" / "fixed.onnx"
    images = draw_images(3, (96, 96), seed=2)
    decoder = dataclasses.replace(DECODER, input_size=(96, 96))
    detector.train()
    options = {
        "decoder": decoder,
        "metadata": METADATA,
        "verification_images": VerificationImages(images),
        "batch": 2,
        "opset": opset,
    }
    report = export_onnx(detector, path, **options)
    assert report.passed and report.verification.batch_sizes == (2,) and report.latency.batch_size == 2
    assert detector.training and all(torch.equal(before[key], v) for key, v in detector.state_dict().items())
    model = onnx.load(path)
    assert [entry.version for entry in model.opset_import] == [opset]
    assert model.ir_version == {13: 7, 20: 9}[opset]  # ONNX 1.8 and 1.15
    assert {
        value.type.tensor_type.shape.dim[0].dim_value for value in (*model.graph.input, *model.graph.output)
    } == {2}
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
    """The tensorflow dialect, on maps of 48, 24, 12, 6, 3, 2, 1: SAME padding of even and odd sides and of 1.

    It has priors of its own, dense ones among them.
    """
    shapes = (PriorShape(0.08, 1.0, density=2), PriorShape(0.2, 2.0))
    return make_detector("tensorflow", (96, 96), prior_levels=(PriorLevel(shapes), *TENSORFLOW.prior_levels[1:]))


@pytest.fixture(scope="module")
def sigmoid_trace(sigmoid_detector):
    return trace_detector(sigmoid_detector, batch=2, opset=16)


@pytest.mark.parametrize("head", HEADS)
def test_the_tensorflow_dialect_as_a_file(sigmoid_detector, sigmoid_trace, tmp_path, head):
    """SAME padding at opset 16, sigmoid scores, the alignment of its images and its own priors, with every head."""
    images = draw_images(3, (96, 96), seed=2)
    decoder = dataclasses.replace(DECODER, input_size=(96, 96))
    model = build_model(sigmoid_trace, sigmoid_detector, form=FORMS[head], decoder=decoder, metadata=METADATA)
    path = tmp_path / f"{head}.onnx"
    assert save(model, path, sigmoid_detector, images).passed
    predictor = OnnxPredictor(path)
    assert predictor.metadata.resize_alignment == "asymmetric"
    assert predictor.metadata.score_activation == ("sigmoid" if head.startswith("raw") else None)
    assert len(sigmoid_detector.priors) == 36 * 5 + (9 + 4 + 3) * 6
    if head == "raw":
        np.testing.assert_array_equal(predictor.metadata.priors, sigmoid_detector.priors.numpy())
    outputs, expected = predictor.run(images), pytorch_outputs(sigmoid_detector, images)
    if head not in SUPPRESSED:
        for name, value in outputs.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-3, atol={"boxes": 0.05}.get(name, 1e-3))
    assert expected["scores"].sum(axis=2).max() > 1.5  # no softmax
    with torch.no_grad():
        wanted = decoder(sigmoid_detector(torch.from_numpy(images)), [(96, 96)] * 3)
    assert min(len(found.scores) for found in wanted) > 5
    for ours, theirs in zip(predictor.select(outputs), wanted, strict=True):
        assert_same_detections(ours, theirs)


def test_metadata_comes_back(files, detector):
    for head in HEADS:
        properties = {entry.key: entry.value for entry in onnx.load(files[head]).metadata_props}
        assert json.loads(properties["names"]) == ["Maß", "dog", "train"]
        document = json.loads(properties["ssdlite"])
        assert (document["schema"], document["head"], document["precision"]) == (2, FORMS[head].head, "fp32")
        assert document["input"] == {
            "size": [96, 128],
            "resize_alignment": "half_pixel",
            "layout": "NCHW",
            "dtype": "float32",
            "color": "RGB",
            "range": [0, 255],
        }
        is_raw = head.startswith("raw")
        output = document["output"]
        assert output["score_activation"] == ("softmax" if is_raw else "none")
        assert ("clipped" in output["box_format"]) == (not is_raw)
        assert output["variances"] == [0.1, 0.2] and output["max_detections"] == 100
        assert output.get("suppression") == {"nms": "op", "tensor": "tensor"}.get(head)
        assert output.get("candidates") == {"tensor": 90}.get(head)
        assert document["config"] == METADATA.config and document["metrics"] == {"AP": 0.5, "AP75": None}
        assert ("ssdlite.priors" in properties) == is_raw
    for head in ("raw", "raw-levels"):
        metadata = OnnxPredictor(files[head]).metadata
        np.testing.assert_array_equal(metadata.priors, detector.priors.numpy())
        assert [(level.height, level.width) for level in metadata.levels] == detector.map_sizes
        assert [height * width * cells for height, width, cells in metadata.levels] == list(detector.level_sizes)


@pytest.mark.parametrize("head", HEADS)
def test_the_file_is_one_clean_model(files, head):
    data, model = files[head].read_bytes(), onnx.load(files[head])
    for trace in (b".py", b"site-packages", str(Path.cwd()).encode(), b"pkg.torch"):
        assert trace not in data
    assert (model.producer_name, model.ir_version) == ("ssdlite", 8)  # IR 8 came with opset 18's ONNX 1.13
    assert [value.name for value in model.graph.output] == list(output_names(FORMS[head].head, NUM_LEVELS))
    assert {value.type.tensor_type.shape.dim[0].dim_param for value in model.graph.output} == {"batch"}


def test_suppression_by_tensors_has_no_operator_that_is_rare(files):
    operators = {node.op_type for node in onnx.load(files["tensor"]).graph.node}
    assert not operators & {"NonMaxSuppression", "Trilu", "GatherND", "ScatterND", "NonZero", "Loop", "If"}


def test_depthwise_kernels_on_single_cells_are_folded(traced):
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in traced.graph.initializer}
    depthwise = [
        weights[node.input[1]].shape
        for node in traced.graph.node
        if node.op_type == "Conv" and weights[node.input[1]].shape[1] == 1
    ]
    # Three 1×1 maps with two heads each, and the two extra levels whose input is 1×1 already.
    assert sum(shape[2:] == (1, 1) for shape in depthwise) == 3 * 2 + 2


def verified(detector, images, **options):
    return lambda path: verify_onnx_export(path, detector, DECODER, VerificationImages(images, **options))


def test_the_old_file_stays_when_verification_fails(traced, detector, images, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    other = copy.deepcopy(detector)
    other.normalize.mean += 1
    model = build_model(traced, detector, form=FORMS["decoded"], decoder=DECODER, metadata=METADATA)
    with pytest.raises(CheckpointError, match=r"model.onnx was not written.* differ by"):
        write_verified(model, path, verified(other, images))
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_the_old_file_stays_when_the_new_one_is_less_accurate(traced, detector, images, tmp_path):
    """The evaluator returns a lower AP for the file than for PyTorch, whatever the detections are."""
    path = tmp_path / "model.onnx"
    model = build_model(traced, detector, form=FORMS["decoded"], decoder=DECODER, metadata=METADATA)

    def evaluator(predictor):
        return 0.497 if isinstance(predictor, OnnxPredictor) else 0.5

    with pytest.raises(VerificationError, match=r"AP is 0\.4970 on 7 images, where PyTorch has 0\.5000") as caught:
        write_verified(model, path, verified(detector, images, evaluator=evaluator, num_evaluated=7))
    assert not path.exists() and caught.value.report.verification.passed
    assert write_verified(model, path, verified(detector, images, evaluator=evaluator, allowed_loss=0.01)).passed
    assert path.exists()


def test_verification_can_be_left_out(traced, detector, tmp_path):
    model = build_model(traced, detector, form=FORMS["raw"], decoder=DECODER, metadata=METADATA)
    assert write_verified(model, tmp_path / "model.onnx", None) is None
    assert OnnxPredictor(tmp_path / "model.onnx").metadata.head == "raw"


def test_a_folder_that_cannot_be_made(traced, detector, tmp_path):
    (tmp_path / "file").touch()
    model = build_model(traced, detector, form=FORMS["decoded"], decoder=DECODER, metadata=METADATA)
    with pytest.raises(UserError, match="cannot write"):
        write_verified(model, tmp_path / "file" / "model.onnx", None)


def test_a_suppression_that_would_have_no_effect(traced, detector):
    with pytest.raises(ConfigError, match="--nms tensor has no effect with --head raw"):
        build_model(traced, detector, form=FileForm("raw", "tensor"), decoder=DECODER, metadata=METADATA)


def test_a_failing_exporter_is_one_sentence(detector, monkeypatch, capfd):
    def fail(*args, **kwargs):
        print("🎉 2000 lines")
        raise RuntimeError("noise") from ValueError("Unsupported\n  operator")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(CheckpointError, match=r"opset 18 \(Unsupported operator\)"):
        trace_detector(detector)
    assert capfd.readouterr().out == ""
