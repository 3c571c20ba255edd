import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from ssdlite.export.onnx.graph import fold_center_taps, keep_outputs


def depthwise_model(size, stride=1, pad=1):
    weight = np.random.default_rng(0).normal(size=(4, 1, 3, 3)).astype(np.float32)
    node = helper.make_node(
        "Conv", ["x", "w"], ["y"], kernel_shape=[3, 3], pads=[pad] * 4, strides=[stride] * 2, group=4
    )
    shapes = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4, *s])
        for name, s in (("x", size), ("y", [None, None]))
    ]
    graph = helper.make_graph([node], "g", shapes[:1], shapes[1:], [numpy_helper.from_array(weight, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def run(model, x):
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]


@pytest.mark.parametrize("stride", [1, 2])
def test_the_centre_tap_is_all_that_a_single_cell_sees(stride):
    model = depthwise_model([1, 1], stride)
    x = np.random.default_rng(1).normal(size=(3, 4, 1, 1)).astype(np.float32)
    before = run(model, x)
    assert fold_center_taps(model) == 1
    onnx.checker.check_model(model, full_check=True)
    assert [tuple(tensor.dims) for tensor in model.graph.initializer] == [(4, 1, 1, 1)]
    np.testing.assert_array_equal(run(model, x), before)


def test_larger_maps_keep_their_kernels():
    model = depthwise_model([1, 2])
    data = model.SerializeToString()
    assert fold_center_taps(model) == 0 and model.SerializeToString() == data


def test_outputs_that_are_not_kept_leave_nothing_behind():
    x, y, z = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xyz")
    nodes = [helper.make_node("Add", ["x", "a"], ["y"]), helper.make_node("Mul", ["x", "b"], ["z"])]
    constants = [numpy_helper.from_array(np.ones(2, np.float32), name) for name in "ab"]
    model = keep_outputs(helper.make_model(helper.make_graph(nodes, "g", [x], [y, z], constants)), ["z"])
    assert [node.op_type for node in model.graph.node] == ["Mul"]
    assert [tensor.name for tensor in model.graph.initializer] == ["b"]
