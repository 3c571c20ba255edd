"""Which prior learns which object. Batched on padded targets."""

from __future__ import annotations

from heapq import heapify, heappop, heappush

import torch
from torch import Tensor

from ssdlite import boxes as box_ops
from ssdlite.losses.blocks import in_blocks
from ssdlite.structures import Assignment, HeadOutput

TIE = 1e-5
"""Overlaps that differ by less than this share are equal: rounding alone makes them differ by 1e-6 or so."""

IGNORED_COVER = 0.5
"""A prior that lies in an ignored region by at least this share of its area is neither object nor background."""


@in_blocks(times=8)
def assign_iou(
    output: HeadOutput,
    boxes: Tensor,
    labels: Tensor,
    ignore: Tensor,
    *,
    iou_threshold: float = 0.5,
    background_below: float | None = None,
    all_ties: bool = False,
) -> Assignment:
    """Match objects to priors: best priors first, then everything above the threshold, then ignored regions.

    1. Greedy bipartite matching by descending IoU (Liu et al. 2016, sec. 2.2): each object gets its best prior
       that no better pair has claimed, so no object loses its only prior to another one. Pairs that do not
       overlap are never matched.
    2. Every other prior learns the object that it overlaps most, if by `iou_threshold` or more, or, with
       `all_ties`, if it overlaps it as much as any prior does (Ren et al. 2015, sec. 3.1.2).
    3. Of the priors that are left, those that overlap an object by `background_below` or more, and those that lie
       in an ignored region (crowd, difficult), get label -1.

    Args:
        output: the priors count, not what is predicted at them.
        boxes: (B, M, 4) xyxy, input pixels, M ≥ 1; padding has label 0.
        labels: (B, M) in 1..K, 0 for padding.
        ignore: (B, M) bool.

    Returns:
        Labels (B, P) and boxes (B, P, 4); the box of a prior without an object is the prior itself.
    """
    priors_xyxy = box_ops.cxcywh_to_xyxy(output.priors)
    iou_BMP = learnable_iou(priors_xyxy, boxes, labels, ignore)
    best_iou_BP, object_BP = iou_BMP.max(dim=1)
    positive_BP = best_iou_BP >= iou_threshold
    if all_ties:
        most_BM1 = iou_BMP.amax(dim=-1, keepdim=True)
        # Of an object that no prior overlaps, all would be its best.
        tied_BMP = (iou_BMP >= most_BM1 * (1 - TIE)) & (most_BM1 > 0)
        positive_BP |= tied_BMP.gather(1, object_BP.unsqueeze(1)).squeeze(1)
    object_BP, positive_BP = force_matches(match_greedily(iou_BMP), object_BP, positive_BP)
    assignment = finish(priors_xyxy, boxes, labels, ignore, object_BP, positive_BP)
    if background_below is None:
        return assignment
    undecided_BP = (best_iou_BP >= background_below) & ~positive_BP
    return assignment._replace(labels=assignment.labels.masked_fill(undecided_BP, -1))


def learnable_iou(priors_xyxy: Tensor, boxes: Tensor, labels: Tensor, ignore: Tensor) -> Tensor:
    """Overlap of each object with each prior (B, M, P), 0 for those that are ignored and for padding.

    Args:
        priors_xyxy: (P, 4), input pixels.
        boxes, labels, ignore: as for `assign_iou`.
    """
    learnable = (labels > 0) & ~ignore
    # A box without area overlaps nothing, which saves a pass over all overlaps.
    return box_ops.iou(torch.where(learnable.unsqueeze(-1), boxes, 0), priors_xyxy)


def depth_in(boxes: Tensor, points: Tensor) -> Tensor:
    """Distance of each point to the nearest edge of each object: (B, M, 4) and (P, 2) -> (B, M, P) pixels.

    Above 0 inside, 0 on the border, below 0 outside. One comparison is left for the caller, where four and their
    conjunction take most of an assignment's time on a CPU.
    """
    x, y = points.t().contiguous()
    x1, y1, x2, y2 = boxes.unsqueeze(-1).unbind(dim=-2)
    across = torch.minimum(x - x1, x2 - x)
    return torch.minimum(across, torch.minimum(y - y1, y2 - y), out=across)


def force_matches(claims_BM: Tensor, object_BP: Tensor, positive_BP: Tensor) -> tuple[Tensor, Tensor]:
    """Give each object the prior that `match_greedily` found for it, whatever (B, P) else says; both anew."""
    forced = claims_BM >= 0
    # Unmatched objects write into a column that is cut off again: no boolean indexing, no host synchronisation.
    slots = torch.where(forced, claims_BM, object_BP.shape[1])
    index_BM = torch.arange(claims_BM.shape[1], device=claims_BM.device).expand_as(slots)
    object_BP = _with_spare_column(object_BP).scatter(1, slots, index_BM)[:, :-1]
    positive_BP = _with_spare_column(positive_BP).scatter(1, slots, forced)[:, :-1]
    return object_BP, positive_BP


