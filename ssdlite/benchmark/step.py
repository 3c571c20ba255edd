"""One training step on a resident batch: its parts, what it adds to the network, and what others take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from ssdlite.benchmark.children import Child
from ssdlite.benchmark.memory import TrainingMemory, resident_memory, training_memory
from ssdlite.benchmark.rivals import make_plain, make_torchvision
from ssdlite.benchmark.rows import Rows
from ssdlite.benchmark.timing import measure, reading, synchronizer, take_turns
from ssdlite.benchmark.workload import Workload, build_training, resident_batch, take_step, total_loss
from ssdlite.losses.atss import assign_atss
from ssdlite.losses.criterion import Assigner, Criterion
from ssdlite.losses.matching import assign_iou
from ssdlite.losses.task_aligned import assign_task_aligned
from ssdlite.model.architecture import DIALECTS
from ssdlite.model.detector import Detector
from ssdlite.structures import DetectorOutput, HeadOutput
from ssdlite.training.step import split_batch

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
    """All rows of the section. What is compared is measured in turns, each in a process that lives throughout."""
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
        times = take_turns(
            {
                "whole": lambda: ours.call("whole", repeats),
                "network": lambda: ours.call("network", repeats),
            },
            warmup=1,
            runs=effort.steps,
        )
        take_turns({"parts": read_parts}, warmup=1, runs=effort.steps)
        # Apart from the turns above, so that each of these comes after another process.
        times |= take_turns(
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
    """What depends on the weights: logits and deltas, or the corner head's maps."""
    return [each for each in output if isinstance(each, Tensor) and each.requires_grad]


def _as_leaves(output: DetectorOutput) -> DetectorOutput:
    """The same values as if the network were a constant."""
    fields = output._asdict()
    learnt = {name: each for name, each in fields.items() if isinstance(each, Tensor) and each.requires_grad}
    return type(output)(**{**fields, **{name: each.detach().requires_grad_() for name, each in learnt.items()}})
