"""Exponential moving average of the weights."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

Tensors: TypeAlias = tuple[Tensor, ...] | list[Tensor]


def build_ema(model: nn.Module, decay: float) -> AveragedModel:
    """An average of parameters and buffers with decay min(decay, (1 + n) / (10 + n)) at update n.

    The warm-up is that of TensorFlow's ExponentialMovingAverage(num_updates): without it a short run would ship a
    mixture with its random start.
    """

    @torch.no_grad()
    def average(averaged: Tensors, current: Tensors, num_updates: Tensor | int) -> None:
        if not averaged[0].is_floating_point():  # BatchNorm's counters
            torch._foreach_copy_(list(averaged), list(current))
            return
        warmed_up = torch.as_tensor((1 + num_updates) / (10 + num_updates))
        weight = 1 - warmed_up.clamp(max=decay)
        for mean, value in zip(averaged, current, strict=True):
            mean.lerp_(value, weight.to(mean.dtype))

    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)
