"""Assignment by what the network predicts: the priors that do an object best learn it."""

from __future__ import annotations

import torch
from torch import Tensor

from ssdlite import boxes as box_ops
from ssdlite.losses.blocks import in_blocks
from ssdlite.losses.matching import depth_in, finish, force_matches, match_greedily
from ssdlite.structures import Assignment, HeadOutput


@in_blocks(times=1)
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
    assignment = finish(priors_xyxy, boxes, labels, ignore, object_BP, positive_BP)
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
    inside = depth_in(boxes, priors[:, :2]).gt_(0)
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
