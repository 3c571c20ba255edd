"""Networks in float16 and int8: which nodes are converted, and that verification still finds errors after them."""

import copy

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from ssdlite.export.metadata import FileForm
from ssdlite.export.onnx.graph import last_convolutions, network_nodes, raw_outputs
from ssdlite.export.onnx.model import QuantizationData, build_model, narrow
from ssdlite.export.onnx.precision import _Images
from ssdlite.export.onnxruntime import OnnxPredictor, OnnxSession
from ssdlite.export.predictor import FilePredictor
from ssdlite.export.verify.compare import verify_file, verify_onnx

from ..conftest import DECODER, METADATA, SIZE, draw_images, shift_priors, swap_channels

NUM_CONVOLUTIONS, NUM_HEADS = 88, 12


@pytest.fixture(scope="module")
def models(traced, detector):
    """Graphs by (precision, head)."""
    calibration = QuantizationData(draw_images(8, SIZE, seed=5), reduce_range=True)
    made = {}
    for precision, heads in (("fp16", ("nms", "raw", "decoded")), ("int8", ("nms", "raw-levels"))):
        narrowed = narrow(traced, precision, calibration)
        for head in heads:
            form = FileForm(head, precision=precision)
            made[precision, head] = build_model(narrowed, detector, form=form, decoder=DECODER, metadata=METADATA)
    return made


@pytest.fixture(scope="module")
def narrow_files(models, tmp_path_factory):
    """Files by (precision, head)."""
    folder = tmp_path_factory.mktemp("narrow")
    for (precision, head), model in models.items():
        onnx.save(model, folder / f"{precision}-{head}.onnx")
    return {key: folder / f"{key[0]}-{key[1]}.onnx" for key in models}


KINDS = [("fp16", "nms"), ("fp16", "raw"), ("fp16", "decoded"), ("int8", "nms"), ("int8", "raw-levels")]


@pytest.mark.parametrize("kind", KINDS)
def test_a_narrow_file_passes_and_says_how_noisy_it_is(detector, narrow_files, images, kind):
    verification = verify_onnx(narrow_files[kind], detector, images)
    assert verification.passed, verification.summary
    found = {difference.quantity: difference for difference in verification.differences}
    for name in ("noise of logits", "noise of deltas"):
        assert 1e-5 < found[name].largest < {"fp16": 0.02, "int8": 0.5}[kind[0]] == found[name].allowed
    if kind[1] == "nms":  # what is decoded is right to the last digits, given the file's own logits and deltas
        assert found["boxes"].largest < 1e-3 and found["scores"].largest < 1e-5
        assert verification.num_detections > 100
    assert OnnxPredictor(narrow_files[kind]).metadata.precision == kind[0]


@pytest.mark.parametrize("kind", [("fp16", "raw"), ("int8", "raw-levels")])
@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ('"variances": [0.1, 0.2]', '"variances": [0.1, 0.3]', "boxes differ"),
        ('"score_activation": "softmax"', '"score_activation": "sigmoid"', "scores differ"),
    ],
)
def test_what_decodes_a_narrow_raw_file_is_held_to_account(
    detector, narrow_files, images, tmp_path, kind, right, wrong, said
):
    model = onnx.load(narrow_files[kind])
    for entry in model.metadata_props:
        if entry.key == "ssdlite":
            assert right in entry.value
            entry.value = entry.value.replace(right, wrong)
    onnx.save(model, tmp_path / "wrong.onnx")
    verification = verify_onnx(tmp_path / "wrong.onnx", detector, images)
    assert not verification.passed and said in verification.summary


class Wild(OnnxSession):
    """Predictor that moves one box in each image by a number of pixels."""

    shift = 0

    def answer(self, images):
        outputs = super().answer(images)
        outputs["boxes"][:, 100, 0] += self.shift
        return outputs


def test_one_wild_box_is_found_where_nothing_is_seen_inside(narrow_files, detector, images):
    """Head decoded, as in another runtime, where the noise relative to the size of all boxes would stay small."""
    runtime = Wild(narrow_files["fp16", "decoded"])
    verification = verify_file(FilePredictor(runtime), detector, images)
    assert verification.passed, verification.summary
    runtime.shift = 100
    verification = verify_file(FilePredictor(runtime), detector, images)
    assert not verification.passed and "boxes differ by" in verification.summary


