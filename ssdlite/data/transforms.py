"""The augmentation recipes, and how one is run on an image with its objects."""

from __future__ import annotations

import random
from typing import Literal, TypeAlias

import albumentations as A
import numpy as np
import torch

from ssdlite.data.augmentation import CropResize
from ssdlite.data.device import describe
from ssdlite.structures import ResizeAlignment, Targets

AugmentationName: TypeAlias = Literal["ssd", "light", "flip", "none"]


MEAN_COLOR = (124, 116, 104)  # RGB, ImageNet's mean: what zooming out leaves is 0 after normalisation


def build_augmentation(
    name: AugmentationName,
    size: tuple[int, int],
    mean_color: tuple[int, int, int] = MEAN_COLOR,
    alignment: ResizeAlignment = "half_pixel",
    vertical_flip: bool = False,
    cut_only: bool = False,
) -> A.Compose:
    """The pipeline of a recipe: uint8 RGB of any size -> `size` (height, width).

    `ssd`: zoom out, random crop, mirror and colour (Liu et al. 2016, sec. 2.2 and 3.6); `light`: random crop and
    mirror; `flip`: mirror, all of them also upside down with `vertical_flip`; `none`: resize. Run it with
    `augment`, or with `draft` if it is to be `cut_only`.
    """
    match name:
        case "ssd":
            crop = CropResize(
                size, mean_color, 0.5, with_crop=True, alignment=alignment, with_colors=True, cut_only=cut_only
            )
            steps = [crop, A.HorizontalFlip(p=0.5)]
        case "light" | "flip":
            with_crop = name == "light"
            crop = CropResize(size, mean_color, 0.0, with_crop=with_crop, alignment=alignment, cut_only=cut_only)
            steps = [crop, A.HorizontalFlip(p=0.5)]
        case "none":
            steps = [CropResize(size, mean_color, 0.0, with_crop=False, alignment=alignment, cut_only=cut_only)]
        case _:
            raise AssertionError(f"no augmentation is called {name!r}")
    if vertical_flip and name != "none":
        steps.append(A.VerticalFlip(p=0.5))
    # No `bbox_params`: albumentations' checks of the boxes take 0.2 ms an image; `augment` has ours.
    return A.Compose(steps, is_check_shapes=False)


def augment(
    pipeline: A.Compose,
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    ignore: np.ndarray,
    seed: int | None = None,
    annotated_size: tuple[int, int] | None = None,
) -> tuple[np.ndarray, Targets]:
    """Run a pipeline on an image (H, W, 3) uint8 and its boxes (N, 4) xyxy pixels, labels (N,) and ignore (N,).

    `boxes` are in pixels of an image of `annotated_size` (height, width), by default those of `image`, which may be
    a smaller copy. They are clipped to it; a box without area, and one that comes out with a side below one pixel,
    is dropped. `pipeline` is without `bbox_params`, and so takes and gives boxes as fractions of the image.

    With a `seed` all draws follow from it. The transforms then share one generator: albumentations' own
    `set_random_seed` gives each the same seed, so that whatever has the same probability happens together or not at
    all, and its cost grows with the number of transforms.
    """
    image, rows = _run(pipeline, image, boxes, labels, ignore, seed, annotated_size)
    return image, _targets(rows, image.shape[:2])


def draft(
    pipeline: A.Compose,
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    ignore: np.ndarray,
    seed: int | None = None,
    annotated_size: tuple[int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray, Targets]:
    """`augment` with a `cut_only` pipeline: the same draws and objects, but the pixels are left to do.

    Gives the part of the image (h, w, 3) uint8 that is to be seen, which may be a view of `image`, what
    `device.finish_images` is to do with it as a row (R,) float32, and the objects.
    """
    corners, rows = _run(pipeline, image, boxes, labels, ignore, seed, annotated_size)
    crop = pipeline.transforms[0]
    mirrors = int(corners[0, 0, 0])
    row = describe(
        crop.cut,
        mirrored=bool(mirrors & 1),
        upside_down=bool(mirrors & 2),
        fill=crop.fill_color,
        alignment=crop.alignment,
        with_colors=crop.with_colors,
    )
    return crop.cut.part, row, _targets(rows, crop.size)


def _run(
    pipeline: A.Compose,
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    ignore: np.ndarray,
    seed: int | None,
    annotated_size: tuple[int, int] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the result of a pipeline on an image and rows (N, 6): a box as fractions of the image, label,
    ignore."""
    if seed is not None:
        pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
    height, width = annotated_size or image.shape[:2]
    rows = np.empty((len(labels), 6))
    np.clip(boxes / np.array([width, height, width, height]), 0, 1, out=rows[:, :4])
    rows[:, 4], rows[:, 5] = labels, ignore
    rows = rows[(rows[:, 0] < rows[:, 2]) & (rows[:, 1] < rows[:, 3])]
    result = pipeline(image=image, bboxes=rows)
    return result["image"], result["bboxes"]


def _targets(rows: np.ndarray, size: tuple[int, int]) -> Targets:
    """The objects of rows (N, 6) in an output of `size` (height, width), without those below one pixel."""
    height, width = size
    boxes = rows[:, :4] * np.array([width, height, width, height])
    # The tolerance is for a box of exactly one pixel, whatever was rounded on the way.
    large = (boxes[:, 2:] - boxes[:, :2]).min(1, initial=np.inf) > 1 - 1e-6
    boxes, rows = boxes[large], rows[large]
    return Targets(
        boxes=torch.from_numpy(boxes.astype(np.float32)),
        labels=torch.from_numpy(rows[:, 4].astype(np.int64)),
        ignore=torch.from_numpy(rows[:, 5] != 0),
    )
