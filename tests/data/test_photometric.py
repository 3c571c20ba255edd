from __future__ import annotations

import colorsys
import random

import albumentations as A
import cv2
import numpy as np
import pytest

from ssdlite.data.augmentation import (
    Colors,
    adjust_brightness_and_contrast,
    adjust_saturation,
    distort,
    draw_colors,
    shift_hue,
)


def pixels(*rgb: tuple[int, int, int]) -> np.ndarray:
    """An image of one row."""
    return np.array([rgb], np.uint8)


@pytest.fixture
def picture() -> np.ndarray:
    """Smooth and of all colours, 40x50."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)


def test_brightness_and_contrast_by_hand() -> None:
    """(100 + 20) · 1.5 = 180; 250 + 20 is clipped to 255 before the factor .5 and 2 − 32 to 0, so 127.5 and 0."""
    assert adjust_brightness_and_contrast(pixels((100, 0, 200)), 20, 1.5).tolist() == [[[180, 30, 255]]]
    assert adjust_brightness_and_contrast(pixels((250, 2, 40)), 20, 0.5).tolist() == [[[128, 11, 30]]]
    assert adjust_brightness_and_contrast(pixels((250, 2, 40)), -32, 1.5).tolist() == [[[255, 0, 12]]]


@pytest.mark.parametrize("brightness", [-32, -7, 15, 32])
def test_brightness_is_that_of_albumentations(picture: np.ndarray, brightness: int) -> None:
    limit = brightness / 255
    reference = A.RandomBrightnessContrast(brightness_limit=(limit, limit), contrast_limit=(0, 0), p=1)
    difference = (
        adjust_brightness_and_contrast(picture, brightness, 1).astype(int) - reference(image=picture)["image"]
    )
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("contrast", [0.5, 0.8, 1.3, 1.5])
def test_contrast_is_that_of_albumentations(picture: np.ndarray, contrast: float) -> None:
    limit = contrast - 1
    reference = A.RandomBrightnessContrast(brightness_limit=(0, 0), contrast_limit=(limit, limit), p=1)
    difference = (
        adjust_brightness_and_contrast(picture, 0, contrast).astype(int) - reference(image=picture)["image"]
    )
    assert np.abs(difference).max() <= 1


def test_saturation_by_hand() -> None:
    """The grey of (200, 100, 0) is 59.8 + 58.7 = 118.5: half way to it, and half as far again beyond it."""
    image = pixels((200, 100, 0), (80, 80, 80))
    assert adjust_saturation(image, 0.5).tolist() == [[[159, 109, 59], [80, 80, 80]]]
    assert adjust_saturation(image, 1.5).tolist() == [[[241, 91, 0], [80, 80, 80]]]


@pytest.mark.parametrize("saturation", [0.5, 0.9, 1.2, 1.5])
def test_saturation_is_that_of_albumentations(picture: np.ndarray, saturation: float) -> None:
    reference = A.ColorJitter((1, 1), (1, 1), (saturation, saturation), (0, 0), p=1)
    difference = adjust_saturation(picture, saturation).astype(int) - reference(image=picture)["image"]
    assert np.abs(difference).max() <= 1


def test_a_third_of_the_circle_exchanges_the_channels() -> None:
    """Red, green and blue are 120 degrees apart; 85 of 256 steps are a third of a step short of that.

    A step is 6 levels of a pure colour, and H is rounded to one before.
    """
    image = pixels((255, 0, 0), (0, 255, 0), (0, 0, 255), (90, 90, 90))
    expected = pixels((0, 255, 0), (0, 0, 255), (255, 0, 0), (90, 90, 90))
    assert np.abs(shift_hue(image, 120).astype(int) - expected).max() <= 6
    assert np.abs(shift_hue(expected, -120).astype(int) - image).max() <= 6


@pytest.mark.parametrize("degrees", [-18.0, -5.0, 9.0, 18.0])
def test_hue_is_that_of_colorsys(picture: np.ndarray, degrees: float) -> None:
    """A step of H is 6 levels of a pure colour: half from rounding H, half from the shift, and 2 from S and V."""
    expected = np.empty(picture.shape)
    for place in np.ndindex(picture.shape[:2]):
        hue, saturation, value = colorsys.rgb_to_hsv(*(picture[place] / 255))
        expected[place] = colorsys.hsv_to_rgb((hue + degrees / 360) % 1, saturation, value)
    difference = np.abs(shift_hue(picture, degrees) - expected * 255)
    assert difference.max() <= 8
    assert difference.mean() < 1.5


def test_hue_is_nearly_that_of_albumentations(picture: np.ndarray) -> None:
    """Whose steps are of two degrees, 8.5 levels of a pure colour."""
    reference = A.HueSaturationValue((9, 9), (0, 0), (0, 0), p=1)(image=picture)["image"]
    difference = np.abs(shift_hue(picture, 18).astype(int) - reference)
    assert difference.mean() < 2
    assert difference.max() <= 12


def test_no_change_gives_the_image_and_any_leaves_it_alone(picture: np.ndarray) -> None:
    assert distort(picture, Colors()) is picture
    before = picture.copy()
    output = distort(picture, Colors(10, 1.2, 0.7, 9, (2, 0, 1)))
    assert np.array_equal(picture, before)
    assert (output.shape, output.dtype) == (picture.shape, np.uint8)


def test_parts_come_in_their_order(picture: np.ndarray) -> None:
    by_hand = shift_hue(adjust_saturation(adjust_brightness_and_contrast(picture, -20, 1.4), 1.3), 11)
    assert np.array_equal(distort(picture, Colors(-20, 1.4, 1.3, 11, (2, 0, 1))), by_hand[..., [2, 0, 1]])


def test_draws_have_their_ranges_and_probabilities() -> None:
    draws = [draw_colors(random.Random(seed)) for seed in range(2000)]
    ranges = ((-32, 32), (0.5, 1.5), (0.5, 1.5), (-18, 18))
    for part, (identity, (low, high)) in enumerate(zip(Colors()[:4], ranges, strict=True)):
        drawn = np.array([colors[part] for colors in draws if colors[part] != identity])
        assert 0.45 < len(drawn) / 2000 < 0.55
        assert low <= drawn.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < drawn.max() <= high
        assert abs(drawn.mean() - (low + high) / 2) < 0.05 * (high - low)
    # One in ten, of which one in six keeps its order.
    assert 0.06 < np.mean([colors.order != (0, 1, 2) for colors in draws]) < 0.11
