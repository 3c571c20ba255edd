"""What is measured: options, images, device; and the objects that every section makes from them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ssdlite import build
from ssdlite.benchmark.photos import CLASS_NAMES, draw_objects, draw_photos
from ssdlite.config import CocoSourceConfig, Config, DataConfig
from ssdlite.data.dataset import Sample
from ssdlite.data.loader import default_workers
from ssdlite.model.network import Network
from ssdlite.sources import read_data
from ssdlite.structures import Batch, DataSplit, LossTerms
from ssdlite.training.distributed import prepare_device
from ssdlite.training.memory import keep_memory
from ssdlite.training.step import TrainStep

STEPS = 1000  # that the schedule believes in; the rate has no influence on the time


class Effort(NamedTuple):
    """How often, and on how many images."""

    photos: int  # drawn where there are no data
    images: int  # at most, of each split
    passes: int  # over those images, or epochs of a loader
    epoch_images: int  # an epoch of a loader has at least, so that its start weighs little
    warmup: int  # training steps
    steps: int  # training steps of each kind that are timed
    blocks: int  # of `block_steps` steps with the loader, and as many without
    block_steps: int
    batches: int  # of an evaluation
    judged: int  # simulated images whose AP is computed
    latencies: int  # runs at batch 1; at batch 8 half as many


FULL = Effort(128, 512, 5, 384, 2, 8, 4, 5, 8, 5000, 60)
QUICK = Effort(16, 16, 1, 16, 1, 1, 1, 2, 1, 20, 4)


@dataclass(frozen=True, eq=False)
class Workload:
    """All that a section is told; it travels to other processes."""

    config: Config
    train: DataSplit  # at most as many images as the effort says
    val: DataSplit
    device: torch.device
    threads: int  # of PyTorch
    quick: bool
    read_seconds: float  # to read the annotations of `read_images` images
    read_images: int
    scratch: Path  # a folder for files that nobody needs afterwards
    rivals: tuple[Path, ...] = ()  # .onnx files of other detectors, to be timed beside ours

    @property
    def effort(self) -> Effort:
        return QUICK if self.quick else FULL

    @property
    def dtype(self) -> torch.dtype:
        """Of the network in training."""
        return build.build_dtype(self.config.train.precision, self.device)

    @property
    def workers(self) -> int:
        """Loader processes, as configured."""
        workers = self.config.data.workers
        return default_workers(self.device) if workers == "auto" else workers

    @property
    def num_classes(self) -> int:
        return len(self.train.class_names)

    @property
    def child(self) -> dict[str, Any]:
        """How to start other processes."""
        return {"threads": self.threads, "forked": self.quick}


def prepare(
    config: Config, device: torch.device, scratch: Path, *, quick: bool, rivals: Sequence[Path] = ()
) -> Workload:
    """The workload of `config`; where that names no data, or drawn ones, images are drawn into `scratch`.

    Raises as reading the data does.
    """
    effort = QUICK if quick else FULL
    config = build.settle_dialect(config)
    if config.data.draw is not None or (config.data.path, config.data.train, config.data.val) == (None, None, None):
        images, annotations = draw_photos(
            scratch / "photos", effort.photos, class_names=config.data.class_names or CLASS_NAMES
        )
        source = [CocoSourceConfig(kind="coco", images=images, annotations=annotations)]
        config = _with_data(config, path=None, draw=None, train=source, val=source)
    if config.data.cache == "disk" and config.data.cache_dir is None:
        config = with_cache(config, "disk", scratch / "cache")
    start = time.perf_counter()
    train, val = read_data(config.data)
    seconds = time.perf_counter() - start
    return Workload(
        config=config,
        train=_spread(train, effort.images),
        val=_spread(val, effort.images),
        device=device,
        threads=torch.get_num_threads(),
        quick=quick,
        read_seconds=seconds,
        read_images=len(train) + len(val),
        scratch=scratch,
        rivals=tuple(rivals),
    )


def with_cache(config: Config, kind: str, folder: Path) -> Config:
    """`config` with the cache `kind`, none, memory or disk; that on the disk is in `folder`."""
    if kind == "none":
        return _with_data(config, cache=kind, cache_side=None, cache_dir=None)
    return _with_data(config, cache=kind, cache_dir=folder if kind == "disk" else None)


def loader_for(
    config: Config, split: DataSplit, workers: int, *, device: torch.device, training: bool = True
) -> DataLoader[Sample]:
    """The loader of `split` that a training on `device` has, for training or for validation."""
    assert config.data.cache != "disk" or config.data.cache_dir, "the folder of a run is not the benchmark's"
    alignment = build.dialect_of(config.model).resize_alignment
    return build.build_loader(config, split, training=training, alignment=alignment, device=device, workers=workers)


def start_epoch(loader: DataLoader[Sample], epoch: int) -> Iterator[Batch]:
    """The batches of an epoch of `loader_for(training=True)`."""
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return iter(loader)


def repeated(split: DataSplit, images: int) -> DataSplit:
    """`split` over and over, to at least so many images."""
    times = -(-images // max(1, len(split)))
    return replace(split, records=split.records * max(1, times))


def build_network(workload: Workload) -> Network:
    """On the device, as for training. A checkpoint's weights are taken, those of a name are not fetched."""
    config = workload.config
    torch.manual_seed(config.run.seed)
    make = build.build_detector if isinstance(config.model.weights, Path) else build.empty_detector
    network = make(config, workload.train.class_names)
    return network.to(workload.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def build_training(workload: Workload) -> TrainStep:
    """A step in this process under the settings of `ssdlite train`."""
    prepare_process(workload.device)
    config = workload.config
    criterion = build.build_criterion(config.loss, workload.train, seed=config.run.seed)
    network = build_network(workload).train()
    return build.build_step(
        config, network, criterion, total_steps=STEPS, device=workload.device, dtype=workload.dtype
    )


def take_step(step: TrainStep, batch: Batch) -> None:
    """As the training loop does."""
    step.update(total_loss(step.gradients(batch)))


def total_loss(terms: LossTerms) -> Tensor:
    """The sum of the terms."""
    return torch.stack(list(terms.values())).sum()


def prepare_process(device: torch.device) -> None:
    """Settings that `ssdlite train` makes before it begins."""
    prepare_device(device)
    if device.type == "cpu":
        keep_memory()
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True


def resident_batch(
    size: tuple[int, int], batch_size: int, num_classes: int, device: torch.device, *, seed: int = 0
) -> Batch:
    """A batch as the loader makes them, of noise with COCO's numbers of objects, on `device`."""
    rng = np.random.default_rng(seed)
    drawn = [draw_objects(rng, size, num_classes) for _ in range(batch_size)]
    most = max(len(labels) for _, labels in drawn)
    boxes, labels = np.zeros((batch_size, most, 4), np.float32), np.zeros((batch_size, most), np.int64)
    for row, (own_boxes, own_labels) in enumerate(drawn):
        boxes[row, : len(own_boxes)], labels[row, : len(own_labels)] = own_boxes, own_labels
    images = rng.integers(0, 256, (batch_size, *size, 3), np.uint8)
    batch = Batch(
        images=torch.from_numpy(images).permute(0, 3, 1, 2),
        boxes=torch.from_numpy(boxes),
        labels=torch.from_numpy(labels),
        ignore=torch.zeros(batch_size, most, dtype=torch.bool),
        image_ids=list(range(batch_size)),
        original_sizes=[size] * batch_size,
        indices=list(range(batch_size)),
    )
    return batch.to(device)


def _spread(split: DataSplit, most: int) -> DataSplit:
    """At most so many images, from all over the split."""
    if len(split) <= most:
        return split
    chosen: Sequence[int] = np.linspace(0, len(split) - 1, most).round().astype(int).tolist()
    return replace(split, records=[split.records[index] for index in chosen])


def _with_data(config: Config, **changes: Any) -> Config:
    data = DataConfig.model_validate({**dict(config.data), **changes})
    return config.model_copy(update={"data": data})
