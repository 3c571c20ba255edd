"""Backbones: what the networks need of one, MobileNetV2 with taps, and the ImageNet weights that it can start from.

Start with `Backbone`.
"""

from __future__ import annotations

import re
import socket
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torchvision.models import MobileNet_V2_Weights, mobilenet_v2

from ssdlite.models.layers import Layer, backbone_layers

IMAGENET_MEAN = (123.675, 116.28, 103.53)


IMAGENET_STD = (58.395, 57.12, 57.375)


IMAGENET_NORM_EPS = 1e-5


SILENT_SECONDS = 15.0  # that a server may be


TAP_BLOCKS = {4: 4, 7: 8, 14: 16}
"""The blocks that halve the map, and the stride of what enters them; their expansions still run at that stride."""


EARLY_STAGES = 7  # of MobileNetV2's 19: up to the last map of stride 8


Tap: TypeAlias = Literal["expansion", "output"]


class Backbone(nn.Module, ABC):
    """Feature maps of an image by stride. A subclass is built from the width multiplier and the dialect's tap."""

    @abstractmethod
    def __init__(self, width: float, tap: Tap) -> None:
        super().__init__()

    @property
    @abstractmethod
    def pyramid_channels(self) -> dict[int, int]:
        """Stride -> channels of the map that `pyramid` gives; 4, 8, 16 and 32 are among them."""

    @property
    @abstractmethod
    def early_stages(self) -> list[nn.Module]:
        """Modules up to stride 8, which model.freeze=early keeps."""

    @abstractmethod
    def pyramid(self, images: Tensor) -> dict[int, Tensor]:
        """(B, 3, H, W) normalised -> the maps (B, channels, ⌈H/stride⌉, ⌈W/stride⌉) by stride."""

    @property
    def out_channels(self) -> tuple[int, int]:
        """Channels of the two maps that `forward` gives."""
        return self.pyramid_channels[16], self.pyramid_channels[32]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) normalised -> maps at stride 16 and 32."""
        maps = self.pyramid(images)
        return maps[16], maps[32]

    def layers(self) -> list[Layer]:
        """Return its layers by name below the network, for a transfer; by default each convolution with the norm
        that follows it."""
        found: list[Layer] = []
        for name, module in self.named_modules(prefix="backbone"):
            if isinstance(module, nn.Conv2d):
                found.append(Layer("block", len(found), "expand", name, None, module.bias is not None))
            elif isinstance(module, nn.BatchNorm2d) and found and found[-1].norm is None:
                found[-1] = replace(found[-1], norm=name)
        return found


class MobileNetV2(Backbone):
    """torchvision's MobileNetV2 without its classifier (Sandler et al. 2018, table 2).

    Its maps at stride 4, 8 and 16 are, by `tap`: the expansion of the block that halves them (576 channels at
    stride 16 and width 1, after ReLU6), or the output of the block before it (96 channels, linear). At stride 32 it
    is the last convolution (1280 channels, after ReLU6). Residual blocks start as the identity: the gain of their
    last norm is zero (Goyal et al. 2017, sec. 5.1), which speeds up training from scratch.
    """

    def __init__(self, width: float, tap: Tap = "expansion") -> None:
        super().__init__(width, tap)
        self.tap = tap
        self.features = mobilenet_v2(width_mult=width).features
        for block in self.features[1:-1]:
            if block.use_res_connect:
                nn.init.zeros_(block.conv[-1].weight)

    @property
    def pyramid_channels(self) -> dict[int, int]:
        """Stride -> channels of the map that `pyramid` gives."""
        channels = {}
        for index, stride in TAP_BLOCKS.items():
            expand = self.features[index].conv[0]
            channels[stride] = expand.out_channels if self.tap == "expansion" else expand[0].in_channels
        return {**channels, 32: self.features[-1].out_channels}

    @property
    def early_stages(self) -> list[nn.Module]:
        return list(self.features[:EARLY_STAGES])

    def layers(self) -> list[Layer]:
        return backbone_layers()

    def pyramid(self, images: Tensor) -> dict[int, Tensor]:
        """(B, 3, H, W) normalised -> the maps at stride 4, 8, 16 and 32, by stride."""
        maps = {}
        features = images
        for index, block in enumerate(self.features):
            if index not in TAP_BLOCKS:
                features = block(features)
                continue
            expansion = block.conv[0](features)
            maps[TAP_BLOCKS[index]] = expansion if self.tap == "expansion" else features
            features = block.conv[1:](expansion)
        return {**maps, 32: features}


def has_imagenet_state() -> bool:
    """Tell whether torchvision has its ImageNet weights of width 1 on this machine already."""
    name = PurePosixPath(MobileNet_V2_Weights.IMAGENET1K_V2.url).name
    return (Path(torch.hub.get_dir()) / "checkpoints" / name).is_file()


def download_imagenet_state() -> dict[str, Tensor]:
    """torchvision's ImageNet weights of width 1, without the classifier; cached by torchvision.

    Raises OSError or RuntimeError when they are neither cached nor to be had, a network that is silent included,
    and when the cached file is damaged.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENT_SECONDS)  # torch.hub sets none
    prefix = "features."
    try:
        state = MobileNet_V2_Weights.IMAGENET1K_V2.get_state_dict(progress=True, check_hash=True)
        found = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
    except (OSError, RuntimeError):
        raise
    except Exception as error:  # a transfer that broke; a damaged pickle can raise any
        raise OSError(str(error) or type(error).__name__) from error
    finally:
        socket.setdefaulttimeout(before)
    if not found:
        raise OSError("the file holds no features")
    return found


