"""SSD's colour distortion of uint8 images: what is drawn, and what is done with it."""

from __future__ import annotations

import random
from typing import NamedTuple

import cv2
import numpy as np

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
