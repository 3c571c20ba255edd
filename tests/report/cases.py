"""Split of four small images with known errors, and reports about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ssdlite.evaluation.analysis import analyse
from ssdlite.evaluation.evaluate import score_detections
from ssdlite.report.data import EvaluatedSplit, History, ReportData, describe_split, make_history
from ssdlite.structures import DataSplit, Detections, Record
from tests.evaluation.cases import make_detections, make_record, make_split

SIZE = (100, 120)  # height, width of the images
LEFT, TRUE_POSITIVE = (10, 10, 50, 50), (60, 10, 100, 50)
CAT, DOG = 1, 2
NO_HISTORY = History({}, {})

SCENE = (
    # objects; detections: (box, score, label)
    ([(LEFT, CAT), (TRUE_POSITIVE, DOG)], [(LEFT, 0.9, CAT)]),  # the dog is missed
    ([(LEFT, DOG)], [(LEFT, 0.8, CAT)]),  # a dog is taken for a cat
    ([], [(TRUE_POSITIVE, 0.7, CAT)]),  # a cat where nothing is
    ([(LEFT, CAT)], [(LEFT, 0.95, CAT)]),  # all is right
)


def make_evaluated(
    folder: Path,
    scene: Sequence[tuple[list[Any], list[Any]]] = SCENE,
    *,
    class_names: Sequence[str] = ("cat", "dog"),
    threshold: float | None = 0.5,
    split_name: str = "val",
) -> EvaluatedSplit:
    """Write the images of `scene` into `folder` and evaluate its detections."""
    records = [_record(folder, f"image{number}", objects) for number, (objects, _) in enumerate(scene)]
    split = make_split(*records, class_names=class_names)
    detections = [make_detections(*found) for _, found in scene]
    return evaluate(split, detections, threshold=threshold, split_name=split_name)


def evaluate(
    split: DataSplit, detections: list[Detections], *, threshold: float | None = None, split_name: str = "val"
) -> EvaluatedSplit:
    analysis = analyse(split, score_detections(split, detections), threshold=threshold)
    return EvaluatedSplit(split, split_name, detections, analysis)


def _record(folder: Path, name: str, objects: list[Any]) -> Record:
    path = folder / f"{name}.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    cv2.imwrite(str(path), cv2.blur(noise, (5, 5)))
    return dataclasses.replace(make_record(name, objects), image_path=path, size=SIZE)


def make_log(steps: int = 10, **last: float) -> History:
    """Return a history with a row every ten steps and two validations; `last` overrides values of the second."""
    train = [
        {
            **{"kind": "train", "step": 10 * number, "epoch": number // 5, "lr": 0.1 / number},
            **{"loss": 5 / number, "classification": 3 / number, "box": 2 / number},
            **{"images_per_second": 50.0, "waiting_for_data": 0.05},
        }
        for number in range(1, steps + 1)
    ]
    val = [
        {"kind": "val", "step": 50, "epoch": 1, "AP": 0.2},
        {"kind": "val", "step": 100, "epoch": 2, "AP": 0.205},
    ]
    val[-1] |= last
    return make_history([*train, *val])


def make_report(evaluated: EvaluatedSplit | None = None, **options: Any) -> ReportData:
    """Return a report with everything but the fit of the priors."""
    data = {"train": describe_split(evaluated.split), "val": describe_split(evaluated.split)} if evaluated else {}
    defaults = {
        "title": "a run",
        "history": make_log(),
        "model": {"Network": "MobileNetV2-SSDLite"},
        "origin": {"Versions": "1.0"},
        "data": data,
        "epochs": 3,
        "config": "train:\n  epochs: 3\n",
    }
    return ReportData(evaluated=evaluated, **(defaults | options))
