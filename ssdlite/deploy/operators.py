"""What a file is made of, and which runtimes have all of it."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import onnx


@dataclass(frozen=True)
class Runtime:
    """A program that reads ONNX, and what of our files it cannot do."""

    name: str
    lacks: frozenset[str]  # operators
    tried: bool  # here; otherwise from its documentation


QUANTIZATION = frozenset({"QuantizeLinear", "DequantizeLinear"})

RUNTIMES = (
    Runtime("ONNX Runtime", frozenset(), tried=True),
    Runtime("ONNX Runtime Web (WASM)", frozenset(), tried=True),
    Runtime("OpenVINO", frozenset(), tried=True),
    Runtime("OpenCV 5", QUANTIZATION, tried=True),
    Runtime("OpenCV 4", QUANTIZATION | {"NonMaxSuppression"}, tried=True),
    Runtime("TensorRT", QUANTIZATION, tried=False),
)


def count_operators(model: onnx.ModelProto) -> dict[str, int]:
    """Operator -> nodes, by name."""
    return dict(sorted(Counter(node.op_type for node in model.graph.node).items()))


def obstacles(operators: dict[str, int]) -> dict[str, list[str]]:
    """Runtime -> the operators that it lacks; an empty list where it has all."""
    return {runtime.name: sorted(runtime.lacks & operators.keys()) for runtime in RUNTIMES}


def count_weights(model: onnx.ModelProto) -> int:
    """Numbers in all constants."""
    return sum(math.prod(tensor.dims) for tensor in model.graph.initializer)
