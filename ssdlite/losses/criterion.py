"""The Criterion: assignment and loss recipe in one call."""

from __future__ import annotations

from torch import Tensor, nn

from ssdlite.losses.matching import assign
from ssdlite.structures import Assignment, HeadOutput, LossTerms


class Criterion(nn.Module):
    """Matches the targets to the output's own priors and hands both to a loss recipe.

    Args:
        recipe: module from (HeadOutput, Assignment) to LossTerms, such as `MultiboxLoss`.
        iou_threshold: from which overlap on a prior learns an object.
    """

    def __init__(self, recipe: nn.Module, *, iou_threshold: float = 0.5) -> None:
        super().__init__()
        self.recipe = recipe
        self.iou_threshold = iou_threshold

    def assign(self, output: HeadOutput, boxes: Tensor, labels: Tensor, ignore: Tensor) -> Assignment:
        """Padded targets (B, M, 4), (B, M), (B, M) -> what each prior is to learn."""
        return assign(output.priors, boxes, labels, ignore, self.iou_threshold)

    def forward(self, output: HeadOutput, boxes: Tensor, labels: Tensor, ignore: Tensor) -> LossTerms:
        return self.recipe(output, self.assign(output, boxes, labels, ignore))
