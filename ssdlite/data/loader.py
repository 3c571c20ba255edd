"""Data sets and loaders: which samples, in what order, with which random draws, read, augmented and put into
batches.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ssdlite.data.cache import Form, ImageCache
from ssdlite.data.images import read_annotated
from ssdlite.data.transforms import MEAN_COLOR, AugmentationName, augment, build_augmentation, draft
from ssdlite.errors import DataError
from ssdlite.machine import cores_of_each
from ssdlite.structures import Batch, DataSplit, ImageId, ResizeAlignment, Targets

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


logger = logging.getLogger(__name__)


SampleKey: TypeAlias = tuple[int, int]  # (index, seed)


MASK64 = (1 << 64) - 1


MAX_WORKERS = 8  # beside a CPU that trains, which cannot use more samples


MAX_GPU_WORKERS = 32  # 9,000 samples a second from files, and 12 GB at .4 GB each


class SeededSampler(Sampler[SampleKey]):
    """Keys (index, seed) of one process for an epoch.

    Shuffled, the processes get disjoint shares of equal length (the last few images of an epoch's order may be left
    out). In order, every image is given out once, so the shares may differ by one.
    """

    def __init__(
        self, num_records: int, *, seed: int, shuffle: bool = True, rank: int = 0, world_size: int = 1
    ) -> None:
        self.num_records = num_records
        self.seed = seed
        self.shuffle = shuffle
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.start = 0

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the order and draws of `epoch`, without this process's first `start` samples (to resume)."""
        self.epoch = epoch
        self.start = start

    def __len__(self) -> int:
        """Samples of this process in a whole epoch, whatever `start` is."""
        if self.shuffle:
            return self.num_records // self.world_size
        return len(range(self.rank, self.num_records, self.world_size))

    def __iter__(self) -> Iterator[SampleKey]:
        order: Sequence[int] = range(self.num_records)
        if self.shuffle:
            generator = torch.Generator().manual_seed(mix_seed(self.seed, self.epoch))
            order = torch.randperm(self.num_records, generator=generator).tolist()
        share = order[self.rank :: self.world_size][: len(self)]
        epoch = self.epoch
        for index in share[self.start :]:
            yield index, mix_seed(self.seed, epoch, index)


def mix_seed(*numbers: int) -> int:
    """A 64 bit seed that differs in about half its bits for any change of `numbers` (SplitMix64's finaliser)."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & MASK64
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK64
        state ^= state >> 31
    return state


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples of one size -> a batch; objects are padded with zeros to the most that an image has, at least one."""
    # Stacked as (B, H, W, 3): the permuted view is channels_last without a copy.
    images = torch.stack([sample.image.permute(1, 2, 0) for sample in samples]).permute(0, 3, 1, 2)
    return _with_objects(images, samples)


def collate_drafts(drafts: Sequence[Draft]) -> Batch:
    """Like `collate`, for images that are to be finished on the device.

    The parts are of many sizes and lie without gaps: with SSD's recipe 237 KB an image at 300x300, where finished
    ones have 270 and canvases for parts of any size 608.
    """
    sides = [each.part.shape[:2] for each in drafts]
    ends = np.cumsum([height * width for height, width in sides])
    pixels = np.empty((ends[-1], 3), np.uint8)
    for each, (height, width), end in zip(drafts, sides, ends, strict=True):
        pixels[end - height * width : end].reshape(height, width, 3)[...] = each.part
    rows = torch.from_numpy(np.stack([each.row for each in drafts]))
    return _with_objects(torch.from_numpy(pixels), drafts)._replace(pending=rows)


