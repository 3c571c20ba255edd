"""Edits and properties of ONNX graphs: outputs, network part, input form, operator set and supporting runtimes."""

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
    """Return a copy of `model` with the outputs `names` and only the nodes that they need."""
    inputs = [value.name for value in model.graph.input]
    return onnx.utils.Extractor(model).extract_model(inputs, list(names))


def add_outputs(model: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """Return a copy of `model` whose outputs include the inner float32 values `names`."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    copied.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    return copied


def strip_annotations(model: onnx.ModelProto) -> None:
    """Remove notes of the exporter about source code, in place: they contain paths of this machine."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    del graph.value_info[:]  # shape inference restores them


def fold_center_taps(model: onnx.ModelProto) -> int:
    """Replace every depthwise 3×3 convolution of a 1×1 map by a 1×1 one, in place; return their number.

    This is exact, because only the centre tap meets the map. OpenCV's DNN (4.x, and the classic engine of 5.0)
    computes the 3×3 incorrectly, by about 1 in the logits, and every SSDLite whose last map is 1×1 has some.
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
    """Remove the constants that no node reads, in place."""
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
    """Return the names of the last values of the network in a traced graph: maps by level, or corner maps."""
    later = {*OUTPUT_NAMES["raw"], *OUTPUT_NAMES["decoded"]}
    return [value.name for value in model.graph.output if value.name not in later]


def last_convolutions(model: onnx.ModelProto) -> set[str]:
    """Return the names of the convolutions that no other convolution depends on."""
    feeding: set[str] = set()  # values that a convolution depends on
    found = set()
    for node in reversed(model.graph.node):
        feeds = not feeding.isdisjoint(node.output)
        if node.op_type == "Conv" and not feeds:
            found.add(node.name)
        if node.op_type == "Conv" or feeds:
            feeding.update(node.input)
    return found


def network_nodes(model: onnx.ModelProto) -> list[NodeProto]:
    """Return the nodes from the first convolution to `raw_outputs`, in order."""
    wanted = set(raw_outputs(model))
    for node in reversed(model.graph.node):  # the nodes of an ONNX graph are in topological order
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
    """Runtime that reads ONNX, with the features of our files that it does not support."""

    name: str
    lacks: frozenset[str]  # operators, or `HALF`
    tried: bool  # tested here; otherwise taken from its documentation


QUANTIZATION = frozenset({"QuantizeLinear", "DequantizeLinear"})


RUNTIMES = (
    RuntimeSupport("ONNX Runtime", frozenset(), tried=True),
    RuntimeSupport("ONNX Runtime Web", frozenset(), tried=True),
    RuntimeSupport("OpenVINO", frozenset(), tried=True),
    RuntimeSupport("OpenCV 5", frozenset(), tried=True),
    # Tested with the classic engine of OpenCV 5. Its NonMaxSuppression gives different boxes without an error.
    RuntimeSupport("OpenCV 4", frozenset({"NonMaxSuppression", HALF}), tried=True),
    # TensorRT needs symmetric activations, and ours are asymmetric.
    RuntimeSupport("TensorRT", QUANTIZATION, tried=False),
)


def count_operators(model: onnx.ModelProto) -> dict[str, int]:
    """Return operator -> number of nodes, sorted by name."""
    return dict(sorted(Counter(node.op_type for node in model.graph.node).items()))


def needs(model: onnx.ModelProto) -> set[str]:
    """Return the operators of a file, and `HALF` if it has float16 constants."""
    halves = {HALF for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    return {node.op_type for node in model.graph.node} | halves


def obstacles(needed: Collection[str]) -> dict[str, list[str]]:
    """Return runtime -> the features of `needed` (see `needs`) that it lacks; an empty list if it has all."""
    return {runtime.name: sorted(runtime.lacks.intersection(needed)) for runtime in RUNTIMES}


def count_weights(model: onnx.ModelProto) -> int:
    """Return the number of elements of all constants."""
    return sum(math.prod(tensor.dims) for tensor in model.graph.initializer)


MIN_OPSET = 13
"""First opset with quantisation per channel and with the operators that suppression needs."""


TRACED_OPSET = 18
"""Opset that PyTorch (2.9 to 2.15) writes without a conversion.

For a lower opset it calls ONNX's converter, which has no rule for Identity at 13 to 15 nor for Pad at 16 and 17,
and then writes 18 without an error."""


DEFAULT_OPSET = 18


def require_known(opset: int) -> None:
    """Raise ConfigError for an opset below MIN_OPSET."""
    if opset < MIN_OPSET:
        raise ConfigError(f"opset {opset} cannot be written; choose {MIN_OPSET} or above, such as {DEFAULT_OPSET}.")


def lower_opset(model: onnx.ModelProto, opset: int) -> None:
    """Convert `model` to `opset`, in place; a model of that opset or a lower one is not changed.

    A node keeps its operator; attributes that the older opset lacks are removed if they have no effect, which is so
    for all nodes of a detector. Raises ConfigError for a node that the older opset cannot express.
    """
    current = _standard(model).version
    if opset >= current:
        return
    shapes = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if not defs.has(node.op_type, opset, ""):
            raise _refusal(opset, f"{node.op_type} was added later")
        older, newer = (defs.get_schema(node.op_type, version, "") for version in (opset, current))
        while node.input and not node.input[-1]:
            del node.input[-1]
        if len(node.input) > older.max_input:
            raise _refusal(opset, f"{node.op_type} has an input that was added later")
        unknown = [attribute for attribute in node.attribute if attribute.name not in older.attributes]
        for attribute in unknown:
            if not _is_neutral(node, attribute, newer, shapes):
                raise _refusal(opset, f"{node.op_type} has the attribute {attribute.name}, which was added later")
            node.attribute.remove(attribute)
    _standard(model).version = opset


def require_opset(model: onnx.ModelProto, opset: int) -> None:
    """Raise ConfigError if `model` is not of `opset`; the tools that write graphs do not report that."""
    written = {entry.domain: entry.version for entry in model.opset_import}
    if written != {"": opset}:
        raise ConfigError(
            f"the exporter cannot write opset {opset} (it wrote {written.get('')}); try --opset {DEFAULT_OPSET}."
        )


def lower_ir_version(model: onnx.ModelProto) -> None:
    """Set the lowest IR version that the opset allows, in place: old runtimes refuse files of newer ones."""
    model.ir_version = helper.find_min_ir_version_for(model.opset_import)


def _standard(model: onnx.ModelProto) -> onnx.OperatorSetIdProto:
    return next(entry for entry in model.opset_import if entry.domain == "")


def _is_neutral(
    node: NodeProto, attribute: AttributeProto, schema: defs.OpSchema, tensors: dict[str, onnx.TensorProto]
) -> bool:
    """Tell whether `attribute` has no effect on the node."""
    if node.op_type == "Reshape" and attribute.name == "allowzero":  # it has an effect on a 0 in the new shape only
        shape = tensors.get(node.input[1])
        return attribute.i == 0 or (shape is not None and 0 not in numpy_helper.to_array(shape))
    default = schema.attributes[attribute.name].default_value
    return bool(default.type) and helper.get_attribute_value(default) == helper.get_attribute_value(attribute)


def _refusal(opset: int, reason: str) -> ConfigError:
    return ConfigError(f"opset {opset} cannot be written ({reason}); try --opset {DEFAULT_OPSET}.")


def set_input_form(model: onnx.ModelProto, form: InputForm) -> None:
    """Change the input `images` of a graph from (B, 3, H, W) float32 to `form`, in place.

    The nhwc forms are (B, H, W, 3), the uint8 forms bytes. Pixels are 0..255 in every form; the first nodes of the
    network normalise them.
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
    if layout == "NHWC":  # before the cast, so that bytes are moved and not floats
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
