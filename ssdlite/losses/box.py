"""Losses of box regression: smooth L1 on deltas, and 1 − an overlap on boxes. None of them reduces."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ssdlite import boxes as box_ops
from ssdlite.losses.reduction import align_left

__all__ = ["ciou", "diou", "giou", "smooth_l1"]

NO_AREA = 1e-7
"""Pixels². A ratio over less than this is 0 and has no gradient: it would be a quotient of rounding errors."""


def smooth_l1(
    predicted: Tensor,
    target: Tensor,
    *,
    beta: float | None = None,
    sigma: float | None = None,
    inside_weight: Tensor | None = None,
    outside_weight: Tensor | None = None,
) -> Tensor:
    """w_out · f(w_in · (predicted − target)), f(x) = ½x²/β if |x| < β else |x| − ½β.

    Girshick 2015, eq. 3, has β = 1. Ren et al.'s code writes the bend as σ, with β = 1/σ², and has both weights;
    the inside one multiplies before f. Their loss sums the four coordinates: a mean over them is a quarter of it.

    Args:
        predicted, target: (..., 4) deltas, or any one shape.
        beta: where the parabola ends, in the unit of the deltas; 0 is plain L1. 1 if neither is given.
        sigma: another way to give beta, positive.
        inside_weight, outside_weight: aligned with the leading axes, see `align_left`.

    Returns:
        Elementwise, the shape of `predicted`.

    Raises:
        ValueError: both beta and sigma, beta below 0, or sigma not above 0.
    """
    if beta is not None and sigma is not None:
        raise ValueError(f"smooth_l1 takes beta or sigma (beta = 1/sigma²), not both: beta={beta}, sigma={sigma}")
    if sigma is not None:
        if sigma <= 0:
            raise ValueError(f"sigma must be above 0, got {sigma}")
        beta = 1 / sigma**2
    elif beta is None:
        beta = 1.0
    if beta < 0:
        raise ValueError(f"beta must be 0 or more, got {beta}")
    if inside_weight is not None:
        predicted = align_left(inside_weight, predicted) * (predicted - target)
        target = torch.zeros_like(predicted)
    loss = F.smooth_l1_loss(predicted, target, reduction="none", beta=beta)
    return loss if outside_weight is None else align_left(outside_weight, loss) * loss


def giou(boxes: Tensor, targets: Tensor) -> Tensor:
    """1 − (IoU − (C − U)/C), C the area of the smallest box around both (Rezatofighi et al. 2019, algorithm 1).

    Two boxes without area have IoU 0, as in `boxes.iou`, also where they are the same.

    Args:
        boxes, targets: (..., 4) xyxy, pixels.

    Returns:
        (...) in 0..2.
    """
    iou, union = _iou_and_union(boxes, targets)
    around = _enclosing_sizes(boxes, targets).prod(dim=-1)
    return 1 - iou + _ratio(around - union, around)


def diou(boxes: Tensor, targets: Tensor) -> Tensor:
    """1 − (IoU − ρ²/c²), ρ the distance of the centres, c the diagonal of the smallest box around both.

    Zheng et al. 2020, eq. 6 and 7. Boxes without area have IoU 0.

    Args:
        boxes, targets: (..., 4) xyxy, pixels.

    Returns:
        (...) in 0..2.
    """
    return 1 - _iou_and_union(boxes, targets)[0] + _centre_penalty(boxes, targets)


def ciou(boxes: Tensor, targets: Tensor) -> Tensor:
    """1 − (IoU − ρ²/c² − αv), v = 4/π² (atan(w_t/h_t) − atan(w/h))², α = v / (1 − IoU + v).

    Zheng et al. 2020, eq. 8 to 11. α is a trade-off without a gradient; that of v is exact, not the shortened one
    of the authors' C code. A side below 1e-6 px counts as 1e-6, so a point has the aspect of a square.

    Args:
        boxes, targets: (..., 4) xyxy, pixels.

    Returns:
        (...) from 0 up.
    """
    iou = _iou_and_union(boxes, targets)[0]
    v = 4 / math.pi**2 * (_aspect_angle(targets) - _aspect_angle(boxes)).square()
    with torch.no_grad():
        alpha = v / (1 - iou + v).clamp(min=torch.finfo(v.dtype).eps)
    return 1 - iou + _centre_penalty(boxes, targets) + alpha * v


IOU_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"giou": giou, "diou": diou, "ciou": ciou}


def _iou_and_union(boxes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return IoU and union of each pair, not of all pairs as `boxes.iou`."""
    top_left = torch.maximum(boxes[..., :2], targets[..., :2])
    bottom_right = torch.minimum(boxes[..., 2:], targets[..., 2:])
    common = box_ops.area(torch.cat([top_left, bottom_right], dim=-1))
    union = box_ops.area(boxes) + box_ops.area(targets) - common
    return _ratio(common, union), union


def _enclosing_sizes(boxes: Tensor, targets: Tensor) -> Tensor:
    """(..., 2) width and height of the smallest box around both."""
    top_left = torch.minimum(boxes[..., :2], targets[..., :2])
    return torch.maximum(boxes[..., 2:], targets[..., 2:]) - top_left


def _centre_penalty(boxes: Tensor, targets: Tensor) -> Tensor:
    """ρ²/c²."""
    shift = (boxes[..., :2] + boxes[..., 2:] - targets[..., :2] - targets[..., 2:]) / 2
    return _ratio(shift.square().sum(dim=-1), _enclosing_sizes(boxes, targets).square().sum(dim=-1))


def _aspect_angle(boxes: Tensor) -> Tensor:
    """atan(width / height)."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).clamp(min=box_ops.MIN_SIZE).unbind(dim=-1)
    return torch.atan2(width, height)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > NO_AREA, part / whole.clamp(min=NO_AREA), 0)
