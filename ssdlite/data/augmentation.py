"""SSD's augmentation as one cut and one resize (zooming out and cropping), and its colour distortion."""

from __future__ import annotations

import math
import random
from typing import Any, NamedTuple

import albumentations as A
import cv2
import numpy as np

from ssdlite.data.images import halve, halvings, resize, shrink
from ssdlite.structures import ResizeAlignment

MAX_BRIGHTNESS = 32.0  # grey levels


CONTRAST = (0.5, 1.5)  # factors


SATURATION = (0.5, 1.5)  # factors


MAX_HUE = 18.0  # degrees of the colour circle


PROBABILITY = 0.5  # of each of the four


# Rare: exchanged channels break the tie of colour to class that many custom sets live on.
SHUFFLE_PROBABILITY = 0.1


GREY = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601: the shares of R, G and B in a pixel's grey


LEVELS = np.arange(256.0)


class Colors(NamedTuple):
    """A change of colours; the defaults change nothing."""

    brightness: float = 0.0  # grey levels
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0  # degrees
    order: tuple[int, ...] = (0, 1, 2)  # of the channels


def draw_colors(draw: random.Random) -> Colors:
    """Each part by itself with its probability; parts and ranges as in the code of Liu et al. 2016 (sec. 2.2)."""
    return Colors(
        brightness=_maybe(draw, -MAX_BRIGHTNESS, MAX_BRIGHTNESS, otherwise=0.0),
        contrast=_maybe(draw, *CONTRAST, otherwise=1.0),
        saturation=_maybe(draw, *SATURATION, otherwise=1.0),
        hue=_maybe(draw, -MAX_HUE, MAX_HUE, otherwise=0.0),
        order=tuple(draw.sample(range(3), 3)) if draw.random() < SHUFFLE_PROBABILITY else (0, 1, 2),
    )


def distort(image: np.ndarray, colors: Colors) -> np.ndarray:
    """(H, W, 3) uint8 RGB with other colours, `image` being left as it is.

    Brightness and contrast, saturation, hue, order, always in this sequence. Every part clips to 0..255, so no
    value leaves the range of the real images.
    """
    if colors.brightness != 0 or colors.contrast != 1:
        image = adjust_brightness_and_contrast(image, colors.brightness, colors.contrast)
    if colors.saturation != 1:
        image = adjust_saturation(image, colors.saturation)
    if colors.hue != 0:
        image = shift_hue(image, colors.hue)
    return image if colors.order == (0, 1, 2) else image[..., colors.order]


def adjust_brightness_and_contrast(image: np.ndarray, brightness: float, contrast: float) -> np.ndarray:
    """clip(clip(x + brightness) · contrast): the contrast stretches about black, as in SSD's code.

    `image` is (H, W, 3) uint8; a table of 256 entries holds both, rounded once.
    """
    levels = np.clip(LEVELS + brightness, 0, 255) * contrast
    return cv2.LUT(image, np.minimum(np.rint(levels), 255).astype(np.uint8))


def adjust_saturation(image: np.ndarray, saturation: float) -> np.ndarray:
    """clip(saturation · x + (1 − saturation) · grey(x)) on (H, W, 3) uint8 RGB.

    Blending with the pixel's grey keeps its brightness, as in torchvision and albumentations; SSD's own code scales
    the S of HSV, which keeps the strongest channel instead. As one 3x3 matrix it costs a sixth of HSV.
    """
    matrix = saturation * np.eye(3) + (1 - saturation) * GREY  # each row: one channel and the common grey
    return cv2.transform(image, matrix.astype(np.float32))


def shift_hue(image: np.ndarray, degrees: float) -> np.ndarray:
    """Turn the colour circle of (H, W, 3) uint8 RGB by `degrees`, S and V of HSV being as they were."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)  # H in 256 steps: finer than 180, and uint8 wraps as H does
    hsv[..., 0] += np.uint8(round(degrees * 256 / 360) % 256)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def _maybe(draw: random.Random, low: float, high: float, otherwise: float) -> float:
    """A number of low..high half of the time. Two draws in any case, so that no part moves another's."""
    drawn, number = draw.random() < PROBABILITY, draw.uniform(low, high)
    return number if drawn else otherwise


MAX_ZOOM_OUT = 4.0  # side of the canvas over that of the image


MIN_IOUS: tuple[float | None, ...] = (None, 0.1, 0.3, 0.5, 0.7, 0.9, 0.0)  # None: keep all; 0: any window


NUM_TRIES = 50


