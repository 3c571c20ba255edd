"""Exponential moving average of the weights."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn


class WeightAverage:
    """An average of a model's parameters and buffers with decay min(decay, (1 + n) / (10 + n)) at update n.

    The warm-up is that of TensorFlow's ExponentialMovingAverage(num_updates): without it a short run would ship a
    mixture with its random start. The first update copies. The number of updates is known without asking the
    device, which is why this is not PyTorch's AveragedModel.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = deepcopy(model).requires_grad_(False)
        self.decay = decay
        self.num_updates = 0
        self._means = list(self.module.state_dict().values())

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        values = list(model.state_dict().values())
        if self.num_updates == 0:
            torch._foreach_copy_(self._means, values)
        else:
            decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
            pairs = list(zip(self._means, values, strict=True))
            learnt = [pair for pair in pairs if pair[0].is_floating_point()]
            counters = [pair for pair in pairs if not pair[0].is_floating_point()]  # BatchNorm's
            torch._foreach_lerp_([mean for mean, _ in learnt], [value for _, value in learnt], 1 - decay)
            for mean, value in counters:
                mean.copy_(value)
        self.num_updates += 1
