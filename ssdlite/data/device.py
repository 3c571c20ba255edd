"""The second half of the augmentation, for whole batches on the device: interpolation, colours, mirrors and fill.

The workers draw everything and hand out the part of each image that is to be seen, with a row of numbers that say
what is to be done. Here nothing waits for a GPU: no value is looked at, and an image that a step is not meant for
goes through it with numbers that change nothing.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ssdlite.data.photometric import GREY
from ssdlite.data.window import Cut
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
    A batch without `pending` rows is given back as it is. Takes 115 bytes a pixel of all inputs while it works.
    """
    if batch.pending is None:
        return batch
    placement, colors = batch.pending[:, : sum(PLACEMENT)], batch.pending[:, sum(PLACEMENT) :]
    sides, target, center, mirrors, fill = placement.split(PLACEMENT, dim=1)
    x, across = _positions(size[1], target[:, 0::2], sides[:, :1], center, mirrors[:, :1])
    y, down = _positions(size[0], target[:, 1::2], sides[:, 1:], center, mirrors[:, 1:])
    images = _interpolate(batch.images, sides, x, y)
    if colors.shape[1]:
        images = distort_batch(images, colors)
    shown = down[:, None, :, None] & across[:, None, None, :]
    images = torch.where(shown, images, fill[:, :, None, None]).round_()
    return batch._replace(images=images.to(torch.uint8, memory_format=torch.channels_last), pending=None)


def distort_batch(images: Tensor, colors: Tensor) -> Tensor:
    """`photometric.distort` of images (B, 3, H, W) float by rows (B, 7): the same parts, in the same order.

    Every part clips to 0..255, and none rounds.
    """
    brightness, contrast, saturation, hue = colors[:, :4, None, None, None].unbind(1)
    images = (images + brightness).clamp_(0, 255).mul_(contrast).clamp_(0, 255)
    grey = sum(share * images[:, [channel]] for channel, share in enumerate(GREY.tolist()))
    images = torch.lerp(grey, images, saturation).clamp_(0, 255)
    images = _shift_hue(images, hue)
    order = colors[:, 4:, None, None].long()
    return images.gather(1, order.expand_as(images))


def _positions(side: int, place: Tensor, part: Tensor, center: Tensor, mirrored: Tensor) -> tuple[Tensor, Tensor]:
    """Along one axis of the output, for each of its pixels: (B, side) where in the part, and whether in it at all.

    `place` (B, 2) is what the part covers of the output, `part` (B, 1) its own length, both in pixels.
    """
    pixels = torch.arange(side, device=place.device, dtype=place.dtype)
    pixels = torch.where(mirrored > 0, side - 1 - pixels, pixels)
    start, end = place[:, :1], place[:, 1:]
    positions = (pixels - start + center) * (part / (end - start)) - center
    # The first and last pixels of the part are repeated, as in `window.resize`.
    return positions.clamp_min(0).minimum(part - 1), (pixels >= start) & (pixels < end)


def _interpolate(pixels: Tensor, sides: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Parts of `sides` (B, 2) (width, height) at columns `x` (B, W) and rows `y` (B, H), bilinear.

    `pixels` (S, 3) uint8 are those of one part after the other -> (B, 3, H, W) float32 in 0..255.
    """
    widths, heights = sides.long().split(1, dim=1)
    areas = widths * heights
    starts = areas.cumsum(0) - areas
    left, upper = x.long(), y.long()  # neither is negative, so that this is the floor
    right, lower = (left + 1).minimum(widths - 1), (upper + 1).minimum(heights - 1)
    along, down = (x - left)[:, None, :, None], (y - upper)[:, :, None, None]

    def row(number: Tensor) -> Tensor:
        first = (starts + number * widths)[:, :, None]
        return torch.lerp(_take(pixels, first + left[:, None]), _take(pixels, first + right[:, None]), along)

    return torch.lerp(row(upper), row(lower), down).permute(0, 3, 1, 2)


def _take(pixels: Tensor, places: Tensor) -> Tensor:
    """(S, 3) uint8 at places (B, H, W) -> (B, H, W, 3) float32."""
    return pixels.index_select(0, places.flatten()).view(*places.shape, 3).float()


def _shift_hue(images: Tensor, degrees: Tensor) -> Tensor:
    """Turn the colour circle of (B, 3, H, W) by `degrees` (B, 1, 1, 1), S and V of HSV being as they were.

    A. R. Smith 1978: H in sixths of the circle from the order of the channels, and each channel back from H.
    """
    red, green, blue = images.unbind(1)
    value, chroma = images.amax(1), images.amax(1) - images.amin(1)
    divisor = chroma.clamp_min(1e-3)  # of a grey, whose H is anything
    after_green = torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor)
    sixths = torch.where(value == red, (green - blue) / divisor, after_green) + degrees[:, 0] / 60
    channels = [_distance(sixths + first) for first in (5, 3, 1)]
    return torch.stack([value - chroma * distance for distance in channels], dim=1)


def _distance(sixths: Tensor) -> Tensor:
    """How far a channel is from the largest, 0..1 of the chroma: 0, then up, 1 for a third of the circle, down."""
    sixths = sixths.remainder(6)
    return torch.minimum(sixths, 4 - sixths).clamp_(0, 1)
