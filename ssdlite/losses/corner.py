"""CornerNet's loss: targets as heatmaps of corners, pairs by embeddings, and offsets within a cell (Law & Deng
2018).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssdlite.losses.classification import power
from ssdlite.losses.reduction import mean_over_processes
from ssdlite.structures import CornerOutput, LossTerms

__all__ = ["CornerCriterion", "corner_offset", "draw_corners", "gaussian_radius", "heatmap_focal", "pull_push"]


class CornerTargets(NamedTuple):
    """Targets of a batch of images, on maps of (h, w) cells. In the axis of two, 0 is top-left and 1
    bottom-right."""

    heatmaps: Tensor  # (B, 2, K, h, w) float32 in 0..1; exactly 1 at corners and only there
    ignored: Tensor  # (B, h, w) bool: cells whose negatives do not count
    cells: Tensor  # (B, 2, M) int64, row · w + column of each corner
    offsets: Tensor  # (B, 2, M, 2) x and y of each corner within its cell, in cells
    present: Tensor  # (B, M) bool: objects to learn, neither padding nor ignored


def gaussian_radius(height: Tensor, width: Tensor, min_overlap: float, historical: bool = False) -> Tensor:
    """Return how far, in cells, both corners of a box (...) may move until the IoU with it can be less than
    `min_overlap`.

    The least of three cases (Law & Deng 2018, sec. 3.2, and its code since May 2019): one corner moves in and the
    other out, both in, both out. Each is the root of a·r² − b·r + c = 0. `historical` is what the code computed
    before and many still do: (b + √(b² − 4ac)) / 2, whatever a is, which gives 2.73 for a box of 10×10 at an
    overlap of .7 in place of .82.
    """
    total, area = height + width, height * width
    # a, b, c; the last case is written with −b, so that the root wanted is the one with + in all three formulas.
    c_across = area * (1 - min_overlap) / (1 + min_overlap)
    across = (total**2 - 4 * c_across).clamp(min=0).sqrt()
    c_in = (1 - min_overlap) * area
    inwards = (4 * total**2 - 16 * c_in).clamp(min=0).sqrt()
    b_out = 2 * min_overlap * total
    outwards = (b_out**2 + 16 * min_overlap * c_in).clamp(min=0).sqrt()
    if historical:
        radii = (total + across) / 2, (2 * total + inwards) / 2, (outwards - b_out) / 2
    else:
        radii = (total - across) / 2, (2 * total - inwards) / 8, (outwards - b_out) / (8 * min_overlap)
    return torch.minimum(torch.minimum(radii[0], radii[1]), radii[2])


def draw_corners(
    boxes: Tensor,
    labels: Tensor,
    ignore: Tensor,
    *,
    input_size: tuple[int, int],
    map_size: tuple[int, int],
    num_classes: int,
    min_overlap: float,
    historical_radius: bool = False,
) -> CornerTargets:
    """Padded targets -> what the maps of `map_size` (h, w) are to show.

    Around each corner a Gaussian of σ = (2r + 1)/6 is drawn in the window of ±r cells, r being `gaussian_radius` of
    the box rounded down; where two overlap, the larger value stands (CornerNet's code).

    Args:
        boxes: (B, M, 4) xyxy, input pixels. A corner on the far border of the input belongs to the last cell.
        labels: (B, M) in 1..K, 0 for padding.
        ignore: (B, M) bool; these have no peak, and negatives inside them do not count, whatever the class.
        input_size: (height, width) in pixels.
    """
    if not boxes.shape[1]:  # a padded object, so that there is something to draw
        boxes, labels = boxes.new_zeros(len(boxes), 1, 4), labels.new_zeros(len(boxes), 1)
        ignore = ignore.new_zeros(len(boxes), 1)
    rows, columns = map_size
    x = boxes[..., 0::2].float().transpose(1, 2) * (columns / input_size[1])  # (B, 2, M), in cells
    y = boxes[..., 1::2].float().transpose(1, 2) * (rows / input_size[0])
    column, row = x.floor().clamp(0, columns - 1), y.floor().clamp(0, rows - 1)
    present = (labels > 0) & ~ignore

    width, height = (x[:, 1] - x[:, 0]).ceil(), (y[:, 1] - y[:, 0]).ceil()  # (B, M)
    radius = gaussian_radius(height, width, min_overlap, historical_radius).floor().clamp(min=0)
    hills = _hill(row, radius, rows).unsqueeze(-1) * _hill(column, radius, columns).unsqueeze(-2)  # (B, 2, M, h, w)
    inside = _within(row, rows).unsqueeze(-1) & _within(column, columns).unsqueeze(-2)  # (B, M, h, w)
    return CornerTargets(
        heatmaps=_largest_by_class(hills, labels * present, num_classes),
        ignored=(inside & (ignore & (labels > 0))[..., None, None]).any(dim=1),
        cells=(row * columns + column).long(),
        offsets=torch.stack([x - column, y - row], dim=-1),
        present=present,
    )


def _hill(centers: Tensor, radius: Tensor, size: int) -> Tensor:
    """One axis of the Gaussians: centres (B, 2, M) and radius (B, M), in cells -> (B, 2, M, size)."""
    distances = torch.arange(size, device=centers.device) - centers.unsqueeze(-1)
    radius = radius[:, None, :, None]
    sigma = (2 * radius + 1) / 6
    values = torch.exp(-(distances**2) / (2 * sigma**2))
    return values * (distances.abs() <= radius)


def _largest_by_class(hills: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """(B, 2, M, h, w) of labels (B, M), 0 for none -> (B, 2, K, h, w), 0 where there is no hill."""
    heatmaps = hills.new_zeros(*hills.shape[:2], num_classes + 1, *hills.shape[3:])
    index = labels[:, None, :, None, None].expand_as(hills)
    return heatmaps.scatter_reduce(2, index, hills, "amax")[:, :, 1:]


def _within(cells: Tensor, size: int) -> Tensor:
    """First and last cell of one axis (B, 2, M) -> (B, M, size) bool."""
    positions = torch.arange(size, device=cells.device)
    return (positions >= cells[:, 0].unsqueeze(-1)) & (positions <= cells[:, 1].unsqueeze(-1))


PUSH_MARGIN = 1.0  # Δ in eq. 5: means of two objects that are further apart are left alone


def heatmap_focal(
    logits: Tensor, targets: Tensor, alpha: float = 2.0, beta: float = 4.0, ignored: Tensor | None = None
) -> Tensor:
    """Focal loss on a Gaussian heatmap (Law & Deng 2018, eq. 1):

        −1/N Σ  (1 − p)^α · log p               where y = 1
                (1 − y)^β · p^α · log(1 − p)    elsewhere

    N is the number of peaks in the batch, 1 where there is none (over several processes: its mean over them). The
    logarithms are taken from the logits; the original clamps p to [1e-4, 1 − 1e-4] first, which cuts off the
    gradient where it is needed most.

    Args:
        logits: (...), any shape; p is their sigmoid.
        targets: y of the same shape in 0..1, exactly 1 at peaks.
        ignored: bool that broadcasts to the shape; what is no peak does not count there.
    """
    logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    is_peak = targets == 1
    num_peaks = mean_over_processes(is_peak.sum(), at_least=1)
    positive = power(torch.sigmoid(-logits), alpha) * F.softplus(-logits)
    negative = (1 - targets) ** beta * power(torch.sigmoid(logits), alpha) * F.softplus(logits)
    if ignored is not None:
        negative = negative.masked_fill(ignored, 0)
    return torch.where(is_peak, positive, negative).sum() / num_peaks


def pull_push(top_left: Tensor, bottom_right: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Make the two embeddings of an object alike, and those of two objects of an image differ.

        pull = 1/N Σ_k (e_tl,k − e_k)² + (e_br,k − e_k)²            e_k: the mean of the two
        push = 1/(N(N−1)) Σ_k Σ_{j≠k} max(0, 1 − |e_k − e_j|)

    (Law & Deng 2018, eq. 4 and 5), of each image with its own N, then the mean over images. Images with no object
    have 0, as has push with one.

    Args:
        top_left, bottom_right: (B, M) embeddings at the corners of each object, of any value where it is absent.
        present: (B, M) bool.
    """
    counts = present.sum(dim=1)
    means = (top_left + bottom_right) / 2
    pulls = ((top_left - means) ** 2 + (bottom_right - means) ** 2).where(present, 0.0)
    pull = pulls.sum(dim=1) / counts.clamp(min=1)
    gaps = (PUSH_MARGIN - (means.unsqueeze(2) - means.unsqueeze(1)).abs()).clamp(min=0)  # (B, M, M)
    others = ~torch.eye(present.shape[1], dtype=torch.bool, device=present.device)
    pushes = gaps.where(present.unsqueeze(2) & present.unsqueeze(1) & others, 0.0)
    push = pushes.sum(dim=(1, 2)) / (counts * (counts - 1)).clamp(min=1)
    return pull.mean(), push.mean()


def corner_offset(offsets: Tensor, targets: Tensor, present: Tensor) -> Tensor:
    """Smooth L1 with β = 1, summed over x and y at the corners of all objects / N (Law & Deng 2018, eq. 3).

    N is the number of objects in the batch, at least 1 (over several processes: its mean over them).

    Args:
        offsets, targets: (B, M, 2), in cells.
        present: (B, M) bool.
    """
    losses = F.smooth_l1_loss(offsets, targets, reduction="none").where(present.unsqueeze(-1), 0.0)
    return losses.sum() / mean_over_processes(present.sum(), at_least=1)


class CornerCriterion(nn.Module):
    """Criterion from CornerOutput and padded targets to the terms heatmap, pull, push and offset, in float32.

    Heatmap and offset terms are sums over the two kinds of corners, each with its own N.

    Args:
        heatmap_alpha, heatmap_beta: exponents of `heatmap_focal`.
        pull_weight, push_weight, offset_weight: of the other terms.
        min_overlap, historical_radius: how far hills reach, see `corner_targets.gaussian_radius`.
    """

    def __init__(
        self,
        *,
        heatmap_alpha: float = 2.0,
        heatmap_beta: float = 4.0,
        pull_weight: float = 0.1,
        push_weight: float = 0.1,
        offset_weight: float = 1.0,
        min_overlap: float = 0.3,
        historical_radius: bool = False,
    ) -> None:
        super().__init__()
        self.heatmap_alpha = heatmap_alpha
        self.heatmap_beta = heatmap_beta
        self.pull_weight = pull_weight
        self.push_weight = push_weight
        self.offset_weight = offset_weight
        self.min_overlap = min_overlap
        self.historical_radius = historical_radius

    @torch.no_grad()
    def draw(self, output: CornerOutput, boxes: Tensor, labels: Tensor, ignore: Tensor) -> CornerTargets:
        """Padded targets (B, M, 4), (B, M), (B, M) -> what the maps are to show."""
        return draw_corners(
            boxes,
            labels,
            ignore,
            input_size=output.input_size,
            map_size=(output.heatmaps.shape[3], output.heatmaps.shape[4]),
            num_classes=output.heatmaps.shape[2],
            min_overlap=self.min_overlap,
            historical_radius=self.historical_radius,
        )

    def forward(self, output: CornerOutput, boxes: Tensor, labels: Tensor, ignore: Tensor) -> LossTerms:
        targets = self.draw(output, boxes, labels, ignore)
        embeddings = output.embeddings.float().flatten(2).gather(2, targets.cells)
        maps_at = targets.cells.unsqueeze(2).expand(-1, -1, 2, -1)
        offsets = output.offsets.float().flatten(3).gather(3, maps_at).transpose(2, 3)  # (B, 2, M, 2)
        ignored = targets.ignored.unsqueeze(1)
        alpha, beta = self.heatmap_alpha, self.heatmap_beta
        heatmap = [
            heatmap_focal(output.heatmaps[:, kind], targets.heatmaps[:, kind], alpha, beta, ignored)
            for kind in (0, 1)
        ]
        offset = [corner_offset(offsets[:, kind], targets.offsets[:, kind], targets.present) for kind in (0, 1)]
        pull, push = pull_push(embeddings[:, 0], embeddings[:, 1], targets.present)
        return {
            "heatmap": heatmap[0] + heatmap[1],
            "pull": pull * self.pull_weight,
            "push": push * self.push_weight,
            "offset": (offset[0] + offset[1]) * self.offset_weight,
        }
