"""`ssdlite eval`: any model, or any detector's results, against a data set."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ssdlite.commands.models import LoadedModel, is_exported, load_model
from ssdlite.commands.screen import console, print_evaluation, tracker
from ssdlite.config import DataConfig, load_config
from ssdlite.data.stream import ImageStream
from ssdlite.errors import ConfigError
from ssdlite.evaluation.coco import read_coco_results, to_coco_results
from ssdlite.evaluation.evaluate import Evaluation, score_detections, warn_of_absent_classes
from ssdlite.evaluation.evaluate import evaluate as evaluate_model
from ssdlite.files import require_writable, write_text
from ssdlite.sources import has_split, read_data
from ssdlite.structures import DataSplit


def evaluate(
    model_path: Path,
    overrides: Sequence[str],
    *,
    split: str,
    json_path: Path | None,
    detections_path: Path | None,
    device: str,
) -> None:
    """Score `model_path` on a split of its data set; see `ssdlite eval --help`."""
    if split not in ("train", "val"):
        raise ConfigError(f"--split is train or val, not '{split}'.")
    for path in filter(None, (json_path, detections_path)):
        require_writable(path)
    if model_path.suffix == ".json":
        data = _read_with_training_classes(load_config(None, overrides).data, split)
        evaluation = score_detections(data, read_coco_results(model_path, data))
    else:
        model = load_model(model_path, overrides, device)
        if is_exported(model_path) and not has_split(model.config.data, split):
            raise ConfigError(f"{model_path} holds no paths and does not know its data set: give data=PATH.")
        (data,) = read_data(model.config.data, [split], model.class_names)
        evaluation = _run(model, data)
    warn_of_absent_classes(data)
    print_evaluation(evaluation, f"{model_path} on {len(data)} images ({split})")
    if json_path:
        figures = {"model": str(model_path), "split": split, **evaluation.to_dict()}
        write_text(json_path, json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
    if detections_path:
        write_text(detections_path, json.dumps(to_coco_results(data, evaluation.detections)))
    for written in filter(None, (json_path, detections_path)):
        console.print(f"Wrote {written}")


def _read_with_training_classes(config: DataConfig, split: str) -> DataSplit:
    """A split numbered as the training set numbers its classes, where there is one: VOC's ids depend on it."""
    if (config.path, config.train, config.val) == (None, None, None):
        raise ConfigError("a result file does not know its data set: give data=PATH.")
    splits = ["train", "val"] if has_split(config, "train") else ["val"]
    return dict(zip(splits, read_data(config, splits), strict=True))[split]


def _run(model: LoadedModel, data: DataSplit) -> Evaluation:
    workers = model.config.data.workers
    images = ImageStream(
        data,
        model.input_size,
        alignment=model.alignment,
        batch_size=model.config.eval.batch_size,
        threads=None if workers == "auto" else max(1, workers),
    )
    evaluation = evaluate_model(model.predictor, images, data, progress=tracker("Evaluating"))
    assert evaluation is not None  # one process judges alone
    return evaluation
