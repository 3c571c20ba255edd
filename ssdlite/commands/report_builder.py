"""Report of a model from options, data and detections: the one place that puts its contents together."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import ssdlite
from ssdlite.commands.console import console
from ssdlite.commands.run_folder import read_sessions
from ssdlite.config.schema import Config
from ssdlite.evaluation.analysis import analyse
from ssdlite.evaluation.evaluate import Evaluation
from ssdlite.importers.pretrained import is_named, weights_dir
from ssdlite.io import write_text
from ssdlite.machine import describe_machine
from ssdlite.report.data import (
    EvaluatedSplit,
    History,
    PriorFitRow,
    PriorFitSummary,
    ReportData,
    describe_split,
    read_history,
)
from ssdlite.report.formatting import SPACE, count, counted, duration, listed
from ssdlite.report.page import render
from ssdlite.structures import DataSplit, Record

if TYPE_CHECKING:
    import torch


REPORT = "report.html"


MOST_CLASSES = 20  # that the card names


DATE = "%d %B %Y, %H:%M"


SPLITS = {"train": "the training split", "val": "the validation split"}


@dataclass(frozen=True, eq=False)
class ModelInfo:
    """The model that a page is about. What is not known stays None."""

    path: Path  # its file, or the folder of a run that has none yet
    config: Config
    class_names: tuple[str, ...]
    num_parameters: int | None = None
    fit: PriorFitSummary | None = None
    machine: Mapping[str, Any] = field(default_factory=dict)  # this one, as `describe_machine` gives it

    @property
    def folder(self) -> Path:
        if is_named(self.path):  # which is of no run
            return weights_dir()
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def title(self) -> str:
        """The run's name, and the file's where that is not what the run ships; a pretrained network's own name."""
        if is_named(self.path):
            return str(self.path)
        name = self.folder.resolve().name
        return name if self.path.is_dir() or self.path.name == "best.pt" else f"{name}/{self.path.name}"


def write_report(
    path: Path,
    model_info: ModelInfo,
    splits: Mapping[str, DataSplit],
    *,
    split_name: str = "val",
    evaluation: Evaluation | None = None,
    why_not_evaluated: str = "",
) -> None:
    """Write the page about `subject`, with what `evaluation` says of `splits[split_name]`.

    Raises UserError where the page cannot be written.
    """
    config = model_info.config
    content = ReportData(
        title=model_info.title,
        history=read_history(model_info.folder / "metrics.jsonl"),
        model=_model_facts(model_info),
        origin=_origin_facts(model_info, split_name if evaluation else None),
        evaluated=_assess(splits[split_name], split_name, evaluation) if evaluation else None,
        why_not_evaluated=why_not_evaluated,
        data={name: describe_split(splits[name]) for name in SPLITS if name in splits},
        num_shared=_count_shared(splits),
        input_size=config.model.input_size,
        has_priors=config.model.head != "corner",
        fit=model_info.fit,
        epochs=config.train.epochs,
        config=config.to_yaml(),
    )
    write_text(path, render(content))
    console.print(f"Wrote {path}")


def write_results_report(
    path: Path, results_path: Path, split: DataSplit, name: str, evaluation: Evaluation
) -> None:
    """The page about another program's results: without a model, so without all that it is made of."""
    content = ReportData(
        title=results_path.name,
        history=History({}, {}),
        model={"Results": str(results_path), "Classes": _classes(split.class_names)},
        origin=_machine_facts("Report written", _this_machine()),
        evaluated=_assess(split, name, evaluation),
        data={name: describe_split(split)},
        has_priors=None,
    )
    write_text(path, render(content))
    console.print(f"Wrote {path}")


def _assess(split: DataSplit, name: str, evaluation: Evaluation) -> EvaluatedSplit:
    return EvaluatedSplit(split, name, evaluation.detections, analyse(split, evaluation))


def _count_shared(splits: Mapping[str, DataSplit]) -> int:
    """Image files that are in both splits."""
    paths = [{str(record.image_path.absolute()) for record in split.records} for split in splits.values()]
    return len(set.intersection(*paths)) if len(paths) == 2 else 0


