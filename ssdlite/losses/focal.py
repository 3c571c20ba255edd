"""FocalLoss: sigmoid focal loss over all priors, without mining, and a loss of the boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ssdlite.losses.classification import sigmoid_focal
from ssdlite.losses.reduction import mean_over_processes, weighted_mean
from ssdlite.losses.terms import BoxTerm, class_weights, one_hot_objects, weight_of
from ssdlite.structures import Assignment, HeadOutput, LossTerms


class FocalLoss(nn.Module):
    """Lin et al. 2017, sec. 3 and 4.1:  (Σ FL over all priors and classes + α·Σ L_box over positives) / N.

    N is the number of positives as for `MultiboxLoss`. Each class is a question of its own, so the logits' column
    for background learns nothing. Priors with label -1 take no part.

    Args:
        box: the box term.
        alpha: weight of the class that is there, 1 − alpha that of those that are not.
        gamma: focusing power.
        weights: of the K classes, for the classification of the priors that learn them.
    """

    weights: Tensor | None

    def __init__(
        self,
        *,
        box: BoxTerm = BoxTerm(),
        alpha: float = 0.25,
        gamma: float = 2.0,
        weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.box = box
        self.alpha = alpha
        self.gamma = gamma
        self.register_buffer("weights", class_weights(weights), persistent=False)

    def forward(self, output: HeadOutput, assignment: Assignment) -> LossTerms:
        """Logits (B, P, C), deltas (B, P, 4) against labels (B, P), boxes (B, P, 4) -> two scalars."""
        assert output.score_activation == "sigmoid"
        labels = assignment.labels
        positive = labels > 0
        total = mean_over_processes(positive.sum(), at_least=1)
        # Without the gaps of the left-out column, what follows takes a fifth less time on a CPU.
        logits = output.logits[..., 1:].float().contiguous()
        targets = one_hot_objects(labels, torch.ones_like(logits[..., 0]), logits.shape[-1])
        losses = sigmoid_focal(logits, targets, alpha=self.alpha, gamma=self.gamma).sum(dim=-1)
        classification = weighted_mean(losses, weight_of(labels, self.weights), total)
        return {"classification": classification, "box": self.box(output, assignment, positive.float(), total)}
