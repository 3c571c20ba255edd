"""Frozen graphs of TensorFlow, written here from a Detector's weights by the inverse mapping, without TensorFlow.

Names, layouts and orders are those of a dump of ssdlite_mobilenet_v2_coco, written down a second time on purpose.
"""

import numpy as np
import pytest
import torch
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.types_pb2 import DT_FLOAT, DT_INT32

from ssdlite.build.model import load_detector
from ssdlite.importers.tensorflow import read_graph
from ssdlite.models.detector import Detector
from ssdlite.models.variants import TENSORFLOW

NETWORK = "FeatureExtractor/MobilenetV2"
SUPPRESSION = (
    "Postprocessor/BatchMultiClassNonMaxSuppression/map/while/MultiClassNonMaxSuppression/non_max_suppression"
)
SIZE_NODE = "Preprocessor/map/while/ResizeImage/stack"
# A cell there: 1, 2, 1/2, 3, 1/3, between; ours: 1, between, 2, 1/2, 3, 1/3.
THEIR_PRIORS = [0, 2, 3, 4, 5, 1]


def graph_names():
    """(our convolution, our norm or None, their scope, whether depthwise) of every layer."""
    rows = [("backbone.features.0.0", "backbone.features.0.1", f"{NETWORK}/Conv", False)]
    for block in range(1, 18):
        ours = f"backbone.features.{block}.conv"
        theirs = f"{NETWORK}/expanded_conv" + (f"_{block - 1}" if block > 1 else "")
        place = 0
        if block > 1:
            rows.append((f"{ours}.0.0", f"{ours}.0.1", f"{theirs}/expand", False))
            place = 1
        rows.append((f"{ours}.{place}.0", f"{ours}.{place}.1", f"{theirs}/depthwise", True))
        rows.append((f"{ours}.{place + 1}", f"{ours}.{place + 2}", f"{theirs}/project", False))
    rows.append(("backbone.features.18.0", "backbone.features.18.1", f"{NETWORK}/Conv_1", False))
    for level, names in enumerate(
        ("2_1x1_256 2_3x3_s2_512", "3_1x1_128 3_3x3_s2_256", "4_1x1_128 4_3x3_s2_256", "5_1x1_64 5_3x3_s2_128")
    ):
        first, second = names.split()
        ours = f"extras.{level}"
        rows.append((f"{ours}.0.0", f"{ours}.0.1", f"{NETWORK}/layer_19_1_Conv2d_{first}", False))
        rows.append((f"{ours}.1.0", f"{ours}.1.1", f"{NETWORK}/layer_19_2_Conv2d_{second}_depthwise", True))
        rows.append((f"{ours}.2.0", f"{ours}.2.1", f"{NETWORK}/layer_19_2_Conv2d_{second}", False))
    for level in range(6):
        for ours, theirs in (("classification", "ClassPredictor"), ("regression", "BoxEncodingPredictor")):
            head, scope = f"head.{ours}.{level}", f"BoxPredictor_{level}/{theirs}"
            rows.append((f"{head}.0", f"{head}.1", f"{scope}_depthwise", True))
            rows.append((f"{head}.3", None, scope, False))
    return rows


def to_constants(state, num_classes):
    """Our weights as the constants of a frozen graph."""
    found = {}
    for conv, norm, scope, depthwise in graph_names():
        kernel = state[f"{conv}.weight"].numpy()
        if norm is None:
            level = int(scope[len("BoxPredictor_")])
            columns = 4 if "Box" in scope.split("/")[1] else num_classes + 1
            kernel = their_order(kernel, level, columns)
            found[f"{scope}/biases"] = their_order(state[f"{conv}.bias"].numpy(), level, columns)
        else:
            for ours, theirs in (
                ("weight", "gamma"),
                ("bias", "beta"),
                ("running_mean", "moving_mean"),
                ("running_var", "moving_variance"),
            ):
                found[f"{scope}/BatchNorm/{theirs}"] = state[f"{norm}.{ours}"].numpy()
        if depthwise:  # (height, width, channels, 1)
            found[f"{scope}/depthwise_weights"] = np.moveaxis(kernel, (0, 1), (2, 3))
        else:  # (height, width, in, out)
            found[f"{scope}/weights"] = np.moveaxis(kernel, (0, 1), (3, 2))
    return found


