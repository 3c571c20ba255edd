"""The Criterion: assignment and loss recipe in one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor, nn

from ssdlite.structures import Assignment, HeadOutput, LossTerms

Assigner: TypeAlias = Callable[[HeadOutput, Tensor, Tensor, Tensor], Assignment]
"""Output and padded targets (B, M, 4), (B, M), (B, M), M ≥ 1 -> what each prior is to learn. The choices are
`matching.assign_iou`, `atss.assign_atss` and `task_aligned.assign_task_aligned`."""


class Criterion(nn.Module):
    """Matches the targets to the output's own priors and hands both to a loss recipe.

    Args:
        assign: which prior learns which object.
        recipe: module from (HeadOutput, Assignment) to LossTerms, such as `MultiboxLoss`.
    """

    def __init__(self, assign: Assigner, recipe: nn.Module) -> None:
        super().__init__()
        self.assign = assign
        self.recipe = recipe

    def forward(self, output: HeadOutput, boxes: Tensor, labels: Tensor, ignore: Tensor) -> LossTerms:
        return self.recipe(output, self.assign(output, boxes, labels, ignore))
