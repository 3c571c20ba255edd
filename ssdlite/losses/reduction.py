"""Reduction of elementwise losses to a scalar over all processes, and the sampling of priors that count."""

from __future__ import annotations

import torch
from torch import Tensor, distributed

__all__ = ["mine_hard_negatives", "sample_balanced", "weighted_mean"]

SMALLEST_FACTOR = torch.finfo(torch.float32).eps
"""Value that a smaller `avg_factor` counts as, so that 0 / 0 is 0."""


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


def mine_hard_negatives(
    losses: Tensor, negative: Tensor, num_positives: Tensor, ratio: float, min_negatives: int
) -> Tensor:
    """The negatives with the largest loss, image by image (Liu et al. 2016, sec. 2.2).

    Of each image max(ratio · positives, min_negatives) are taken, or all that there are. Ties go to the lower
    index, so that the choice is the same on every device.

    Args:
        losses: (B, P), any sign; not changed.
        negative: (B, P) bool, the priors to choose from.
        num_positives: (B,) integer.

    Returns:
        (B, P) bool, a subset of `negative`.
    """
    wanted = (num_positives * ratio).long().clamp(min=min_negatives)
    return _take_largest(losses.detach(), negative, wanted)


def sample_balanced(
    labels: Tensor, *, num_samples: int = 256, positive_share: float = 0.5, generator: torch.Generator | None
) -> Tensor:
    """Random positives and negatives of each image (Ren et al. 2015, sec. 3.1.3).

    At most ⌊num_samples · positive_share⌋ positives; negatives fill up the rest, so an image short of positives
    gets more of them, not a ratio of 1:1. An image short of negatives gets fewer samples.

    Args:
        labels: (B, P) integer: -1 ignored, 0 background, 1..K.
        num_samples: of one image.
        positive_share: in 0..1.
        generator: on the device of the labels; the same state gives the same choice. None is torch's own.

    Returns:
        (B, P) bool, never set where the label is -1.
    """
    keys = torch.rand(labels.shape, generator=generator, device=labels.device)
    positive, negative = labels > 0, labels == 0
    num_positives = positive.sum(dim=1).clamp(max=int(num_samples * positive_share))
    chosen = _take_largest(keys, positive, num_positives)
    return chosen | _take_largest(keys, negative, num_samples - num_positives)


def _take_largest(keys: Tensor, among: Tensor, wanted: Tensor) -> Tensor:
    """Select in each row of (B, P) keys the (B,) `wanted` largest that are `among`, or all of these -> (B, P)
    bool."""
    wanted = wanted.minimum(among.sum(dim=1))
    order = keys.masked_fill(~among, -torch.inf).sort(dim=1, descending=True, stable=True).indices
    chosen = torch.arange(keys.shape[1], device=keys.device) < wanted.unsqueeze(1)
    return torch.zeros_like(among).scatter(1, order, chosen)
