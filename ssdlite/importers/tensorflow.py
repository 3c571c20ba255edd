"""Frozen graphs of TensorFlow's Object Detection API, ssdlite_mobilenet_v2, read as data and not run."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from google.protobuf.message import DecodeError
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.node_def_pb2 import NodeDef
from tensorboard.compat.proto.types_pb2 import DT_FLOAT
from tensorboard.util import tensor_util
from torch import Tensor

from ssdlite.errors import CheckpointError
from ssdlite.importers.names import ForeignNetwork, Names, count_classes, require_shapes, take
from ssdlite.models.layers import Layer, layers
from ssdlite.models.variants import TENSORFLOW

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


logger = logging.getLogger(__name__)


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
    """A frozen graph with its own input size and suppression; it names no classes.

    Raises CheckpointError for a file that is none, for a graph whose constants are not those of the dialect, and as
    `names.take`.
    """
    graph = FrozenGraph(path)
    table = name_table()
    known = set(table.values())
    theirs = {
        key: torch.from_numpy(graph.constant(key)) if key in known else torch.empty(0)
        for key in graph.float_names("FeatureExtractor/", "BoxPredictor_")
    }
    weights = take(table, theirs, str(path), TENSORFLOW.name)
    num_classes = count_classes(weights, TENSORFLOW, str(path))
    _require_published(graph)
    size = _input_size(graph)
    try:
        weights = convert(weights, num_classes)
    except RuntimeError:  # a kernel of other dimensions
        raise CheckpointError(f"{path} is no MobileNetV2-SSDLite: its kernels have other shapes.") from None
    require_shapes(weights, TENSORFLOW, num_classes, str(path))
    return ForeignNetwork(TENSORFLOW, weights, num_classes, size, _decoding(graph))


def _input_size(graph: FrozenGraph) -> tuple[int, int]:
    sizes = [size.tolist() for size in graph.matching("/ResizeImage/stack$").values()]
    if not sizes or len(sizes[0]) != 2:
        raise CheckpointError(f"{graph.path} does not resize its input to a fixed size; export it with one.")
    height, width = map(int, sizes[0])
    return height, width


def _require_published(graph: FrozenGraph) -> None:
    """Raise CheckpointError where the graph itself says that its constants are not the dialect's."""
    for name, node in graph.nodes.items():
        if node.op.startswith("FusedBatchNorm") and not math.isclose(
            node.attr["epsilon"].f, TENSORFLOW.norm_eps, rel_tol=1e-3
        ):
            raise CheckpointError(f"{graph.path} has another epsilon than {TENSORFLOW.norm_eps} in {name}.")
    activation = graph.nodes.get("Postprocessor/convert_scores")
    if activation is not None and activation.op != "Sigmoid":
        raise CheckpointError(f"{graph.path} turns logits into scores by {activation.op}, not by Sigmoid.")
    vectors = [v for v in graph.matching("^MultipleGridAnchorGenerator/").values() if v.ndim == 1 and len(v) > 2]
    for index, level in enumerate(TENSORFLOW.prior_levels):
        order = np.argsort(PRIOR_ORDER) if index else range(len(level.shapes))
        for column, quantity in enumerate(("scales", "aspect ratios")):
            values = np.array([level.shapes[position][column] for position in order])
            if vectors and not any(len(v) == len(values) and np.allclose(v, values, atol=1e-4) for v in vectors):
                raise CheckpointError(
                    f"{graph.path} has other priors than the published network: on level {index} there are no "
                    f"{quantity} {', '.join(f'{value:.4g}' for value in values)}."
                )


def _decoding(graph: FrozenGraph) -> dict[str, float]:
    """Return the decoding options of a graph, in which all priors enter suppression and 100 boxes leave it."""
    scope = "MultiClassNonMaxSuppression/"
    overlaps = graph.matching(rf"{scope}non_max_suppression\w*/iou_threshold$")
    # Up to 2018 scores were filtered by a node of their own. An image without a threshold has −∞.
    scores = graph.matching(rf"{scope}(non_max_suppression\w*/score_threshold|FilterGreaterThan\w*/Greater/y)$")
    if not overlaps or not scores:
        logger.warning("%s does not say how it suppresses: taken for the published .6 and 1e-8.", graph.path)
    return {
        "iou_threshold": max(map(float, overlaps.values()), default=0.6),
        "score_threshold": max([0.0, *map(float, scores.values())]) if scores else 1e-8,
        "candidates_per_class": 10_000,
        "max_detections": 100,
    }


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
                mid = TENSORFLOW.extra_mid_channels[layer.index]
                return _with_norm(f"{backbone}/layer_19_1_Conv2d_{position}_1x1_{mid}")
            separable = f"{backbone}/layer_19_2_Conv2d_{position}_3x3_s2_{TENSORFLOW.extra_channels[layer.index]}"
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


def their_order(map_sizes: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return for each of their priors, (P,), the position of ours, over maps of (height, width) cells."""
    parts, start = [], 0
    for index, (height, width) in enumerate(map_sizes):
        order = np.argsort(PRIOR_ORDER) if index else np.arange(len(TENSORFLOW.prior_levels[0].shapes))
        parts.append((start + np.arange(height * width)[:, None] * len(order) + order).ravel())
        start += height * width * len(order)
    return np.concatenate(parts)


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
