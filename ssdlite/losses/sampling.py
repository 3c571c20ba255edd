"""Which priors count in the classification loss."""

from __future__ import annotations

import torch
from torch import Tensor


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
    """Of each row of (B, P) keys the (B,) `wanted` largest that are `among`, or all of these -> (B, P) bool."""
    wanted = wanted.minimum(among.sum(dim=1))
    order = keys.masked_fill(~among, -torch.inf).sort(dim=1, descending=True, stable=True).indices
    chosen = torch.arange(keys.shape[1], device=keys.device) < wanted.unsqueeze(1)
    return torch.zeros_like(among).scatter(1, order, chosen)
