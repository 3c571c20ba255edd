"""One training step on a batch that is on the device: its parts, its overhead over the network, and two baselines.

The baselines are a plain training loop of the same network, and torchvision's SSDLite.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

from ssdlite.benchmark.children import Child
from ssdlite.benchmark.timing import (
    Rows,
    TrainingMemory,
    interleave,
    measure,
    reading,
    resident_memory,
    synchronizer,
    training_memory,
)
from ssdlite.benchmark.workload import Workload, build_training, resident_batch, take_step, total_loss
from ssdlite.build.model import empty_detector
from ssdlite.build.training import build_criterion
from ssdlite.losses.assigners import assign_atss, assign_task_aligned
from ssdlite.losses.matching import assign_iou
from ssdlite.losses.recipes import Assigner, Criterion
from ssdlite.models.detector import Detector
from ssdlite.models.layers import LeanReLU6
from ssdlite.models.variants import DIALECTS
from ssdlite.structures import DetectorOutput, HeadOutput
from ssdlite.training.step import split_batch

WARMUP_START = 1e-3  # of the rate, which stays there: at its peak an untrained network may diverge


class Baseline:
    """A training step as one would write it first: float32, PyTorch's own memory formats and allocation.

    On GPUs with TF32 it has the convolutions' factors in that, as PyTorch does by itself.

    Args:
        loss: forward and loss of the batch.
        model: what learns, by SGD with the config's rate, momentum and decay.
    """

    def __init__(self, workload: Workload, model: nn.Module, loss: Callable[[], Tensor]) -> None:
        self.device, self.loss = workload.device, loss
        optim = workload.config.optim
        self.optimizer = torch.optim.SGD(
            model.parameters(), lr=WARMUP_START * optim.lr, momentum=optim.momentum, weight_decay=optim.weight_decay
        )

    def step(self) -> None:
        self.loss().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def whole(self, repeats: int) -> float:
        """Seconds of a step."""
        return reading(self.step, repeats=repeats, synchronize=synchronizer(self.device))()

    def memory(self) -> TrainingMemory:
        return training_memory(self.device)


def make_plain(workload: Workload) -> Baseline:
    """Our own network and criterion without what makes them fast: float32, contiguous, ReLU6 in place."""
    config, device = workload.config, workload.device
    torch.manual_seed(config.run.seed)
    model = empty_detector(config, workload.train.class_names).train()
    restore_relu6(model)
    model.to(device)
    criterion = build_criterion(config.loss, workload.train, seed=config.run.seed).to(device)
    batch = resident_batch(config.model.input_size, config.train.batch_size, workload.num_classes, device)
    images = batch.images.contiguous()

    def loss() -> Tensor:
        terms = criterion(model(images), batch.boxes, batch.labels, batch.ignore)
        return total_loss(terms)

    return Baseline(workload, model, loss)


def make_torchvision(workload: Workload) -> Baseline:
    """torchvision's SSDLite (MobileNetV3) from scratch, at our input size in place of its 320x320."""
    config, device = workload.config, workload.device
    torch.manual_seed(config.run.seed)
    model = ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=workload.num_classes + 1
    ).train()
    height, width = config.model.input_size
    model.transform.fixed_size = (width, height)
    model.to(device)
    batch = resident_batch(config.model.input_size, config.train.batch_size, workload.num_classes, device)
    images = list(batch.images.contiguous().float() / 255)
    targets = [
        {"boxes": boxes[labels > 0], "labels": labels[labels > 0]}
        for boxes, labels in zip(batch.boxes, batch.labels, strict=True)
    ]

    def loss() -> Tensor:
        return total_loss(model(images, targets))

    return Baseline(workload, model, loss)


