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
    wanted = wanted.minimum(negative.sum(dim=1))
    order = losses.detach().masked_fill(~negative, -torch.inf).sort(dim=1, descending=True, stable=True).indices
    chosen = torch.arange(losses.shape[1], device=losses.device) < wanted.unsqueeze(1)
    return torch.zeros_like(negative).scatter(1, order, chosen)