def test_the_parts_of_a_traced_network(traced):
    assert raw_outputs(traced) == [f"{name}_{level}" for name in ("logits", "deltas") for level in range(6)]
    inside = network_nodes(traced)
    assert sum(node.op_type == "Conv" for node in inside) == NUM_CONVOLUTIONS
    assert {node.op_type for node in inside} == {"Conv", "Clip", "Add"}
    last = last_convolutions(traced)
    assert {node.output[0] for node in traced.graph.node if node.name in last} == set(raw_outputs(traced))


def test_all_weights_are_half_and_nothing_else(models):
    graph = models["fp16", "nms"].graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert all(kinds[node.input[1]] == TensorProto.FLOAT16 for node in graph.node if node.op_type == "Conv")
    for node in graph.node:
        if node.op_type in ("Exp", "NonMaxSuppression", "Softmax"):
            assert not any(kinds.get(name) == TensorProto.FLOAT16 for name in node.input)
    assert {value.type.tensor_type.elem_type for value in graph.output} == {TensorProto.FLOAT, TensorProto.INT64}
    casts = [node for node in graph.node if node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT16]
    assert len(casts) == 1  # the normalised image


def test_eight_bits_by_channel_but_for_the_first_and_last_convolutions(models):
    graph = models["int8", "nms"].graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    weights = []
    for node in (node for node in graph.node if node.op_type == "Conv"):
        source = producers.get(node.input[1])
        if source is not None and source.op_type == "DequantizeLinear":
            values, scales = constants[source.input[0]], constants[source.input[1]]
            assert values.dtype == np.int8 and scales.shape == (len(values),)
            weights.append(values)
    assert len(weights) == NUM_CONVOLUTIONS - 3 - NUM_HEADS
    assert max(np.abs(values.astype(int)).max() for values in weights) <= 64  # reduce_range
    after = {"Reshape", "Exp", "Softmax", "NonMaxSuppression", "Concat"}
    for node in graph.node:
        if node.op_type in after:
            sources = [producers[name].op_type for name in node.input if name in producers]
            assert "DequantizeLinear" not in sources


def test_files_get_smaller(narrow_files, traced):
    """Sizes of a small network, whose last convolutions weigh more; a large one gets to a half and a third."""
    full = len(traced.SerializeToString())
    assert narrow_files["fp16", "nms"].stat().st_size < 0.56 * full
    assert narrow_files["int8", "nms"].stat().st_size < 0.55 * full


def shift_mean_far(detector):
    """An error of half of the range, because int8 maps may have errors of half of their size."""
    detector.normalize.mean += 127


@pytest.mark.parametrize("kind", [("fp16", "raw"), ("int8", "nms")])
@pytest.mark.parametrize("plant", [shift_mean_far, swap_channels, shift_priors])
def test_planted_errors_are_found_behind_the_noise(detector, narrow_files, images, kind, plant):
    wrong = copy.deepcopy(detector)
    with torch.no_grad():
        plant(wrong)
    verification = verify_onnx(narrow_files[kind], wrong, images)
    assert not verification.passed


def test_a_wrong_variance_is_found_behind_the_noise(detector, models, images, tmp_path):
    model = onnx.ModelProto()
    model.CopyFrom(models["int8", "nms"])
    changed = [tensor for tensor in model.graph.initializer if is_number(tensor, 0.2)]
    assert changed
    for tensor in changed:
        tensor.CopyFrom(numpy_helper.from_array(np.array(0.21, np.float32), tensor.name))
    onnx.save(model, tmp_path / "wrong.onnx")
    verification = verify_onnx(tmp_path / "wrong.onnx", detector, images)
    assert not verification.passed and "boxes differ" in verification.summary


def is_number(tensor, value):
    array = numpy_helper.to_array(tensor)
    return array.shape == () and array.dtype == np.float32 and np.isclose(array, value)


def test_calibration_fills_the_batches_that_a_graph_is_fixed_to():
    images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
    reader = _Images(images, batch_size=2)
    batches = []
    while (feed := reader.get_next()) is not None:
        batches.append(feed["images"].ravel().tolist())
    assert batches == [[0, 1], [2, 3], [4, 0]]
