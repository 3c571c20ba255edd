"""What a file takes: pixels as floats, or as the bytes that a decoder or camera gives."""

from __future__ import annotations

import onnx
from onnx import TensorProto
from onnx.helper import make_node, make_tensor_value_info

from ssdlite.deploy.metadata import InputForm


def set_input_form(model: onnx.ModelProto, form: InputForm) -> None:
    """Make a graph that takes `images` (B, 3, H, W) float32 take them in `form`, in place.

    uint8-nchw takes (B, 3, H, W) uint8, uint8-nhwc (B, H, W, 3) uint8. The values are 0..255 with every form, and
    the first nodes of the network normalise them.
    """
    if form == "float-nchw":
        return
    graph = model.graph
    batch, channels, height, width = graph.input[0].type.tensor_type.shape.dim
    sides = [channels.dim_value, height.dim_value, width.dim_value]
    for node in graph.node:
        node.input[:] = ["pixels" if name == "images" else name for name in node.input]
    nodes = [make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT)]
    if form == "uint8-nhwc":  # bytes are moved, not floats
        sides = [*sides[1:], sides[0]]
        nodes = [
            make_node("Transpose", ["images"], ["channels_first"], perm=[0, 3, 1, 2]),
            make_node("Cast", ["channels_first"], ["pixels"], to=TensorProto.FLOAT),
        ]
    kept = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *kept])
    del graph.input[:]
    shape = [batch.dim_value or batch.dim_param, *sides]
    graph.input.append(make_tensor_value_info("images", TensorProto.UINT8, shape))
