"""Records to network inputs: read, augment, resize."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ssdlite.data.cache import Form, ImageCache
from ssdlite.data.images import read_annotated
from ssdlite.data.transforms import MEAN_COLOR, AugmentationName, augment, build_augmentation, draft
from ssdlite.errors import DataError
from ssdlite.structures import DataSplit, ImageId, ResizeAlignment, Targets

MAX_TRIES = 10  # images that are tried in place of one that cannot be read


class Sample(NamedTuple):
    """One network input with its objects."""

    image: Tensor  # (3, H, W) uint8 RGB, a view of (H, W, 3) memory
    targets: Targets  # boxes in input pixels
    image_id: ImageId
    original_size: tuple[int, int]  # (height, width)
    index: int  # type: ignore[assignment]  # position in the split
    problems: tuple[str, ...] = ()  # see `ReplacingDataset`


class Draft(NamedTuple):
    """One network input whose pixels are still to be made by `device.finish_images`, with its objects."""

    part: np.ndarray  # (h, w, 3) uint8 RGB: what it is to be made of; maybe a cache's, not to be written to
    row: np.ndarray  # (R,) float32: what is to be done
    targets: Targets  # boxes in input pixels
    image_id: ImageId
    original_size: tuple[int, int]  # (height, width)
    index: int  # type: ignore[assignment]  # position in the split
    problems: tuple[str, ...] = ()  # see `ReplacingDataset`


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


class DraftDataset(Dataset[Draft]):
    """`DetectionDataset` for a recipe that draws something, with the pixels left to the device.

    Draws and objects are those of `DetectionDataset` with a cache. `form` is what `cache.choose_form` gives for the
    recipe; without a `cache` images are brought to it when they are read.
    """

    def __init__(
        self,
        split: DataSplit,
        size: tuple[int, int],
        augmentation: AugmentationName,
        form: Form,
        mean_color: tuple[int, int, int] = MEAN_COLOR,
        alignment: ResizeAlignment = "half_pixel",
        vertical_flip: bool = False,
        cache: ImageCache | None = None,
    ) -> None:
        assert augmentation != "none", "nothing is left to the device"
        self.split = split
        self.form = form
        self.cache = cache
        self.pipeline = build_augmentation(augmentation, size, mean_color, alignment, vertical_flip, cut_only=True)

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: tuple[int, int]) -> Draft:
        index, seed = key
        record = self.split.records[index]
        image = self.cache.read(index, record) if self.cache is not None else self.form(read_annotated(record))
        part, row, targets = draft(
            self.pipeline, image, record.boxes, record.labels, record.ignore, seed, annotated_size=record.size
        )
        return Draft(part, row, targets, record.image_id, record.size, index)


class ReplacingDataset(Dataset[Any]):
    """The samples of another dataset, to train on: a run of days is not ended by an image that vanished.

    What cannot be read is replaced by the next image of the split that can, with the same draws, and its `problems`
    say so. The index stays the one that was asked for, so that asking again gives the same. Raises the first
    DataError if the next few cannot be read either.
    """

    def __init__(self, dataset: DetectionDataset | DraftDataset) -> None:
        self.dataset = dataset
        self.cache = dataset.cache

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> Sample | Draft:
        index, seed = key
        errors: list[DataError] = []
        for step in range(min(MAX_TRIES, len(self))):
            try:
                sample = self.dataset[(index + step) % len(self), seed]
            except DataError as error:
                errors.append(error)
                continue
            return sample._replace(index=index, problems=tuple(map(str, errors)))
        raise errors[0]
