"""Training from files and from the disk cache against training on batches that are on the device."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from itertools import chain, count

from ssdlite import build
from ssdlite.benchmark.gpu.cases import make_batch, make_config, make_step, read_photos, usable_workers
from ssdlite.benchmark.gpu.tasks import Outcome, Setting
from ssdlite.benchmark.photos import MAX_OBJECTS
from ssdlite.benchmark.timing import synchronizer
from ssdlite.benchmark.workload import repeated, start_epoch, take_step
from ssdlite.config import Config
from ssdlite.data.device import finish_images
from ssdlite.structures import Batch, DataSplit
from ssdlite.training.prefetch import on_device
from ssdlite.training.step import TrainStep

EPOCH_STEPS = 100  # of the loader, so that starting an epoch weighs little
SETTLING = 1.0  # seconds in which loader processes fill what they have ready
PREFETCHED = 2  # batches that each of them has ready, PyTorch's own number


def measure_loading(setting: Setting, *, source: str, workers: int, augment_on: str) -> Outcome:
    """Images a second with one kind of input, and its share of the rate on a resident batch, measured before it.

    Args:
        source: files or disk cache.
        augment_on: workers or device.
    """
    sizes, device = setting.sizes, setting.device
    config = make_config(setting, *_options(setting, source, augment_on))
    step = _training(setting)
    split = _photos(setting)
    loader = partial(_loader, config, setting, workers=usable_workers(workers))
    if source == "disk cache":
        for _ in start_epoch(loader(split), 0):  # fills it, where an earlier task has not
            pass
    batch_size = sizes.loaded_batch
    steps = 3 if setting.dry_run else EPOCH_STEPS
    loaded = loader(repeated(split, steps * batch_size))
    epochs = chain.from_iterable(start_epoch(loaded, epoch) for epoch in count(1))
    finish = partial(finish_images, size=config.model.input_size)
    batches = on_device(epochs, device, finish)
    resident = make_batch(config, setting, batch_size, MAX_OBJECTS, device)
    endless: Iterator[Batch] = iter(lambda: resident, None)
    begun = time.perf_counter()
    next(batches)
    first = time.perf_counter() - begun
    alone, _ = _train(step, endless, setting, sizes.seconds / 2)
    time.sleep(0 if setting.dry_run else SETTLING)
    _train(step, batches, setting, 0.0, steps=PREFETCHED * workers + 2)  # what was made in the meantime
    seconds, waited = _train(step, batches, setting, sizes.seconds)
    rates = [batch_size / each for each in (seconds, alone)]
    row = {
        "source": source,
        "workers": workers,
        "augment_on": augment_on,
        "images/s": rates[0],
        "resident images/s": rates[1],
        "share": rates[0] / rates[1],
        "waiting": waited,
        "batch": batch_size,
        "compile": setting.compile_mode,
        "first batch s": first,
    }
    return Outcome([row])


def _options(setting: Setting, source: str, augment_on: str) -> list[str]:
    cache = ["data.cache=disk", f"data.cache_dir={setting.scratch / 'cache'}"] if source == "disk cache" else []
    own = [f"train.batch_size={setting.sizes.loaded_batch}", f"train.compile={setting.compile_mode}"]
    return [*own, *cache, f"data.augment_on={augment_on}"]


def _loader(config: Config, setting: Setting, split: DataSplit, workers: int):  # type: ignore[no-untyped-def]
    alignment = build.dialect_of(config.model).resize_alignment
    return build.build_loader(
        config, split, training=True, alignment=alignment, device=setting.device, workers=workers
    )


@lru_cache(maxsize=1)
def _training(setting: Setting) -> TrainStep:
    """One step for all tasks of a process: compiling it again would take a minute each time."""
    return make_step(make_config(setting, *_options(setting, "files", "workers")), setting, setting.device)


@lru_cache(maxsize=1)
def _photos(setting: Setting) -> DataSplit:
    """Photographs with objects, drawn once for all processes."""
    return read_photos(setting, setting.scratch / "photos", setting.sizes.photos)


def _train(
    step: TrainStep, batches: Iterator[Batch], setting: Setting, seconds: float, steps: int = 2
) -> tuple[float, float]:
    """Train for at least so many seconds and steps -> seconds a step, and the share of waiting for batches."""
    synchronize: Callable[[], None] = synchronizer(setting.device) or (lambda: None)
    synchronize()
    start, waited, done = time.perf_counter(), 0.0, 0
    while done < steps or time.perf_counter() - start < seconds:
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        take_step(step, batch)
        done += 1
    synchronize()
    passed = time.perf_counter() - start
    return passed / done, waited / passed
