"""QualityLoss: scores that learn how good the box is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ssdlite import boxes as box_ops
from ssdlite.losses.classification import quality_focal, varifocal
from ssdlite.losses.reduction import mean_over_processes, weighted_mean
from ssdlite.losses.terms import BoxTerm, class_weights, one_hot_objects, weight_of
from ssdlite.structures import Assignment, HeadOutput, LossTerms

MIN_WEIGHT = 0.1

CLASSIFICATION: dict[str, Callable[..., Tensor]] = {"quality_focal": quality_focal, "varifocal": varifocal}


class QualityLoss(nn.Module):
    """(Σ L_cls over all priors and classes + α·Σ q·L_box over positives) / Σ q  (Feng et al. 2021, sec. 3.2).

    The target q of a positive's class is the quality that the assignment gave it, or where that gives none the IoU
    of its predicted box with its object (Li et al. 2020; Zhang et al. 2021). The logits' column for background
    learns nothing. Priors with label -1 take no part. An overlap below `MIN_WEIGHT` weighs the box as that much, or
    one that misses its object would never be taught. The published task-aligned recipe trains its first epochs with
    ATSS and focal loss, which is left out here.

    Args:
        box: the box term.
        classification: quality_focal (Li et al. 2020, eq. 2) or varifocal (Zhang et al. 2021, eq. 2).
        weights: of the K classes, for the classification of the priors that learn them.
    """

    weights: Tensor | None

    def __init__(
        self,
        *,
        box: BoxTerm = BoxTerm("giou", weight=2.0),
        classification: Literal["quality_focal", "varifocal"] = "quality_focal",
        weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.box = box
        self.classification = CLASSIFICATION[classification]
        self.register_buffer("weights", class_weights(weights), persistent=False)

    def forward(self, output: HeadOutput, assignment: Assignment) -> LossTerms:
        """Logits (B, P, C), deltas (B, P, 4) against labels (B, P), boxes (B, P, 4) -> two scalars."""
        assert output.score_activation == "sigmoid"
        labels = assignment.labels
        positive = labels > 0
        quality = assignment.quality
        if quality is None:
            quality = _predicted_overlap(output, assignment)
            weight = quality.clamp(min=MIN_WEIGHT) * positive
        else:
            weight = quality
        quality = quality * positive
        total = mean_over_processes(quality.sum(), at_least=1)
        # Without the gaps of the left-out column, what follows takes a fifth less time on a CPU.
        logits = output.logits[..., 1:].float().contiguous()
        targets = one_hot_objects(labels, quality, logits.shape[-1])
        losses = self.classification(logits, targets).sum(dim=-1)
        classification = weighted_mean(losses, weight_of(labels, self.weights), total)
        return {"classification": classification, "box": self.box(output, assignment, weight, total)}


@torch.no_grad()
def _predicted_overlap(output: HeadOutput, assignment: Assignment) -> Tensor:
    """The IoU of each prior's predicted box with the box that it is to learn: (B, P)."""
    predicted = box_ops.decode(output.deltas.float(), output.priors)
    return torch.nan_to_num(box_ops.paired_iou(predicted, assignment.boxes.float()))