def their_order(rows, level, columns):
    """(priors·columns, ...): priors of a cell, and y, x, h, w of a box."""
    cells = rows.reshape(-1, columns, *rows.shape[1:])
    cells = cells if level == 0 else cells[THEIR_PRIORS]
    x, y, w, h = range(4)
    return (cells[:, [y, x, h, w]] if columns == 4 else cells).reshape(rows.shape)


def add_constant(graph, name, array):
    node = graph.node.add(name=name, op="Const")
    array = np.asarray(array)
    data_type = DT_FLOAT if array.dtype == np.float32 else DT_INT32
    node.attr["dtype"].type = data_type
    tensor = node.attr["value"].tensor
    tensor.dtype = data_type
    for side in array.shape:
        tensor.tensor_shape.dim.add(size=side)
    tensor.tensor_content = np.ascontiguousarray(array).tobytes()


def write_graph(path, constants, size=(300, 300)):
    """`constants` among what else a graph of the Object Detection API holds."""
    graph = GraphDef()
    graph.node.add(name="image_tensor", op="Placeholder")
    add_constant(graph, "Preprocessor/mul/x", np.float32(0.00784))
    if size is not None:
        add_constant(graph, SIZE_NODE, np.array(size, np.int32))
    add_constant(graph, "BoxPredictor_0/stack/1", np.int32(-1))
    for name, array in constants.items():
        add_constant(graph, name, array)
        graph.node.add(name=f"{name}/read", op="Identity", input=[name])
    for option, value in (("iou_threshold", 0.6), ("score_threshold", 0.25)):
        add_constant(graph, f"{SUPPRESSION}/{option}", np.float32(value))
    path.write_bytes(graph.SerializeToString())
    return path


@pytest.fixture(scope="module")
def state():
    """Of a Detector in which no two numbers of a tensor are the same."""
    detector = Detector(TENSORFLOW, num_classes=2, input_size=(300, 300))
    generator = torch.Generator().manual_seed(0)
    state = detector.state_dict()
    for name, tensor in state.items():
        if tensor.is_floating_point() and not name.startswith("normalize."):
            state[name] = torch.rand(tensor.shape, generator=generator)
    return state


@pytest.fixture(scope="module")
def constants(state):
    return to_constants(state, num_classes=2)


@pytest.fixture
def refused(cli, tmp_path):
    def run(source):
        outcome = cli("import-checkpoint", source, "--output", tmp_path / "ours.pt")
        assert outcome.code == 1 and not (tmp_path / "ours.pt").exists(), outcome
        assert outcome.err.startswith(f"error: {source} ") and outcome.err.count("\n") == 1
        return outcome.err

    return run


def test_weights_are_bit_identical(cli, state, constants, tmp_path):
    source = write_graph(tmp_path / "frozen_inference_graph.pb", constants, size=(256, 320))
    labels = tmp_path / "labels.pbtxt"
    labels.write_text("item { id: 2 name: 'bicycle' } item { id: 1 name: 'person' }")
    outcome = cli("import-checkpoint", source, "--output", tmp_path / "ours.pt", "--class-names", labels)
    assert outcome.code == 0, outcome.err
    loaded = load_detector(tmp_path / "ours.pt")
    found = loaded.detector.state_dict()
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(found[name], tensor), name
    assert loaded.detector.input_size == (256, 320)
    assert loaded.class_names == ("person", "bicycle")
    assert loaded.config.model.dialect == "tensorflow"
    options = loaded.config.eval
    assert (options.iou_threshold, options.max_detections) == (pytest.approx(0.6), 100)
    assert options.score_threshold == pytest.approx(0.25)


def test_a_graph_without_its_suffix(cli, constants, tmp_path):
    source = write_graph(tmp_path / "graph", constants)
    assert "or --format tensorflow" in cli("import-checkpoint", source, "--output", tmp_path / "ours.pt").err
    outcome = cli("import-checkpoint", source, "--output", tmp_path / "ours.pt", "--format", "tensorflow")
    assert outcome.code == 0, outcome.err


