"""Assigners that adapt to the objects: ATSS (Zhang et al. 2020) and task-aligned assignment (Feng et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from ssdlite import boxes as box_ops
from ssdlite.losses.matching import (
    build_assignment,
    distance_to_edge,
    force_matches,
    in_chunks,
    learnable_iou,
    match_greedily,
)
from ssdlite.structures import Assignment, HeadOutput

__all__ = ["assign_atss", "assign_task_aligned"]


@in_chunks(times=1)
def assign_atss(
    output: HeadOutput, boxes: Tensor, labels: Tensor, ignore: Tensor, *, candidates: int = 9
) -> Assignment:
    """Zhang et al. 2020, algorithm 1, and then a prior for every object that it leaves without one.

    1. The candidates of an object are, on each level, the priors whose centres are nearest to its own. The priors
       of one cell are equally near; of such the ones that overlap the object more come first, and those that
       overlap it alike count together.
    2. Its threshold is mean + standard deviation (of a sample, as in the authors' code) of the candidates' IoU.
       Candidates of this IoU or more are positive if their centre lies inside the object, not on its border.
    3. A prior that several objects claim goes to the one that it overlaps most.
    4. Not in the paper: objects left without a prior take the one that they overlap most, by descending IoU; not
       the best prior of an object that step 3 gave some, and none where there is no overlap.
    5. Background priors in an ignored region get label -1, as for `matching.assign_iou`.

    `candidates` counts priors, as algorithm 1 does, however many a cell has. The authors' code takes that many
    times the priors of a cell. On the priors of a 300 px input, 9 give an object of 24 to 280 px 6 to 9 priors,
    about what IoU .5 gives large ones; 54 give it 24 to 37.

    Args:
        output: with `level_sizes`, which sum to P. Only they and the priors are read.
        boxes: (B, M, 4) xyxy, input pixels; M may be 0.
        labels: (B, M) in 1..K, 0 for padding.
        ignore: (B, M) bool.
        candidates: of an object on each level, or all that the level has.

    Returns:
        Labels (B, P) and boxes (B, P, 4); the box of a prior without an object is the prior itself.
    """
    priors = output.priors
    assert sum(output.level_sizes) == len(priors), f"levels of {output.level_sizes} for {len(priors)} priors"
    if not boxes.shape[1]:  # a padded object, so that there is a largest overlap
        batch = len(boxes)
        boxes, labels, ignore = boxes.new_zeros(batch, 1, 4), labels.new_zeros(batch, 1), ignore.new_zeros(batch, 1)
    priors_xyxy = box_ops.cxcywh_to_xyxy(priors)
    iou_BMP = learnable_iou(priors_xyxy, boxes, labels, ignore)
    inside_BMP = distance_to_edge(boxes, priors[:, :2]).gt_(0)
    claimed_BMP = inside_BMP.mul_(_passes_threshold(iou_BMP, boxes, output, candidates))
    best_iou_BP, object_BP = claimed_BMP.mul_(iou_BMP).max(dim=1)
    positive_BP = best_iou_BP > 0

    # Above every overlap: who has priors reserves one of them before the others choose.
    own_BP = torch.where(positive_BP, best_iou_BP + 1, 0)
    most_BM = torch.zeros_like(iou_BMP[..., 0]).scatter_reduce(1, object_BP, own_BP, "amax")
    wishes_BMP = iou_BMP.mul_((most_BM == 0).to(iou_BMP.dtype).unsqueeze(-1))
    wishes_BMP.scatter_reduce_(1, object_BP.unsqueeze(1), own_BP.unsqueeze(1), "amax")
    object_BP, positive_BP = force_matches(match_greedily(wishes_BMP), object_BP, positive_BP)
    return build_assignment(priors_xyxy, boxes, labels, ignore, object_BP, positive_BP)


def _passes_threshold(iou_BMP: Tensor, boxes: Tensor, output: HeadOutput, candidates: int) -> Tensor:
    """Steps 1 and 2 without the centre's place: 1 where a prior passes, else 0; (B, M, P)."""
    x, y = box_ops.xyxy_to_cxcywh(boxes)[..., :2, None].unbind(dim=-2)
    prior_x, prior_y = output.priors[:, :2].t().contiguous()
    distance_BMP = (x - prior_x).square_().add_((y - prior_y).square_())
    sizes = list(output.level_sizes)
    near, overlaps = [], []
    for distance, iou in zip(distance_BMP.split(sizes, dim=-1), iou_BMP.split(sizes, dim=-1), strict=True):
        count = min(candidates, iou.shape[-1])
        furthest = distance.topk(count, largest=False).values[..., -1:]
        # Nearer than the last candidate: 2 and more. As near: by overlap. Further: below 0.
        rank = torch.add(iou, (furthest - distance).sign_(), alpha=2)
        chosen = rank.topk(count)
        near.append(rank.ge_(chosen.values[..., -1:]))
        overlaps.append(iou.gather(-1, chosen.indices))
    threshold = _threshold(torch.cat(overlaps, dim=-1), has_float64=_has_float64(iou_BMP.device))
    return torch.ge(iou_BMP, threshold, out=torch.empty_like(iou_BMP)).mul_(torch.cat(near, dim=-1))


def _has_float64(device: torch.device) -> bool:
    return device.type != "mps"


def _threshold(overlap: Tensor, *, has_float64: bool) -> Tensor:
    """Mean + standard deviation of (..., candidates) float32 -> (..., 1), which equal overlaps reach.

    Summed as they are in float32, up to three in ten objects of equal overlaps would miss their own mean. From
    float64 it is rounded back to them; without it the sums are of distances to the largest, which are 0.
    """
    largest = None if has_float64 else overlap.amax(dim=-1, keepdim=True)
    values = overlap.double() if largest is None else overlap - largest
    deviation = values.std(dim=-1, keepdim=True, correction=min(1, overlap.shape[-1] - 1))
    threshold = values.mean(dim=-1, keepdim=True) + deviation
    return threshold.to(overlap.dtype) if largest is None else largest + threshold


@in_chunks(times=1)
def assign_task_aligned(
    output: HeadOutput,
    boxes: Tensor,
    labels: Tensor,
    ignore: Tensor,
    *,
    candidates: int = 13,
    score_power: float = 1.0,
    overlap_power: float = 6.0,
) -> Assignment:
    """Task-aligned assignment (Feng et al. 2021, TOOD, sec. 3.2), by the alignment t = s^α · u^β.

    s is the score that the prior predicts for the object's class, u the IoU of its predicted box with the object.

    1. Candidates of an object are the priors whose centres lie in it, and those whose centres are nearest to its
       own, which is what an object smaller than a cell has. The `candidates` with the largest t are positive.
    2. A prior that several objects want learns the one that its predicted box overlaps most.
    3. Each object keeps its best prior that no better pair has claimed (greedy bipartite matching by t), as with
       the other assignments; in TOOD it may lose all. An object that no predicted box near it overlaps has none.

    The quality of a positive is t, scaled for each object so that its best prior has the largest u among its
    positives (sec. 3.2, the normalised t̂).

    Args:
        boxes, labels, ignore: as for `assign_iou`.
    """
    overlap_BMP = box_ops.iou(boxes, box_ops.decode(output.deltas.float(), output.priors))
    overlap_BMP = overlap_BMP.nan_to_num_()  # of a size that overflowed
    alignment_BMP = _scores_of(output, labels).pow(score_power)
    # x⁶ as (x²)³: torch has products for a square and a cube, and logarithms for other powers.
    alignment_BMP *= overlap_BMP.square().pow_(overlap_power / 2)
    alignment_BMP *= _is_near(boxes, output.priors)
    alignment_BMP *= ((labels > 0) & ~ignore).to(alignment_BMP.dtype).unsqueeze(-1)

    best_BMk = alignment_BMP.topk(min(candidates, alignment_BMP.shape[-1]), dim=-1)
    wanted = torch.where(best_BMk.values > 0, overlap_BMP.gather(-1, best_BMk.indices), 0)
    chosen_BMP = torch.zeros_like(overlap_BMP).scatter_(-1, best_BMk.indices, wanted)
    best_overlap_BP, object_BP = chosen_BMP.max(dim=1)
    object_BP, positive_BP = force_matches(match_greedily(alignment_BMP), object_BP, best_overlap_BP > 0)

    priors_xyxy = box_ops.cxcywh_to_xyxy(output.priors)
    assignment = build_assignment(priors_xyxy, boxes, labels, ignore, object_BP, positive_BP)
    return assignment._replace(quality=_quality(alignment_BMP, overlap_BMP, object_BP, positive_BP))


def _scores_of(output: HeadOutput, labels: Tensor) -> Tensor:
    """The predicted score of each object's class at each prior: (B, M, P)."""
    logits = output.logits.float()
    scores_BPC = logits.softmax(dim=-1) if output.score_activation == "softmax" else logits.sigmoid()
    # Rows of classes are copied whole, where a gather over priors picks every number.
    rows = scores_BPC.transpose(1, 2).flatten(0, 1)
    first = torch.arange(len(labels), device=labels.device).unsqueeze(1) * scores_BPC.shape[2]
    return rows.index_select(0, (labels + first).flatten()).view(*labels.shape, scores_BPC.shape[1])


def _is_near(boxes: Tensor, priors: Tensor) -> Tensor:
    """1 where a prior's centre lies in an object, or no prior's centre is nearer to the object's; (B, M, P)."""
    x, y = box_ops.xyxy_to_cxcywh(boxes)[..., :2, None].unbind(dim=-2)
    prior_x, prior_y = priors[:, :2].t().contiguous()
    distance = (x - prior_x).square_().add_((y - prior_y).square_())
    beyond = distance.sub_(distance.amin(dim=-1, keepdim=True))  # 0 for the nearest
    inside = distance_to_edge(boxes, priors[:, :2]).gt_(0)
    return torch.maximum(inside, beyond.le_(0), out=inside)


def _quality(alignment_BMP: Tensor, overlap_BMP: Tensor, object_BP: Tensor, positive_BP: Tensor) -> Tensor:
    """The normalised alignment of each positive prior with its object: (B, P), 0 elsewhere."""

    def of_own(values_BMP: Tensor) -> tuple[Tensor, Tensor]:
        """The positives' own values (B, P), and the largest one of each object (B, M)."""
        own_BP = values_BMP.gather(1, object_BP.unsqueeze(1)).squeeze(1) * positive_BP
        return own_BP, torch.zeros_like(values_BMP[..., 0]).scatter_reduce(1, object_BP, own_BP, "amax")

    alignment_BP, largest_alignment_BM = of_own(alignment_BMP)
    _, largest_overlap_BM = of_own(overlap_BMP)
    scale_BM = largest_overlap_BM / largest_alignment_BM.clamp(min=torch.finfo(torch.float32).tiny)
    return (alignment_BP * scale_BM.gather(1, object_BP)).clamp(max=1)
