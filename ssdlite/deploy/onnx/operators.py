"""What a file is made of, and which runtimes have all of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import onnx
from onnx import TensorProto

HALF = "float16"


@dataclass(frozen=True)
class Runtime:
    """A program that reads ONNX, and what of our files it cannot do."""

    name: str
    lacks: frozenset[str]  # operators, or `HALF`
    tried: bool  # by us; otherwise from its documentation


QUANTIZATION = frozenset({"QuantizeLinear", "DequantizeLinear"})

RUNTIMES = (
    Runtime("ONNX Runtime", frozenset(), tried=True),
    Runtime("ONNX Runtime Web", frozenset(), tried=True),
    Runtime("OpenVINO", frozenset(), tried=True),
    Runtime("OpenCV 5", frozenset(), tried=True),
    # And the classic engine of 5, where it was tried. Its NonMaxSuppression gives other boxes, and no error.
    Runtime("OpenCV 4", frozenset({"NonMaxSuppression", HALF}), tried=True),
    # It takes none but symmetric activations, and ours are not.
    Runtime("TensorRT", QUANTIZATION, tried=False),
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
