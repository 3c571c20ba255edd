"""MobileNetV2 with two taps, and the ImageNet weights that it can start from."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models import MobileNet_V2_Weights, mobilenet_v2

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
IMAGENET_NORM_EPS = 1e-5

TAP_BLOCK = 14  # the first block of stride 32; its expansion still runs at stride 16


class Backbone(nn.Module):
    """torchvision's MobileNetV2 without its classifier (Sandler et al. 2018, table 2).

    Gives the expansion of the block that goes to stride 32 (576 channels at width 1, stride 16) and the last
    convolution (1280 channels, stride 32), both after ReLU6. Residual blocks start as the identity: the gain of
    their last norm is zero (Goyal et al. 2017, sec. 5.1), which speeds up training from scratch.
    """

    def __init__(self, width: float) -> None:
        super().__init__()
        self.features = mobilenet_v2(width_mult=width).features
        for block in self.features[1:-1]:
            if block.use_res_connect:
                nn.init.zeros_(block.conv[-1].weight)

    @property
    def out_channels(self) -> tuple[int, int]:
        return self.features[TAP_BLOCK].conv[0].out_channels, self.features[-1].out_channels

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) normalised -> maps at stride 16 and 32."""
        features = images
        for block in self.features[:TAP_BLOCK]:
            features = block(features)
        tap_block = self.features[TAP_BLOCK]
        stride16 = tap_block.conv[0](features)
        features = tap_block.conv[1:](stride16)
        for block in self.features[TAP_BLOCK + 1 :]:
            features = block(features)
        return stride16, features


def download_imagenet_state() -> dict[str, Tensor]:
    """torchvision's ImageNet weights of width 1, without the classifier; cached by torchvision.

    Raises OSError when they are neither cached nor to be had.
    """
    state = MobileNet_V2_Weights.IMAGENET1K_V2.get_state_dict(progress=True, check_hash=True)
    prefix = "features."
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}


@torch.no_grad()
def load_imagenet(backbone: Backbone, state: dict[str, Tensor], mean: Tensor, std: Tensor) -> None:
    """Load ImageNet weights into a backbone that sees pixels normalised by `mean` and `std` (3,).

    The weights were trained with another mean, std and BatchNorm eps. Both differences are folded in: the stem's
    kernel is rescaled and its running mean shifted, and each norm's gain makes up for its eps, so that the
    network computes what it computed on ImageNet (but for the stem's zero border).
    """
    backbone.features.load_state_dict(state)
    stem, norm = backbone.features[0][0], backbone.features[0][1]
    old_mean, old_std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    shift = ((mean - old_mean) / old_std)[None, :, None, None]
    norm.running_mean -= (stem.weight * shift).sum(dim=(1, 2, 3))
    stem.weight *= (std / old_std)[None, :, None, None]
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_var is not None
            variance = module.running_var
            module.weight.mul_(((variance + module.eps) / (variance + IMAGENET_NORM_EPS)).sqrt())
