"""Pure functions on boxes: formats, overlap, and the encoding that the network regresses.

`boxes` are xyxy pixels; `priors` and anything named `_cxcywh` are centre and size, in the same unit.
All functions broadcast over leading dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssdlite.boxes_np import CENTER_VARIANCE, SIZE_VARIANCE

__all__ = [
    "area",
    "clip",
    "cxcywh_to_xyxy",
    "decode",
    "encode",
    "intersection",
    "iou",
    "paired_iou",
    "xyxy_to_cxcywh",
]

MIN_SIZE = 1e-6  # second line of defence: log(0) must never reach a loss


def cxcywh_to_xyxy(boxes_cxcywh: Tensor) -> Tensor:
    """(..., 4) centre and size -> (..., 4) corners."""
    centers, sizes = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:]
    return torch.cat([centers - sizes / 2, centers + sizes / 2], dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """(..., 4) corners -> (..., 4) centre and size."""
    top_left, bottom_right = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(top_left + bottom_right) / 2, bottom_right - top_left], dim=-1)


def area(boxes: Tensor) -> Tensor:
    """(..., 4) -> (...) in pixels²; 0 for inverted boxes."""
    sizes = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return sizes[..., 0] * sizes[..., 1]


def intersection(boxes: Tensor, others: Tensor) -> Tensor:
    """(..., N, 4) and (..., M, 4) -> (..., N, M), the common area of each pair in pixels²."""
    # One contiguous row a coordinate, and few temporaries: several times faster on a CPU.
    x1, y1, x2, y2 = boxes.unsqueeze(-2).movedim(-1, 0).contiguous()
    other_x1, other_y1, other_x2, other_y2 = others.unsqueeze(-3).movedim(-1, 0).contiguous()
    width = torch.minimum(x2, other_x2).sub_(torch.maximum(x1, other_x1)).clamp_(min=0)
    height = torch.minimum(y2, other_y2).sub_(torch.maximum(y1, other_y1)).clamp_(min=0)
    return width.mul_(height)


def iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of each pair: (..., N, 4) and (..., M, 4) -> (..., N, M) in 0..1."""
    return iou_of_intersection(intersection(boxes, others), boxes, others)


def iou_of_intersection(common: Tensor, boxes: Tensor, others: Tensor) -> Tensor:
    """`iou` where the common areas (..., N, M) are already there; they are not changed.

    No epsilon is added to the union: in relative units the seed's 1e-5 gave a 3 px box an overlap of .909
    with itself. A pair without any area has overlap 0.
    """
    other_areas = area(others)
    # What two boxes have in common is never more than either, so that this alone makes every union positive.
    other_areas = other_areas.clamp(min=torch.finfo(other_areas.dtype).tiny)
    return common / (area(boxes).unsqueeze(-1) + other_areas.unsqueeze(-2)).sub_(common)


def paired_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of each box with the other of the same place: twice (..., 4) -> (...) in 0..1."""
    return iou(boxes.unsqueeze(-2), others.unsqueeze(-2)).squeeze(-1).squeeze(-1)


def encode(boxes: Tensor, priors: Tensor) -> Tensor:
    """Boxes relative to priors, (..., P, 4) xyxy and (P, 4) cxcywh -> (..., P, 4) deltas.

    Δcx = (cx − cx_p) / w_p / 0.1, Δw = ln(w / w_p) / 0.2, and the same for y and h (SSD, sec. 2.2, with the
    variances of its code). Sizes are clamped at 1e-6 so that no box can encode to infinity.
    """
    boxes_cxcywh = xyxy_to_cxcywh(boxes)
    centers = (boxes_cxcywh[..., :2] - priors[..., :2]) / priors[..., 2:] / CENTER_VARIANCE
    sizes = torch.log(boxes_cxcywh[..., 2:].clamp(min=MIN_SIZE) / priors[..., 2:]) / SIZE_VARIANCE
    return torch.cat([centers, sizes], dim=-1)


def decode(deltas: Tensor, priors: Tensor) -> Tensor:
    """The inverse of `encode`: (..., P, 4) deltas and (P, 4) cxcywh -> (..., P, 4) xyxy. Not clipped."""
    centers = priors[..., :2] + deltas[..., :2] * CENTER_VARIANCE * priors[..., 2:]
    sizes = priors[..., 2:] * torch.exp(deltas[..., 2:] * SIZE_VARIANCE)
    return torch.cat([centers - sizes / 2, centers + sizes / 2], dim=-1)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """(..., 4) boxes cut to an image of `size` (height, width)."""
    height, width = size
    return torch.stack(
        [
            boxes[..., 0].clamp(0, width),
            boxes[..., 1].clamp(0, height),
            boxes[..., 2].clamp(0, width),
            boxes[..., 3].clamp(0, height),
        ],
        dim=-1,
    )
