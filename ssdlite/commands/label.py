"""Verb `ssdlite label`: a model's detections as the annotations of a new data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ssdlite.build.load import require_openable
from ssdlite.commands.arguments import require_device_name
from ssdlite.commands.console import console
from ssdlite.commands.convert_data import as_image_mode, next_step, require_kind
from ssdlite.commands.predict import SCORE_THRESHOLD, FindOptions, load_for_prediction, predict_all
from ssdlite.data.formats.write import require_empty, write_splits
from ssdlite.errors import ConfigError, DataError
from ssdlite.inference.frames import Prediction
from ssdlite.inference.images import parse_thresholds
from ssdlite.inference.inputs import ImageFile, find_inputs
from ssdlite.structures import DataSplit, Record


def run_label(
    model_path: Path,
    pattern: str,
    directory: Path,
    *,
    kind: str,
    images: str,
    score_thresholds: Sequence[str],
    recursive: bool,
    device: str,
) -> None:
    """Write what a model finds in images as annotations; see `ssdlite label --help`."""
    require_device_name(device)
    require_kind(kind)
    mode = as_image_mode(images)
    require_empty(directory)
    thresholds = parse_thresholds(score_thresholds, SCORE_THRESHOLD)
    require_openable(model_path, {}, device)
    sources = find_inputs([pattern], recursive=recursive, every=1, patience=1.0)
    if stray := next((source for source in sources if not isinstance(source, ImageFile)), None):
        raise ConfigError(f"{stray.name}: only images can be labelled; take the frames out of the video first.")
    model = load_for_prediction(model_path, thresholds, device)
    collector = RecordCollector()
    finding = FindOptions(score_thresholds, device=device)
    _, pipeline, _ = predict_all(model, sources, finding, thresholds, [collector])
    if pipeline.stopped():
        raise KeyboardInterrupt
    if not collector.records:
        raise DataError(f"none of the {len(sources)} images could be read.")
    category_ids = tuple(range(1, len(model.class_names) + 1))
    split = DataSplit(collector.records, tuple(model.class_names), category_ids)
    write_splits({"train": split}, directory, kind, images=mode)
    num_objects = sum(len(record.boxes) for record in split.records)
    console.print(f"Labelled {len(split)} images with {num_objects} objects: {directory}", soft_wrap=True)
    console.print(f"Correct them in a labelling tool; {next_step(directory, mode)}", soft_wrap=True)


class RecordCollector:
    """Writer that keeps each image with its detections as an annotated image."""

    draws = False

    def __init__(self) -> None:
        self.records: list[Record] = []

    def write(self, prediction: Prediction, picture: np.ndarray | None) -> None:
        source, found = prediction.frame.source, prediction.detections
        assert isinstance(source, ImageFile)
        flags = np.zeros(len(found.scores), bool)
        self.records.append(
            Record(
                image_path=source.path,
                image_id=len(self.records) + 1,
                size=prediction.image.shape[:2],
                boxes=found.boxes,
                labels=found.labels,
                ignore=flags,
                crowd=flags,
                areas=(found.boxes[:, 2:] - found.boxes[:, :2]).prod(axis=1),
            )
        )

    def close(self) -> None:
        """Do nothing: no file is open."""
