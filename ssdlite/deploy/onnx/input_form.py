"""What a file takes: pixels as floats, or as the bytes that a decoder or camera gives."""

from __future__ import annotations

import onnx
from onnx import TensorProto
from onnx.helper import make_node, make_tensor_value_info

from ssdlite.deploy.metadata import LAYOUTS, InputForm


def set_input_form(model: onnx.ModelProto, form: InputForm) -> None:
    """Make a graph that takes `images` (B, 3, H, W) float32 take them in `form`, in place.

    The forms with nhwc take (B, H, W, 3), those with uint8 bytes. The values are 0..255 with every form, and the
    first nodes of the network normalise them.
    """
    if form == "float-nchw":
        return
    graph = model.graph
    batch, channels, height, width = graph.input[0].type.tensor_type.shape.dim
    sides = [channels.dim_value, height.dim_value, width.dim_value]
    for node in graph.node:
        node.input[:] = ["pixels" if name == "images" else name for name in node.input]
    layout, dtype = LAYOUTS[form]
    last, nodes = "images", []
    if layout == "NHWC":  # before the cast: bytes are moved, not floats
        sides = [*sides[1:], sides[0]]
        nodes.append(make_node("Transpose", [last], ["channels_first"], perm=[0, 3, 1, 2]))
        last = "channels_first"
    if dtype == "uint8":
        nodes.append(make_node("Cast", [last], ["pixels"], to=TensorProto.FLOAT))
    else:
        nodes[-1].output[:] = ["pixels"]
    kept = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *kept])
    del graph.input[:]
    shape = [batch.dim_value or batch.dim_param, *sides]
    element = TensorProto.UINT8 if dtype == "uint8" else TensorProto.FLOAT
    graph.input.append(make_tensor_value_info("images", element, shape))
