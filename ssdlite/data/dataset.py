"""Records to network inputs: read, augment, resize."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ssdlite.data.cache import ImageCache
from ssdlite.data.images import read_annotated
from ssdlite.data.transforms import MEAN_COLOR, AugmentationName, augment, build_augmentation
from ssdlite.structures import DataSplit, ImageId, ResizeAlignment, Targets


class Sample(NamedTuple):
    """One network input with its objects."""

    image: Tensor  # (3, H, W) uint8 RGB, a view of (H, W, 3) memory
    targets: Targets  # boxes in input pixels
    image_id: ImageId
    original_size: tuple[int, int]  # (height, width)
    index: int  # type: ignore[assignment]  # position in the split


class DetectionDataset(Dataset[Sample]):
    """The images of `split` at `size` (height, width) under an augmentation recipe.

    `dataset[index, seed]` draws everything from `seed`, so a sample does not depend on worker, order or what
    was drawn before; `dataset[index]` is for the recipe `none`, which draws nothing. A `cache` of the same split,
    in the form that `cache.choose_form` gives for the recipe, replaces reading; boxes follow its smaller images.
    Raises `DataError` for images that cannot be read or whose size is not the annotation's.
    """

    def __init__(
        self,
        split: DataSplit,
        size: tuple[int, int],
        augmentation: AugmentationName = "none",
        mean_color: tuple[int, int, int] = MEAN_COLOR,
        alignment: ResizeAlignment = "half_pixel",
        vertical_flip: bool = False,
        cache: ImageCache | None = None,
    ) -> None:
        self.split = split
        self.cache = cache
        self.pipeline = build_augmentation(augmentation, size, mean_color, alignment, vertical_flip)

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        index, seed = key if isinstance(key, tuple) else (key, None)
        record = self.split.records[index]
        image = self.cache.read(index, record) if self.cache is not None else read_annotated(record)
        image, targets = augment(
            self.pipeline, image, record.boxes, record.labels, record.ignore, seed, annotated_size=record.size
        )
        pixels = torch.from_numpy(image).permute(2, 0, 1)
        return Sample(pixels, targets, record.image_id, record.size, index)
