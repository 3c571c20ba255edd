"""A network in float16: half the size, for GPUs and downloads; processors without float16 widen it as they go."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, numpy_helper, shape_inference
from onnx.helper import make_node

from ssdlite.deploy.onnx.graph import drop_unused_weights
from ssdlite.deploy.onnx.network_part import network_nodes


def halve(model: onnx.ModelProto) -> None:
    """Make the network of a traced `model` float16, weights included, in place.

    Pixels are normalised and boxes decoded in float32, and inputs and outputs keep their types. It has to come
    before suppression: onnxruntime has no NonMaxSuppression of float16. Norms are part of the convolutions by then,
    folded in float32, so that their small variances cannot vanish.
    """
    graph = model.graph
    floats, weights = _float_values(model), {tensor.name: tensor for tensor in graph.initializer}
    inside = {node.output[0] for node in network_nodes(model)}
    read_outside = {value.name for value in graph.output}
    read_outside.update(name for node in graph.node if node.output[0] not in inside for name in node.input)
    narrowed: set[str] = set()

    def convert(node: NodeProto) -> Iterator[NodeProto]:
        """The node with what has to stand before and after it."""
        for place, name in enumerate(node.input):
            if name not in floats:
                continue
            if name not in narrowed and name in weights:
                values = numpy_helper.to_array(weights[name]).astype(np.float16)
                graph.initializer.append(numpy_helper.from_array(values, _half(name)))
            elif name not in narrowed:
                yield make_node("Cast", [name], [_half(name)], to=TensorProto.FLOAT16)
            narrowed.add(name)
            node.input[place] = _half(name)
        yield node
        for place, name in enumerate(node.output):
            if name in floats:
                narrowed.add(name)
                node.output[place] = _half(name)
                if name in read_outside:
                    yield make_node("Cast", [_half(name)], [name], to=TensorProto.FLOAT)

    nodes = [made for node in graph.node for made in (convert(node) if node.output[0] in inside else [node])]
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unused_weights(graph)


def _half(name: str) -> str:
    return f"{name}_half"


def _float_values(model: onnx.ModelProto) -> set[str]:
    """The names of all float32 values."""
    graph: GraphProto = shape_inference.infer_shapes(model).graph
    found = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            found.add(value.name)
    return found
