"""Configs, networks, outputs and batches that checks and measurements share."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ssdlite.benchmark.gpu.tasks import Setting
from ssdlite.benchmark.workload import EXTENT, STEPS, draw_photos, prepare_process, resident_batch
from ssdlite.build.model import empty_detector
from ssdlite.build.training import build_criterion, build_dtype, build_step
from ssdlite.config.schema import Config, load_config
from ssdlite.data.formats.coco import read_coco
from ssdlite.machine import usable_cores
from ssdlite.models.network import Network
from ssdlite.structures import Batch, DataSplit, HeadOutput, ScoreActivation
from ssdlite.training.step import TrainStep

CPU = torch.device("cpu")


MEAN_OBJECTS = 7  # of an image, as in COCO


IGNORED, ABSENT = 0.1, 0.2  # shares of the objects of a check that are ignored, and that are padding


def make_config(setting: Setting, *overrides: str) -> Config:
    """Return the config of a check, with overrides as on the command line."""
    sizes = setting.sizes
    own = (f"model.input_size={sizes.side}", f"model.width={sizes.width}", "model.weights=none")
    return load_config(None, [*own, *overrides])


def class_names(setting: Setting) -> tuple[str, ...]:
    """Return the class names of the drawn objects."""
    return tuple(f"class {label}" for label in range(1, setting.sizes.classes + 1))


def make_network(config: Config, setting: Setting, device: torch.device) -> Network:
    """Build the network with equal weights on every device."""
    torch.manual_seed(0)
    network = empty_detector(config, class_names(setting))
    return network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def make_step(config: Config, setting: Setting, device: torch.device) -> TrainStep:
    """The step of `ssdlite train` under its settings."""
    prepare_process(device)
    names = class_names(setting)
    criterion = build_criterion(config.loss, DataSplit([], names, tuple(range(1, len(names) + 1))))
    network = make_network(config, setting, device).train()
    dtype = build_dtype(config.train.precision, device)
    return build_step(config, network, criterion, total_steps=STEPS, device=device, dtype=dtype)


def make_batch(
    config: Config, setting: Setting, images: int, most: int, device: torch.device, seed: int = 0
) -> Batch:
    """A batch of noise with 7 objects an image on average; the first has `most`, to which targets are padded."""
    size, classes = config.model.input_size, setting.sizes.classes
    batch = resident_batch(size, images, classes, CPU, seed=seed)
    rng = np.random.default_rng(seed)
    counts = np.clip(rng.poisson(MEAN_OBJECTS, images), 1, most)
    counts[0] = most
    boxes, labels = _random_objects(rng, images, most, size[0], classes)
    labels[np.arange(most) >= counts[:, None]] = 0
    boxes[labels == 0] = 0
    return batch._replace(
        boxes=torch.from_numpy(boxes),
        labels=torch.from_numpy(labels),
        ignore=torch.zeros(images, most, dtype=torch.bool),
    ).to(device)


def make_images(images: int, side: int) -> Tensor:
    """(B, 3, side, side) uint8, coarse patterns that differ: noise would look alike in the small maps, where a norm
    over the batch would magnify rounding."""
    generator = torch.Generator().manual_seed(0)
    coarse = 255 * torch.rand(images, 3, 5, 5, generator=generator)
    return nn.functional.interpolate(coarse, (side, side), mode="bilinear").to(torch.uint8)


def make_targets(setting: Setting, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (B, M, 4), labels (B, M) and ignore (B, M) with padding, ignored objects and an empty image."""
    sizes, rng = setting.sizes, np.random.default_rng(seed)
    boxes, labels = _random_objects(rng, sizes.images, sizes.objects, sizes.side, sizes.classes)
    labels[rng.random(labels.shape) < ABSENT] = 0
    labels[-1] = 0
    boxes[labels == 0] = 0
    ignore = (rng.random(labels.shape) < IGNORED) & (labels > 0)
    return torch.from_numpy(boxes), torch.from_numpy(labels), torch.from_numpy(ignore)


def make_output(setting: Setting, activation: ScoreActivation, seed: int = 0) -> HeadOutput:
    """Make the output of a network that has learnt something, for all priors of the setting's detector."""
    sizes = setting.sizes
    network = make_network(make_config(setting), setting, CPU)
    priors, levels = network.priors, network.level_sizes
    assert isinstance(priors, Tensor) and isinstance(levels, tuple)
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(sizes.images, len(priors), sizes.classes + 1, generator=generator) - 1
    deltas = 0.7 * torch.randn(sizes.images, len(priors), 4, generator=generator)
    return HeadOutput(logits, deltas, priors, activation, levels)


def output_to(output: HeadOutput, device: torch.device, *, learn: bool = False) -> HeadOutput:
    """A copy on `device`; with `learn` its logits and deltas are leaves that get gradients."""
    logits, deltas, priors = (each.detach().clone().to(device) for each in output[:3])
    logits.requires_grad_(learn)
    deltas.requires_grad_(learn)
    return output._replace(logits=logits, deltas=deltas, priors=priors)


def read_photos(setting: Setting, folder: Path, images: int) -> DataSplit:
    """Photographs with objects of the setting's classes in `folder`, drawn where they are not there yet."""
    annotations = folder / "instances.json"
    if not annotations.exists():
        shutil.rmtree(folder, ignore_errors=True)  # what an earlier process did not finish
        draw_photos(folder, images, class_names=class_names(setting))
    return read_coco(folder / "images", annotations)


def switch_off_tf32() -> None:
    """float32 is float32 from now on in this process, in convolutions too."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def usable_workers(wanted: int) -> int:
    """Loader processes: as many as asked for, even where the machine has fewer cores, but not absurdly many."""
    return min(wanted, 4 * usable_cores())


def _random_objects(
    rng: np.random.Generator, images: int, count: int, side: int, classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (B, M, 4) float32 xyxy with log-uniform sides, and labels (B, M) int64 in 1..K."""
    sides = side * np.exp(rng.uniform(np.log(EXTENT[0]), np.log(EXTENT[1]), (images, count, 2)))
    corners = rng.uniform(0, 1, (images, count, 2)) * (side - sides)
    boxes = np.concatenate([corners, corners + sides], axis=-1).astype(np.float32)
    return boxes, rng.integers(1, classes + 1, (images, count))
