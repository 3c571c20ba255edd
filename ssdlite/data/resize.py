"""Bringing an image to the size of the network's input; training, validation and prediction share it."""

from __future__ import annotations

import math

import cv2
import numpy as np

from ssdlite.structures import ResizeAlignment


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


def halvings(size: tuple[int, int], target: tuple[int, int]) -> int:
    """How often both sides of `size` can be halved and stay at `target` (height, width) or above."""
    ratio = min(size[0] / target[0], size[1] / target[1])
    return max(0, math.ceil(math.log2(ratio)) - 1) if ratio > 1 else 0


def shrink(image: np.ndarray, size: tuple[int, int], alignment: ResizeAlignment = "half_pixel") -> np.ndarray:
    """`resize` for windows of training, where it would average: halve until bilinear interpolation skips nothing.

    Averages of 2x2 pixels are vectorised in OpenCV, those of 2.13x2.13 are not: 640x640 to 150x150 takes 0.17 ms
    in place of 1.0. Where the sides of `image` are no multiples of the power of two it is right but slow.
    """
    return resize(halve(image, size, alignment), size, alignment)


def halve(image: np.ndarray, size: tuple[int, int], alignment: ResizeAlignment = "half_pixel") -> np.ndarray:
    """The first part of `shrink`: (H, W, 3) -> what is left to interpolate."""
    if alignment == "half_pixel":
        for _ in range(halvings(image.shape[:2], size)):
            half = (image.shape[1] // 2, image.shape[0] // 2)
            image = cv2.resize(image, half, interpolation=cv2.INTER_AREA)
    return image
