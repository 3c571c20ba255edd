"""Latency of the network alone: PyTorch as `ssdlite predict` runs it, and ONNX Runtime."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssdlite import build
from ssdlite.benchmark.children import in_child
from ssdlite.benchmark.rows import Rows
from ssdlite.benchmark.timing import measure, synchronizer
from ssdlite.benchmark.workload import Workload, build_network, resident_batch
from ssdlite.deploy.metadata import FileForm, HeadKind
from ssdlite.deploy.onnx import export_onnx
from ssdlite.deploy.runtime import OnnxPredictor
from ssdlite.model.decode import decode_output
from ssdlite.model.detector import Detector
from ssdlite.model.network import Network

NAME = "infer"
BATCH_SIZES = (1, 8)
TURNS = 4
REST = 0.2  # seconds: ONNX Runtime's threads look for work for a while after a run and would disturb the other


def run(workload: Workload) -> Rows:
    """All rows of the section, measured in a process of its own."""
    return in_child(_measure, workload, **workload.child)


def _measure(workload: Workload) -> Rows:
    rows, device = Rows(NAME), workload.device
    network = build_network(workload).eval()
    head: HeadKind = "raw" if isinstance(network, Detector) else "decoded"
    path = workload.scratch / "benchmark.onnx"
    _export(network, head, workload, path)
    onnx = OnnxPredictor(path, threads=workload.threads)
    rows.value("size of the ONNX file", path.stat().st_size / 1e6, "MB", note=f"head {head}")
    for batch_size in BATCH_SIZES:
        batch = resident_batch(workload.config.model.input_size, batch_size, workload.num_classes, device)
        works = {
            f"PyTorch, {device.type}, fp32": _torch_work(network, head, batch.images),
            "ONNX Runtime, cpu, fp32": _onnx_work(onnx, batch.images.cpu().numpy()),
        }
        runs = workload.effort.latencies // (1 if batch_size == 1 else 2)
        readings: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(TURNS):
            for name, work in works.items():
                time.sleep(REST)
                readings[name] += measure(work, warmup=3, runs=-(-runs // TURNS), synchronize=synchronizer(device))
        for name, seconds in readings.items():
            rows.latency(f"{name}, batch {batch_size}", seconds)
            rows.rate(f"{name}, batch {batch_size}", seconds, images=batch_size)
    return rows


def _torch_work(network: Network, head: HeadKind, images: torch.Tensor) -> Callable[[], Any]:
    """From pixels to what a file of `head` gives."""
    channels_last = images.contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def work() -> Any:
        output = network(channels_last)
        return output if head == "raw" else decode_output(output, network.input_size)

    return work


def _onnx_work(predictor: OnnxPredictor, images: np.ndarray) -> Callable[[], Any]:
    return lambda: predictor.run(images)


def _export(network: Network, head: HeadKind, workload: Workload, path: Path) -> None:
    """The network as a file, without the comparison with PyTorch."""
    config = workload.config
    export_onnx(
        network,
        path,
        decoder=build.build_decoder(config.eval, config.model.input_size),
        metadata=build.export_metadata(config, workload.train.class_names, metrics={}),
        evidence=None,
        form=FileForm(head=head),
    )
