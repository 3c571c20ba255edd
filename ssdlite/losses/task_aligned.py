"""Assignment by what the network predicts: the priors that do an object best learn it."""

from __future__ import annotations

import torch
from torch import Tensor

from ssdlite import boxes as box_ops
from ssdlite.losses.matching import finish, force_matches, match_greedily
from ssdlite.structures import Assignment, HeadOutput


@torch.no_grad()
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
    predicted_BP4 = box_ops.decode(output.deltas.detach().float(), output.priors)
    overlap_BMP = box_ops.iou(boxes, predicted_BP4)
    overlap_BMP = torch.nan_to_num(overlap_BMP)  # of a size that overflowed
    alignment_BMP = _scores_of(output, labels).pow(score_power) * overlap_BMP.pow(overlap_power)
    wanted_BMP = _is_near(boxes, output.priors) & ((labels > 0) & ~ignore).unsqueeze(-1)
    alignment_BMP = torch.where(wanted_BMP, alignment_BMP, 0)

    best_BMk = alignment_BMP.topk(min(candidates, alignment_BMP.shape[-1]), dim=-1)
    chosen_BMP = torch.zeros_like(wanted_BMP).scatter(-1, best_BMk.indices, best_BMk.values > 0)
    object_BP = torch.where(chosen_BMP, overlap_BMP, -1.0).argmax(dim=1)
    object_BP, positive_BP = force_matches(match_greedily(alignment_BMP), object_BP, chosen_BMP.any(dim=1))

    common_BMP = box_ops.intersection(boxes, box_ops.cxcywh_to_xyxy(output.priors))
    assignment = finish(output.priors, boxes, labels, ignore, object_BP, positive_BP, common_BMP)
    return assignment._replace(quality=_quality(alignment_BMP, overlap_BMP, object_BP, positive_BP))


def _scores_of(output: HeadOutput, labels: Tensor) -> Tensor:
    """The predicted score of each object's class at each prior: (B, M, P)."""
    logits = output.logits.detach().float()
    scores_BPC = logits.softmax(dim=-1) if output.score_activation == "softmax" else logits.sigmoid()
    return scores_BPC.gather(2, labels.unsqueeze(1).expand(-1, scores_BPC.shape[1], -1)).transpose(1, 2)


def _is_near(boxes: Tensor, priors: Tensor) -> Tensor:
    """Whether a prior's centre lies in an object, or no prior's centre is nearer to the object's: (B, M, P)."""
    x, y = priors[:, 0], priors[:, 1]
    x1, y1, x2, y2 = boxes.unsqueeze(-2).movedim(-1, 0)  # (B, M, 1) each
    inside = (x > x1) & (x < x2) & (y > y1) & (y < y2)
    distance = (x - (x1 + x2) / 2).square() + (y - (y1 + y2) / 2).square()
    return inside | (distance <= distance.amin(dim=-1, keepdim=True))


def _quality(alignment_BMP: Tensor, overlap_BMP: Tensor, object_BP: Tensor, positive_BP: Tensor) -> Tensor:
    """The normalised alignment of each positive prior with its object: (B, P), 0 elsewhere."""
    objects = torch.arange(alignment_BMP.shape[1], device=object_BP.device).view(1, -1, 1)
    mine_BMP = (object_BP.unsqueeze(1) == objects) & positive_BP.unsqueeze(1)
    alignment_BMP = alignment_BMP * mine_BMP
    largest_overlap = (overlap_BMP * mine_BMP).amax(dim=-1, keepdim=True)
    scale = largest_overlap / alignment_BMP.amax(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return (alignment_BMP * scale).amax(dim=1).clamp(max=1)
