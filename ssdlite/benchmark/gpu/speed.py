"""Speed on the GPU: ceilings of the device, the training step, training from files and caches, and evaluation."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from itertools import chain, count
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from ssdlite.benchmark.eval import evaluator, simulate_output
from ssdlite.benchmark.gpu.cases import (
    CPU,
    make_batch,
    make_config,
    make_network,
    make_step,
    read_photos,
    usable_workers,
)
from ssdlite.benchmark.gpu.tasks import Outcome, Row, Setting, short_trace
from ssdlite.benchmark.timing import Timing, interleave, reading, synchronizer, training_memory
from ssdlite.benchmark.workload import MAX_OBJECTS, prepare_process, repeated, start_epoch, take_step
from ssdlite.build.model import build_decoder, dialect_of
from ssdlite.build.training import build_dtype, build_loader
from ssdlite.config.schema import Config
from ssdlite.data.device import finish_images
from ssdlite.evaluation.evaluate import predict_split
from ssdlite.models.network import Network
from ssdlite.models.predictor import TorchPredictor
from ssdlite.structures import Batch, DataSplit, HeadOutput
from ssdlite.training.step import TrainStep, on_device

MULTIPLY_ADDS = 789e6
"""Multiply-adds of one 320x320 image, forward; forward and backward take three times as many."""


EAGER_BYTES, FUSED_BYTES = 544e6, 412e6
"""Memory traffic of a training step an image of 320x320, bf16: as it is, and with norms and activations fused into
their neighbours."""


WARMUP, RUNS = 3, 10


FORMATS = {"NHWC": torch.channels_last, "NCHW": torch.contiguous_format}


class Depthwise(NamedTuple):
    """A depthwise convolution by what its speed depends on."""

    channels: int
    height: int
    width: int
    kernel: int
    stride: int
    padding: int


def measure_ceilings(setting: Setting) -> Outcome:
    """Bandwidth of a copy and rate of a matrix product, and the images a second that they allow."""
    device, sizes = setting.device, setting.sizes
    prepare_process(device)
    source = torch.zeros(sizes.copy_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = device_seconds(lambda: target.copy_(source), device)
    bandwidth = 2 * sizes.copy_bytes / seconds
    side = sizes.matrix
    one, other = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    rate = 2 * side**3 / device_seconds(lambda: one @ other, device)
    rows: list[Row] = [
        {"what": "copy on the device, read and written", "value": bandwidth / 1e9, "unit": "GB/s"},
        {"what": f"matrix product bf16 {side}x{side}", "value": rate / 1e12, "unit": "TFLOP/s"},
        {"what": "bound by traffic, eager (544 MB an image)", "value": bandwidth / EAGER_BYTES, "unit": "images/s"},
        {"what": "bound by traffic, fused (412 MB an image)", "value": bandwidth / FUSED_BYTES, "unit": "images/s"},
        {
            "what": "bound by arithmetic (3 x 789 million multiply-adds an image)",
            "value": rate / (3 * 2 * MULTIPLY_ADDS),
            "unit": "images/s",
        },
    ]
    return Outcome(rows)


def measure_depthwise(setting: Setting) -> Outcome:
    """Each depthwise convolution of the network, bf16: forward, data gradient and weight gradient, in both layouts.

    `of copy` is the share of the copy's bandwidth at which the tensors that must be read and written pass.
    """
    device, images = setting.device, setting.sizes.convolved
    prepare_process(device)
    bandwidth = _copy_bandwidth(setting)
    rows: list[Row] = []
    for shape, times in depthwise_shapes(setting).items():
        row: Row = {
            "channels": shape.channels,
            "map": f"{shape.height}x{shape.width}",
            "stride": shape.stride,
            "in the network": times,
        }
        for layout, memory_format in FORMATS.items():
            for name, (work, size) in _works(shape, images, device, memory_format).items():
                seconds = device_seconds(work, device)
                row[f"{name} {layout} ms"] = 1e3 * seconds
                row[f"{name} {layout} of copy"] = size / seconds / bandwidth
        rows.append(row)
    return Outcome([*rows, _total(rows)])


def depthwise_shapes(setting: Setting) -> dict[Depthwise, int]:
    """The depthwise convolutions of the detector, and how often each is there."""
    config = make_config(setting)
    network = make_network(config, setting, CPU).eval()
    found: Counter[Depthwise] = Counter()

    def note(module: nn.Conv2d, inputs: tuple[Tensor]) -> None:
        height, width = inputs[0].shape[-2:]
        kernel, stride, padding = module.kernel_size[0], module.stride[0], module.padding[0]
        assert isinstance(padding, int)
        found[Depthwise(module.in_channels, height, width, kernel, stride, padding)] += 1

    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1:
            module.register_forward_pre_hook(note)
    with torch.no_grad():
        network(torch.zeros(1, 3, *config.model.input_size, dtype=torch.uint8))
    return dict(found)


def _works(
    shape: Depthwise, images: int, device: torch.device, memory_format: torch.memory_format
) -> dict[str, tuple[Callable[[], Any], int]]:
    """Forward and both gradients of one convolution, each with the bytes that it must read and write."""
    channels, height, width, kernel, stride, padding = shape
    features = torch.randn(images, channels, height, width, device=device, dtype=torch.bfloat16)
    features = features.contiguous(memory_format=memory_format)
    weight = torch.randn(channels, 1, kernel, kernel, device=device, dtype=torch.bfloat16)
    weight = weight.contiguous(memory_format=memory_format)

    def forward() -> Tensor:
        return nn.functional.conv2d(features, weight, None, stride, padding, groups=channels)

    output = forward()
    gradient = torch.randn_like(output).contiguous(memory_format=memory_format)

    def backward(*wanted: bool) -> Any:
        sides, paddings = [stride, stride], [padding, padding]
        return torch.ops.aten.convolution_backward(
            gradient, features, weight, None, sides, paddings, [1, 1], False, [0, 0], channels, [*wanted, False]
        )

    size = 2 * (features.numel() + output.numel())
    return {
        "forward": (forward, size),
        "data gradient": (lambda: backward(True, False), size),
        "weight gradient": (lambda: backward(False, True), size),
    }


def _total(rows: list[Row]) -> Row:
    """Return the sum over a step: each shape as often as it is in the network."""
    names = [name for name in rows[0] if name.endswith(" ms")]
    total: Row = {
        "channels": "all",
        "map": "",
        "stride": "",
        "in the network": sum(row["in the network"] for row in rows),
    }
    return total | {name: sum(row[name] * row["in the network"] for row in rows) for name in names}


def _copy_bandwidth(setting: Setting) -> float:
    """Bytes a second, read and written."""
    row = measure_ceilings(setting).rows[0]
    return float(row["value"]) * 1e9


def device_seconds(work: Callable[[], Any], device: torch.device, runs: int = RUNS) -> float:
    """The mean time of a run on the device, by its own clock where it has one."""
    synchronize = synchronizer(device) or (lambda: None)
    for _ in range(WARMUP):
        work()
    synchronize()
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(runs):
            work()
        return (time.perf_counter() - start) / runs
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(runs):
        work()
    end.record()
    synchronize()
    return float(begin.elapsed_time(end)) / 1e3 / runs


STEP_WARMUP = 4  # steps until algorithms are chosen and CUDA graphs are recorded


HOST_READINGS, PROFILED = 8, 5  # steps


BATCHES = 2  # resident, by turns


KERNELS = 15  # named for each setting


MIB = 2**20


def measure_steps(setting: Setting, *, mode: str, images: int) -> Outcome:
    """A row for each number of objects, and those of its top kernels in the column "kernels"."""
    config = make_config(setting, f"train.batch_size={images}", f"train.compile={mode}")
    device = setting.device
    step = make_step(config, setting, device)
    rows = []
    for most in setting.sizes.most_objects:
        batches = [make_batch(config, setting, images, most, device, seed) for seed in range(BATCHES)]
        rows.append({"batch": images, "objects": most, "compile": mode, **_measure(step, batches, setting)})
    return Outcome(rows)


def _measure(step: TrainStep, batches: list[Batch], setting: Setting) -> Row:
    device, count = setting.device, setting.sizes.steps
    synchronize = synchronizer(device) or (lambda: None)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    begun = time.perf_counter()
    take_step(step, batches[0])
    synchronize()
    first = time.perf_counter() - begun
    warmup = 1 if setting.dry_run else STEP_WARMUP
    _take(step, batches, warmup)
    synchronize()
    begun = time.perf_counter()
    _take(step, batches, count)
    synchronize()
    seconds = (time.perf_counter() - begun) / count
    memory = training_memory(device)
    row: Row = {
        "images/s": len(batches[0].images) / seconds,
        "step ms": 1e3 * seconds,
        "host ms": 1e3 * host_seconds(lambda: take_step(step, batches[0]), synchronize),
        "peak MiB": None if memory.device is None else memory.device / MIB,
        "reserved MiB": None if memory.reserved is None else memory.reserved / MIB,
        "first step s": first,
    }
    return row | profile_steps(step, batches, device)


def _take(step: TrainStep, batches: list[Batch], count: int) -> None:
    for number in range(count):
        take_step(step, batches[number % len(batches)])


def host_seconds(work: Callable[[], Any], synchronize: Callable[[], None]) -> float:
    """The median time until `work` has asked an idle device for everything; on a CPU that is all of it."""
    readings = []
    for _ in range(HOST_READINGS):
        synchronize()
        start = time.perf_counter()
        work()
        readings.append(time.perf_counter() - start)
    synchronize()
    return float(np.median(readings))


def profile_steps(step: TrainStep, batches: list[Batch], device: torch.device) -> Row:
    """Time on the device, launches and the longest kernels; on a CPU its operators take the kernels' place."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    try:
        with profile(activities=activities, acc_events=True) as profiler:
            _take(step, batches, PROFILED)
            if on_gpu:
                torch.cuda.synchronize(device)
        events = profiler.key_averages()
    except RuntimeError as error:  # a machine may forbid it
        return {"device ms": None, "launches": None, "kernels": [], "profiler": short_trace(error)}
    wanted = [event for event in events if (event.device_type == DeviceType.CUDA) == on_gpu]
    microseconds = {
        event.key: (event.self_device_time_total if on_gpu else event.self_cpu_time_total) for event in wanted
    }
    calls = {event.key: event.count for event in wanted}
    total = sum(microseconds.values())
    top = sorted(microseconds, key=lambda name: -microseconds[name])[:KERNELS]
    kernels = [
        {
            "kernel": " ".join(name.split())[:160],
            "ms a step": microseconds[name] / 1e3 / PROFILED,
            "share": microseconds[name] / max(total, 1e-9),
            "calls a step": calls[name] / PROFILED,
        }
        for name in top
    ]
    return {
        "device ms": total / 1e3 / PROFILED if on_gpu and total else None,
        "launches": sum(calls.values()) / PROFILED if on_gpu else None,
        "kernels": kernels,
    }


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
    alignment = dialect_of(config.model).resize_alignment
    return build_loader(config, split, training=True, alignment=alignment, device=setting.device, workers=workers)


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


