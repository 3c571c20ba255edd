"""What the recipes of the SSDLite head share: the box term, and the weights of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from ssdlite import boxes as box_ops
from ssdlite.box_arrays import SIZE_VARIANCE
from ssdlite.losses.box import IOU_LOSSES, smooth_l1
from ssdlite.losses.reduction import weighted_mean
from ssdlite.structures import Assignment, HeadOutput

BoxLossName: TypeAlias = Literal["smooth_l1", "giou", "diou", "ciou"]

MAX_LOG_SCALE = 4.0
"""A box beyond e⁴ = 55 times its prior's size learns no size from its overlap: exp must not overflow."""


@dataclass(frozen=True)
class BoxTerm:
    """weight · Σ w·L / total over the positives, L being a loss of one box.

    Args:
        name: smooth_l1, summed over the four encoded coordinates (Liu et al. 2016, eq. 2), or a loss of the overlap
            of the decoded box: giou, diou, ciou.
        beta: of smooth_l1.
    """

    name: BoxLossName = "smooth_l1"
    weight: float = 1.0
    beta: float = 1.0

    def __call__(self, output: HeadOutput, assignment: Assignment, weight: Tensor, total: Tensor) -> Tensor:
        """`weight` (B, P) is 0 wherever a prior is not to learn its box; `total` is a scalar."""
        counted = (weight > 0).unsqueeze(-1)
        # What does not count is replaced, not multiplied by 0: 0 · inf is no number, in the gradient too.
        deltas = torch.where(counted, output.deltas.float(), 0)
        if self.name == "smooth_l1":
            targets = box_ops.encode(assignment.boxes.float(), output.priors)
            losses = smooth_l1(deltas, torch.where(counted, targets, 0), beta=self.beta).sum(dim=-1)
        else:
            log_scale = deltas[..., 2:].clamp(max=MAX_LOG_SCALE / SIZE_VARIANCE)
            boxes = box_ops.decode(torch.cat([deltas[..., :2], log_scale], dim=-1), output.priors)
            losses = IOU_LOSSES[self.name](boxes, assignment.boxes.float())
        return self.weight * weighted_mean(losses, weight, total)


def balance_classes(counts: Sequence[int]) -> list[float]:
    """Weights of classes that have `counts` objects: proportional to 1/√count, and 1 on average over the objects.

    The root lies between no balance and equal shares of the loss, with which a few objects would rule; a class
    without objects is treated as if it had one.
    """
    raw = [max(count, 1) ** -0.5 for count in counts]
    mean = sum(weight * count for weight, count in zip(raw, counts, strict=True)) / max(1, sum(counts))
    return [weight / mean if mean else 1.0 for weight in raw]


def class_weights(weights: Sequence[float] | None) -> Tensor | None:
    """Weights of the K classes -> (C,) with 1 for background in front."""
    return None if weights is None else torch.tensor([1.0, *weights])


def weight_of(labels: Tensor, weights: Tensor | None) -> Tensor:
    """Labels (B, P) in -1..K -> the weight of each prior's classification (B, P): 0 where it is ignored."""
    counted = (labels >= 0).float()
    return counted if weights is None else counted * weights[labels.clamp(min=0)]


def one_hot_objects(labels: Tensor, values: Tensor, num_classes: int) -> Tensor:
    """(B, P) labels in -1..K and values -> (B, P, K) with the value in the label's column, 0 elsewhere."""
    columns = values.new_zeros(*labels.shape, 1 + num_classes)
    # What has no class writes into a column that is cut off again.
    return columns.scatter_(-1, labels.clamp(min=0).unsqueeze(-1), values.unsqueeze(-1))[..., 1:]
