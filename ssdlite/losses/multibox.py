"""MultiboxLoss: SSD's cross-entropy with hard-negative mining, and a loss of the boxes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ssdlite.losses.classification import sigmoid_cross_entropy, softmax_cross_entropy
from ssdlite.losses.reduction import mean_over_processes, weighted_mean
from ssdlite.losses.sampling import mine_hard_negatives
from ssdlite.losses.terms import BoxTerm, class_weights, weight_of
from ssdlite.structures import Assignment, HeadOutput, LossTerms


class MultiboxLoss(nn.Module):
    """Liu et al. 2016, eq. 1-3:  (Σ CE over positives and mined negatives + α·Σ L_box over positives) / N.

    N is the number of positives in the batch, at least 1 (over several processes: its mean over them, so that
    averaged gradients equal those of one process with the whole batch). Negatives are ranked by -log p_background,
    or for sigmoid scores by the sum of the binary cross-entropies of all columns, which replaces CE there
    (TensorFlow's WeightedSigmoidClassificationLoss). Priors with label -1 take no part. All in float32, also under
    autocast.

    Args:
        box: the box term; its weight is α.
        neg_pos_ratio: mined negatives for each positive of an image.
        min_negatives: mined negatives of an image with few positives or none; what teaches it empty scenes.
        label_smoothing: share of a target that is spread over all columns; negatives are ranked without it.
        weights: of the K classes, for the classification of the priors that learn them.
    """

    weights: Tensor | None

    def __init__(
        self,
        *,
        box: BoxTerm = BoxTerm(),
        neg_pos_ratio: float = 3.0,
        min_negatives: int = 3,
        label_smoothing: float = 0.0,
        weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.box = box
        self.neg_pos_ratio = neg_pos_ratio
        self.min_negatives = min_negatives
        self.label_smoothing = label_smoothing
        self.register_buffer("weights", class_weights(weights), persistent=False)

    def forward(self, output: HeadOutput, assignment: Assignment) -> LossTerms:
        """Logits (B, P, C) and deltas (B, P, 4) against labels (B, P) and boxes (B, P, 4) -> two scalars."""
        labels = assignment.labels
        positive = labels > 0
        num_positives = positive.sum(dim=1)
        total = mean_over_processes(num_positives.sum(), at_least=1)

        logits = output.logits.float()
        cross_entropy = softmax_cross_entropy if output.score_activation == "softmax" else sigmoid_cross_entropy
        losses = cross_entropy(logits, labels)
        counted = positive | mine_hard_negatives(
            losses, labels == 0, num_positives, self.neg_pos_ratio, self.min_negatives
        )
        if self.label_smoothing:
            losses = cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        classification = weighted_mean(losses, counted * weight_of(labels, self.weights), total)
        return {"classification": classification, "box": self.box(output, assignment, positive.float(), total)}
