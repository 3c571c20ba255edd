"""`ssdlite view-data`: a sheet of pictures with their objects, as they are and as training sees them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ssdlite.build.data import find_sources, read_data
from ssdlite.commands.arguments import DATA_SET, config_of, require_effect, require_split_name
from ssdlite.commands.console import console, tracker
from ssdlite.config.schema import Config
from ssdlite.data.images import read_annotated
from ssdlite.data.records import spread_indices
from ssdlite.drawing import GREY, Mark, class_color, draw_marks, make_grid, write_image
from ssdlite.errors import ConfigError, DataError
from ssdlite.io import require_writable
from ssdlite.structures import Batch, DataSplit, Record

logger = logging.getLogger(__name__)


CELL = 400  # pixels, side of a picture in the sheet


COLUMNS = 4


NUM_IMAGES, NUM_AUGMENTED = 16, 6  # on a sheet that fits a screen


AUGMENTATION = (
    *("data.augmentation", "data.vertical_flip", "data.augment_on", "data.cache", "data.cache_side"),
    *("model.input_size", "model.dialect", "model.weights", "run.seed"),
)
"""Options that decide what training makes of an image."""


NUM_DRAWS = COLUMNS - 1  # of augmentation, beside the image itself


def run_view_data(
    path: Path | None, overrides: Mapping[str, Any], *, split: str, count: int | None, output: Path, augmented: bool
) -> None:
    """Write a sheet of a config's data or a folder; see `ssdlite view-data --help`."""
    require_split_name(split)
    if augmented and split == "val":
        raise ConfigError(
            "--augmented shows what is trained on, and validation images are not; leave out one of them."
        )
    if augmented:
        require_effect(overrides, (*DATA_SET, *AUGMENTATION), on="what training makes of an image")
    else:
        require_effect(overrides, DATA_SET, on="the images of a data set")
    config = config_of(path, overrides)
    require_writable(output)
    data = _read(config, split)
    if not len(data):
        raise DataError(f"there are no images to {split}; check the data with 'ssdlite check-data'.")
    chosen = spread_indices(len(data), count or (NUM_AUGMENTED if augmented else NUM_IMAGES))
    pictures = list(_rows(config, data, chosen) if augmented else _originals(data, chosen))
    if not pictures:
        raise DataError(f"none of the {len(chosen)} images could be read.")
    write_image(output, make_grid(pictures, COLUMNS, (CELL, CELL)))
    console.print(f"{len(chosen)} of {len(data)} images ({split}): {output}")
    if augmented:
        height, width = config.model.input_size
        seen = f"{width}x{height} with data.augmentation={config.data.augmentation}"
        console.print(
            f"In each row an image, and beside it what the first {NUM_DRAWS} epochs see of it, at {seen}."
        )


def _read(config: Config, split: str) -> DataSplit:
    """The split, with classes numbered and coloured as in training."""
    with_train = split == "train" or find_sources(config.data).has("train")
    splits = ["train"] if split == "train" else ["train", "val"] if with_train else ["val"]
    return read_data(config.data, splits)[-1]


def _originals(data: DataSplit, indices: Sequence[int]) -> Iterator[np.ndarray]:
    for index in tracker("Drawing")(indices):
        record = data.records[index]
        try:
            yield _draw_record(read_annotated(record), record, data.class_names)
        except DataError as error:
            logger.warning("left out: %s", error)


def _rows(config: Config, data: DataSplit, indices: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield for each image the original, then `NUM_DRAWS` network inputs."""
    draws = _training_inputs(config, data, indices)
    for row, index in enumerate(tracker("Drawing")(indices)):
        record = data.records[index]
        try:
            image = read_annotated(record)
        except DataError as error:
            logger.warning("left out: %s", error)
            continue
        yield _draw_record(image, record, data.class_names)
        for batch in draws:
            image = batch.images[row].permute(1, 2, 0).numpy()
            real = (batch.labels[row] > 0).numpy()
            boxes, labels, ignore = (
                field[row].numpy()[real] for field in (batch.boxes, batch.labels, batch.ignore)
            )
            words = ["ignored" if is_ignored else "" for is_ignored in ignore]
            yield _draw(image, boxes, labels, words, data.class_names)


def _training_inputs(config: Config, data: DataSplit, indices: Sequence[int]) -> list[Batch]:
    """Return the inputs of the first epochs for the images `indices`, as training sees them: one batch per
    epoch."""
    import torch

    from ssdlite.build.model import dialect_of, settle_dialect
    from ssdlite.build.training import build_loader
    from ssdlite.data.device import finish_images
    from ssdlite.data.loader import mix_seed

    part = DataSplit([data.records[index] for index in indices], data.class_names, data.category_ids)
    # Only the few that are shown are cached, in the same form, and not among the files of a run.
    cache = "none" if config.data.cache == "none" else "memory"
    options = {
        "data": config.data.model_copy(update={"cache": cache, "cache_dir": None}),
        "train": config.train.model_copy(update={"batch_size": len(part)}),
    }
    alignment = dialect_of(settle_dialect(config).model).resize_alignment
    loader = build_loader(
        config.model_copy(update=options),
        part,
        training=True,
        alignment=alignment,
        device=torch.device("cpu"),
        workers=0,
    )
    batches = []
    for epoch in range(NUM_DRAWS):
        seeds = [mix_seed(config.run.seed, epoch, index) for index in indices]
        batch = loader.collate_fn([loader.dataset[key] for key in enumerate(seeds)])
        batches.append(finish_images(batch, config.model.input_size))
    return batches


def _draw_record(image: np.ndarray, record: Record, class_names: Sequence[str]) -> np.ndarray:
    words = [
        "crowd" if is_crowd else "ignored" if is_ignored else ""
        for is_crowd, is_ignored in zip(record.crowd, record.ignore, strict=True)
    ]
    return _draw(image, record.boxes, record.labels, words, class_names)


def _draw(
    image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, words: Sequence[str], class_names: Sequence[str]
) -> np.ndarray:
    """The image at the size of its cell, so that all names can be read; objects that have a word in grey dashes."""
    scale = CELL / max(image.shape[:2])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    order = np.argsort((boxes[:, 2:] - boxes[:, :2]).prod(axis=1), kind="stable").tolist()  # small ones on top
    marks = [
        Mark(boxes[i] * scale, GREY, f"{class_names[labels[i] - 1]} ({words[i]})", is_dashed=True)
        if words[i]
        else Mark(boxes[i] * scale, class_color(int(labels[i])), class_names[labels[i] - 1])
        for i in order
    ]
    return draw_marks(image, marks)
