import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from ssdlite.errors import ConfigError
from ssdlite.export.onnx.graph import lower_ir_version, lower_opset, require_opset
from ssdlite.export.onnx.model import trace_detector


def copied(model):
    made = onnx.ModelProto()
    made.CopyFrom(model)
    return made


def run(model, images):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["boxes", "scores"], {"images": images.astype(np.float32)})


@pytest.mark.parametrize("opset", [13, 14, 15, 16, 17])
def test_a_network_computes_the_same_at_every_opset(traced, images, opset):
    lowered = copied(traced)
    lower_opset(lowered, opset)
    lower_ir_version(lowered)
    require_opset(lowered, opset)
    onnx.checker.check_model(lowered, full_check=True)
    assert not any(node.op_type == "Reshape" and node.attribute for node in lowered.graph.node) or opset > 13
    for found, expected in zip(run(lowered, images), run(traced, images), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_lower_opset_is_not_raised(traced):
    model = copied(traced)
    lower_opset(model, 20)
    assert model.SerializeToString() == traced.SerializeToString()


def reshape_model(shape, allowzero):
    node = helper.make_node("Reshape", ["x", "shape"], ["y"], allowzero=allowzero)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy"]
    constants = [numpy_helper.from_array(np.array(shape), "shape")]
    graph = helper.make_graph([node], "g", values[:1], values[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def test_an_attribute_without_effect_is_dropped_and_one_with_is_refused():
    for shape, allowzero in (([2, 3], 1), ([0, 3], 0)):
        model = reshape_model(shape, allowzero)
        lower_opset(model, 13)
        assert not model.graph.node[0].attribute
    with pytest.raises(ConfigError, match=r"opset 13 cannot be written \(Reshape has the attribute allowzero"):
        lower_opset(reshape_model([0, 3], 1), 13)


def test_an_operator_or_an_input_that_came_later_is_refused():
    for node, reason in (
        (helper.make_node("Mish", ["x"], ["y"]), "Mish was added later"),
        (helper.make_node("ReduceMax", ["x", "axes"], ["y"]), "ReduceMax has an input that was added later"),
    ):
        graph = helper.make_graph([node], "g", [], [])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
        with pytest.raises(ConfigError, match=reason):
            lower_opset(model, 13)


def test_opsets_that_cannot_be_written(detector, traced):
    with pytest.raises(ConfigError, match="opset 12 cannot be written; choose 13 or above"):
        trace_detector(detector, opset=12)
    with pytest.raises(ConfigError, match=r"cannot write opset 99 \(it wrote 18\)"):
        require_opset(traced, 99)