def finish(
    priors_xyxy: Tensor,
    boxes: Tensor,
    labels: Tensor,
    ignore: Tensor,
    object_BP: Tensor,
    positive_BP: Tensor,
) -> Assignment:
    """What every assignment ends with: the labels and boxes of the chosen objects, and the ignored regions.

    Args:
        priors_xyxy: (P, 4), input pixels.
        boxes, labels, ignore: as for `assign_iou`.
        object_BP: (B, P) index of the object that a prior learns; of no meaning where it is not positive.
        positive_BP: (B, P) bool.
    """
    assigned_labels = labels.gather(1, object_BP) * positive_BP
    assigned_boxes = boxes.gather(1, object_BP.unsqueeze(-1).expand(-1, -1, 4))
    assigned_boxes = torch.where(positive_BP.unsqueeze(-1), assigned_boxes, priors_xyxy)

    ignored = ignore & (labels > 0)
    if ignored.device.type == "cpu" and not ignored.any():
        return Assignment(assigned_labels, assigned_boxes)
    regions = torch.where(ignored.unsqueeze(-1), boxes, 0)
    largest_BP = box_ops.intersection(regions, priors_xyxy).amax(dim=1)
    in_ignored = (largest_BP >= IGNORED_COVER * box_ops.area(priors_xyxy)) & ~positive_BP
    return Assignment(assigned_labels.masked_fill(in_ignored, -1), assigned_boxes)


def match_greedily(iou_BMP: Tensor) -> Tensor:
    """Bipartite matching by descending overlap: (B, M, P) -> the prior of each object (B, M), -1 for none.

    The largest remaining pair again and again; of equal ones that of the first object. Of its equally good priors a
    CPU takes the first, a GPU any.
    """
    if iou_BMP.device.type != "cpu":
        return _match_in_rounds(iou_BMP)
    best_iou, best_prior = iou_BMP.max(dim=-1)
    claims = map(_match_one_by_one, iou_BMP, best_iou.tolist(), best_prior.tolist())
    return torch.tensor(list(claims), dtype=torch.int64).view(iou_BMP.shape[:2])


def _match_one_by_one(iou_MP: Tensor, best_iou: list[float], best_prior: list[int]) -> list[int]:
    """`match_greedily` for one image on a CPU, from the best prior of each object."""
    queue = [(-iou, index, prior) for index, (iou, prior) in enumerate(zip(best_iou, best_prior, strict=True))]
    heapify(queue)
    claims = [-1] * len(queue)
    taken: list[int] = []
    while queue and queue[0][0] < 0:
        _, index, prior = heappop(queue)
        if prior not in taken:
            claims[index] = prior
            taken.append(prior)
        else:  # the best of those that are left is this one's new wish
            iou, free = iou_MP[index].index_fill(0, torch.tensor(taken), 0).max(dim=0)
            heappush(queue, (-iou.item(), index, int(free)))
    return claims


def _match_in_rounds(iou_BMP: Tensor) -> Tensor:
    """`match_greedily` without a look at any value.

    A pair that is the largest of its object and of its prior can be taken at once, so that each round does for
    many; and since M objects can take at most M - 1 priors from another one, its M best priors are all that it can
    need.
    """
    num_objects, num_priors = iou_BMP.shape[1:]
    iou_BMk, prior_BMk = iou_BMP.topk(min(num_objects, num_priors), dim=-1)
    claims_BM = torch.full_like(prior_BMk[..., 0], -1)
    object_BM = torch.arange(num_objects, device=claims_BM.device).expand_as(claims_BM)
    for _ in range(num_objects):
        iou_BM, rank = iou_BMk.max(dim=-1)
        prior_BM = prior_BMk.gather(-1, rank.unsqueeze(-1)).squeeze(-1)
        # Largest value, then lowest object, that wants each prior.
        best_BP = iou_BMP.new_zeros(iou_BMP.shape[0], num_priors)
        best_BP = best_BP.scatter_reduce(1, prior_BMk.flatten(1), iou_BMk.flatten(1), "amax")
        wins = (iou_BM > 0) & (iou_BM >= best_BP.gather(1, prior_BM))
        candidates = torch.where(wins, object_BM, num_objects)
        first_BP = torch.full_like(best_BP, num_objects, dtype=torch.long)
        first_BP = first_BP.scatter_reduce(1, prior_BM, candidates, "amin")
        wins &= first_BP.gather(1, prior_BM) == object_BM
        claims_BM = torch.where(wins, prior_BM, claims_BM)
        # Of numbers: CUDA has no scatter_reduce of bool.
        taken_BP = torch.zeros_like(first_BP).scatter_reduce(1, prior_BM, wins.long(), "amax")
        gone = wins.unsqueeze(-1) | (taken_BP.gather(1, prior_BMk.flatten(1)) > 0).view_as(prior_BMk)
        iou_BMk = iou_BMk.masked_fill(gone, 0)
    return claims_BM


def _with_spare_column(values: Tensor) -> Tensor:
    """(B, P) -> (B, P + 1)."""
    return torch.cat([values, torch.zeros_like(values[:, :1])], dim=1)
