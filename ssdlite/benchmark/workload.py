"""Workload of a benchmark: options, images and device, the objects that all sections share, and simulated
photographs.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.utils.data import DataLoader

from ssdlite.build.data import read_data
from ssdlite.build.model import build_detector, dialect_of, empty_detector, settle_dialect
from ssdlite.build.training import build_criterion, build_dtype, build_loader, build_step
from ssdlite.config.data import DataConfig
from ssdlite.config.schema import Config
from ssdlite.data.loader import Sample, default_workers
from ssdlite.data.records import spread_indices
from ssdlite.data.synthetic.pictures import draw_scene
from ssdlite.models.network import Network
from ssdlite.structures import Batch, DataSplit, LossTerms
from ssdlite.training.distributed import prepare_device
from ssdlite.training.process import keep_memory
from ssdlite.training.step import TrainStep

SIZE = (480, 640)  # (height, width), COCO's most frequent


CLASS_NAMES = tuple(f"class {label}" for label in range(1, 21))


NOISE = 8.0  # levels: with quality 95 makes 160 KB a file, COCO's mean, which takes as long to decode as COCO's


QUALITY = 95


MEAN_OBJECTS, MAX_OBJECTS = 7, 93  # of an image, as in COCO's train2017; one in twenty has more than 20


EXTENT = (0.03, 0.7)  # side of an object / side of the image, log-uniform


def draw_photos(
    folder: Path, count: int, *, class_names: Sequence[str] = CLASS_NAMES, seed: int = 0
) -> tuple[Path, Path]:
    """`count` JPEGs with COCO annotations in `folder`; the paths of the images and of the annotations.

    Pictures are drawn scenes under noise, and the boxes lie anywhere: there is nothing to be learnt from them.
    """
    images, annotations = folder / "images", folder / "instances.json"
    images.mkdir(parents=True)
    objects: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        rng = np.random.default_rng([seed, number])
        (images / f"{number:06d}.jpg").write_bytes(_photo(rng))
        boxes, labels = draw_objects(rng, SIZE, len(class_names))
        for (x1, y1, x2, y2), label in zip(boxes.tolist(), labels.tolist(), strict=True):
            area = (x2 - x1) * (y2 - y1)
            box = [x1, y1, x2 - x1, y2 - y1]
            found = {"image_id": number, "category_id": label, "bbox": box, "area": area, "iscrowd": 0}
            objects.append({"id": len(objects) + 1, **found})
    document = {
        "images": [
            {"id": number, "file_name": f"{number:06d}.jpg", "height": SIZE[0], "width": SIZE[1]}
            for number in range(1, count + 1)
        ],
        "annotations": objects,
        "categories": [{"id": label, "name": name} for label, name in enumerate(class_names, start=1)],
    }
    annotations.write_text(json.dumps(document), encoding="utf-8")
    return images, annotations


def draw_objects(rng: Generator, size: tuple[int, int], num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (N, 4) float32 xyxy within (height, width), and labels (N,) int64 in 1..`num_classes`; N ≥ 1."""
    count = min(int(rng.geometric(1 / MEAN_OBJECTS)), MAX_OBJECTS)  # padding follows the fullest of a batch
    height, width = size
    sides = np.exp(rng.uniform(math.log(EXTENT[0]), math.log(EXTENT[1]), (count, 2))) * (width, height)
    corners = rng.uniform(0, 1, (count, 2)) * ((width, height) - sides)
    boxes = np.concatenate([corners, corners + sides], axis=1).astype(np.float32)
    return boxes, rng.integers(1, num_classes + 1, count)


def _photo(rng: Generator) -> bytes:
    scene, _ = draw_scene(rng, SIZE)
    noisy = scene + NOISE * rng.standard_normal((*SIZE, 1), np.float32)
    pixels = np.clip(noisy, 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


STEPS = 1000  # that the schedule believes in; the rate has no influence on the time


class Effort(NamedTuple):
    """Numbers of repetitions and of images."""

    photos: int  # drawn where there are no data
    images: int  # at most, of each split
    passes: int  # over those images, or epochs of a loader
    epoch_images: int  # an epoch of a loader has at least, so that its start weighs little
    warmup: int  # training steps
    steps: int  # training steps of each kind that are timed
    blocks: int  # of `block_steps` steps with the loader, and as many without
    block_steps: int
    batches: int  # of an evaluation
    evaluated: int  # simulated images whose AP is computed
    latencies: int  # runs at batch 1; at batch 8 half as many


FULL = Effort(128, 512, 5, 384, 2, 8, 4, 5, 8, 5000, 60)


QUICK = Effort(16, 16, 1, 16, 1, 1, 1, 2, 1, 20, 4)


@dataclass(frozen=True, eq=False)
class Workload:
    """Model, data and options that a section measures; it is sent to other processes."""

    config: Config
    train: DataSplit  # at most as many images as the effort says
    val: DataSplit
    device: torch.device
    threads: int  # of PyTorch
    quick: bool
    read_seconds: float  # to read the annotations of `read_images` images
    read_images: int
    scratch: Path  # a folder for files that nobody needs afterwards
    baselines: tuple[Path, ...] = ()  # .onnx files of other detectors, to be timed beside ours

    @property
    def effort(self) -> Effort:
        return QUICK if self.quick else FULL

    @property
    def dtype(self) -> torch.dtype:
        """Type that the network computes in, in training."""
        return build_dtype(self.config.train.precision, self.device)

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
        """Function that starts other processes."""
        return {"threads": self.threads, "forked": self.quick}


def prepare(
    config: Config, device: torch.device, scratch: Path, *, quick: bool, baselines: Sequence[Path] = ()
) -> Workload:
    """The workload of `config`; where that names no data, or drawn ones, images are drawn into `scratch`.

    Raises as reading the data does.
    """
    effort = QUICK if quick else FULL
    config = settle_dialect(config)
    if config.data.draw is not None or (config.data.path, config.data.train, config.data.val) == (None, None, None):
        images, annotations = draw_photos(
            scratch / "photos", effort.photos, class_names=config.data.class_names or CLASS_NAMES
        )
        source = {"kind": "coco", "images": images, "annotations": annotations}
        config = _with_data(config, path=None, draw=None, train=source, val=source, val_fraction=0)
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
        baselines=tuple(baselines),
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
    alignment = dialect_of(config.model).resize_alignment
    return build_loader(config, split, training=training, alignment=alignment, device=device, workers=workers)


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
    make = build_detector if isinstance(config.model.weights, Path) else empty_detector
    network = make(config, workload.train.class_names)
    return network.to(workload.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def build_training(workload: Workload) -> TrainStep:
    """A step in this process under the settings of `ssdlite train`."""
    prepare_process(workload.device)
    config = workload.config
    criterion = build_criterion(config.loss, workload.train, seed=config.run.seed)
    network = build_network(workload).train()
    return build_step(config, network, criterion, total_steps=STEPS, device=workload.device, dtype=workload.dtype)


def take_step(step: TrainStep, batch: Batch) -> None:
    """Take a step as the training loop does."""
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
    return replace(split, records=[split.records[index] for index in spread_indices(len(split), most)])


def _with_data(config: Config, **changes: Any) -> Config:
    data = DataConfig.model_validate({**dict(config.data), **changes})
    return config.model_copy(update={"data": data})
