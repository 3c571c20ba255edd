"""The training step on batches that are on the device: rate, memory, time of host and device, top kernels."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from ssdlite.benchmark.gpu.cases import make_batch, make_config, make_step
from ssdlite.benchmark.gpu.tasks import Outcome, Row, Setting, short_trace
from ssdlite.benchmark.memory import training_memory
from ssdlite.benchmark.timing import synchronizer
from ssdlite.benchmark.workload import take_step
from ssdlite.structures import Batch
from ssdlite.training.step import TrainStep

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