def restore_relu6(module: nn.Module) -> None:
    """Make every LeanReLU6 inside `module` PyTorch's own, in place as torchvision's networks have it."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LeanReLU6):
                setattr(parent, name, nn.ReLU6(inplace=True))


NAME = "step"


GPU_REPEATS = 10  # steps in a reading; on a GPU a step by itself would show the start of its kernels


COMPILED_WARMUP = 4  # steps until torch.compile has recorded its CUDA graphs


ASSIGNED_IMAGES, ASSIGNED_OBJECTS, ASSIGNED_SIDE = 32, 20, 300


ASSIGNERS: dict[str, Assigner] = {"iou": assign_iou, "atss": assign_atss, "task-aligned": assign_task_aligned}


class Step:
    """The step of `ssdlite train`, with a batch that is on the device already."""

    def __init__(self, workload: Workload) -> None:
        self.step = build_training(workload)
        self.device = workload.device
        config = workload.config
        size = config.model.input_size
        self.batch = resident_batch(size, config.train.batch_size, workload.num_classes, self.device)
        self.synchronize = synchronizer(self.device)
        self.before = resident_memory()

    def whole(self, repeats: int) -> float:
        """Seconds of a step as the training loop takes it."""
        return reading(lambda: take_step(self.step, self.batch), repeats=repeats, synchronize=self.synchronize)()

    def network(self, repeats: int) -> float:
        """Seconds of forward and backward alone: the loss is the mean square of what the network gives."""

        def work() -> None:
            for part in split_batch(self.batch, self.step.accumulate):
                outputs = _learnt(self.step.forward(part))
                self.step.backward(
                    {"square": torch.stack([each.float().square().mean() for each in outputs]).sum()}
                )
            self.step.optimizer.zero_grad(set_to_none=True)  # a CUDA graph's next replay would overwrite gradients

        return reading(work, repeats=repeats, synchronize=self.synchronize)()

    def parts(self) -> dict[str, float]:
        """Seconds of each part of a step; waiting for the device after each makes their sum more than the whole."""
        step, criterion = self.step, self.step.criterion
        clock = _Laps(self.synchronize)
        for part in split_batch(self.batch, step.accumulate):
            targets = part.boxes, part.labels, part.ignore
            with clock("forward"):
                output = step.forward(part)
            if isinstance(criterion, Criterion) and isinstance(output, HeadOutput):
                with clock("assignment"):
                    assignment = criterion.assign(output, *targets)
                with clock("loss"):
                    terms = criterion.recipe(output, assignment)
            else:  # the corner head has targets, but no priors to assign them to
                with clock("loss"):
                    terms = step.loss(output, part)
            with clock("backward"):
                step.backward(terms, len(part.images) / len(self.batch.images))
            leaves = _as_leaves(output)
            with clock("assignment, loss and their own backward"):
                step.backward(step.loss(leaves, part))
        average, step.ema = step.ema, None
        with clock("optimizer and clipping"):
            step.update(total_loss(terms).detach())
        if average:
            with clock("EMA"):
                average.update()
        step.ema = average
        return clock.seconds

    def assignments(self, runs: int) -> dict[str, list[float]]:
        """Seconds of each assignment at one fixed size, whatever the config says."""
        size = (ASSIGNED_SIDE, ASSIGNED_SIDE)
        network = Detector(DIALECTS["pytorch-ssd"], num_classes=20, input_size=size)
        priors = network.priors.to(self.device)
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(ASSIGNED_IMAGES, len(priors), 21, generator=generator)
        deltas = 0.1 * torch.randn(ASSIGNED_IMAGES, len(priors), 4, generator=generator)
        output = HeadOutput(logits.to(self.device), deltas.to(self.device), priors, "softmax", network.level_sizes)
        shape = (ASSIGNED_IMAGES, ASSIGNED_OBJECTS)
        start = torch.rand(*shape, 2, generator=generator) * 0.8
        sides = torch.rand(*shape, 2, generator=generator) * 0.5 + 0.03
        boxes = ASSIGNED_SIDE * torch.cat([start, (start + sides).clamp(max=1)], dim=-1)
        labels = torch.randint(1, 21, shape, generator=generator)
        targets = boxes.to(self.device), labels.to(self.device), torch.zeros_like(labels).bool().to(self.device)
        return {
            name: measure(
                lambda assign=assign: assign(output, *targets),  # type: ignore[misc]
                warmup=2,
                runs=runs,
                synchronize=self.synchronize,
            )
            for name, assign in ASSIGNERS.items()
        }

    def memory(self) -> tuple[TrainingMemory, int | None]:
        """At most so far, and of the main memory what was held before the first step."""
        return training_memory(self.device), self.before


def run(workload: Workload) -> Rows:
    """Return all rows of the section. What is compared is measured in turns, each in a process that lives
    throughout."""
    rows, effort, batch_size = Rows(NAME), workload.effort, workload.config.train.batch_size
    with ExitStack() as stack:
        ours, plain, torchvision = (
            stack.enter_context(Child(make, workload, **workload.child))
            for make in (Step, make_plain, make_torchvision)
        )
        repeats = 1 if workload.device.type == "cpu" or workload.quick else GPU_REPEATS
        warmup = effort.warmup if workload.config.train.compile == "none" else COMPILED_WARMUP
        laps: list[dict[str, float]] = []

        def read_parts() -> float:
            laps.append(ours.call("parts"))
            return sum(laps[-1].values())

        for _ in range(warmup):
            ours.call("whole", repeats)
        memory, before = ours.call("memory")
        times = interleave(
            {
                "whole": lambda: ours.call("whole", repeats),
                "network": lambda: ours.call("network", repeats),
            },
            warmup=1,
            runs=effort.steps,
        )
        interleave({"parts": read_parts}, warmup=1, runs=effort.steps)
        # Apart from the turns above, so that each of these comes after another process.
        times |= interleave(
            {
                "ours": lambda: ours.call("whole", repeats),
                "plain": lambda: plain.call("whole", repeats),
                "torchvision": lambda: torchvision.call("whole", repeats),
            },
            warmup=effort.warmup,
            runs=effort.steps,
        )
        assignments = ours.call("assignments", 3 * effort.steps)
        others = {"plain": plain.call("memory"), "torchvision": torchvision.call("memory")}

    rows.time("whole step", times["whole"], note=f"batch {batch_size}, {_settings(workload)}")
    rows.rate("whole step", times["whole"], images=batch_size)
    rows.time("forward + backward alone", times["network"], note="trivial loss, same batch")
    rows.ratio("whole step / forward + backward", times["whole"], times["network"])
    for name in laps[-1]:
        rows.time(name, [lap[name] for lap in laps[1:]])
    size = "x".join(map(str, workload.config.model.input_size))
    rows.time("our step in turn with those below", times["ours"])
    for name, title in (
        ("plain", "this network in plain PyTorch, fp32, contiguous"),
        ("torchvision", f"torchvision ssdlite320_mobilenet_v3_large at {size}, fp32"),
    ):
        rows.time(f"{title}: step", times[name])
        rows.rate(f"{title}: step", times[name], images=batch_size)
        rows.ratio(f"{title}: step / our step", times[name], times["ours"])
    setting = f"{ASSIGNED_IMAGES} images x {ASSIGNED_OBJECTS} objects, pytorch-ssd's priors at {ASSIGNED_SIDE} px"
    for name, readings in assignments.items():
        rows.time(f"assignment {name}, fixed size", readings, note=setting)
    _add_memory(rows, f"peak of training, batch {batch_size}", memory)
    rows.memory("before the first step: main memory", before, note="libraries, network and optimizer")
    for name, used in others.items():
        _add_memory(rows, f"peak of {name}, batch {batch_size}", used)
    return rows


def _settings(workload: Workload) -> str:
    train = workload.config.train
    dtype = str(workload.dtype).removeprefix("torch.")
    return f"{dtype}, {workload.threads} threads, compile {train.compile}, accumulate {train.accumulate}"


def _add_memory(rows: Rows, name: str, memory: TrainingMemory) -> None:
    rows.memory(f"{name}: main memory", memory.process, note="of the process, with all that it imports")
    rows.memory(f"{name}: GPU memory", memory.device, note="tensors")
    rows.memory(f"{name}: GPU memory reserved", memory.reserved)


class _Laps:
    """`with clock(name)` adds what passes inside to `seconds[name]`."""

    def __init__(self, synchronize: Callable[[], None] | None) -> None:
        self.seconds: dict[str, float] = {}
        self.synchronize = synchronize or (lambda: None)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.synchronize()
        start = time.perf_counter()
        yield
        self.synchronize()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def _learnt(output: DetectorOutput) -> list[Tensor]:
    """Return the tensors that depend on the weights: logits and deltas, or the corner head's maps."""
    return [each for each in output if isinstance(each, Tensor) and each.requires_grad]


def _as_leaves(output: DetectorOutput) -> DetectorOutput:
    """Return the output detached from the network, as leaves that need gradients."""
    fields = output._asdict()
    learnt = {name: each for name, each in fields.items() if isinstance(each, Tensor) and each.requires_grad}
    return type(output)(**{**fields, **{name: each.detach().requires_grad_() for name, each in learnt.items()}})
