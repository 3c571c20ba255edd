"""Pieces of ssdlite's work on a GPU, each small enough to be looked through in a second.

Sizes are of no importance to kernels, so that networks are narrow and inputs small; what matters is kept: several
levels, several images, padding, ignored objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import cache
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_map_only

from ssdlite.benchmark import step as benchmark_step
from ssdlite.benchmark.workload import take_step, total_loss
from ssdlite.build.model import build_decoder, empty_detector
from ssdlite.build.training import build_criterion, build_step
from ssdlite.config.schema import Config, load_config
from ssdlite.data.device import PLACEMENT, finish_images
from ssdlite.evaluation.evaluate import predict_split
from ssdlite.losses.recipes import count_matches
from ssdlite.models.network import Network
from ssdlite.models.predictor import TorchPredictor
from ssdlite.structures import Batch, DataSplit, HeadOutput, ScoreActivation
from ssdlite.training import loop, nonfinite
from ssdlite.training.loop import Trainer
from ssdlite.training.optim import AUTOCAST_DTYPE
from ssdlite.training.step import TrainStep

from .recorder import ANYWHERE

CLASSES = ("one", "two", "three")
SPLIT = DataSplit([], CLASSES, (1, 2, 3))
SIZE = (96, 96)
IMAGES, OBJECTS = 4, 3

RECIPES = {
    "multibox": ("loss=multibox", "loss.label_smoothing=0.1", "loss.class_weights={one: 2}"),
    "focal": ("loss=focal", "loss.box_loss=diou"),
    "sampled": ("loss=sampled",),
    "quality": ("loss=quality",),
    "varifocal": ("loss=quality", "loss.classification=varifocal", "loss.box_loss=ciou"),
}
ASSIGNERS = {
    "iou": ("loss.assignment=iou",),
    "iou with a band and ties": (
        *("loss.assignment=iou", "loss.assignment.all_ties=true"),
        *("loss.assignment.iou_threshold=0.7", "loss.assignment.background_below=0.3"),
    ),
    "atss": ("loss.assignment=atss",),
    "task-aligned": ("loss.assignment=task-aligned",),
}
CORNER = ("model.head=corner",)
HEADS: dict[str, tuple[str, ...]] = {"ssdlite": (), "corner": CORNER}
PRECISIONS = ("fp32", "bf16", "fp16")
MPS_PRECISIONS = ("fp32",)  # what auto chooses there


BUILDING = r"ssdlite\.build\."
VALIDATION = r"|ssdlite\.models\.decode\."
LOOP = r"|ssdlite\.training\.loop\."
BETWEEN_STEPS = rf"{LOOP}(_log|_save_last|restore)\b{LOOP}_check_finite < ssdlite\.training\.loop\._train_epoch"


class Workload(NamedTuple):
    """A piece of work, and where it may wait for the device."""

    work: Callable[[torch.device], object]
    may_wait: str = BUILDING  # a pattern, see `recorder.record`


def workloads(device: str) -> dict[str, Workload]:
    """Return the workloads for cuda or mps, by a name that says recipe, assigner, head and precision."""
    if device == "cuda":
        return dict(_workloads(PRECISIONS))
    # On Metal it is right to wait: copies from memory that is not pinned are not safe otherwise.
    return {name: each._replace(may_wait=ANYWHERE) for name, each in _workloads(MPS_PRECISIONS)}


def _workloads(precisions: Sequence[str]) -> Iterator[tuple[str, Workload]]:
    for recipe, assigner in product(RECIPES, ASSIGNERS):
        options = (*RECIPES[recipe], *ASSIGNERS[assigner])
        yield f"loss: {recipe}, {assigner}", Workload(_losses(options, precisions))
    for (head, options), precision in product(HEADS.items(), precisions):
        yield f"step, validation: {head}, {precision}", Workload(_step(options, precision), BUILDING + VALIDATION)
    accumulated = ("train.accumulate=2", "train.ema_decay=0", "train.clip_norm=0")
    frozen = ("model.freeze=[backbone,norms]", "optim.momentum=0")
    yield "step: accumulated", Workload(_step(accumulated, precisions[-1]), BUILDING + VALIDATION)
    yield "step: frozen", Workload(_step(frozen, precisions[0]), BUILDING + VALIDATION)
    # The recipe that has a state of its own; heads and the others have none.
    resume = _resume(RECIPES["sampled"], precisions[-1])
    yield "run, resume", Workload(resume, BUILDING + VALIDATION + BETWEEN_STEPS)
    for head, options in HEADS.items():
        yield f"parts of a step: {head}", Workload(_parts(options), BUILDING)
        yield f"report of a loss that is no number: {head}", Workload(_failure(options, precisions[-1]), ANYWHERE)
    yield "augmentation on the device", Workload(_augmentation)
    yield "matches of a batch", Workload(_matches, ANYWHERE)


def config_of(options: Sequence[str], precision: str = "fp32") -> Config:
    """The options of a small network."""
    small = (f"model.input_size={list(SIZE)}", "model.width=0.25", f"train.batch_size={IMAGES}")
    return load_config(None, [*small, f"train.precision={precision}", *options])


@cache
def _network(nodes: str) -> Network:
    """Return the network of a config in JSON, with values, on the CPU."""
    return empty_detector(Config.model_validate_json(nodes), CLASSES)


def make_network(config: Config, device: torch.device) -> Network:
    """Make the network on the CPU and move it."""
    with _disable_current_modes():
        network = deepcopy(_network(config.model_dump_json(include={"model", "loss"})))
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(_empty_like(parameter, device), parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = _empty_like(buffer, device)
    return network


def _empty_like(tensor: Tensor, device: torch.device) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)


def make_step(config: Config, device: torch.device) -> TrainStep:
    """Make the step as `ssdlite train` does."""
    network = make_network(config, device).train()
    criterion = build_criterion(config.loss, SPLIT)
    dtype = AUTOCAST_DTYPE[config.train.precision]
    return build_step(config, network, criterion, total_steps=10, device=device, dtype=dtype)


def make_batch(device: torch.device | str = "cpu", size: tuple[int, int] = SIZE) -> Batch:
    """A batch of the loader."""
    boxes = torch.zeros(IMAGES, OBJECTS, 4, device=device)
    return Batch(
        images=torch.zeros(IMAGES, 3, *size, dtype=torch.uint8, device=device),
        boxes=boxes,
        labels=torch.ones(IMAGES, OBJECTS, dtype=torch.int64, device=device),
        ignore=torch.zeros(IMAGES, OBJECTS, dtype=torch.bool, device=device),
        image_ids=list(range(IMAGES)),
        original_sizes=[size] * IMAGES,
        indices=list(range(IMAGES)),
    )


def _output(device: torch.device, activation: ScoreActivation = "softmax") -> HeadOutput:
    """Return the output of a network with 30 priors of two levels."""
    logits, deltas = (torch.zeros(IMAGES, 30, width, device=device) for width in (1 + len(CLASSES), 4))
    return HeadOutput(logits, deltas, torch.ones(30, 4, device=device), activation, (20, 10))


def _losses(options: Sequence[str], precisions: Sequence[str]) -> Callable[[torch.device], None]:
    """Assignment and loss of what a network gives in each precision, and its gradient."""

    def work(device: torch.device) -> None:
        config = config_of(options)
        criterion = build_criterion(config.loss, SPLIT).to(device)
        activation: ScoreActivation = "softmax" if config.loss.kind in ("multibox", "sampled") else "sigmoid"
        for precision in precisions:
            dtype = AUTOCAST_DTYPE[precision]
            logits, deltas = (
                torch.zeros(IMAGES, 30, width, device=device, dtype=dtype, requires_grad=True)
                for width in (1 + len(CLASSES), 4)
            )
            output = _output(device, activation)._replace(logits=logits, deltas=deltas)
            batch = make_batch(device)
            total_loss(criterion(output, batch.boxes, batch.labels, batch.ignore)).backward()

    return work


def _step(options: Sequence[str], precision: str) -> Callable[[torch.device], None]:
    """A step, and a batch of validation."""

    def work(device: torch.device) -> None:
        config = config_of(options, precision)
        step = make_step(config, device)
        take_step(step, make_batch(device))
        decoder = build_decoder(config.eval, SIZE)
        predict_split(TorchPredictor(step.model, decoder, device, step.dtype), [make_batch()], IMAGES)

    return work


def _parts(options: Sequence[str]) -> Callable[[torch.device], None]:
    """Return the parts of a step that `ssdlite benchmark` times by themselves."""

    def work(device: torch.device) -> None:
        config = config_of(options)
        told = SimpleNamespace(config=config, device=device, num_classes=len(CLASSES))
        with (
            patch.object(benchmark_step, "build_training", lambda _: make_step(config, device)),
            patch.object(benchmark_step, "resident_batch", lambda *_: make_batch(device)),
        ):
            timed = benchmark_step.Step(told)  # type: ignore[arg-type]
        timed.network(1)
        timed.parts()

    return work


def _resume(options: Sequence[str], precision: str) -> Callable[[torch.device], None]:
    """A run that is saved between two lines of its log, and another one that continues it and ends."""

    def work(device: torch.device) -> None:
        saved: list[dict[str, Any]] = []
        with (
            patch.object(loop, "save_newest", lambda _, content, keep: saved.append(content)),
            patch.object(loop, "save_checkpoint", lambda _, content: saved.append(content)),
            patch.object(loop, "random_state", dict),  # of generators that fake tensors do not have
            patch.object(loop, "set_random_state", lambda _: None),
        ):
            make_trainer(config_of(options, precision), device).run()
            resumed = make_trainer(config_of(options, precision), device)
            resumed.restore(on_cpu(saved[0]))
            resumed.run()

    return work


def on_cpu(content: Any) -> Any:
    """A checkpoint as it is read again."""
    return tree_map_only(Tensor, lambda tensor: tensor.cpu(), content)


class _Loader:
    """Two batches an epoch."""

    batch_size = IMAGES
    dataset = range(2 * IMAGES)

    def __init__(self) -> None:
        self.sampler = self
        self.start = 0

    def set_epoch(self, _: int, start: int) -> None:
        self.start = start

    def __iter__(self) -> Iterator[Batch]:
        return (make_batch() for _ in range(self.start, 2 * IMAGES, IMAGES))


def make_trainer(config: Config, device: torch.device) -> Trainer:
    """An epoch of two batches, with a line of the log at its end and a checkpoint after each batch."""
    step = make_step(config, device)

    def validate(network: nn.Module, _: int) -> Mapping[str, Any]:
        predictor = TorchPredictor(network, build_decoder(config.eval, SIZE), device, step.dtype)
        predict_split(predictor, [make_batch()], IMAGES)
        network.train()
        return {}

    return Trainer(
        step=step,
        loader=_Loader(),  # type: ignore[arg-type]
        validate=validate,
        run_dir=Path("none"),
        header={"config": {}, "classes": list(CLASSES)},
        epochs=1,
        log_interval=2,
        val_interval=1,
        save_interval=1,
        logbook=SimpleNamespace(num_lines=0, log=lambda *_: None, watch=lambda *_: None),  # type: ignore[arg-type]
    )


def _augmentation(device: torch.device) -> None:
    for columns in (sum(PLACEMENT), sum(PLACEMENT) + 7):  # without colours, with them
        drafts = make_batch(device)._replace(
            images=torch.zeros(1000, 3, dtype=torch.uint8, device=device),
            pending=torch.zeros(IMAGES, columns, device=device),
        )
        finish_images(drafts, SIZE)


def _matches(device: torch.device) -> None:
    """Compute the match statistics that TensorBoard shows, for each assigner."""
    output = _output(device)
    for options in ASSIGNERS.values():
        criterion = build_criterion(config_of(options).loss, SPLIT)
        count_matches(criterion.assign, output, make_batch(device))  # type: ignore[arg-type]


def _failure(options: Sequence[str], precision: str) -> Callable[[torch.device], None]:
    def work(device: torch.device) -> None:
        step = make_step(config_of(options, precision), device)
        with (
            patch.object(nonfinite, "write_whole"),
            patch.object(nonfinite, "write_text"),
            patch.object(nonfinite, "write_image"),
            TemporaryDirectory() as folder,
        ):
            nonfinite.record_failure(Path(folder), step, make_batch(device), CLASSES, {})

    return work
