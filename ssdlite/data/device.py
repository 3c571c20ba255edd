"""The second half of the augmentation, for whole batches on the device: interpolation, colours, mirrors and fill.

The workers draw everything and hand out the part of each image that is to be seen, with a row of numbers that say
what is to be done. Here nothing waits for a GPU: no value is looked at, and an image that a step is not meant for
goes through it with numbers that change nothing.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ssdlite.data.augmentation import GREY, Cut
from ssdlite.structures import Batch, ResizeAlignment

# The columns of a row: width and height of the part; x1, y1, x2, y2 of its place in the output; the offset of pixel
# centres; mirrored, upside down; R, G, B of the fill. With colours also brightness, contrast, saturation, hue and
# three for the order of the channels, as in `photometric.Colors`.
PLACEMENT = (2, 4, 1, 2, 3)


def describe(
    cut: Cut,
    *,
    mirrored: bool,
    upside_down: bool,
    fill: tuple[int, int, int],
    alignment: ResizeAlignment,
    with_colors: bool,
) -> np.ndarray:
    """The row (R,) float32 of one image; all rows of a batch are with colours, or none is."""
    height, width = cut.part.shape[:2]
    center = 0.5 if alignment == "half_pixel" else 0.0
    colors = (*cut.colors[:4], *cut.colors.order) if with_colors else ()
    numbers = (width, height, *cut.target, center, mirrored, upside_down, *fill, *colors)
    return np.array(numbers, np.float32)


def finish_images(batch: Batch, size: tuple[int, int]) -> Batch:
    """The network inputs (B, 3, H, W) uint8 of `size` (height, width) for a batch of drafts, on its device.

    They are those that `window` and `photometric` make of the same draws, but for rounding: once here, after each
    step there, where H of HSV has 256 values. On photographs .2 levels in the mean, and 99 % of values within one.
    A batch without `pending` rows is given back as it is. Takes 96 bytes a pixel of all inputs while it works,
    60 without colours.
    """
    if batch.pending is None:
        return batch
    placement, colors = batch.pending[:, : sum(PLACEMENT)], batch.pending[:, sum(PLACEMENT) :]
    sides, target, center, mirrors, fill = placement.split(PLACEMENT, dim=1)
    positions, within = _positions(size, target, sides, center, mirrors)
    images = _interpolate(batch.images, sides, positions, size)
    if colors.shape[1]:
        images = distort_batch(images, colors)
    height, width = size
    shown = within[:, 1, None, :height, None] & within[:, 0, None, None, :width]
    images = torch.where(shown, images, fill[:, :, None, None]).round_()
    return batch._replace(images=images.to(torch.uint8, memory_format=torch.channels_last), pending=None)


def distort_batch(images: Tensor, colors: Tensor) -> Tensor:
    """`photometric.distort` of images (B, 3, H, W) float by rows (B, 7): the same parts, in the same order.

    Every part clips to 0..255, and none rounds.
    """
    brightness, contrast, saturation, hue = colors[:, :4, None, None, None].unbind(1)
    images = (images + brightness).clamp_(0, 255).mul_(contrast).clamp_(0, 255)
    red, green, blue = (
        share * channel for share, channel in zip(GREY.tolist(), images.split(1, dim=1), strict=True)
    )
    images = torch.lerp(red.add_(green).add_(blue), images, saturation).clamp_(0, 255)
    images = _shift_hue(images, hue)
    order = colors[:, 4:, None, None].long()
    return images.gather(1, order.expand_as(images))


def _positions(
    size: tuple[int, int], target: Tensor, sides: Tensor, center: Tensor, mirrors: Tensor
) -> tuple[Tensor, Tensor]:
    """Along both axes of the output, for each of its pixels: where in the part, and whether in it at all.

    Both (B, 2, L), x and then y, with L pixels on the longer side; beyond the shorter one they mean nothing.
    `target` (B, 4) is what the part covers of the output, `sides` (B, 2) its own width and height, in pixels.
    """
    height, width = size
    start, end = target.unflatten(1, (2, 2)).unbind(1)  # (B, 2) each
    pixels = torch.arange(max(size), device=target.device, dtype=target.dtype)
    last = torch.linspace(width - 1, height - 1, 2, device=target.device, dtype=target.dtype)
    # Mirrored, the pixel that is as far from the other end.
    pixels = (pixels - (mirrors * last).unsqueeze(-1)).abs_()
    scale, center = (sides / (end - start)).unsqueeze(-1), center.unsqueeze(-1)
    start, end = start.unsqueeze(-1), end.unsqueeze(-1)
    positions = (pixels - start).add_(center).mul_(scale).sub_(center)
    # The first and last pixels of the part are repeated, as in `window.resize`.
    positions = positions.clamp_min_(0).minimum((sides - 1).unsqueeze(-1))
    return positions, (pixels >= start) & (pixels < end)


def _interpolate(pixels: Tensor, sides: Tensor, positions: Tensor, size: tuple[int, int]) -> Tensor:
    """Parts of `sides` (B, 2) (width, height) at `positions` (B, 2, L), bilinear.

    `pixels` (S, 3) uint8 are those of one part after the other -> (B, 3, H, W) float32 in 0..255.
    """
    height, width = size
    sides = sides.long()
    areas = sides.prod(dim=1, keepdim=True)
    starts = areas.cumsum(0) - areas
    first = positions.long()  # none is negative, so that this is the floor
    near = torch.stack([first, (first + 1).minimum((sides - 1).unsqueeze(-1))])  # (2, B, 2, L)
    beyond = positions - first
    rows = near[:, :, 1, :height] * sides[:, :1] + starts  # (2, B, H)
    columns = near[:, :, 0, None, :width]  # (2, B, 1, W)
    along, down = beyond[:, 0, None, :width, None], beyond[:, 1, :height, None, None]
    places = rows[:, None, ..., None] + columns  # (2, 2, B, H, W): upper, lower; left, right
    corners = pixels.index_select(0, places.flatten()).view(*places.shape, 3)
    del places
    # One row of corners after the other: both at once hold 24 bytes a pixel more, for two launches fewer.
    upper, lower = (_mix_ends(row, along) for row in corners)
    return torch.lerp(upper, lower, down).permute(0, 3, 1, 2)


def _mix_ends(ends: Tensor, share: Tensor) -> Tensor:
    """Interpolate between the two entries of `ends` (2, ...), of bytes, by `share` of the second."""
    first, second = ends.float()
    return torch.lerp(first, second, share)


def _shift_hue(images: Tensor, degrees: Tensor) -> Tensor:
    """Turn the colour circle of (B, 3, H, W) by `degrees` (B, 1, 1, 1), S and V of HSV being as they were.

    A. R. Smith 1978: H in sixths of the circle from the order of the channels, and each channel back from H.
    """
    red, green, blue = images.unbind(1)
    least, value = images.aminmax(dim=1)
    chroma = value - least
    divisor = chroma.clamp_min(1e-3)  # of a grey, whose H is anything
    after_green = torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    sixths = torch.where(value == red, (green - blue) / divisor, after_green) + degrees[:, 0] / 60
    # From the largest channel's H to each channel's.
    turns = torch.arange(5, 0, -2, device=images.device, dtype=images.dtype)[:, None, None]
    return value.unsqueeze(1) - chroma.unsqueeze(1) * _distance(sixths.unsqueeze(1) + turns)


def _distance(sixths: Tensor) -> Tensor:
    """Return how far a channel is from the largest, 0..1 of the chroma: 0, then up, 1 for a third of the circle,
    down."""
    sixths = sixths.remainder_(6)
    return torch.minimum(sixths, 4 - sixths).clamp_(0, 1)