def test_a_constant_too_many(refused, constants, tmp_path):
    name = f"{NETWORK}/Conv/BatchNorm/batchnorm/add/y"
    source = write_graph(tmp_path / "graph.pb", {**constants, name: np.float32(0.001)})
    assert f"nothing takes {name}." in refused(source)


def test_a_constant_too_few(refused, constants, tmp_path):
    name = f"{NETWORK}/layer_19_2_Conv2d_4_3x3_s2_256_depthwise/BatchNorm/moving_mean"
    source = write_graph(tmp_path / "graph.pb", {k: v for k, v in constants.items() if k != name})
    assert f"lacks {name};" in refused(source)


def test_a_graph_that_was_quantised(refused, tmp_path, constants):
    """Its weights are integers."""
    name = f"{NETWORK}/Conv/weights"
    source = write_graph(tmp_path / "graph.pb", {**constants, name: constants[name].astype(np.int32)})
    assert f"lacks {name};" in refused(source)


def test_six_priors_on_the_first_level(refused, state, tmp_path):
    """`reduce_boxes_in_lowest_layer: false`, as other configurations of that program have it."""
    wide = dict(state)
    for branch in ("classification", "regression"):
        for kind in ("weight", "bias"):
            name = f"head.{branch}.0.3.{kind}"
            wide[name] = torch.cat([state[name]] * 2)
    source = write_graph(tmp_path / "graph.pb", to_constants(wide, num_classes=2))
    assert "has other priors than tensorflow: level 1 of its classification heads" in refused(source)


def test_another_width(refused, constants, tmp_path):
    kernel = constants[f"{NETWORK}/Conv/weights"][..., :24]
    source = write_graph(tmp_path / "graph.pb", {**constants, f"{NETWORK}/Conv/weights": kernel})
    assert "is not of width 1" in refused(source)


def test_a_size_that_is_not_fixed(refused, constants, tmp_path):
    assert "does not resize its input to a fixed size" in refused(
        write_graph(tmp_path / "graph.pb", constants, size=None)
    )


def test_another_network(refused, tmp_path):
    source = write_graph(tmp_path / "graph.pb", {"InceptionV3/Conv2d_1a_3x3/weights": np.zeros((3, 3), np.float32)})
    assert "is not a whole tensorflow MobileNetV2-SSDLite: it lacks FeatureExtractor/" in refused(source)


def message(field, content):
    """A length-delimited field of a protocol buffer."""
    length, encoded = len(content), b""
    while length > 127:
        length, low = divmod(length, 128)
        encoded += bytes([low | 128])
    return bytes([field << 3 | 2]) + encoded + bytes([length]) + content


def test_a_saved_model(refused, constants, tmp_path):
    graph = write_graph(tmp_path / "graph.pb", constants).read_bytes()
    source = tmp_path / "saved_model.pb"
    source.write_bytes(b"\x08\x01" + message(2, message(2, graph)))  # schema version; meta graph { graph }
    assert "frozen TensorFlow graph" in refused(source)
    source.write_bytes(b"\x08\x01" + message(2, message(2, b"")))
    assert "is no frozen TensorFlow graph: it has no constants; beside a saved_model folder lies" in refused(source)


def test_what_is_no_graph(refused, constants, tmp_path):
    source = write_graph(tmp_path / "graph.pb", constants)
    source.write_bytes(source.read_bytes()[:1_000_000])
    assert "cannot be read as a frozen TensorFlow graph." in refused(source)
    # The reader finds messages without a known field in nearly anything.
    for content in (b"", b"PK\x03\x04", b"\x80\x02}", b"<!DOCTYPE html>"):
        source.write_bytes(content)
        assert "frozen TensorFlow graph" in refused(source)


def edited(path, edit):
    """The graph at `path` after `edit(graph)`."""
    graph = GraphDef()
    graph.ParseFromString(path.read_bytes())
    edit(graph)
    path.write_bytes(graph.SerializeToString())
    return path


def add_node(name, op, **attributes):
    def edit(graph):
        node = graph.node.add(name=name, op=op)
        for key, value in attributes.items():
            node.attr[key].f = value

    return edit


