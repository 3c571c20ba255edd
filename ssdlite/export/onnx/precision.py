"""Reduced precision of an ONNX network: float16 for size, int8 for size and speed.

Processors without float16 arithmetic compute in float32. An int8 file has a third of the size, and is faster on
processors that multiply bytes.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, numpy_helper, shape_inference
from onnx.helper import make_node
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from ssdlite.export.onnx.graph import drop_unused_weights, last_convolutions, network_nodes, strip_annotations


def halve(model: onnx.ModelProto) -> None:
    """Convert the network of a traced `model` to float16, weights included, in place.

    Pixels are normalised and boxes decoded in float32, and inputs and outputs keep their types. This has to precede
    `append_nms`, because onnxruntime has no NonMaxSuppression in float16. The norms were folded into the
    convolutions in float32, so small variances are not lost.
    """
    graph = model.graph
    floats, weights = _float_values(model), {tensor.name: tensor for tensor in graph.initializer}
    inside = {node.output[0] for node in network_nodes(model)}
    read_outside = {value.name for value in graph.output}
    read_outside.update(name for node in graph.node if node.output[0] not in inside for name in node.input)
    narrowed: set[str] = set()

    def convert(node: NodeProto) -> Iterator[NodeProto]:
        """Yield the converted node with the casts before and after it."""
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
    """Return the names of all float32 values."""
    graph: GraphProto = shape_inference.infer_shapes(model).graph
    found = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            found.add(value.name)
    return found


FLOAT_CONVOLUTIONS = 3
"""Number of first convolutions that stay in float32: they see the full contrast of images and have few weights."""


QUANTIZED_OPERATORS = ("Conv", "Add", "Clip")


def quantize(model: onnx.ModelProto, images: np.ndarray, *, reduce_range: bool) -> onnx.ModelProto:
    """Return a copy of a traced `model` whose network computes in int8, calibrated on `images` (N, 3, H, W) uint8.

    Static quantisation with QuantizeLinear and DequantizeLinear around each convolution and sum: uint8 activations
    between the smallest and largest value that the images give; int8 weights, symmetric, with a scale per channel.
    The first convolutions stay in float32, and so do the last ones and everything after them: quantised, the last
    ones could give 256 different values only (on a helmet network, AP .296 instead of .299; float32 has .303).

    Args:
        images: about a hundred images like those that the network is used on.
        reduce_range: weights of 7 bits, for processors that add two products in 16 bits; see `runtime.EXACT_INT8`.
    """
    assert len(images) > 0, "calibration needs at least one image"
    inside = [node.name for node in network_nodes(model)]
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    narrow = set(inside) - set(convolutions[:FLOAT_CONVOLUTIONS]) - last_convolutions(model)
    with tempfile.TemporaryDirectory() as folder, _silence():
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        quantize_static(
            source,
            target,
            _Images(images, model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 1),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=list(QUANTIZED_OPERATORS),
            nodes_to_exclude=[node.name for node in model.graph.node if node.name not in narrow],
        )
        quantized = onnx.load(target)
    strip_annotations(quantized)
    return quantized


class _Images(CalibrationDataReader):
    """Batches of the size that the graph asks for; the last one is filled up with the first images."""

    def __init__(self, images: np.ndarray, batch_size: int) -> None:
        order = np.arange(-(-len(images) // batch_size) * batch_size) % len(images)
        self.batches = iter(np.split(order, len(order) // batch_size))
        self.images = images

    def get_next(self) -> dict[str, np.ndarray] | None:
        rows = next(self.batches, None)
        return None if rows is None else {"images": self.images[rows].astype(np.float32)}


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Suppress the advice to preprocess the model, which would not change it: norms are folded, shapes known."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
