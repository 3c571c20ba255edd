"""Curves, pictures and options that TensorBoard shows of a run besides the numbers of its log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from ssdlite.config.schema import Config
from ssdlite.data.device import finish_images
from ssdlite.data.loader import sample_batch
from ssdlite.evaluation.curves import class_curves
from ssdlite.evaluation.evaluate import Evaluation
from ssdlite.evaluation.matching import match_split
from ssdlite.losses.recipes import Criterion, count_matches
from ssdlite.structures import Batch, DataSplit, DetectorOutput, HeadOutput
from ssdlite.training.loggers import CURVE_THRESHOLDS, Logbook

FIGURES = ("val/AP", "val/AP50", "val/AP75", "val/AP_small", "val/AP_medium", "val/AP_large", "val/AR100")
"""Columns of the table of hyperparameters, by the names of their points."""


IOU_EDGES = np.linspace(0, 1, 21)


GOOD_IOU = 0.5  # from which overlap on a prior learns an object, in the usual assignment


def show_hyperparameters(logbook: Logbook, config: Config) -> None:
    """Log the options of a run as hyperparameters, one column for each dotted name."""
    sections = config.to_dict()
    chosen = {name: sections[name] for name in ("model", "loss", "optim", "train")}
    chosen["data"] = {"augmentation": sections["data"]["augmentation"]}
    chosen["run"] = {"seed": sections["run"]["seed"]}
    logbook.hyperparameters(_flat(chosen), FIGURES)


def show_curves(logbook: Logbook, step: int, split: DataSplit, evaluation: Evaluation) -> None:
    """A precision-recall curve, at IoU .5, for each class that has objects."""
    matches = match_split(split, evaluation.detections)
    for name, curve in class_curves(split, evaluation.detections, matches).items():
        if curve.num_objects:
            right, wrong = curve.counts_at(CURVE_THRESHOLDS)
            logbook.precision_recall(f"precision_recall/{name}", step, right, wrong, curve.num_objects)


def watched_batch(loader: DataLoader[Any], most: int, size: tuple[int, int], device: torch.device) -> Batch:
    """Up to `most` training images as `loader` gives them in the first epoch: the same each time one looks."""
    indices = range(min(most, len(loader.dataset)))  # type: ignore[arg-type]
    return finish_images(sample_batch(loader, 0, indices).to(device), size=size)


def show_matches(logbook: Logbook, step: int, criterion: nn.Module, output: DetectorOutput, batch: Batch) -> None:
    """Show how the objects of `batch` and the priors of `output`, the network's output for it, are matched.

    Nothing for a head without priors, and for a batch without objects.
    """
    if not (isinstance(criterion, Criterion) and isinstance(output, HeadOutput)):
        return
    matches = count_matches(criterion.assign, output, batch)
    if not len(matches.num_priors):
        return
    counts = np.arange(matches.num_priors.max() + 2) - 0.5
    logbook.histogram("priors/learning_an_object", step, matches.num_priors, counts)
    logbook.histogram("priors/best_iou_of_an_object", step, matches.best_iou, IOU_EDGES)
    shares = {
        "share_of_objects_reached": float((matches.best_iou >= GOOD_IOU).mean()),
        "share_of_objects_unlearnt": float((matches.num_priors == 0).mean()),
        "mean_learning_an_object": float(matches.num_priors.mean()),
    }
    logbook.watch("priors", step, shares)


def _flat(options: Mapping[str, Any], prefix: str = "") -> dict[str, bool | float | str]:
    """{"a": {"b": 1}} -> {"a.b": 1}; what is no number is text."""
    found: dict[str, bool | float | str] = {}
    for name, value in options.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value if isinstance(value, bool | int | float) else _text(value)
    return found


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(_text, value))
    return "none" if value is None else str(value)
