"""Matching of priors and objects by IoU, batched on padded targets, a few images at a time where that is faster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial, wraps
from heapq import heapify, heappop, heappush
from typing import Concatenate, ParamSpec, TypeAlias

import torch
from torch import Tensor

from ssdlite import boxes as box_ops
from ssdlite.structures import Assignment, HeadOutput

__all__ = ["assign_iou", "match_greedily"]

Options = ParamSpec("Options")


BLOCK = 2**18
"""Pairs of an object and a prior in a block: 1 MiB of overlaps.

On one core with 2 MiB of cache, 32 images of 20 objects and 3000 priors: task-aligned assignment takes 42 ms, whole
69 ms; of 2**16 pairs 52 ms, as each block has its small operations."""


Assign: TypeAlias = Callable[Concatenate[HeadOutput, Tensor, Tensor, Tensor, Options], Assignment]


def in_chunks(times: int) -> Callable[[Assign[Options]], Assign[Options]]:
    """Make an assigner run without gradients, and on a CPU by blocks of images without the padding they
    share.

    For functions that treat each image by itself and its padding as nothing, so that nothing depends on the blocks.
    Other devices have the whole batch at once, and nobody looks at their values.

    Args:
        times: of `BLOCK` for a block; more for an assignment of few passes, which gains by less padding alone.
    """
    return partial(_in_chunks, times)


def _in_chunks(times: int, assign: Assign[Options]) -> Assign[Options]:
    @wraps(assign)
    @torch.no_grad()
    def assign_by_block(
        output: HeadOutput,
        boxes: Tensor,
        labels: Tensor,
        ignore: Tensor,
        *args: Options.args,
        **options: Options.kwargs,
    ) -> Assignment:
        most = times * BLOCK // len(output.priors)  # objects of a block, with those that are padding
        if boxes.device.type != "cpu" or labels.numel() <= most:
            return assign(output, boxes, labels, ignore, *args, **options)
        parts = []
        for start, stop, num_objects in _chunks(labels, most):
            own = output._replace(logits=output.logits[start:stop], deltas=output.deltas[start:stop])
            some_boxes, some_labels, some_ignore = (
                tensor[start:stop, :num_objects] for tensor in (boxes, labels, ignore)
            )
            parts.append(assign(own, some_boxes, some_labels, some_ignore, *args, **options))
        quality = [part.quality for part in parts if part.quality is not None]
        return Assignment(
            torch.cat([part.labels for part in parts]),
            torch.cat([part.boxes for part in parts]),
            torch.cat(quality) if quality else None,
        )

    return assign_by_block


def _chunks(labels: Tensor, most: int) -> Iterator[tuple[int, int, int]]:
    """Labels (B, M) -> of each block its first image, the first after it, and how many objects hold all labels."""
    used = [max((place for place, label in enumerate(row, start=1) if label), default=1) for row in labels.tolist()]
    start = 0
    for stop in range(1, len(used) + 1):
        if stop == len(used) or (stop + 1 - start) * max(used[start : stop + 1]) > most:
            yield start, stop, max(used[start:stop])
            start = stop


TIE = 1e-5
"""Overlaps that differ by less than this share are equal: rounding alone makes them differ by 1e-6 or so."""


LARGEST_INT32 = 2**31 - 1


IGNORED_COVER = 0.5
"""A prior that lies in an ignored region by at least this share of its area is neither object nor background."""


@in_chunks(times=8)
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
    assignment = build_assignment(priors_xyxy, boxes, labels, ignore, object_BP, positive_BP)
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


def distance_to_edge(boxes: Tensor, points: Tensor) -> Tensor:
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
    # Unmatched objects write into a column that is cut off again: no boolean indexing, no host synchronisation.
    slots = claims_BM.remainder(object_BP.shape[1] + 1)
    index_BM = torch.arange(claims_BM.shape[1], device=claims_BM.device).expand_as(slots)
    object_BP = _with_spare_column(object_BP).scatter_(1, slots, index_BM)[:, :-1]
    positive_BP = _with_spare_column(positive_BP).scatter_(1, slots, True)[:, :-1]
    return object_BP, positive_BP


def build_assignment(
    priors_xyxy: Tensor,
    boxes: Tensor,
    labels: Tensor,
    ignore: Tensor,
    object_BP: Tensor,
    positive_BP: Tensor,
) -> Assignment:
    """Build the assignment of each prior: the labels and boxes of the chosen objects, and the ignored regions.

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

    The largest remaining pair again and again; of equal ones that of the first object, and of its equally good
    priors the first.
    """
    device = iou_BMP.device
    if device.type == "mps":  # which reduces no int64, so the rounds are done on the CPU
        return _match_in_rounds(iou_BMP.cpu()).to(device)
    if device.type != "cpu":
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
    """`match_greedily` without a look at any value, in M rounds of six launches.

    Each object wishes the best prior that no better pair holds, each prior is held by the best pair that wished it
    so far, and a pair that loses its prior is out (Gale and Shapley 1962; as objects and priors both go by the
    overlap, there is one stable matching, and it is the greedy one). Once its t best pairs hold, they hold for
    good, and after the next round so does the next one: M rounds are enough, whatever the overlaps. A chain, in
    which each object pushes the next one to another prior, needs them all; log M parallel steps are not known to be
    enough for any algorithm (the problem is CC-complete, Mayr and Subramanian 1992). Since M objects can take at
    most M - 1 priors from another one, its M best are all that it can need.

    A pair is one number, lower for a better one: overlap, object, prior. So nothing is equal, and one reduction
    finds the best pair together with its prior.
    """
    num_objects, num_priors = iou_BMP.shape[1:]
    if not iou_BMP.numel():
        return iou_BMP.new_full(iou_BMP.shape[:2], -1, dtype=torch.int64)
    prior_bits, object_bits = (num_priors - 1).bit_length(), (num_objects - 1).bit_length()
    assert iou_BMP.dtype is torch.float32 and prior_bits + object_bits <= 30, "a pair has to fit into 63 bits"
    overlap = 1 << (prior_bits + object_bits)
    nothing = LARGEST_INT32 * overlap  # what overlaps is below it
    priors = torch.arange(num_priors, device=iou_BMP.device)
    objects = torch.arange(nothing, nothing + (num_objects << prior_bits), 1 << prior_bits, device=iou_BMP.device)
    # Floats of 0 and more are in the order of their bits.
    pair_BMP = torch.sub(objects.unsqueeze(1) + priors, iou_BMP.view(torch.int32), alpha=overlap)
    pair_BMk = pair_BMP.topk(min(num_objects, num_priors), dim=-1, largest=False, sorted=False).values
    prior_BN = (pair_BMk & ((1 << prior_bits) - 1)).flatten(1)
    held_BP = pair_BMk.new_full((len(iou_BMP), num_priors), nothing)
    for left in reversed(range(min(num_objects, num_priors + 1))):  # at the end, those who get none find that out
        wish_BM = pair_BMk.amin(dim=-1)
        prior_BM = wish_BM & ((1 << prior_bits) - 1)
        if left:
            held_BP.scatter_reduce_(1, prior_BM, wish_BM, "amin")
            pair_BMk.masked_fill_(pair_BMk > held_BP.gather(1, prior_BN).view_as(pair_BMk), nothing)
    return prior_BM.masked_fill_(wish_BM >= nothing, -1)


def _with_spare_column(values: Tensor) -> Tensor:
    """(B, P) -> (B, P + 1), anew; the last column is anything."""
    return torch.cat([values, values[:, :1]], dim=1)
