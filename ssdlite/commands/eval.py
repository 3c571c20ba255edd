"""`ssdlite eval`: any model, or any detector's results, against a data set."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssdlite.build.data import find_sources, read_data
from ssdlite.build.load import LoadedModel, is_exported, load_model, require_openable
from ssdlite.commands.arguments import DATA_SET, require_device_name, require_effect, require_split_name
from ssdlite.commands.console import console, print_evaluation, tracker
from ssdlite.commands.report_builder import ModelInfo, write_report, write_results_report
from ssdlite.config.data import DataConfig
from ssdlite.config.schema import load_config
from ssdlite.data.stream import ImageStream
from ssdlite.errors import ConfigError, UserError
from ssdlite.evaluation.coco import read_coco_results, to_coco_results
from ssdlite.evaluation.evaluate import Evaluation, score_detections, warn_of_absent_classes
from ssdlite.evaluation.evaluate import evaluate as evaluate_model
from ssdlite.importers.pretrained import is_named
from ssdlite.io import require_writable, write_text
from ssdlite.structures import DataSplit

logger = logging.getLogger(__name__)


def run_eval(
    model_path: Path,
    overrides: Mapping[str, Any],
    *,
    split: str,
    json_path: Path | None,
    detections_path: Path | None,
    report_path: Path | None,
    with_report: bool,
    device: str,
) -> None:
    """Score `model_path` on a split of its data set; see `ssdlite eval --help`."""
    require_split_name(split)
    require_device_name(device)
    if report_path and not with_report:
        raise ConfigError("--report and --no-report contradict each other; leave one out.")
    is_results = model_path.suffix == ".json"
    if is_results:
        require_effect(overrides, DATA_SET, on=f"{model_path}, whose detections are made already")
        if device != "auto":
            raise ConfigError(f"--device {device} has no effect on {model_path}: its detections are made already.")
    else:
        require_openable(model_path, overrides, device)
    for path in filter(None, (json_path, detections_path, report_path)):
        require_writable(path)
    model = None
    if is_results:
        data = _read_with_training_classes(load_config(None, overrides).data, split)
        evaluation = score_detections(data, read_coco_results(model_path, data))
    else:
        model = load_model(model_path, overrides, device)
        if is_exported(model_path) and not find_sources(model.config.data).has(split):
            raise ConfigError(f"{model_path} holds no paths and does not know its data set: give data=PATH.")
        (data,) = read_data(model.config.data, [split], model.class_names)
        evaluation = run_model(model, data)
    warn_of_absent_classes(data)
    print_evaluation(evaluation, f"{model_path} on {len(data)} images ({split})")
    if json_path:
        figures = {"model": str(model_path), "split": split, **evaluation.to_dict()}
        write_text(json_path, json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
    if detections_path:
        write_text(detections_path, json.dumps(to_coco_results(data, evaluation.detections)))
    for written in filter(None, (json_path, detections_path)):
        console.print(f"Wrote {written}")
    if model is None and report_path:
        write_results_report(report_path, model_path, data, split, evaluation)
    elif model and with_report and (page := report_path or _default_report(model_path, split)):
        splits = with_training_split(model.config.data, {split: data}, model.class_names)
        model_info = describe_model(model_path, model, splits.get("train"))
        write_report(page, model_info, splits, split_name=split, evaluation=evaluation)


def describe_model(path: Path, model: LoadedModel, train: DataSplit | None) -> ModelInfo:
    """Return the facts about `model` for a report; for an exported file only those that need no PyTorch."""
    if is_exported(path):
        return ModelInfo(path, model.config, model.class_names)
    from ssdlite.commands.report_builder import make_model_info

    return make_model_info(path, model.config, model.class_names, train)


def with_training_split(
    config: DataConfig, splits: Mapping[str, DataSplit], class_names: tuple[str, ...]
) -> dict[str, DataSplit]:
    """`splits`, and what was trained on if it is still there: a page counts its objects."""
    found = dict(splits)
    if "train" not in found:
        try:
            if find_sources(config).has("train"):
                (found["train"],) = read_data(config, ["train"], class_names, with_images=False)
        except UserError as error:
            logger.warning("the report leaves out the training data: %s", error)
    return found


def _default_report(model_path: Path, split: str) -> Path | None:
    """The page beside the model, or report-coco.html; None, with a warning, where that folder may not be written.

    In a run's folder `report.html` is about what the run ships, on its validation split.
    """
    is_shipped = model_path.name == "best.pt" or not model_path.with_name("best.pt").exists()
    is_shipped = is_shipped and not is_named(model_path)  # whose page goes into the working directory
    parts = ["report", *([] if is_shipped else [model_path.name]), *([] if split == "val" else [split])]
    path = model_path.with_name("-".join(parts) + ".html")
    try:
        require_writable(path)
    except UserError as error:
        logger.warning("no report: %s --report FILE writes it elsewhere.", error)
        return None
    return path


def _read_with_training_classes(config: DataConfig, split: str) -> DataSplit:
    """A split numbered as the training set numbers its classes, where there is one: VOC's ids depend on it."""
    if (config.path, config.train, config.val, config.test) == (None,) * 4:
        raise ConfigError("a result file does not know its data set: give data=PATH.")
    splits = ["train", "val"] if find_sources(config).has("train") else [split]
    return dict(zip(splits, read_data(config, splits, with_images=False), strict=True))[split]


def run_model(model: LoadedModel, data: DataSplit) -> Evaluation:
    """Run `model` on all images of `data` and evaluate its detections."""
    workers = model.config.data.workers
    images = ImageStream(
        data,
        model.input_size,
        alignment=model.alignment,
        batch_size=model.config.eval.batch_size,
        threads=None if workers == "auto" else max(1, workers),
    )
    evaluation = evaluate_model(model.predictor, images, data, progress=tracker("Evaluating"))
    assert evaluation is not None  # one process evaluates alone
    return evaluation
