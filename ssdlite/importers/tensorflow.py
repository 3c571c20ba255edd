"""TensorFlow's Object Detection API, ssdlite_mobilenet_v2: a frozen inference graph.

The graph is read with the protocol buffers that TensorBoard brings; TensorFlow is not needed. Convolutions are
(height, width, in, out), depthwise ones (height, width, channels, 1); a box is coded y, x, h, w; and the square
prior between two scales comes last in a cell of levels 1 to 5, where ours comes second.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from google.protobuf.message import DecodeError
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT
from tensorboard.util import tensor_util
from torch import Tensor

from ssdlite.errors import CheckpointError
from ssdlite.importers.names import ForeignNetwork, Names, count_classes, take
from ssdlite.model.architecture import TENSORFLOW
from ssdlite.model.layers import Layer, layers

NETWORK_SCOPES = ("FeatureExtractor/", "BoxPredictor_")
SUPPRESSION = "/MultiClassNonMaxSuppression/non_max_suppression/"
RESIZE = "/ResizeImage/stack"
EXTRA_MID_CHANNELS = (256, 128, 128, 64)
EXTRA_CHANNELS = (512, 256, 256, 128)
PREDICTORS = {"classification": "ClassPredictor", "regression": "BoxEncodingPredictor"}
PRIOR_ORDER = (0, 5, 1, 2, 3, 4)  # our prior i is theirs PRIOR_ORDER[i], on levels 1 to 5
CODE_ORDER = (1, 0, 3, 2)  # x, y, w, h among their y, x, h, w
NORM_NAMES = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def read_graph(path: Path) -> ForeignNetwork:
    """A frozen graph with its own input size and suppression thresholds; it names no classes.

    Raises CheckpointError for a file that is none, and as `names.take`.
    """
    constants = _read_constants(path)
    theirs = {
        key: torch.from_numpy(np.array(tensor_util.make_ndarray(tensor)))
        for key, tensor in constants.items()
        if key.startswith(NETWORK_SCOPES) and tensor.dtype == DT_FLOAT
    }
    weights = take(name_table(), theirs, str(path), TENSORFLOW.name)
    num_classes = count_classes(weights, TENSORFLOW, str(path))
    size = [tensor_util.make_ndarray(tensor) for key, tensor in constants.items() if key.endswith(RESIZE)]
    if not size:
        raise CheckpointError(
            f"{path} does not resize its input to a fixed size, so it is no SSDLite of a known size."
        )
    height, width = map(int, size[0])
    return ForeignNetwork(
        TENSORFLOW, convert(weights, num_classes), num_classes, (height, width), _decoding(constants)
    )


def _read_constants(path: Path) -> dict[str, TensorProto]:
    graph = GraphDef()
    try:
        graph.ParseFromString(path.read_bytes())
    except (OSError, DecodeError):
        raise CheckpointError(f"{path} cannot be read as a frozen TensorFlow graph.") from None
    constants = {node.name: node.attr["value"].tensor for node in graph.node if node.op == "Const"}
    if not constants:
        raise CheckpointError(
            f"{path} is no frozen TensorFlow graph: it has no constants; beside a saved_model folder lies a "
            "frozen_inference_graph.pb."
        )
    return constants


def _decoding(constants: Mapping[str, TensorProto]) -> dict[str, float]:
    """All priors enter suppression there, and 100 boxes leave it."""
    found: dict[str, float] = {"candidates_per_class": 10_000, "max_detections": 100}
    for key, tensor in constants.items():
        for option in ("iou_threshold", "score_threshold"):
            if key.endswith(SUPPRESSION + option):
                found[option] = float(tensor_util.make_ndarray(tensor))
    return found


def name(layer: Layer) -> Names:
    """Scopes of the convolution's variables and of its norm's."""
    backbone = "FeatureExtractor/MobilenetV2"
    match layer.part:
        case "stem":
            return _with_norm(f"{backbone}/Conv")
        case "block":
            number = f"_{layer.index - 1}" if layer.index > 1 else ""
            return _with_norm(f"{backbone}/expanded_conv{number}/{layer.role}")
        case "last":
            return _with_norm(f"{backbone}/Conv_1")
        case "extra":
            position = layer.index + 2
            if layer.role == "expand":
                mid = EXTRA_MID_CHANNELS[layer.index]
                return _with_norm(f"{backbone}/layer_19_1_Conv2d_{position}_1x1_{mid}")
            separable = f"{backbone}/layer_19_2_Conv2d_{position}_3x3_s2_{EXTRA_CHANNELS[layer.index]}"
            return _with_norm(f"{separable}_depthwise" if layer.role == "depthwise" else separable)
        case "classification" | "regression":
            predictor = f"BoxPredictor_{layer.index}/{PREDICTORS[layer.part]}"
            return _with_norm(f"{predictor}_depthwise") if layer.role == "depthwise" else Names(predictor)


def name_table() -> dict[str, str]:
    """Our name -> theirs, of every tensor."""
    table: dict[str, str] = {}
    for layer in layers(TENSORFLOW):
        names = name(layer)
        kernel = "depthwise_weights" if layer.role == "depthwise" else "weights"
        table[f"{layer.conv}.weight"] = f"{names.conv}/{kernel}"
        if layer.has_bias:
            table[f"{layer.conv}.bias"] = f"{names.conv}/biases"
        if layer.norm is not None:
            table |= {f"{layer.norm}.{ours}": f"{names.norm}/{theirs}" for ours, theirs in NORM_NAMES.items()}
    return table


def convert(weights: Mapping[str, Tensor], num_classes: int) -> dict[str, Tensor]:
    """Their tensors under our names -> in our layout and order, with counters for the norms."""
    converted = dict(weights)
    for layer in layers(TENSORFLOW):
        kernel = f"{layer.conv}.weight"
        order = (2, 3, 0, 1) if layer.role == "depthwise" else (3, 2, 0, 1)
        converted[kernel] = weights[kernel].permute(order).contiguous()
        if layer.norm is not None:
            converted[f"{layer.norm}.num_batches_tracked"] = torch.tensor(0)
        if layer.part in PREDICTORS and layer.role == "project":
            columns = num_classes + 1 if layer.part == "classification" else 4
            for key in (kernel, f"{layer.conv}.bias"):
                converted[key] = _reorder(converted[key], columns, layer)
    return converted


def _with_norm(scope: str) -> Names:
    return Names(scope, f"{scope}/BatchNorm")


def _reorder(tensor: Tensor, columns: int, layer: Layer) -> Tensor:
    """Rows (priors of a cell · columns, ...) from their order to ours."""
    rows = tensor.view(-1, columns, *tensor.shape[1:])
    if layer.index > 0:
        rows = rows[list(PRIOR_ORDER)]
    if layer.part == "regression":
        rows = rows[:, list(CODE_ORDER)]
    return rows.reshape(tensor.shape)
