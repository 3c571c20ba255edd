"""The operator set of a graph: brought down where the exporter cannot, and asserted in any case."""

from __future__ import annotations

import onnx
from onnx import AttributeProto, NodeProto, defs, helper, numpy_helper

from ssdlite.errors import ConfigError

MIN_OPSET = 13
"""The first with quantisation by channel, and with the operators that suppression is made of."""

TRACED_OPSET = 18
"""What PyTorch writes without a conversion (2.9 to 2.15). Asked for less, it calls ONNX's converter, which has no
rule for Identity at 13 to 15 nor for Pad at 16 and 17, and then leaves 18 in place without an error."""

DEFAULT_OPSET = 18


def require_known(opset: int) -> None:
    """Raises ConfigError for an opset that is too old for any of our files."""
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
    """Raises ConfigError if `model` is not of `opset` alone: no tool that writes graphs says so by an exception."""
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
    """Whether the node means the same without `attribute`."""
    if node.op_type == "Reshape" and attribute.name == "allowzero":  # how a 0 in the new shape is read
        shape = tensors.get(node.input[1])
        return attribute.i == 0 or (shape is not None and 0 not in numpy_helper.to_array(shape))
    default = schema.attributes[attribute.name].default_value
    return bool(default.type) and helper.get_attribute_value(default) == helper.get_attribute_value(attribute)


def _refusal(opset: int, reason: str) -> ConfigError:
    return ConfigError(f"opset {opset} cannot be written ({reason}); try --opset {DEFAULT_OPSET}.")
