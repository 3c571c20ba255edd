"""Training from end to end against training on a batch that is on the device already."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from itertools import chain, count, islice

from ssdlite.benchmark.children import in_child
from ssdlite.benchmark.loader import add_worker_memory
from ssdlite.benchmark.timing import Rows, peak_memory, synchronizer
from ssdlite.benchmark.workload import (
    Workload,
    build_training,
    loader_for,
    repeated,
    resident_batch,
    start_epoch,
    take_step,
)
from ssdlite.data.device import finish_images
from ssdlite.structures import Batch
from ssdlite.training.step import on_device

NAME = "train"


PREFETCHED = 2  # batches that each loader process has ready, PyTorch's own number


SETTLING = 0.5  # seconds in which they are made


def run(workload: Workload) -> Rows:
    """Return all rows of the section, measured in a process of its own."""
    return in_child(_measure, workload, **workload.child)


def _measure(workload: Workload) -> Rows:
    config, effort, device = workload.config, workload.effort, workload.device
    rows = Rows(NAME)
    step = build_training(workload)
    ready = PREFETCHED * workload.workers + 1  # made while the resident batch was trained on
    steps = effort.warmup + effort.blocks * (ready + effort.block_steps)
    split = repeated(workload.train, steps * config.train.batch_size)
    loader = loader_for(config, split, workload.workers, device=device)
    if config.data.cache != "none":  # a run has one epoch without it
        for _ in start_epoch(loader, 0):
            pass
    epochs = (start_epoch(loader, epoch) for epoch in count(1))
    finish = partial(finish_images, size=config.model.input_size)
    batches = on_device(chain.from_iterable(epochs), device, finish)
    batch_size = loader.batch_size or 0
    resident = resident_batch(config.model.input_size, batch_size, workload.num_classes, device)
    synchronize = synchronizer(device) or (lambda: None)
    waited = 0.0

    def train_on(source: Iterator[Batch], steps: int) -> float:
        """Seconds of so many steps; `waited` becomes the part of them in which there was no batch."""
        nonlocal waited
        waited = 0.0
        synchronize()
        start = time.perf_counter()
        for _ in range(steps):
            asked = time.perf_counter()
            batch = next(source)
            waited += time.perf_counter() - asked
            take_step(step, batch)
        synchronize()
        return time.perf_counter() - start

    def from_loader(steps: int) -> float:
        train_on(batches, ready)
        return train_on(batches, steps)

    def on_resident(steps: int) -> float:
        time.sleep(SETTLING)  # or the loader's processes would take the cores
        return train_on(iter(lambda: resident, None), steps)

    train_on(islice(batches, effort.warmup), effort.warmup)
    train_on(iter(lambda: resident, None), 1)
    loaded: list[float] = []
    alone: list[float] = []
    shares: list[float] = []
    for _ in range(effort.blocks):
        loaded.append(from_loader(effort.block_steps) / effort.block_steps)
        shares.append(waited / (loaded[-1] * effort.block_steps))
        alone.append(on_resident(effort.block_steps) / effort.block_steps)

    setting = f"batch {batch_size}, {workload.workers} workers, cache={config.data.cache}"
    rows.rate("training from end to end", loaded, images=batch_size, note=setting)
    rows.rate("training on a resident batch", alone, images=batch_size)
    rows.ratio("end to end / resident, images/s", alone, loaded)
    rows.value(
        "time waiting for data",
        100 * sum(shares) / len(shares),
        "%",
        runs=len(shares),
        note="of training end to end",
    )
    rows.memory(
        "peak of the training process", peak_memory(), note=f"main memory, batch {batch_size}, without workers"
    )
    add_worker_memory(rows, f"training, {workload.workers} workers")
    return rows
