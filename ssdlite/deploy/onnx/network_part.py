"""Which nodes of a traced graph are the network proper, whose numbers may be made narrow.

Before it pixels are normalised, after it boxes are decoded: both stay in float32. Quantised to 8 bits, exponentials
and boxes that share a scale with scores cost .03 AP in trials, where the network itself cost .01.
"""

from __future__ import annotations

import onnx
from onnx import NodeProto

from ssdlite.deploy.metadata import OUTPUT_NAMES


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