def _with_objects(images: Tensor, samples: Sequence[Sample | Draft]) -> Batch:
    """The batch of `images`, with the objects of the samples that they are of."""
    most = max(1, *(len(sample.targets.labels) for sample in samples))
    boxes = torch.zeros(len(samples), most, 4)
    labels = torch.zeros(len(samples), most, dtype=torch.int64)
    ignore = torch.zeros(len(samples), most, dtype=torch.bool)
    for row, sample in enumerate(samples):
        count = len(sample.targets.labels)
        boxes[row, :count] = sample.targets.boxes
        labels[row, :count] = sample.targets.labels
        ignore[row, :count] = sample.targets.ignore
    return Batch(
        images=images,
        boxes=boxes,
        labels=labels,
        ignore=ignore,
        image_ids=[sample.image_id for sample in samples],
        original_sizes=[sample.original_size for sample in samples],
        indices=[sample.index for sample in samples],
        problems=[problem for sample in samples for problem in sample.problems],
    )


def sample_batch(loader: DataLoader[Any], epoch: int, indices: Sequence[int]) -> Batch:
    """The samples `indices` once more, as `loader` gave them out in `epoch`."""
    seed = loader.sampler.seed  # type: ignore[attr-defined]
    samples = [loader.dataset[index, mix_seed(seed, epoch, index)] for index in indices]
    return loader.collate_fn(samples)


def build_train_loader(
    dataset: DetectionDataset | DraftDataset,
    *,
    batch_size: int,
    workers: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> DataLoader[Any]:
    """Full batches of `batch_size` for this process, shuffled; call `loader.sampler.set_epoch` before each epoch.

    Images that cannot be read are replaced, see `ReplacingDataset`, and named in the batch.
    A data set smaller than a batch is taken as one batch, with a warning. Raises `DataError` if a process
    would get no image at all.
    """
    sampler = SeededSampler(len(dataset), seed=seed, rank=rank, world_size=world_size)
    if len(sampler) == 0:
        raise DataError(f"the training set has {len(dataset)} images for {world_size} processes; add images")
    if len(sampler) < batch_size:
        logger.warning("the batch size is reduced from %d to %d, all images there are", batch_size, len(sampler))
        batch_size = len(sampler)
    return _build_loader(dataset, sampler, batch_size, workers, pin_memory, drop_last=True)


def build_val_loader(
    dataset: DetectionDataset,
    *,
    batch_size: int,
    workers: int,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> DataLoader[Sample]:
    """Every image once and in order; with several processes each takes every `world_size`-th."""
    sampler = SeededSampler(len(dataset), seed=0, shuffle=False, rank=rank, world_size=world_size)
    return _build_loader(dataset, sampler, batch_size, workers, pin_memory, drop_last=False)


def default_workers(device: torch.device, processes: int = 1) -> int:
    """One for each core but one, which is left to the training loop; `processes` of a machine share its cores.

    On a CPU 2 cores give 1, and a single core 0; at most 8. A GPU, which trains more images than a few cores can
    decode, has at least 1, so that it is fed while it works, and up to 32.
    """
    free = cores_of_each(processes) - 1
    return min(max(free, 0), MAX_WORKERS) if device.type == "cpu" else min(max(free, 1), MAX_GPU_WORKERS)


def _build_loader(
    dataset: DetectionDataset | DraftDataset,
    sampler: SeededSampler,
    batch_size: int,
    workers: int,
    pin_memory: bool,
    drop_last: bool,
) -> DataLoader[Any]:
    if dataset.cache is not None:
        dataset.cache.check_workers(workers)
    # Each worker is two batches ahead, DataLoader's own choice: eight with batches of 32 at 320x320 hold 160 MB of
    # shared memory. More would not help, since a loader that is too slow is so on average.
    return DataLoader(
        ReplacingDataset(dataset) if sampler.shuffle else dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=collate_drafts if isinstance(dataset, DraftDataset) else collate,
        pin_memory=pin_memory,
        drop_last=drop_last,
        worker_init_fn=_init_worker,
        persistent_workers=workers > 0,
    )


def _init_worker(_: int) -> None:
    cv2.setNumThreads(0)  # the workers are the parallelism; OpenCV's own threads would fight over the cores
    # Ctrl-C reaches the whole process group; only the main process may answer it, and it ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
