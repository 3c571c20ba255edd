"""From elementwise losses to one scalar, and its denominator when several processes share a batch."""

from __future__ import annotations

import torch
from torch import Tensor, distributed

SMALLEST_FACTOR = torch.finfo(torch.float32).eps
"""What a smaller `avg_factor` counts as, so that 0 / 0 is 0."""


def weighted_mean(loss: Tensor, weight: Tensor | None = None, avg_factor: Tensor | float | None = None) -> Tensor:
    """Σ(loss · weight) / avg_factor (mmdetection's weight_reduce_loss), in the loss's own unit.

    Without `avg_factor` it is the plain mean over all N elements of the loss: a weight of 0 silences an element but
    still counts it, so the denominator is N and not Σ weight. Nothing to sum gives 0, with a gradient.

    Args:
        loss: any shape, elementwise.
        weight: aligned with the leading axes of the loss, see `align_left`.
        avg_factor: the denominator, a number or a scalar tensor; usually the positives of the batch.

    Returns:
        A scalar.
    """
    if weight is not None:
        loss = loss * align_left(weight, loss)
    if avg_factor is None:
        return loss.sum() / max(loss.numel(), 1)
    if isinstance(avg_factor, Tensor):
        return loss.sum() / avg_factor.clamp(min=SMALLEST_FACTOR)
    return loss.sum() / max(avg_factor, SMALLEST_FACTOR)


def align_left(weight: Tensor, values: Tensor) -> Tensor:
    """A weight that broadcasts over the trailing axes of `values`: (B, P) beside (B, P, 4) -> (B, P, 1).

    The one rule for weights in this room. Each axis of the weight is as long as that of the values, or 1; this is
    not the right-hand alignment that torch does by itself, under which a (4,) weight would count coordinates.
    """
    shape = (*weight.shape, *[1] * (values.ndim - weight.ndim))
    fits = len(shape) == values.ndim and all(a in (1, b) for a, b in zip(shape, values.shape, strict=True))
    assert fits, f"a weight of shape {tuple(weight.shape)} for values of shape {tuple(values.shape)}"
    return weight.reshape(shape)


def mean_over_processes(count: Tensor, at_least: float) -> Tensor:
    """Mean of a scalar over all processes, float32, of a sum of `at_least`; in one process the scalar itself."""
    count = count.detach().to(torch.float32)
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(count)
        return count.clamp(min=at_least) / distributed.get_world_size()
    return count.clamp(min=at_least)