def add_anchors(scales):
    def edit(graph):
        scope = "MultipleGridAnchorGenerator"
        for position, values in enumerate([[0.1, 0.2, 0.2], [1, 2, 0.5], [1, 2, 0.5, 3, 0.3333, 1], *scales]):
            add_constant(graph, f"{scope}/vector_{position}/x", np.array(values, np.float32))

    return edit


PUBLISHED_SCALES = [
    [s] * 5 + [(s * t) ** 0.5] for s, t in ((0.35, 0.5), (0.5, 0.65), (0.65, 0.8), (0.8, 0.95), (0.95, 1))
]


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (
            add_node("Conv/BatchNorm/FusedBatchNormV3", "FusedBatchNormV3", epsilon=1e-5),
            "another epsilon than 0.001",
        ),
        (add_node("Postprocessor/convert_scores", "Softmax"), "into scores by Softmax"),
        (
            add_anchors([[0.1] * 6] * 5),
            "other priors than the published network: on level 1 there are no scales 0.35",
        ),
    ],
)
def test_a_graph_that_contradicts_the_dialect_is_refused(refused, constants, tmp_path, edit, sentence):
    assert sentence in refused(edited(write_graph(tmp_path / "graph.pb", constants), edit))


def test_a_graph_that_says_the_published_constants_is_taken(constants, tmp_path):
    graph = write_graph(tmp_path / "graph.pb", constants)
    for edit in (
        add_node("Conv/BatchNorm/FusedBatchNorm", "FusedBatchNorm", epsilon=0.001),
        add_node("Postprocessor/convert_scores", "Sigmoid"),
        add_anchors(PUBLISHED_SCALES),
    ):
        edited(graph, edit)
    assert read_graph(graph).num_classes == 2


def rename(old, new, value=None):
    def edit(graph):
        for node in graph.node:
            if node.name.endswith(old):
                node.name = node.name.removesuffix(old) + new
                if value is not None:
                    node.attr["value"].tensor.tensor_content = np.float32(value).tobytes()

    return edit


def test_thresholds_of_older_and_newer_graphs(constants, tmp_path, caplog):
    graph = write_graph(tmp_path / "graph.pb", constants)
    for part in ("iou_threshold", "score_threshold"):
        edited(graph, rename(f"/non_max_suppression/{part}", f"/non_max_suppression_with_scores/{part}"))
    assert read_graph(graph).decoding["score_threshold"] == 0.25
    edited(graph, rename("/non_max_suppression_with_scores/score_threshold", "/FilterGreaterThan/Greater/y", 0.125))
    assert read_graph(graph).decoding["score_threshold"] == 0.125
    edited(graph, rename("/FilterGreaterThan/Greater/y", "/non_max_suppression/score_threshold", -np.inf))
    assert read_graph(graph).decoding["score_threshold"] == 0
    assert not caplog.records
    edited(graph, rename("/score_threshold", "/elsewhere"))
    assert read_graph(graph).decoding["score_threshold"] == 1e-8
    assert "does not say how it suppresses" in caplog.text


def test_a_shape_is_not_believed(refused, constants, tmp_path):
    """A few bytes may claim to be 256 TiB."""

    def edit(graph):
        tensor = next(node for node in graph.node if node.name.endswith("/Conv/weights")).attr["value"].tensor
        tensor.tensor_shape.dim[0].size = 2**46
        tensor.tensor_content = b""
        tensor.float_val.append(1.0)

    assert "is damaged" in refused(edited(write_graph(tmp_path / "graph.pb", constants), edit))


def test_weights_that_are_no_numbers(refused, constants, tmp_path):
    name = f"{NETWORK}/Conv/weights"
    broken = {**constants, name: np.full_like(constants[name], np.nan)}
    assert "does not hold finite numbers" in refused(write_graph(tmp_path / "graph.pb", broken))


def test_a_kernel_of_other_dimensions(refused, constants, tmp_path):
    name = f"{NETWORK}/Conv/weights"
    broken = {**constants, name: constants[name].reshape(-1)}
    assert "kernels have other shapes" in refused(write_graph(tmp_path / "graph.pb", broken))
