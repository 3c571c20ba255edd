"""What the corner maps are to show: a peak at each corner, and around it a hill of those nearly as good."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class CornerTargets(NamedTuple):
    """Of a batch of images, on maps of (h, w) cells. In the axis of two, 0 is top-left and 1 bottom-right."""

    heatmaps: Tensor  # (B, 2, K, h, w) float32 in 0..1; exactly 1 at corners and only there
    ignored: Tensor  # (B, h, w) bool: cells whose negatives do not count
    cells: Tensor  # (B, 2, M) int64, row · w + column of each corner
    offsets: Tensor  # (B, 2, M, 2) x and y of each corner within its cell, in cells
    present: Tensor  # (B, M) bool: objects to learn, neither padding nor ignored


def gaussian_radius(height: Tensor, width: Tensor, min_overlap: float, historical: bool = False) -> Tensor:
    """How far, in cells, both corners of a box (...) may move until the IoU with it can be less than `min_overlap`.

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
