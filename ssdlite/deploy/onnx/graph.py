"""Edits of ONNX graphs that leave their results as they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper, shape_inference


def keep_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy of `model` that gives the outputs `names` and holds nothing that they do not need."""
    inputs = [value.name for value in model.graph.input]
    return onnx.utils.Extractor(model).extract_model(inputs, list(names))


def add_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy of `model` that also gives the float32 values `names`, which are computed inside it."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    copied.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    return copied


def strip_annotations(model: onnx.ModelProto) -> None:
    """Remove, in place, what exporters note about the source code: it holds paths of the machine."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    del graph.value_info[:]  # shape inference finds them again


def fold_center_taps(model: onnx.ModelProto) -> int:
    """Make every depthwise 3×3 on a 1×1 map a 1×1, in place; gives their number.

    Only the centre tap ever meets the map, so this is exact. OpenCV's DNN (4.x, and the classic engine of 5.0)
    computes the 3×3 wrongly, by about 1 in the logits, and each SSDLite whose last map is 1×1 has some.
    """
    inferred = shape_inference.infer_shapes(model).graph
    map_sizes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim][2:]
        for value in (*inferred.input, *inferred.value_info)
    }
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    folded = 0
    for node in model.graph.node:
        if node.op_type != "Conv" or map_sizes.get(node.input[0]) != [1, 1] or node.input[1] not in weights:
            continue
        kernel = numpy_helper.to_array(weights[node.input[1]])
        if kernel.shape[1:] == (1, 3, 3) and _attribute(node, "pads") == [1, 1, 1, 1]:
            name = f"{node.input[1]}_center"
            model.graph.initializer.append(
                numpy_helper.from_array(np.ascontiguousarray(kernel[:, :, 1:2, 1:2]), name)
            )
            node.input[1] = name
            _set_attributes(node, kernel_shape=[1, 1], pads=[0, 0, 0, 0], strides=[1, 1])
            folded += 1
    drop_unused_weights(model.graph)
    return folded


def drop_unused_weights(graph: onnx.GraphProto) -> None:
    """Remove, in place, the constants that no node reads."""
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _attribute(node: NodeProto, name: str) -> list[int] | None:
    return next((list(attribute.ints) for attribute in node.attribute if attribute.name == name), None)


def _set_attributes(node: NodeProto, **values: list[int]) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name not in values]
    del node.attribute[:]
    node.attribute.extend([*kept, *(helper.make_attribute(name, value) for name, value in values.items())])
