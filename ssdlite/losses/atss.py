"""Adaptive training sample selection: a threshold for each object, from its own overlaps."""

from __future__ import annotations

import torch
from torch import Tensor

from ssdlite import boxes as box_ops
from ssdlite.losses.blocks import in_blocks
from ssdlite.losses.matching import depth_in, finish, force_matches, learnable_iou, match_greedily
from ssdlite.structures import Assignment, HeadOutput


@in_blocks(times=1)
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
    inside_BMP = depth_in(boxes, priors[:, :2]).gt_(0)
    claimed_BMP = inside_BMP.mul_(_passes_threshold(iou_BMP, boxes, output, candidates))
    best_iou_BP, object_BP = claimed_BMP.mul_(iou_BMP).max(dim=1)
    positive_BP = best_iou_BP > 0

    # Above every overlap: who has priors reserves one of them before the others choose.
    own_BP = torch.where(positive_BP, best_iou_BP + 1, 0)
    most_BM = torch.zeros_like(iou_BMP[..., 0]).scatter_reduce(1, object_BP, own_BP, "amax")
    wishes_BMP = iou_BMP.mul_((most_BM == 0).to(iou_BMP.dtype).unsqueeze(-1))
    wishes_BMP.scatter_reduce_(1, object_BP.unsqueeze(1), own_BP.unsqueeze(1), "amax")
    object_BP, positive_BP = force_matches(match_greedily(wishes_BMP), object_BP, positive_BP)
    return finish(priors_xyxy, boxes, labels, ignore, object_BP, positive_BP)


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
