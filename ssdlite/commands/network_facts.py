"""What a page tells of a network that only PyTorch can say: its size, the fit of its priors, its machine."""

from __future__ import annotations

import math
from pathlib import Path

from typing import TYPE_CHECKING

import numpy as np

from ssdlite.benchmark.machine import describe_machine
from ssdlite.commands.pages import Subject
from ssdlite.config import Config
from ssdlite.report.content import FitRow, FitSummary
from ssdlite.structures import DataSplit, Record

if TYPE_CHECKING:
    import torch

MAX_IMAGES = 1000  # whose priors are measured, spread over all: enough for shares within 2 %, in a second


def make_subject(path: Path, config: Config, class_names: tuple[str, ...], train: DataSplit | None) -> Subject:
    """The model at `path` with all that can be said of its network; `train` is what it learnt from, if there."""
    import torch

    from ssdlite import build
    from ssdlite.training.distributed import choose_device

    network = build.empty_detector(config, class_names)
    priors = getattr(network, "priors", None)
    return Subject(
        path,
        config,
        class_names,
        num_parameters=sum(weight.numel() for weight in network.parameters()),
        fit=measure_priors(priors, config.model.input_size, train) if priors is not None and train else None,
        machine=describe_machine(choose_device("auto"), torch.float32),
    )


def measure_priors(priors: torch.Tensor, input_size: tuple[int, int], train: DataSplit) -> FitSummary:
    """How well `priors` (P, 4) fit the objects of `train` as the network sees them, stretched to its input."""
    from ssdlite.model.prior_fit import measure_fit

    fit = measure_fit([_input_boxes(record, input_size) for record in train.records], priors, max_images=MAX_IMAGES)
    total = fit.total
    rows = tuple(
        FitRow(row.name, row.num_objects, math.nan if row.share_reached is None else row.share_reached)
        for row in fit.by_size
    )
    return FitSummary(
        num_objects=total.num_objects,
        reached=total.share_reached or 0.0,
        forced=total.num_forced / max(1, total.num_objects),
        unmatched=total.num_unmatched / max(1, total.num_objects),
        rows=rows,
        unit="The size is √area in pixels of the network's input; in brackets, how many objects have it.",
    )


def _input_boxes(record: Record, input_size: tuple[int, int]) -> np.ndarray:
    """(N, 4) xyxy pixels of the network's input: the objects of `record` that count."""
    (height, width), (input_height, input_width) = record.size, input_size
    scale = np.array([input_width / width, input_height / height] * 2, np.float32)
    return record.boxes[~(record.ignore | record.crowd)] * scale
