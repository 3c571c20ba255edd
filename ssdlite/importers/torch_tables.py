"""Name tables of the PyTorch programs qfgaohao/pytorch-ssd (and its Jetson fork), lufficc/SSD and mmdetection."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ssdlite.importers.names import Names
from ssdlite.models.layers import Layer

# Of torchvision before 0.3, unwrapped: convolution, norm, activation, one after the other.
PYTORCH_SSD_POSITIONS = {"expand": 0, "depthwise": 3, "project": 6}


PYTORCH_SSD_HEADERS = {"classification": "classification_headers", "regression": "regression_headers"}


def pytorch_ssd_name(layer: Layer) -> Names:
    """Return the names of a layer in a file of pytorch-ssd."""
    match layer.part:
        case "stem":
            return Names("base_net.0.0", "base_net.0.1")
        case "block":
            # The first block has no expansion, so all its layers stand three places earlier.
            position = PYTORCH_SSD_POSITIONS[layer.role] - (3 if layer.index == 1 else 0)
            return _in_sequence(f"base_net.{layer.index}.conv", position)
        case "last":
            return Names("base_net.18.0", "base_net.18.1")
        case "extra":
            return _in_sequence(f"extras.{layer.index}.conv", PYTORCH_SSD_POSITIONS[layer.role])
        case "classification" | "regression":
            header = f"{PYTORCH_SSD_HEADERS[layer.part]}.{layer.index}"
            if layer.conv.endswith(".3"):
                return Names(f"{header}.3")
            return Names(f"{header}.0", f"{header}.1") if layer.norm else Names(header)


def _in_sequence(prefix: str, position: int) -> Names:
    return Names(f"{prefix}.{position}", f"{prefix}.{position + 1}")


LUFFICC_HEADERS = {"classification": "cls_headers", "regression": "reg_headers"}


def lufficc_name(layer: Layer) -> Names:
    """Return the names of a layer in a file of lufficc's SSD."""
    match layer.part:
        case "stem" | "block" | "last":  # torchvision's own, as ours
            return Names(layer.conv, layer.norm)
        case "extra":
            prefix = f"backbone.extras.{layer.index}.conv"
            match layer.role:
                case "expand":
                    return Names(f"{prefix}.0.0", f"{prefix}.0.1")
                case "depthwise":
                    return Names(f"{prefix}.1.0", f"{prefix}.1.1")
                case "project":  # not wrapped
                    return Names(f"{prefix}.2", f"{prefix}.3")
        case "classification" | "regression":
            header = f"box_head.predictor.{LUFFICC_HEADERS[layer.part]}.{layer.index}"
            if layer.conv.endswith(".3"):
                return Names(f"{header}.conv.3")
            return Names(f"{header}.conv.0", f"{header}.conv.1") if layer.norm else Names(header)


STAGES = (1, 2, 3, 4, 3, 3, 1)  # blocks of layer1 to layer7


ROLES = {"expand": "expand_conv", "depthwise": "depthwise_conv", "project": "linear_conv"}


EXTRA_ROLES = {"expand": "0", "depthwise": "1.depthwise_conv", "project": "1.pointwise_conv"}


BRANCHES = {"classification": "cls_convs", "regression": "reg_convs"}


def mmdetection_name(layer: Layer) -> Names:
    """Return the names of a layer in a file of mmdetection."""
    match layer.part:
        case "stem":
            return _module("backbone.conv1")
        case "block":
            stage, position = _stage(layer.index)
            return _module(f"backbone.layer{stage}.{position}.{ROLES[layer.role]}")
        case "last":
            return _module("backbone.conv2")
        case "extra":
            return _module(f"neck.extra_layers.{layer.index}.{EXTRA_ROLES[layer.role]}")
        case "classification" | "regression":
            branch = f"bbox_head.{BRANCHES[layer.part]}.{layer.index}"
            return _module(f"{branch}.0") if layer.norm else Names(f"{branch}.1")


def _module(prefix: str) -> Names:
    return Names(f"{prefix}.conv", f"{prefix}.bn")


def _stage(block: int) -> tuple[int, int]:
    """Block 1..17 -> number of its layer and position there."""
    position = block - 1
    for stage, length in enumerate(STAGES, 1):
        if position < length:
            return stage, position
        position -= length
    raise AssertionError(f"MobileNetV2 has no block {block}")


def move_background(weights: Mapping[str, Tensor], num_classes: int, shift: int) -> dict[str, Tensor]:
    """Return the weights with the columns of every prior's classes rolled by `shift`.

    mmdetection has the background behind the classes, we have it in front: 1 brings theirs to ours, -1 ours to
    theirs. The rows of the last convolutions are (priors of a cell)·(classes and background).
    """
    return {
        key: _roll(tensor, num_classes + 1, shift) if _is_classifier(key) else tensor
        for key, tensor in weights.items()
    }


def _is_classifier(key: str) -> bool:
    return key.startswith("head.classification.") and key.endswith((".3.weight", ".3.bias"))


def _roll(tensor: Tensor, columns: int, shift: int) -> Tensor:
    return torch.roll(tensor.view(-1, columns, *tensor.shape[1:]), shift, dims=1).reshape(tensor.shape)
