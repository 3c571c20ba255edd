"""Validation images as batches of arrays, read by threads; for `eval`, which needs no loader processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np

from ssdlite.data.images import read_annotated, resize
from ssdlite.machine import usable_cores
from ssdlite.structures import Batch, DataSplit, Record, ResizeAlignment


class ImageStream:
    """The images of `split` in order, at `size` (height, width), in batches of arrays without targets.

    Decoding and resizing, which release Python's lock, run in `threads` threads, two batches ahead. The pixels are
    those of `data.dataset.DetectionDataset` under the recipe `none`. Raises DataError, when it comes to it, for an
    image that cannot be read or whose size is not the annotation's.
    """

    def __init__(
        self,
        split: DataSplit,
        size: tuple[int, int],
        *,
        alignment: ResizeAlignment,
        batch_size: int,
        threads: int | None = None,
    ) -> None:
        self.split = split
        self.size = size
        self.alignment: ResizeAlignment = alignment
        self.batch_size = batch_size
        self.threads = threads or usable_cores()

    def __len__(self) -> int:
        """Batches."""
        return -(-len(self.split) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        with ThreadPoolExecutor(self.threads) as pool:
            waiting: deque[Future[np.ndarray]] = deque()
            records = iter(self.split.records)
            try:
                for start in range(0, len(self.split), self.batch_size):
                    indices = list(range(start, min(start + self.batch_size, len(self.split))))
                    ahead = len(indices) + 2 * self.batch_size - len(waiting)
                    waiting.extend(pool.submit(self._read, record) for record in islice(records, ahead))
                    images = np.stack([waiting.popleft().result() for _ in indices])
                    yield self._batch(images, indices)
            finally:  # nobody waits for the rest after an error or Ctrl-C
                for future in waiting:
                    future.cancel()

    def _read(self, record: Record) -> np.ndarray:
        return resize(read_annotated(record), self.size, self.alignment)

    def _batch(self, images: np.ndarray, indices: list[int]) -> Batch:
        records = [self.split.records[index] for index in indices]
        return array_batch(images, [record.size for record in records])._replace(
            image_ids=[record.image_id for record in records], indices=indices
        )


def array_batch(images: np.ndarray, original_sizes: list[tuple[int, int]]) -> Batch:
    """(B, H, W, 3) uint8 and the (height, width) of each image before resizing -> a batch without targets."""
    count = len(images)
    return Batch(
        images=images.transpose(0, 3, 1, 2),  # type: ignore[arg-type]
        boxes=np.zeros((count, 0, 4), np.float32),  # type: ignore[arg-type]
        labels=np.zeros((count, 0), np.int64),  # type: ignore[arg-type]
        ignore=np.zeros((count, 0), bool),  # type: ignore[arg-type]
        image_ids=list(range(count)),
        original_sizes=original_sizes,
        indices=list(range(count)),
    )