PASSES = 7


class LearntScores(nn.Module):
    """A network whose scores are replaced by simulated ones, so that decoding has what it has after a training."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.logits: Tensor | None = None

    def forward(self, images: Tensor) -> HeadOutput:
        output = self.network(images)
        if self.logits is None or len(self.logits) < len(images):
            self.logits = simulate_output(output).logits
        return output._replace(logits=self.logits[: len(images)])


def measure_parts(setting: Setting) -> Outcome:
    """Network and decoding of resident batches."""
    batch_size, device = setting.sizes.eval_batch, setting.device
    config, predictor = _predictor(setting)
    batch = make_batch(config, setting, batch_size, 20, device)
    started = predictor.start(batch)
    synchronize = synchronizer(device)
    works = {
        "network": reading(lambda: predictor.start(batch), synchronize=synchronize),
        "decoding and suppression": reading(lambda: predictor.finish(started), synchronize=synchronize),
    }
    rows: list[Row] = []
    for name, readings in interleave(works, warmup=2, runs=1 if setting.dry_run else PASSES).items():
        median = Timing.of(readings).median
        rows.append(_row(name, batch_size / median, median / batch_size, f"batch {batch_size}"))
    return Outcome(rows)


def measure_validation(setting: Setting, *, workers: int) -> Outcome:
    """Time a validation from files and from the disk cache to detections."""
    sizes, device = setting.sizes, setting.device
    photos = read_photos(setting, setting.scratch / "photos", sizes.photos)
    rows = []
    for source, options in (
        ("files", []),
        ("disk cache", ["data.cache=disk", f"data.cache_dir={setting.scratch / 'cache'}"]),
    ):
        config, predictor = _predictor(setting, *options)
        split = repeated(photos, sizes.validated)
        loader = build_loader(
            config,
            split,
            training=False,
            alignment=dialect_of(config.model).resize_alignment,
            device=device,
            workers=usable_workers(workers),
        )
        work = reading(lambda: predict_split(predictor, loader, len(split)), synchronize=synchronizer(device))  # noqa: B023  # called in this turn
        seconds = interleave({"all": work}, warmup=1, runs=1)["all"][0]
        note = f"{workers} workers, batch {sizes.eval_batch}, {len(split)} images"
        rows.append(_row(f"validation from the {source}", len(split) / seconds, seconds / len(split), note))
    return Outcome(rows)


def measure_scoring(setting: Setting) -> Outcome:
    """AP of simulated detections."""
    evaluated = evaluator(setting.sizes.scored)
    note = f"{evaluated.images} images x 100 detections, 80 classes, {evaluated.backend}"
    return Outcome(
        [
            _row(
                "COCO AP",
                evaluated.images / evaluated.coco_seconds,
                evaluated.coco_seconds / evaluated.images,
                note,
            ),
            _row(
                "VOC AP", evaluated.images / evaluated.voc_seconds, evaluated.voc_seconds / evaluated.images, note
            ),
        ]
    )


def _predictor(setting: Setting, *options: str):  # type: ignore[no-untyped-def]
    """(config, predictor with simulated scores)."""
    prepare_process(setting.device)
    config = make_config(setting, f"eval.batch_size={setting.sizes.eval_batch}", *options)
    network = make_network(config, setting, setting.device)
    decoder = build_decoder(config.eval, config.model.input_size)
    dtype = build_dtype(config.train.precision, setting.device)
    torch.manual_seed(0)
    return config, TorchPredictor(LearntScores(network), decoder, setting.device, dtype)


def _row(what: str, rate: float, seconds: float, note: str) -> Row:
    return {"what": what, "images/s": rate, "ms an image": 1e3 * seconds, "note": note}
