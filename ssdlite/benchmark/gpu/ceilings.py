"""Ceilings of the device: copying, multiplying, and each depthwise convolution of the network."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ssdlite.benchmark.gpu.cases import CPU, make_config, make_network
from ssdlite.benchmark.gpu.tasks import Outcome, Row, Setting
from ssdlite.benchmark.timing import synchronizer
from ssdlite.benchmark.workload import prepare_process

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
    """All of a step: each shape as often as it is in the network."""
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
