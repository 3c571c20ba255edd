"""Loss recipes of the SSDLite head (multibox, focal, sampled, quality), the Criterion that joins one with an
assigner, and the count of priors that an assigner gives to each object.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from ssdlite import boxes as box_ops
from ssdlite.boxes import cxcywh_to_xyxy
from ssdlite.boxes_np import SIZE_VARIANCE
from ssdlite.losses.box import IOU_LOSSES, smooth_l1
from ssdlite.losses.classification import (
    quality_focal,
    sigmoid_cross_entropy,
    sigmoid_focal,
    softmax_cross_entropy,
    varifocal,
)
from ssdlite.losses.matching import learnable_iou
from ssdlite.losses.reduction import mean_over_processes, mine_hard_negatives, sample_balanced, weighted_mean
from ssdlite.structures import Assignment, Batch, HeadOutput, LossTerms

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


class PriorMatches(NamedTuple):
    """One entry for each of the N objects of a batch that are to be learnt, image after image."""

    num_priors: np.ndarray  # (N,) int64: priors that learn the object
    best_iou: np.ndarray  # (N,) float32: its overlap with the best of all priors, whoever learns it


@torch.no_grad()
def count_matches(assign: Assigner, output: HeadOutput, batch: Batch) -> PriorMatches:
    """Count the matches of `assign` between the objects of `batch` and the priors of `output`, its output."""
    if not batch.labels.shape[1]:
        return PriorMatches(np.zeros(0, np.int64), np.zeros(0, np.float32))
    targets = batch.boxes, batch.labels, batch.ignore
    assignment = assign(output, *targets)
    # A prior says which object it learns by the box alone; one image at a time, as (M, P, 4) is much.
    num_priors = torch.stack(
        [
            ((learnt[None] == boxes[:, None]).all(dim=-1) & (labels > 0)).sum(dim=-1)
            for boxes, learnt, labels in zip(batch.boxes, assignment.boxes, assignment.labels, strict=True)
        ]
    )
    best_iou = learnable_iou(cxcywh_to_xyxy(output.priors), *targets).amax(dim=-1)
    learnable = (batch.labels > 0) & ~batch.ignore
    return PriorMatches(num_priors[learnable].cpu().numpy(), best_iou[learnable].cpu().numpy())


BoxLossName: TypeAlias = Literal["smooth_l1", "giou", "diou", "ciou"]


MAX_LOG_SCALE = 4.0
"""A box beyond e⁴ = 55 times its prior's size learns no size from its overlap: exp must not overflow."""


@dataclass(frozen=True)
class BoxLoss:
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
        box: BoxLoss = BoxLoss(),
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
        box: BoxLoss = BoxLoss(),
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


class SampledLoss(nn.Module):
    """Ren et al. 2015, eq. 1 and sec. 3.1.3:  (Σ CE over sampled priors + λ·Σ L_box over sampled positives) / N.

    The priors of an image that count are drawn at random. N is the number of sampled positives in the batch, at
    least one an image, which brings the loss near to that of the other recipes: Faster R-CNN's code divides both
    terms by the number of samples, which is some forty times more. Few objects still make a large loss, as hundreds
    of negatives stand against each. Priors that cross the border take part, unlike there; those of label -1 do not.

    What is drawn depends on `seed` and on the number of draws before, which is the module's state: a run that is
    resumed draws what it would have drawn.

    Args:
        box: the box term; the paper's smooth L1 has beta 1/9.
        num_samples: priors drawn of each image.
        positive_share: positives among them at most.
        label_smoothing: share of a target that is spread over all columns.
        weights: of the K classes, for the classification of the priors that learn them.
        seed: another one for each process.
    """

    weights: Tensor | None

    def __init__(
        self,
        *,
        box: BoxLoss = BoxLoss(beta=1 / 9),
        num_samples: int = 256,
        positive_share: float = 0.5,
        label_smoothing: float = 0.0,
        weights: Sequence[float] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.box = box
        self.num_samples = num_samples
        self.positive_share = positive_share
        self.label_smoothing = label_smoothing
        self.seed = seed
        self.draws = 0
        self.register_buffer("weights", class_weights(weights), persistent=False)

    def forward(self, output: HeadOutput, assignment: Assignment) -> LossTerms:
        """Logits (B, P, C), deltas (B, P, 4) against labels (B, P), boxes (B, P, 4) -> two scalars."""
        assert output.score_activation == "softmax"
        labels = assignment.labels
        sampled = sample_balanced(
            labels,
            num_samples=self.num_samples,
            positive_share=self.positive_share,
            generator=self._next_generator(labels.device),
        )
        learning = sampled & (labels > 0)
        total = mean_over_processes(learning.sum(), at_least=1).clamp(min=len(labels))
        losses = softmax_cross_entropy(output.logits.float(), labels, label_smoothing=self.label_smoothing)
        classification = weighted_mean(losses, sampled * weight_of(labels, self.weights), total)
        return {"classification": classification, "box": self.box(output, assignment, learning.float(), total)}

    def _next_generator(self, device: torch.device) -> torch.Generator:
        seed = np.random.SeedSequence((self.seed, self.draws)).generate_state(1)
        self.draws += 1
        return torch.Generator(device).manual_seed(int(seed[0]))

    def get_extra_state(self) -> dict[str, Any]:
        return {"draws": self.draws}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.draws = state["draws"]


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
        box: BoxLoss = BoxLoss("giou", weight=2.0),
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
