"""Exponential moving average of the weights."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn


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
        # Tensors of one type, which one kernel takes many of. The model changes its own in place.
        self._means, self._values = _by_type(self.module), _by_type(model)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the model as it is now."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates)) if self.num_updates else 0.0
        for dtype, means in self._means.items():
            if decay and dtype.is_floating_point:
                torch._foreach_lerp_(means, self._values[dtype], 1 - decay)
            else:  # BatchNorm's counters are not averaged
                torch._foreach_copy_(means, self._values[dtype])
        self.num_updates += 1


def _by_type(model: nn.Module) -> dict[torch.dtype, list[Tensor]]:
    """Parameters and saved buffers; the same types and order for a model and its copy."""
    tensors = list(model.state_dict().values())
    return {dtype: [one for one in tensors if one.dtype is dtype] for dtype in {one.dtype for one in tensors}}
