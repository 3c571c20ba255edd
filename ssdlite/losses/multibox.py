"""MultiboxLoss: SSD's cross-entropy with hard-negative mining, and smooth L1 on the boxes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ssdlite import boxes as box_ops
from ssdlite.losses.normalizer import mean_over_processes
from ssdlite.losses.sampling import mine_hard_negatives
from ssdlite.structures import Assignment, HeadOutput, LossTerms, ScoreActivation


class MultiboxLoss(nn.Module):
    """Liu et al. 2016, eq. 1-3:  (Σ CE over positives and mined negatives + α·Σ smoothL1 over positives) / N.

    N is the number of positives in the batch, at least 1 (over several processes: its mean over them, so that
    averaged gradients equal those of one process with the whole batch). Negatives are ranked by -log p_background,
    or for sigmoid scores by the sum of the binary cross-entropies of all columns, which replaces CE there
    (TensorFlow's WeightedSigmoidClassificationLoss). Priors with label -1 take no part. All in float32, also under
    autocast.

    Args:
        neg_pos_ratio: mined negatives for each positive of an image.
        min_negatives: mined negatives of an image with few positives or none; what teaches it empty scenes.
        box_weight: α.
    """

    def __init__(self, *, neg_pos_ratio: float = 3.0, min_negatives: int = 3, box_weight: float = 1.0) -> None:
        super().__init__()
        self.neg_pos_ratio = neg_pos_ratio
        self.min_negatives = min_negatives
        self.box_weight = box_weight

    def forward(self, output: HeadOutput, assignment: Assignment) -> LossTerms:
        """Logits (B, P, C) and deltas (B, P, 4) against labels (B, P) and boxes (B, P, 4) -> two scalars."""
        labels = assignment.labels
        positive = labels > 0
        num_positives = positive.sum(dim=1)
        total = mean_over_processes(num_positives.sum(), at_least=1)

        losses = _cross_entropy(output.logits.float(), labels.clamp(min=0), output.score_activation)
        counted = positive | mine_hard_negatives(
            losses, labels == 0, num_positives, self.neg_pos_ratio, self.min_negatives
        )
        classification = (losses * counted).sum() / total

        targets = box_ops.encode(assignment.boxes.float(), output.priors)
        box = _masked_sum(F.smooth_l1_loss(output.deltas.float(), targets, reduction="none"), positive) / total
        return {"classification": classification, "box": box * self.box_weight}


def _cross_entropy(logits: Tensor, labels: Tensor, activation: ScoreActivation) -> Tensor:
    """(B, P, C) against (B, P) in 0..C-1 -> (B, P)."""
    if activation == "softmax":
        return -logits.log_softmax(dim=-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    # −log σ(x) = softplus(−x) for the column of the label, −log(1 − σ(x)) = softplus(x) for the others.
    own = logits.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    return F.softplus(logits).sum(dim=-1) - own


def _masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Σ of the (B, P, 4) values whose (B, P) mask is set."""
    return (values * mask.unsqueeze(-1)).sum()