def _model_facts(model_info: ModelInfo) -> dict[str, str]:
    """Return facts about the network and its training, by name."""
    config = model_info.config
    model, train, loss = config.model, config.train, config.loss
    height, width = model.input_size
    kind = "MobileNetV2-SSDLite" if model.head == "ssdlite" else "MobileNetV2 with a corner head"
    facts = {"Finds": _classes(model_info.class_names)}
    if model_info.path.is_file():
        facts["File"] = f"{model_info.path.name}, {model_info.path.stat().st_size / 1e6:.1f}{SPACE}MB"
    facts["Network"] = f"{kind}, width {model.width:g}, dialect {model.dialect}"
    if model_info.num_parameters is not None:
        facts["Parameters"] = count(model_info.num_parameters)
    facts |= {
        "Input": f"{width}x{height} pixels, RGB; images are stretched to it",
        "Detections": f"at most {config.eval.max_detections} an image; of two boxes of a class that overlap by "
        f"more than {config.eval.iou_threshold:g} the weaker goes",
        "Started from": str(model.weights),
        "Loss": loss.kind,
        "Planned training": f"{counted(train.epochs, 'epoch')} with {counted(train.batch_size, 'image')} a step, "
        f"rate {config.optim.lr:g}, augmentation {config.data.augmentation}",
    }
    return facts


def _classes(names: tuple[str, ...]) -> str:
    return listed(names, MOST_CLASSES)


def _origin_facts(model_info: ModelInfo, split_name: str | None) -> dict[str, str]:
    """Data, time, machine and versions."""
    data = model_info.config.data
    facts = {"Data": str(data.path)} if data.path else {}
    if split_name:
        facts["Evaluated on"] = SPLITS[split_name]
    sessions = read_sessions(model_info.folder)
    if sessions:
        begun, ended = sessions.began.strftime(DATE), sessions.ended.strftime(DATE)
        parts = f" in {sessions.count} parts" if sessions.count > 1 else ""
        facts["Trained"] = f"{begun} to {ended}; {duration(sessions.seconds)}{parts}"
        facts |= _machine_facts("Trained", sessions.machine)
    machine = model_info.machine or _this_machine()
    if not sessions or _machine_facts("", sessions.machine) != _machine_facts("", machine):
        facts |= _machine_facts("Report written", machine)
    return facts


def _this_machine() -> dict[str, Any]:
    """Return the facts about this machine that need no PyTorch."""
    versions = {"python": platform.python_version(), "ssdlite": ssdlite.__version__}
    return {
        "processor": platform.processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions,
    }


def _machine_facts(title: str, machine: Mapping[str, Any]) -> dict[str, str]:
    """A machine and its versions in two lines."""
    parts = [machine.get("gpu"), machine.get("processor")]
    if "cores" in machine:
        parts.append(counted(machine["cores"], "core"))
    if machine.get("memory_GB"):
        parts.append(f"{machine['memory_GB']}{SPACE}GB")
    parts.append(machine.get("system"))
    versions = ", ".join(f"{name} {number}" for name, number in machine.get("versions", {}).items())
    return {f"{title} on": ", ".join(str(part) for part in parts if part), f"{title} with": versions}


MAX_IMAGES = 1000  # whose priors are measured, spread over all: enough for shares within 2 %, in a second


def make_model_info(path: Path, config: Config, class_names: tuple[str, ...], train: DataSplit | None) -> ModelInfo:
    """The model at `path` with all that can be said of its network; `train` is what it learnt from, if there."""
    import torch

    from ssdlite.build.model import empty_detector
    from ssdlite.training.distributed import choose_device

    network = empty_detector(config, class_names)
    priors = getattr(network, "priors", None)
    return ModelInfo(
        path,
        config,
        class_names,
        num_parameters=sum(weight.numel() for weight in network.parameters()),
        fit=measure_priors(priors, config.model.input_size, train) if priors is not None and train else None,
        machine=describe_machine(choose_device("auto"), torch.float32),
    )


def measure_priors(priors: torch.Tensor, input_size: tuple[int, int], train: DataSplit) -> PriorFitSummary:
    """Return how well `priors` (P, 4) fit the objects of `train` as the network sees them, stretched to its
    input."""
    from ssdlite.priors.fit import measure_fit

    fit = measure_fit([_input_boxes(record, input_size) for record in train.records], priors, max_images=MAX_IMAGES)
    total = fit.total
    rows = tuple(
        PriorFitRow(row.name, row.num_objects, math.nan if row.share_reached is None else row.share_reached)
        for row in fit.by_size
    )
    return PriorFitSummary(
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
