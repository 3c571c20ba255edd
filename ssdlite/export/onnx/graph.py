"""Edits and properties of ONNX graphs: outputs, the part that is the network, input form, operator set, supporting
runtimes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import AttributeProto, NodeProto, TensorProto, defs, helper, numpy_helper, shape_inference
from onnx.helper import make_node, make_tensor_value_info

from ssdlite.errors import ConfigError
from ssdlite.export.metadata import LAYOUTS, OUTPUT_NAMES, InputForm


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


def raw_outputs(model: onnx.ModelProto) -> list[str]:
    """The values of a traced graph that a network ends with: the maps of each level, or those of corners."""
    later = {*OUTPUT_NAMES["raw"], *OUTPUT_NAMES["decoded"]}
    return [value.name for value in model.graph.output if value.name not in later]


def last_convolutions(model: onnx.ModelProto) -> set[str]:
    """The names of the convolutions that no other one comes after."""
    feeding: set[str] = set()  # values that a convolution is computed from
    found = set()
    for node in reversed(model.graph.node):
        feeds = not feeding.isdisjoint(node.output)
        if node.op_type == "Conv" and not feeds:
            found.add(node.name)
        if node.op_type == "Conv" or feeds:
            feeding.update(node.input)
    return found


def network_nodes(model: onnx.ModelProto) -> list[NodeProto]:
    """The nodes from the first convolution to `raw_outputs`, in their order."""
    wanted = set(raw_outputs(model))
    for node in reversed(model.graph.node):  # in topological order, as any graph of ONNX
        if not wanted.isdisjoint(node.output):
            wanted.update(node.input)
    reached: set[str] = set()
    found = []
    for node in model.graph.node:
        begins = node.op_type == "Conv" and not reached
        if not wanted.isdisjoint(node.output) and (begins or not reached.isdisjoint(node.input)):
            reached.update(node.output)
            found.append(node)
    return found


HALF = "float16"


@dataclass(frozen=True)
class RuntimeSupport:
    """A program that reads ONNX, and what of our files it cannot do."""

    name: str
    lacks: frozenset[str]  # operators, or `HALF`
    tried: bool  # by us; otherwise from its documentation


QUANTIZATION = frozenset({"QuantizeLinear", "DequantizeLinear"})


RUNTIMES = (
    RuntimeSupport("ONNX Runtime", frozenset(), tried=True),
    RuntimeSupport("ONNX Runtime Web", frozenset(), tried=True),
    RuntimeSupport("OpenVINO", frozenset(), tried=True),
    RuntimeSupport("OpenCV 5", frozenset(), tried=True),
    # And the classic engine of 5, where it was tried. Its NonMaxSuppression gives other boxes, and no error.
    RuntimeSupport("OpenCV 4", frozenset({"NonMaxSuppression", HALF}), tried=True),
    # It takes none but symmetric activations, and ours are not.
    RuntimeSupport("TensorRT", QUANTIZATION, tried=False),
)


def count_operators(model: onnx.ModelProto) -> dict[str, int]:
    """Operator -> nodes, by name."""
    return dict(sorted(Counter(node.op_type for node in model.graph.node).items()))


def needs(model: onnx.ModelProto) -> set[str]:
    """The operators of a file, and `HALF` if it has numbers of that kind."""
    halves = {HALF for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    return {node.op_type for node in model.graph.node} | halves


def obstacles(needed: Collection[str]) -> dict[str, list[str]]:
    """Runtime -> what it lacks of what `needs` gave; an empty list where it has all."""
    return {runtime.name: sorted(runtime.lacks.intersection(needed)) for runtime in RUNTIMES}


def count_weights(model: onnx.ModelProto) -> int:
    """Numbers in all constants."""
    return sum(math.prod(tensor.dims) for tensor in model.graph.initializer)


MIN_OPSET = 13
"""The first with quantisation by channel, and with the operators that suppression is made of."""


TRACED_OPSET = 18
"""Opset that PyTorch writes without a conversion (2.9 to 2.15). Asked for less, it calls ONNX's converter, which
has no rule for Identity at 13 to 15 nor for Pad at 16 and 17, and then leaves 18 in place without an error."""


DEFAULT_OPSET = 18


def require_known(opset: int) -> None:
    """Raise ConfigError for an opset that is too old for any of our files."""
    if opset < MIN_OPSET:
        raise ConfigError(f"opset {opset} cannot be written; choose {MIN_OPSET} or above, such as {DEFAULT_OPSET}.")


def lower_opset(model: onnx.ModelProto, opset: int) -> None:
    """Bring `model` down to `opset`, in place; where it is that or less, nothing changes.

    An operator of the newer set becomes its namesake of the older one when all that it says can be said there:
    what the older one does not know must have no effect. Everything in a detector is of this kind. Raises
    ConfigError for anything else.
    """
    current = _standard(model).version
    if opset >= current:
        return
    shapes = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if not defs.has(node.op_type, opset, ""):
            raise _refusal(opset, f"{node.op_type} came later")
        older, newer = (defs.get_schema(node.op_type, version, "") for version in (opset, current))
        while node.input and not node.input[-1]:
            del node.input[-1]
        if len(node.input) > older.max_input:
            raise _refusal(opset, f"{node.op_type} has an input that came later")
        unknown = [attribute for attribute in node.attribute if attribute.name not in older.attributes]
        for attribute in unknown:
            if not _is_neutral(node, attribute, newer, shapes):
                raise _refusal(opset, f"{node.op_type} has the attribute {attribute.name}, which came later")
            node.attribute.remove(attribute)
    _standard(model).version = opset


def require_opset(model: onnx.ModelProto, opset: int) -> None:
    """Raise ConfigError if `model` is not of `opset` alone: no tool that writes graphs says so by an exception."""
    written = {entry.domain: entry.version for entry in model.opset_import}
    if written != {"": opset}:
        raise ConfigError(
            f"the exporter cannot write opset {opset} (it gave {written.get('')}); try --opset {DEFAULT_OPSET}."
        )


def lower_ir_version(model: onnx.ModelProto) -> None:
    """Set the lowest IR version that the opset allows, in place: old runtimes refuse files of a new one."""
    model.ir_version = helper.find_min_ir_version_for(model.opset_import)


def _standard(model: onnx.ModelProto) -> onnx.OperatorSetIdProto:
    return next(entry for entry in model.opset_import if entry.domain == "")


def _is_neutral(
    node: NodeProto, attribute: AttributeProto, schema: defs.OpSchema, tensors: dict[str, onnx.TensorProto]
) -> bool:
    """Return whether the node means the same without `attribute`."""
    if node.op_type == "Reshape" and attribute.name == "allowzero":  # how a 0 in the new shape is read
        shape = tensors.get(node.input[1])
        return attribute.i == 0 or (shape is not None and 0 not in numpy_helper.to_array(shape))
    default = schema.attributes[attribute.name].default_value
    return bool(default.type) and helper.get_attribute_value(default) == helper.get_attribute_value(attribute)


def _refusal(opset: int, reason: str) -> ConfigError:
    return ConfigError(f"opset {opset} cannot be written ({reason}); try --opset {DEFAULT_OPSET}.")


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
