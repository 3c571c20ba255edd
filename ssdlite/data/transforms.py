"""The augmentation recipes, and how one is run on an image with its objects."""

from __future__ import annotations

import random
from typing import Literal, TypeAlias

import albumentations as A
import numpy as np
import torch

from ssdlite.data.window import WindowResize
from ssdlite.data.window import resize as resize
from ssdlite.structures import ResizeAlignment, Targets

AugmentationName: TypeAlias = Literal["ssd", "light", "flip", "none"]

MEAN_COLOR = (124, 116, 104)  # RGB, ImageNet's mean: what zooming out leaves is 0 after normalisation


def build_augmentation(
    name: AugmentationName,
    size: tuple[int, int],
    mean_color: tuple[int, int, int] = MEAN_COLOR,
    alignment: ResizeAlignment = "half_pixel",
    vertical_flip: bool = False,
) -> A.Compose:
    """The pipeline of a recipe: uint8 RGB of any size -> `size` (height, width).

    `ssd`: zoom out, random crop, mirror and colour (Liu et al. 2016, sec. 2.2 and 3.6); `light`: random crop and
    mirror; `flip`: mirror, all of them also upside down with `vertical_flip`; `none`: resize. Boxes that come out
    with a side below one pixel are dropped. Run it with `augment`.
    """
    match name:
        case "ssd":
            window = WindowResize(size, mean_color, zoom_out_probability=0.5, with_crop=True, alignment=alignment)
            steps = [window, A.HorizontalFlip(p=0.5), *_photometric()]
        case "light" | "flip":
            with_crop = name == "light"
            window = WindowResize(
                size, mean_color, zoom_out_probability=0.0, with_crop=with_crop, alignment=alignment
            )
            steps = [window, A.HorizontalFlip(p=0.5)]
        case "none":
            steps = [WindowResize(size, mean_color, zoom_out_probability=0.0, with_crop=False, alignment=alignment)]
        case _:
            raise AssertionError(f"no augmentation is called {name!r}")
    if vertical_flip and name != "none":
        steps.append(A.VerticalFlip(p=0.5))
    boxes = A.BboxParams(
        "pascal_voc",
        clip=True,
        filter_invalid_bboxes=True,  # `clip` alone lets a box without area raise in mid-epoch
        min_width=1,
        min_height=1,
        check_each_transform=False,  # once, at the end
    )
    return A.Compose(steps, bbox_params=boxes, is_check_shapes=False)


def augment(
    pipeline: A.Compose,
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    ignore: np.ndarray,
    seed: int | None = None,
) -> tuple[np.ndarray, Targets]:
    """Run a pipeline on an image (H, W, 3) uint8 and its boxes (N, 4) xyxy pixels, labels (N,) and ignore (N,).

    With a `seed` all draws follow from it. The transforms then share one generator: albumentations' own
    `set_random_seed` gives each the same seed, so that whatever has the same probability happens together or not at
    all, and its cost grows with the number of transforms.
    """
    if seed is not None:
        pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
    rows = np.column_stack([boxes, labels, ignore]).astype(np.float32)  # (N, 6)
    result = pipeline(image=image, bboxes=rows)
    rows = result["bboxes"] if len(result["bboxes"]) else np.zeros((0, 6), np.float32)
    targets = Targets(
        boxes=torch.from_numpy(rows[:, :4].astype(np.float32)),
        labels=torch.from_numpy(rows[:, 4].astype(np.int64)),
        ignore=torch.from_numpy(rows[:, 5] != 0),
    )
    return result["image"], targets


def _photometric() -> list[A.BasicTransform]:
    """SSD's colour distortion. Every step clips to 0..255, so no value leaves the range of the real images."""
    return [
        A.RandomBrightnessContrast(brightness_limit=(-32 / 255, 32 / 255), contrast_limit=(0, 0), p=0.5),
        A.RandomBrightnessContrast(brightness_limit=(0, 0), contrast_limit=(-0.5, 0.5), p=0.5),
        A.ColorJitter(brightness=(1, 1), contrast=(1, 1), saturation=(0.5, 1.5), hue=(0, 0), p=0.5),
        A.HueSaturationValue(hue_shift_limit=(-9, 9), sat_shift_limit=(0, 0), val_shift_limit=(0, 0), p=0.5),
        # Rare: exchanged channels break the tie of colour to class that many custom sets live on.
        A.ChannelShuffle(p=0.1),
    ]
