"""From corner maps to boxes: peaks, pairs of one class, and pairs that say they belong together."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssdlite.box_arrays import FRAME
from ssdlite.structures import CornerOutput

NUM_CORNERS = 64
"""Corners of each kind in an image, of all classes together (CornerNet: 100)."""

NUM_PAIRS = 400
"""Boxes of an image: the best of all pairs (CornerNet: 1000)."""

MAX_EMBEDDING_DISTANCE = 1.0  # of two corners of one object: the margin that training asks for between objects


def decode_corners(
    output: CornerOutput, num_corners: int = NUM_CORNERS, num_pairs: int = NUM_PAIRS
) -> tuple[Tensor, Tensor]:
    """Pairs of corners as boxes (B, n, 4) xyxy, input pixels, and scores (B, n, K), best pairs first.

    After Law & Deng 2018, sec. 4.1: a corner is a cell whose logit is the largest of its 3×3 neighbours; the best
    `num_corners` of each kind are all paired; a pair of two classes, or whose second corner is not to the right of
    and below the first, is none. A pair scores √(p₁ p₂) · (1 − d²) in the column of its class and 0 in the others,
    p being the scores of its corners and d the distance of their embeddings, at most 1; what is no pair scores 0 in
    all. n is `num_pairs`, or the number of pairs where that is less.

    CornerNet takes the mean of p₁ and p₂, which lets one sure corner make a box with any other, and cuts at d = .5,
    beyond which a short training leaves one object in seven. Cells that are no peak never make a pair, where its
    code lets them count as corners of score 0.
    """
    height, width = output.input_size
    rows, columns = output.heatmaps.shape[-2:]
    num_classes = output.heatmaps.shape[2]
    logits, cells, labels = _peaks(output.heatmaps.float(), num_corners)  # (B, 2, k) each
    embeddings = output.embeddings.float().flatten(2).gather(2, cells)
    offsets = output.offsets.float().flatten(3)  # (B, 2, 2, h·w)
    x = (cells % columns + offsets[:, :, 0].gather(2, cells)) * (width / columns)
    y = (cells // columns + offsets[:, :, 1].gather(2, cells)) * (height / rows)

    first, second = ((slice(None), 0, slice(None), None), (slice(None), 1, None, slice(None)))
    is_pair = (
        (labels[first] == labels[second])
        & (x[first] < x[second])
        & (y[first] < y[second])
        & (logits[first] > -torch.inf)
        & (logits[second] > -torch.inf)
    )
    distance = (embeddings[first] - embeddings[second]).abs() / MAX_EMBEDDING_DISTANCE
    agreement = (1 - distance.square()).clamp(min=0)
    corner_scores = logits.sigmoid()
    scores_Bkk = ((corner_scores[first] * corner_scores[second]).sqrt() * agreement).where(is_pair, 0.0)
    count = cells.shape[2]
    scores, pairs = scores_Bkk.flatten(1).topk(min(num_pairs, count * count))
    one, other = pairs // count, pairs % count
    corners = (x[:, 0].gather(1, one), y[:, 0].gather(1, one), x[:, 1].gather(1, other), y[:, 1].gather(1, other))
    sides = scores.new_tensor([width, height, width, height])
    boxes = torch.stack(corners, dim=-1).clamp(-FRAME * sides, sides + FRAME * sides)
    is_class = labels[:, 0].gather(1, one).unsqueeze(-1) == torch.arange(num_classes, device=pairs.device)
    return boxes, scores.unsqueeze(-1) * is_class


def _peaks(heatmaps: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """(B, 2, K, h, w) logits -> logits, cells (row · w + column) and classes 0..K-1 of the best peaks, (B, 2, k).

    Where there are too few, the rest has −∞ as logits.
    """
    neighbourhood = F.max_pool2d(heatmaps.flatten(0, 1), 3, stride=1, padding=1).view_as(heatmaps)
    peaks = heatmaps.where(heatmaps == neighbourhood, -torch.inf).flatten(2)
    logits, positions = peaks.topk(min(count, peaks.shape[2]))
    num_cells = heatmaps.shape[-2] * heatmaps.shape[-1]
    return logits, positions % num_cells, positions // num_cells