MIN_SIDE = 0.3  # of the canvas


ASPECT_RATIOS = (0.5, 2.0)


Crop = np.ndarray  # (4,) xyxy in pixels of the image, may reach beyond it


CORNERS = np.array([[0, 1], [2, 3]], np.uint8)[:, :, None].repeat(3, axis=2)
"""A picture of 2x2 pixels that shows by its first one which mirrors it went through: 1 left to right, 2 top to
bottom, 3 both."""


class Cut(NamedTuple):
    """Window that `WindowResize` has drawn, before bilinear interpolation and colours."""

    part: np.ndarray  # (h, w, 3) uint8: what the window shows of the image, halved as `shrink` does
    target: tuple[int, int, int, int]  # xyxy, pixels of the output: where it belongs
    colors: Colors


def zoom_out(size: tuple[int, int], ratio: float, left: float, top: float) -> Crop:
    """A canvas `ratio` times the image of `size` (height, width); `left` and `top` (0..1) share out its margin."""
    height, width = size
    x, y = -left * (ratio - 1) * width, -top * (ratio - 1) * height
    return np.array([x, y, x + ratio * width, y + ratio * height])


def random_crop(canvas: Crop, boxes: np.ndarray, min_iou: float, draws: np.ndarray) -> Crop:
    """The first acceptable window of those that `draws` (T, 4), uniform in 0..1, stand for; else the canvas.

    Liu et al. 2016, sec. 2.2, by the rule of their code: a window with sides of .3 to 1 of the canvas and an
    aspect ratio of 1/2 to 2 is accepted if at least one of `boxes` (N, 4) has an IoU of `min_iou` with it and
    at least one has its centre inside, so that an object is left. Without boxes any such window will do.
    """
    origin, sides = canvas[:2], canvas[2:] - canvas[:2]
    crop_sides = sides * (MIN_SIDE + (1 - MIN_SIDE) * draws[:, :2])
    corners = origin + (sides - crop_sides) * draws[:, 2:]
    crops = np.hstack([corners, corners + crop_sides])
    aspect_ratios = crop_sides[:, 0] / crop_sides[:, 1]
    accepted = (ASPECT_RATIOS[0] <= aspect_ratios) & (aspect_ratios <= ASPECT_RATIOS[1])
    if len(boxes):
        overlaps, inside = overlap_with_crops(crops, boxes)
        accepted &= (overlaps.max(axis=1) >= min_iou) & inside.any(axis=1)
    return crops[accepted.argmax()] if accepted.any() else canvas


