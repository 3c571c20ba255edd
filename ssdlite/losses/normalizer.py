"""The denominator of a loss when several processes share a batch."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def mean_over_processes(count: Tensor) -> Tensor:
    """Mean of a scalar over all processes, float32; the scalar itself when there is one process."""
    count = count.detach().to(torch.float32)
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(count)
        count = count / distributed.get_world_size()
    return count
