"""Latency of the network alone in every runtime that is installed, with one thread and all, and of others."""

from __future__ import annotations

import logging
import time
from functools import partial

from ssdlite.benchmark.children import in_child
from ssdlite.benchmark.contenders import Contender, open_contender, prepare_contenders
from ssdlite.benchmark.rows import Rows
from ssdlite.benchmark.timing import measure, synchronizer
from ssdlite.benchmark.workload import Workload, resident_batch
from ssdlite.training.distributed import prepare_device

logger = logging.getLogger(__name__)

NAME = "infer"
BATCH_SIZES = (1, 8)
TURNS = 4
REST = 0.2  # seconds: a runtime's threads look for work for a while after a run and would disturb the next one


def run(workload: Workload) -> Rows:
    """All rows of the section; files are written in one process, and each number of threads has one of its own."""
    rows = Rows(NAME)
    contenders, left_out = in_child(prepare_contenders, workload, **workload.child)
    for reason in left_out:  # told here: other processes have no screen
        logger.warning("%s", reason)
    for contender in contenders:
        if contender.path is not None:
            rows.value(f"size of {contender.name}", contender.size / 1e6, "MB", note=contender.note)
    for threads in sorted({1, workload.threads}):
        options = {**workload.child, "threads": threads}
        rows += in_child(_measure, workload, contenders, threads, **options)
    return rows


def _measure(workload: Workload, contenders: list[Contender], threads: int) -> Rows:
    rows, device = Rows(NAME), workload.device
    prepare_device(device)
    works = {contender: open_contender(contender, workload, threads) for contender in contenders}
    label = f"{threads} thread{'s' if threads > 1 else ''}"
    for batch_size in BATCH_SIZES:
        images = resident_batch(workload.config.model.input_size, batch_size, workload.num_classes, device).images
        runs = workload.effort.latencies // (1 if batch_size == 1 else 2)
        readings: dict[Contender, list[float]] = {contender: [] for contender in works}
        for _ in range(TURNS):
            for contender, work in works.items():
                time.sleep(REST)
                once = partial(work, images)
                readings[contender] += measure(
                    once, warmup=3, runs=-(-runs // TURNS), synchronize=synchronizer(device)
                )
        for contender, seconds in readings.items():
            name = f"{contender.name}, batch {batch_size}, {label}"
            rows.latency(name, seconds)
            rows.rate(name, seconds, images=batch_size)
    return rows