def overlap_with_crops(crops: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IoU, and whether the centre lies inside, of `boxes` (N, 4) with `windows` (T, 4): both (T, N)."""
    w, b = crops[:, None], boxes[None]
    common = (np.minimum(w[..., 2:], b[..., 2:]) - np.maximum(w[..., :2], b[..., :2])).clip(min=0).prod(-1)
    union = (w[..., 2:] - w[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - common
    centers = (b[..., :2] + b[..., 2:]) / 2
    inside = ((centers > w[..., :2]) & (centers < w[..., 2:])).all(-1)
    return common / union, inside


def place(crop: Crop, image_size: tuple[int, int], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The part of the image that `window` shows, and where it lies in an output of `size` (height, width).

    Both are (4,) int xyxy. Rounding moves the window by less than a pixel; boxes follow the rounded map, so
    they stay exact. A window that shows nothing of the image gets its nearest pixel.
    """
    source, target = np.empty(4, int), np.empty(4, int)
    # Plain numbers: numpy takes 45 µs for this, longer than some images.
    for axis, (limit, side) in enumerate(zip(image_size[::-1], size[::-1], strict=True)):
        low, high = float(crop[axis]), float(crop[axis + 2])
        scale = side / (high - low)
        start = min(math.floor(max(low, 0) + 0.5), limit - 1)
        end = max(math.floor(min(high, limit) + 0.5), start + 1)
        first = min(max(math.floor((start - low) * scale + 0.5), 0), side - 1)
        last = min(max(math.floor((end - low) * scale + 0.5), first + 1), side)
        source[[axis, axis + 2]] = start, end
        target[[axis, axis + 2]] = first, last
    return source, target


def trim(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """`source` (4,) int xyxy with sides that `shrink` can halve evenly; less than a pixel of `target` goes."""
    sides, target_sides = source[2:] - source[:2], target[2:] - target[:2]
    step = 1 << halvings((sides[1], sides[0]), (target_sides[1], target_sides[0]))
    return np.concatenate([source[:2], source[2:] - sides % step])


class CropResize(A.DualTransform):
    """Cut a window out of the image and bring it to `size` (height, width); what lies outside gets `fill`.

    `with_colors` distorts the colours of the window's part of the image.
    Boxes (fractions of the image, as between all transforms of albumentations) whose centre lies in the window are
    kept and clipped to it. With `zoom_out_probability` 0 and `with_crop` false it is the plain `resize`.

    With `cut_only` draws and boxes are the same, but the image stays behind as `cut`, and `CORNERS` goes on for it.
    """

    def __init__(
        self,
        size: tuple[int, int],
        fill: tuple[int, int, int],
        zoom_out_probability: float,
        with_crop: bool,
        alignment: ResizeAlignment = "half_pixel",
        with_colors: bool = False,
        cut_only: bool = False,
    ) -> None:
        super().__init__(p=1.0)
        self.size = size
        self.fill_color = fill
        self.zoom_out_probability = zoom_out_probability
        self.with_crop = with_crop
        self.alignment: ResizeAlignment = alignment
        self.with_colors = with_colors
        self.cut_only = cut_only
        self.cut: Cut | None = None
        self.plain = zoom_out_probability == 0 and not with_crop and not with_colors

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        if self.plain:
            return {}
        height, width = image_size = params["shape"][:2]
        crop = np.array([0.0, 0.0, width, height])
        if self.py_random.random() < self.zoom_out_probability:
            ratio = self.py_random.uniform(1, MAX_ZOOM_OUT)
            crop = zoom_out(image_size, ratio, self.py_random.random(), self.py_random.random())
        min_iou = self.py_random.choice(MIN_IOUS) if self.with_crop else None
        if min_iou is not None:
            rows = data["bboxes"]  # x1, y1, x2, y2 as fractions of the image, label, ignore
            objects = rows[rows[:, 5] == 0] if len(rows) else rows
            boxes = objects[:, :4] * (width, height, width, height)
            crop = random_crop(crop, boxes, min_iou, self.random_generator.random((NUM_TRIES, 4)))
        source, target = place(crop, image_size, self.size)
        colors = draw_colors(self.py_random) if self.with_colors else Colors()
        return {"source": trim(source, target), "target": target, "colors": colors}

    def apply(self, img: np.ndarray, *args: Any, **params: Any) -> np.ndarray:
        if self.cut_only:
            self.cut = self._cut(img, params)
            return CORNERS
        if self.plain:
            return resize(img, self.size, self.alignment)
        x1, y1, x2, y2 = params["source"]
        left, top, right, bottom = params["target"]
        part = shrink(img[y1:y2, x1:x2], (bottom - top, right - left), self.alignment)
        part = distort(part, params["colors"])
        if part.shape[:2] == self.size:
            return part
        margins = (top, self.size[0] - bottom, left, self.size[1] - right)
        return cv2.copyMakeBorder(part, *margins, cv2.BORDER_CONSTANT, value=self.fill_color)

    def _cut(self, image: np.ndarray, params: dict[str, Any]) -> Cut:
        if self.plain:
            return Cut(resize(image, self.size, self.alignment), (0, 0, self.size[1], self.size[0]), Colors())
        x1, y1, x2, y2 = params["source"]
        left, top, right, bottom = params["target"].tolist()
        part = halve(image[y1:y2, x1:x2], (bottom - top, right - left), self.alignment)
        return Cut(part, (left, top, right, bottom), params["colors"])

    def apply_to_bboxes(self, bboxes: np.ndarray, *args: Any, **params: Any) -> np.ndarray:
        if self.plain or not len(bboxes):
            return bboxes
        height, width = params["shape"][:2]
        (x1, y1, x2, y2), (left, top, right, bottom) = params["source"], params["target"]
        first = np.array([x1, y1, x1, y1]) / (width, height, width, height)
        last = np.array([x2, y2, x2, y2]) / (width, height, width, height)
        # Positions within the source, 0..1: what is clipped there is clipped to the target.
        places = (bboxes[:, :4] - first) / (last - first)
        inside = (np.abs(places[:, :2] + places[:, 2:] - 1) < 1).all(1)
        output = np.array([self.size[1], self.size[0]] * 2)
        start, side = np.array([left, top] * 2) / output, np.array([right - left, bottom - top] * 2) / output
        return np.concatenate([np.clip(places, 0, 1) * side + start, bboxes[:, 4:]], axis=1)[inside]
