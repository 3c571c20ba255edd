"""The denominator of a loss when several processes share a batch."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def mean_over_processes(count: Tensor, at_least: float) -> Tensor:
    """Mean of a scalar over all processes, float32, of a sum of `at_least`; in one process the scalar itself."""
    count = count.detach().to(torch.float32)
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(count)
        return count.clamp(min=at_least) / distributed.get_world_size()
    return count.clamp(min=at_least)
