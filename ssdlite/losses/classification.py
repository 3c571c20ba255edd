"""Losses of classification, from logits. None of them reduces over priors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["quality_focal", "sigmoid_cross_entropy", "sigmoid_focal", "softmax_cross_entropy", "varifocal"]


def softmax_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    class_weights: Tensor | None = None,
    ignore_index: int = -1,
    label_smoothing: float = 0.0,
) -> Tensor:
    """(1 − ε) · w_y · (−log p_y) + ε/C · Σ_c w_c · (−log p_c), and 0 where the label is ignored.

    Szegedy et al. 2016, sec. 7, with torch's reading of class weights: in the smoothed part each column has its own
    weight, not that of the label. Nothing is divided by the weights.

    Args:
        logits: (..., C).
        labels: (...) int64 in 0..C-1, or `ignore_index`.
        class_weights: (C,), one for background and one a class; None is 1 for all.
        ignore_index: the label that takes no part; it is never used as a column.
        label_smoothing: ε in 0..1.

    Returns:
        (...).
    """
    losses = F.cross_entropy(
        logits.reshape(-1, logits.shape[-1]),
        labels.reshape(-1),
        weight=class_weights,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction="none",
    )
    return losses.view(labels.shape)


def sigmoid_cross_entropy(
    logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0, ignore_index: int = -1
) -> Tensor:
    """Σ over all C columns of the binary cross-entropy against one-hot labels, and 0 where the label is ignored.

    TensorFlow's WeightedSigmoidClassificationLoss, summed over the columns; background has one of its own, which
    label 0 turns on. Smoothing gives the targets t(1 − ε) + ε/2.

    Args:
        logits: (..., C).
        labels: (...) int64 in 0..C-1, or `ignore_index`.
        label_smoothing: ε in 0..1.
        ignore_index: the label that takes no part; it is never used as a column.

    Returns:
        (...).
    """
    ignored = labels == ignore_index
    columns = labels.masked_fill(ignored, 0).unsqueeze(-1)
    # BCE(x, t) = softplus(x) − t·x, so no one-hot targets of the size of the logits are needed.
    wanted = logits.gather(-1, columns).squeeze(-1)
    if label_smoothing:
        wanted = (1 - label_smoothing) * wanted + label_smoothing / 2 * logits.sum(dim=-1)
    return (F.softplus(logits).sum(dim=-1) - wanted).masked_fill(ignored, 0)


def sigmoid_focal(
    logits: Tensor, targets: Tensor, *, alpha: float | Tensor | None = 0.25, gamma: float = 2.0
) -> Tensor:
    """−α_t (1 − p_t)^γ log p_t (Lin et al. 2017, eq. 5); p_t is p = σ(logit) for target 1 and 1 − p for 0.

    The sum over priors and classes is to be divided by the number of positives (sec. 4.1). γ = 0 without α is the
    binary cross-entropy.

    Args:
        logits: (..., K).
        targets: the same shape, float, 0 or 1; what lies between them blends both cases.
        alpha: weight of the positive case, 1 − alpha that of the negative one; (K,) gives each class its own, None
            weighs neither.
        gamma: 0 or more.

    Returns:
        Elementwise, the shape of the logits.
    """
    # 1 − p_t without a subtraction from 1, which leaves nothing of a well-classified example.
    miss = torch.sigmoid(logits) * (1 - targets) + torch.sigmoid(-logits) * targets
    loss = power(miss, gamma) * _binary_cross_entropy(logits, targets)
    return loss if alpha is None else loss * (alpha * targets + (1 - alpha) * (1 - targets))


def quality_focal(logits: Tensor, quality: Tensor, *, beta: float = 2.0) -> Tensor:
    """|q − σ|^β · BCE(σ, q) (Li et al. 2020, eq. 2): focal loss where the target is a quality between 0 and 1.

    Args:
        logits: (..., K).
        quality: the same shape, in 0..1: at the label's column the IoU of box and target, 0 elsewhere.
        beta: 0 or more; 0 is the binary cross-entropy with soft targets.

    Returns:
        Elementwise, the shape of the logits. The modulator |q − σ|^β has its gradient.
    """
    return power((quality - torch.sigmoid(logits)).abs(), beta) * _binary_cross_entropy(logits, quality)


def varifocal(logits: Tensor, quality: Tensor, *, alpha: float = 0.75, gamma: float = 2.0) -> Tensor:
    """q · BCE(p, q) where q > 0, −α p^γ log(1 − p) where q = 0 (Zhang et al. 2021, eq. 2).

    Positives are weighed by their quality and not focused; only negatives are played down.

    Args:
        logits: (..., K).
        quality: the same shape, in 0..1: at the label's column the IoU of box and target, 0 elsewhere.
        alpha: weight of the negatives.
        gamma: 0 or more.

    Returns:
        Elementwise, the shape of the logits. The modulator p^γ has its gradient.
    """
    weight = torch.where(quality > 0, quality, alpha * power(torch.sigmoid(logits), gamma))
    return weight * _binary_cross_entropy(logits, quality)


def _binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def power(base: Tensor, exponent: float) -> Tensor:
    """Return a power of a base in 0..1. The slope of x^½ is infinite at 0: there, the gradient is 0 and not 0 ·
    ∞."""
    return base.clamp(min=torch.finfo(base.dtype).tiny).pow(exponent)
