"""Images a second of decoding, augmentation and the loader, and what its processes hold."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from ssdlite.benchmark.children import in_child
from ssdlite.benchmark.timing import Rows, interleave, own_memory, proportional_memory, reading, resident_memory
from ssdlite.benchmark.workload import Workload, loader_for, prepare_process, repeated, start_epoch, with_cache
from ssdlite.data.cache import MemoryCache
from ssdlite.data.images import read_image
from ssdlite.data.loader import Sample, mix_seed
from ssdlite.data.transforms import augment, build_augmentation
from ssdlite.machine import usable_cores
from ssdlite.structures import DataSplit, Record

NAME = "loader"


PASS_IMAGES = 128  # whose pixels are kept: 120 MB


def run(workload: Workload) -> Rows:
    """Return all rows of the section, measured in a process of its own."""
    return in_child(_measure, workload, **workload.child)


def _measure(workload: Workload) -> Rows:
    prepare_process(workload.device)
    cv2.setNumThreads(0)  # as in a loader process
    rows = Rows(NAME)
    _add_files(rows, workload)
    _add_parts(rows, workload)
    for workers in sorted({workload.workers, usable_cores()}):
        _add_loader(rows, workload, workers)
    _add_caches(rows, workload)
    return rows


def _add_files(rows: Rows, workload: Workload) -> None:
    records = workload.train.records
    sizes = [record.image_path.stat().st_size for record in records]
    pixels = [record.size[0] * record.size[1] for record in records]
    rows.value("mean size of a file", float(np.mean(sizes)) / 1e3, "KB", note=f"{len(records)} images")
    rows.value("mean size of an image", float(np.mean(pixels)) / 1e6, "megapixels")
    rows.rate("reader: annotations", [workload.read_seconds], images=workload.read_images)


def _add_parts(rows: Rows, workload: Workload) -> None:
    """One process, one core, in turns over the same images."""
    config, effort = workload.config, workload.effort
    chosen = _first(workload.train, PASS_IMAGES)
    records = chosen.records
    paths = [record.image_path for record in records]
    images = [_read(record) for record in records]
    pipeline = build_augmentation(
        config.data.augmentation, config.model.input_size, vertical_flip=config.data.vertical_flip
    )
    plain = with_cache(config, "none", workload.scratch)
    cpu = torch.device("cpu")  # one process gives out no batches
    train_loader = loader_for(plain, chosen, 0, device=cpu)
    train_set = train_loader.dataset
    val_set = loader_for(plain, chosen, 0, device=cpu, training=False).dataset
    cached = {
        kind: loader_for(with_cache(config, kind, workload.scratch / "parts-cache"), chosen, 0, device=cpu).dataset
        for kind in ("memory", "disk")
    }
    seeds = count()

    def augment_all() -> None:
        turn = next(seeds)
        for index, (record, image) in enumerate(zip(records, images, strict=True)):
            augment(pipeline, image, record.boxes, record.labels, record.ignore, mix_seed(0, turn, index))

    def load_all(dataset: Any) -> None:
        turn = next(seeds)
        for index in range(len(records)):
            dataset[index, mix_seed(0, turn, index)]

    def read_cold() -> float:
        _forget(paths)
        return reading(lambda: _each(_read, records))()

    works: dict[str, Callable[[], float]] = {
        "decode": reading(lambda: _each(_read, records)),
        "decode, files not in memory": read_cold,
        f"augmentation {config.data.augmentation}": reading(augment_all),
        "decode + augmentation: a training sample": reading(partial(load_all, train_set)),
        **{
            f"a training sample from the {kind} cache": reading(partial(load_all, dataset))
            for kind, dataset in cached.items()
        },
        "decode + resize: a validation sample": reading(lambda: _each(val_set.__getitem__, range(len(records)))),
    }
    for name, readings in interleave(works, warmup=1, runs=effort.passes).items():
        rows.rate(name, readings, images=len(records), note="one core")
    samples = [train_set[index % len(records), index] for index in range(config.train.batch_size)]
    readings = interleave({"collate": reading(lambda: train_loader.collate_fn(samples))}, warmup=2, runs=10)[
        "collate"
    ]
    rows.rate("collate", readings, images=len(samples), note=f"batches of {len(samples)}, one core")


def _add_loader(rows: Rows, workload: Workload, workers: int) -> None:
    config = with_cache(workload.config, "none", workload.scratch)
    split = repeated(workload.train, workload.effort.epoch_images)
    loader = loader_for(config, split, workers, device=workload.device)
    readings = [_epoch_seconds(loader, epoch) for epoch in range(1 + workload.effort.passes)][1:]
    rows.rate(
        f"loader, {workers} workers, no cache", readings, images=_epoch_images(loader), note="files in memory"
    )
    add_worker_memory(rows, f"loader, {workers} workers")


def _add_caches(rows: Rows, workload: Workload) -> None:
    """The first epoch fills the cache; later ones are over as many images as a loader without one is timed on."""
    for kind in ("memory", "disk"):
        folder = workload.scratch / f"{kind}-cache"
        config = with_cache(workload.config, kind, folder)
        title = f"loader, {workload.workers} workers, cache={kind}"
        make = partial(loader_for, config, workers=workload.workers, device=workload.device)
        _add_first_epoch(rows, title, make(workload.train))
        loader = make(repeated(workload.train, workload.effort.epoch_images))
        readings = [_epoch_seconds(loader, epoch) for epoch in range(1 + workload.effort.passes)][1:]
        rows.rate(f"{title}, later epochs", readings, images=_epoch_images(loader))
        if kind == "disk":
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            rows.memory("size of the disk cache", size, note=f"{len(workload.train)} images")


def _add_first_epoch(rows: Rows, title: str, loader: DataLoader[Sample]) -> None:
    """Add a row for the first epoch, from its first batch on: before it the processes start."""
    batches = start_epoch(loader, 0)
    next(batches)
    start = time.perf_counter()
    images = sum(len(batch.indices) for batch in batches)  # those of drafts are pixels
    if images:
        rows.rate(f"{title}, first epoch", [time.perf_counter() - start], images=images, note="fills it")
    cache = loader.dataset.cache  # type: ignore[attr-defined]
    if isinstance(cache, MemoryCache):
        rows.memory("size of the memory cache", cache.num_bytes, note=f"{len(cache.shapes)} images")


def add_worker_memory(rows: Rows, name: str) -> None:
    """The most that any of this process's loader processes holds now."""
    pids = [child.pid for child in multiprocessing.active_children() if child.pid is not None]
    for title, find in (
        ("its own", own_memory),
        ("and its share of what is common", proportional_memory),
        ("and all that is common", resident_memory),
    ):
        sizes = [size for size in map(find, pids) if size is not None]
        if sizes:
            rows.memory(f"{name}: memory of one, {title}", max(sizes))


def _epoch_seconds(loader: DataLoader[Sample], epoch: int) -> float:
    """Seconds of a whole epoch, its start included."""
    start = time.perf_counter()
    for _ in start_epoch(loader, epoch):
        pass
    return time.perf_counter() - start


def _epoch_images(loader: DataLoader[Sample]) -> int:
    return len(loader) * (loader.batch_size or 0)


def _read(record: Record) -> np.ndarray:
    return read_image(record.image_path, record.size)


def _each(work: Callable[[Any], Any], items: Iterable[Any]) -> None:
    for item in items:
        work(item)


def _first(split: DataSplit, most: int) -> DataSplit:
    return DataSplit(split.records[:most], split.class_names, split.category_ids)


def _forget(paths: list[Path]) -> None:
    """Have the system drop files from its memory, where it takes such advice."""
    if hasattr(os, "posix_fadvise"):
        for path in paths:
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)  # what is not written yet cannot be dropped
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
