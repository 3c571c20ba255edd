"""Reading a frozen TensorFlow graph with the protocol buffers that TensorBoard brings; nothing in it is run."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.node_def_pb2 import NodeDef
from tensorboard.compat.proto.types_pb2 import DT_FLOAT
from tensorboard.util import tensor_util

from ssdlite.errors import CheckpointError

MAX_ELEMENTS = 10_000_000  # of one constant: four times the largest of 1,000 classes; a shape is a mere claim


class FrozenGraph:
    """The nodes of a file by name. Raises CheckpointError, here and below, for a file that is no such graph."""

    def __init__(self, path: Path) -> None:
        graph = GraphDef()
        try:
            graph.ParseFromString(path.read_bytes())
        except (OSError, DecodeError):
            raise CheckpointError(f"{path} cannot be read as a frozen TensorFlow graph.") from None
        self.path = path
        self.nodes: dict[str, NodeDef] = {node.name: node for node in graph.node}
        if not any(node.op == "Const" for node in graph.node):
            raise CheckpointError(
                f"{path} is no frozen TensorFlow graph: it has no constants; beside a saved_model folder lies a "
                "frozen_inference_graph.pb."
            )

    def float_names(self, *scopes: str) -> list[str]:
        """The names of all float constants under `scopes`."""
        return [
            name
            for name, node in self.nodes.items()
            if node.op == "Const" and name.startswith(scopes) and node.attr["value"].tensor.dtype == DT_FLOAT
        ]

    def matching(self, pattern: str) -> dict[str, np.ndarray]:
        """The constants whose name the regular expression is found in."""
        names = [name for name, node in self.nodes.items() if node.op == "Const" and re.search(pattern, name)]
        return {name: self.constant(name) for name in names}

    def constant(self, name: str) -> np.ndarray:
        """A copy of one constant, in its own type and shape."""
        tensor = self.nodes[name].attr["value"].tensor
        shape = [dim.size for dim in tensor.tensor_shape.dim]
        try:
            if min(shape, default=0) < 0 or math.prod(shape) > MAX_ELEMENTS:
                raise ValueError
            return np.array(tensor_util.make_ndarray(tensor))
        except (ValueError, TypeError):
            raise CheckpointError(f"{self.path} is damaged: {name} cannot be of shape {tuple(shape)}.") from None
