"""Which objects of a batch are learnt, and by how many priors: what a criterion's assignment does in practice."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from ssdlite.boxes import cxcywh_to_xyxy
from ssdlite.losses.criterion import Assigner
from ssdlite.losses.matching import learnable_iou
from ssdlite.structures import Batch, HeadOutput


class Matches(NamedTuple):
    """One entry for each of the N objects of a batch that are to be learnt, image after image."""

    num_priors: np.ndarray  # (N,) int64: priors that learn the object
    best_iou: np.ndarray  # (N,) float32: its overlap with the best of all priors, whoever learns it


@torch.no_grad()
def count_matches(assign: Assigner, output: HeadOutput, batch: Batch) -> Matches:
    """What `assign` makes of the objects of `batch`, which `output` is the answer to."""
    if not batch.labels.shape[1]:
        return Matches(np.zeros(0, np.int64), np.zeros(0, np.float32))
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
    return Matches(num_priors[learnable].cpu().numpy(), best_iou[learnable].cpu().numpy())
