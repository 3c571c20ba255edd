"""`ssdlite report`: a page about a run, from what its folder holds."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssdlite.build.data import read_data
from ssdlite.build.load import load_model, require_openable
from ssdlite.commands.arguments import require_device_name
from ssdlite.commands.eval import describe_model, run_model, with_training_split
from ssdlite.commands.report_builder import REPORT, write_report
from ssdlite.commands.run_folder import read_detections
from ssdlite.config.schema import load_config, require_changeable
from ssdlite.errors import CheckpointError
from ssdlite.evaluation.evaluate import Evaluation, score_detections
from ssdlite.importers.pretrained import is_named
from ssdlite.io import require_writable
from ssdlite.structures import DataSplit
from ssdlite.training.checkpoint import load_checkpoint

logger = logging.getLogger(__name__)


SAME_AP = 1e-3  # stored boxes are rounded


def run_report(source: Path, overrides: Mapping[str, Any], *, output: Path | None, device: str) -> None:
    """Write the page about a run's folder or a checkpoint; see `ssdlite report --help`."""
    require_device_name(device)
    if not (source.exists() or is_named(source)):
        raise CheckpointError(f"there is no run {source}; name a folder such as runs/NAME, or a checkpoint.")
    folder = source if source.is_dir() else source.parent
    path = output or (Path(f"report-{source}.html") if is_named(source) else folder / REPORT)
    checkpoint = source if is_named(source) else _find_checkpoint(source)
    if checkpoint is None:
        require_changeable(overrides)
    else:
        require_openable(checkpoint, overrides, device)
    require_writable(path)
    if checkpoint is None:
        _report_beginning(folder, overrides, path)
    else:
        report_model(checkpoint, overrides, path=path, device=device)


def report_model(
    checkpoint: Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    path: Path,
    device: str,
    splits: Mapping[str, DataSplit] | None = None,
) -> None:
    """Write the page about a checkpoint into `path`, from the detections that its run kept or by evaluating it
    again.

    `splits` saves reading them.
    """
    overrides = overrides or {}
    model = load_model(checkpoint, overrides, device)
    if splits is None:
        (val,) = read_data(model.config.data, ["val"], model.class_names, with_images=False)
        splits = {"val": val}
    val = splits["val"]
    evaluation = None
    if checkpoint.name == "best.pt" and not any(name.split(".")[0] == "eval" for name in overrides):
        evaluation = _stored_evaluation(checkpoint, val)
    if evaluation is None:
        evaluation = run_model(model, val)
    splits = with_training_split(model.config.data, splits, model.class_names)
    write_report(path, describe_model(checkpoint, model, splits.get("train")), splits, evaluation=evaluation)


def _find_checkpoint(source: Path) -> Path | None:
    """Return the checkpoint that a run ships, or else the newest it has; None for a folder in which no training
    has come to save any.

    Raises CheckpointError for a folder that is no run's.
    """
    if not source.is_dir():
        return source
    for name in ("best.pt", "last.pt", "last-1.pt"):
        if (source / name).exists():
            if name != "best.pt":
                logger.warning("there is no best.pt in %s yet; the report is about %s.", source, name)
            return source / name
    if not (source / "config.yaml").exists():
        raise CheckpointError(f"{source} is not the folder of a run: it holds no best.pt and no config.yaml.")
    return None


def _report_beginning(run_dir: Path, overrides: Mapping[str, Any], path: Path) -> None:
    """The page about a run that has no checkpoint yet: its log and its data."""
    from ssdlite.commands.report_builder import make_model_info

    config = load_config(run_dir / "config.yaml", overrides)
    train, val = read_data(config.data, with_images=False)
    why = "Unknown: the run has saved no checkpoint yet that could be evaluated."
    model_info = make_model_info(run_dir, config, train.class_names, train)
    write_report(path, model_info, {"train": train, "val": val}, why_not_evaluated=why)


def _stored_evaluation(checkpoint: Path, split: DataSplit) -> Evaluation | None:
    """Return the evaluation of the run's own detections; None where they are not those of the checkpoint on these
    images."""
    detections = read_detections(checkpoint.parent, split)
    if detections is None:
        return None
    evaluation = score_detections(split, detections)
    kept = load_checkpoint(checkpoint).get("metrics", {}).get("AP", math.nan)
    found = evaluation.coco.summary["AP"]
    # A run may be killed between writing the weights and writing what they find.
    same = (math.isnan(kept) and math.isnan(found)) or abs(kept - found) < SAME_AP
    return evaluation if same else None
