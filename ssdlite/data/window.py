"""The geometry of SSD's augmentation: zooming out and cropping, as one cut and one resize.

Both only choose a rectangle of the image's plane, which may reach beyond the image. So the pixels are touched
once, at the size of the network's input, instead of filling a canvas of up to 16 times the image.
"""

from __future__ import annotations

from typing import Any

import albumentations as A
import cv2
import numpy as np

from ssdlite.structures import ResizeAlignment

MAX_ZOOM_OUT = 4.0  # side of the canvas over that of the image
MIN_IOUS: tuple[float | None, ...] = (None, 0.1, 0.3, 0.5, 0.7, 0.9, 0.0)  # None: keep all; 0: any window
NUM_TRIES = 50
MIN_SIDE = 0.3  # of the canvas
ASPECT_RATIOS = (0.5, 2.0)

Window = np.ndarray  # (4,) xyxy in pixels of the image, may reach beyond it


def resize(image: np.ndarray, size: tuple[int, int], alignment: ResizeAlignment = "half_pixel") -> np.ndarray:
    """(H, W, 3) -> (*size, 3) with size (height, width); training, validation and prediction share it.

    Bilinear, as in the published models; pixels are averaged where both sides shrink to less than half, since
    bilinear interpolation would skip some of them. `asymmetric` never averages: it gives the pixels of TensorFlow
    1's resize_bilinear. With OpenCV 5 they differ by rounding alone; OpenCV 4 rounds positions to 1/32 pixel, which
    is up to five grey levels on noise and one on photographs.
    """
    height, width = image.shape[:2]
    if alignment == "asymmetric":
        scale = np.array([[width / size[1], 0, 0], [0, height / size[0], 0]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(image, scale, size[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
    shrinks = height > 2 * size[0] and width > 2 * size[1]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def zoom_out(size: tuple[int, int], ratio: float, left: float, top: float) -> Window:
    """A canvas `ratio` times the image of `size` (height, width); `left` and `top` (0..1) share out its margin."""
    height, width = size
    x, y = -left * (ratio - 1) * width, -top * (ratio - 1) * height
    return np.array([x, y, x + ratio * width, y + ratio * height])


def crop(canvas: Window, boxes: np.ndarray, min_iou: float, draws: np.ndarray) -> Window:
    """The first acceptable window of those that `draws` (T, 4), uniform in 0..1, stand for; else the canvas.

    Liu et al. 2016, sec. 2.2, by the rule of their code: a window with sides of .3 to 1 of the canvas and an
    aspect ratio of 1/2 to 2 is accepted if at least one of `boxes` (N, 4) has an IoU of `min_iou` with it and
    at least one has its centre inside, so that an object is left. Without boxes any such window will do.
    """
    origin, sides = canvas[:2], canvas[2:] - canvas[:2]
    window_sides = sides * (MIN_SIDE + (1 - MIN_SIDE) * draws[:, :2])
    corners = origin + (sides - window_sides) * draws[:, 2:]
    windows = np.hstack([corners, corners + window_sides])
    aspect_ratios = window_sides[:, 0] / window_sides[:, 1]
    accepted = (ASPECT_RATIOS[0] <= aspect_ratios) & (aspect_ratios <= ASPECT_RATIOS[1])
    if len(boxes):
        overlaps, inside = overlap_with_windows(windows, boxes)
        accepted &= (overlaps.max(axis=1) >= min_iou) & inside.any(axis=1)
    return windows[accepted.argmax()] if accepted.any() else canvas


def overlap_with_windows(windows: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IoU, and whether the centre lies inside, of `boxes` (N, 4) with `windows` (T, 4): both (T, N)."""
    w, b = windows[:, None], boxes[None]
    common = (np.minimum(w[..., 2:], b[..., 2:]) - np.maximum(w[..., :2], b[..., :2])).clip(min=0).prod(-1)
    union = (w[..., 2:] - w[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - common
    centers = (b[..., :2] + b[..., 2:]) / 2
    inside = ((centers > w[..., :2]) & (centers < w[..., 2:])).all(-1)
    return common / union, inside


def place(window: Window, image_size: tuple[int, int], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The part of the image that `window` shows, and where it lies in an output of `size` (height, width).

    Both are (4,) int xyxy. Rounding moves the window by less than a pixel; boxes follow the rounded map, so
    they stay exact. A window that shows nothing of the image gets its nearest pixel.
    """
    limits = np.array(image_size[::-1])
    start = np.minimum(np.floor(window[:2].clip(min=0) + 0.5), limits - 1)
    end = np.maximum(np.floor(np.minimum(window[2:], limits) + 0.5), start + 1)
    output_sides = np.array(size[::-1])
    scale = output_sides / (window[2:] - window[:2])
    output_start = np.floor((start - window[:2]) * scale + 0.5).clip(0, output_sides - 1)
    output_end = np.floor((end - window[:2]) * scale + 0.5).clip(output_start + 1, output_sides)
    return np.hstack([start, end]).astype(int), np.hstack([output_start, output_end]).astype(int)


class WindowResize(A.DualTransform):
    """Cut a window out of the image and bring it to `size` (height, width); what lies outside gets `fill`.

    Boxes whose centre lies in the window are kept and clipped to it. With `zoom_out_probability` 0 and `with_crop`
    false it is a plain resize.
    """

    def __init__(
        self,
        size: tuple[int, int],
        fill: tuple[int, int, int],
        zoom_out_probability: float,
        with_crop: bool,
        alignment: ResizeAlignment = "half_pixel",
    ) -> None:
        super().__init__(p=1.0)
        self.size = size
        self.fill_color = fill
        self.zoom_out_probability = zoom_out_probability
        self.with_crop = with_crop
        self.alignment: ResizeAlignment = alignment

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        height, width = image_size = params["shape"][:2]
        window = np.array([0.0, 0.0, width, height])
        if self.py_random.random() < self.zoom_out_probability:
            ratio = self.py_random.uniform(1, MAX_ZOOM_OUT)
            window = zoom_out(image_size, ratio, self.py_random.random(), self.py_random.random())
        min_iou = self.py_random.choice(MIN_IOUS) if self.with_crop else None
        if min_iou is not None:
            rows = data["bboxes"]  # x1, y1, x2, y2 as fractions of the image, label, ignore
            objects = rows[rows[:, 5] == 0] if len(rows) else rows
            boxes = objects[:, :4] * (width, height, width, height)
            window = crop(window, boxes, min_iou, self.random_generator.random((NUM_TRIES, 4)))
        source, target = place(window, image_size, self.size)
        return {"source": source, "target": target}

    def apply(self, img: np.ndarray, *args: Any, **params: Any) -> np.ndarray:
        x1, y1, x2, y2 = params["source"]
        left, top, right, bottom = params["target"]
        part = resize(img[y1:y2, x1:x2], (bottom - top, right - left), self.alignment)
        if part.shape[:2] == self.size:
            return part
        margins = (top, self.size[0] - bottom, left, self.size[1] - right)
        return cv2.copyMakeBorder(part, *margins, cv2.BORDER_CONSTANT, value=self.fill_color)

    def apply_to_bboxes(self, bboxes: np.ndarray, *args: Any, **params: Any) -> np.ndarray:
        source, target = params["source"], params["target"]
        height, width = params["shape"][:2]
        boxes = bboxes[:, :4] * (width, height, width, height)
        inside = overlap_with_windows(source[None], boxes)[1][0]
        scale = (target[2:] - target[:2]) / (source[2:] - source[:2])
        moved = (boxes - np.tile(source[:2], 2)) * np.tile(scale, 2) + np.tile(target[:2], 2)
        moved = np.clip(moved, np.tile(target[:2], 2), np.tile(target[2:], 2)) / np.tile(self.size[::-1], 2)
        return np.hstack([moved, bboxes[:, 4:]])[inside].astype(np.float32)