def from_flat_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of a MobileNetV2 whose blocks are flat lists of layers under torchvision's names.

    Files from before torchvision had this network number convolution, norm and ReLU6 of a block throughout:
    features.2.conv.0 (expansion), .1 (norm), .3 (depthwise), .4, .6 (projection), .7. The first has no expansion.
    """
    nested = {}
    for key, value in state.items():
        found = re.fullmatch(r"features\.(\d+)\.conv\.(\d+)\.(\w+)", key)
        if found:
            first = 3 if found[1] == "1" else 0  # of the layers that a block with an expansion has
            group, role = divmod(int(found[2]) + first, 3)
            layer = f"{group - first // 3}.{role}" if group < 2 else str(2 - first // 3 + role)
            nested[f"{found[1]}.conv.{layer}.{found[3]}"] = value
        elif key.startswith("features."):
            nested[key.removeprefix("features.")] = value
    return nested


def load_imagenet(backbone: MobileNetV2, state: dict[str, Tensor], mean: Tensor, std: Tensor) -> None:
    """Load ImageNet weights into a backbone that sees pixels normalised by `mean` and `std` (3,).

    The weights were trained with another mean, std and BatchNorm eps. Both differences are folded in, so that the
    network computes what it computed on ImageNet (but for the stem's zero border, and SAME padding).
    """
    backbone.features.load_state_dict(state)
    stem, norm = backbone.features[0][0], backbone.features[0][1]
    fold_input(stem, norm, torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD), mean, std)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            fold_eps(module, IMAGENET_NORM_EPS)


@torch.no_grad()
def fold_input(
    stem: nn.Conv2d, norm: nn.BatchNorm2d, old_mean: Tensor, old_std: Tensor, mean: Tensor, std: Tensor
) -> None:
    """Make a stem trained on (x − old_mean) / old_std give the same on (x − mean) / std, all (3,), but for borders.

    The kernel is rescaled, and the norm's running mean shifted by what the two means make a constant.
    """
    assert norm.running_mean is not None
    shift = ((mean - old_mean) / old_std)[None, :, None, None]
    norm.running_mean -= (stem.weight * shift).sum(dim=(1, 2, 3))
    stem.weight *= (std / old_std)[None, :, None, None]


@torch.no_grad()
def fold_eps(norm: nn.BatchNorm2d, old_eps: float) -> None:
    """Make a norm trained with `old_eps` give the same with its own, by its gain."""
    assert norm.running_var is not None
    norm.weight.mul_(((norm.running_var + norm.eps) / (norm.running_var + old_eps)).sqrt())
