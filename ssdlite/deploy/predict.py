"""From image files to detections and their JSON, with any predictor."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ssdlite.data.images import read_image
from ssdlite.data.resize import resize
from ssdlite.data.stream import array_batch
from ssdlite.data.voc import IMAGE_SUFFIXES
from ssdlite.errors import DataError
from ssdlite.structures import Batch, Detections, ResizeAlignment

logger = logging.getLogger(__name__)

Predictor: TypeAlias = Callable[[Batch], list[Detections]]


class Prediction(NamedTuple):
    """An image file and what was found in it."""

    path: Path
    image: np.ndarray  # (H, W, 3) uint8 RGB, upright
    detections: Detections  # in pixels of `image`


def find_images(inputs: Sequence[Path]) -> list[Path]:
    """The image files among `inputs`, each once: files as they are given, folders by suffix and in order of name.

    Raises DataError for a path that does not exist, and for a folder without images.
    """
    found: dict[Path, None] = {}
    for path in inputs:
        if path.is_dir():
            images = [p for p in sorted(path.iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]
            if not images:
                raise DataError(
                    f"{path}: there are no images ({', '.join(IMAGE_SUFFIXES)}) in this folder; name another"
                )
            found.update(dict.fromkeys(images))
        elif path.is_file():
            found[path] = None
        else:
            raise DataError(f"{path}: there is no such file or folder; check the path")
    if not found:
        raise DataError("no images were given; name image files or folders")
    return list(found)


def predict_images(
    predictor: Predictor,
    paths: Iterable[Path],
    *,
    input_size: tuple[int, int],
    alignment: ResizeAlignment = "half_pixel",
    batch_size: int = 8,
) -> Iterator[Prediction]:
    """Read, resize as validation does to `input_size` (height, width), and predict, in the order of `paths`.

    Files that cannot be read are left out with a warning.
    """
    readable = _read(paths)
    while chunk := list(islice(readable, batch_size)):
        images = [image for _, image in chunk]
        detections = predictor(_to_batch(images, input_size, alignment))
        for (path, image), found in zip(chunk, detections, strict=True):
            yield Prediction(path, image, found)


def prediction_to_json(prediction: Prediction, class_names: Sequence[str]) -> dict[str, Any]:
    """{"image", "width", "height", "detections": [{"label", "score", "box": [x1, y1, x2, y2]}]}, box in pixels."""
    height, width = prediction.image.shape[:2]
    boxes, scores, labels = prediction.detections
    return {
        "image": str(prediction.path),
        "width": width,
        "height": height,
        "detections": [
            {
                "label": class_names[label - 1],
                "score": round(score, 5),
                "box": [round(coordinate, 2) for coordinate in box],
            }
            for box, score, label in zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True)
        ],
    }


def detections_to_json(predictions: Iterable[Prediction], class_names: Sequence[str]) -> list[dict[str, Any]]:
    """`prediction_to_json` of each."""
    return [prediction_to_json(prediction, class_names) for prediction in predictions]


def _read(paths: Iterable[Path]) -> Iterator[tuple[Path, np.ndarray]]:
    for path in paths:
        try:
            yield path, read_image(path)
        except DataError as error:
            logger.warning("left out: %s", error)


def _to_batch(images: Sequence[np.ndarray], size: tuple[int, int], alignment: ResizeAlignment) -> Batch:
    """A batch without targets."""
    inputs = np.stack([resize(image, size, alignment) for image in images])
    return array_batch(inputs, [(image.shape[0], image.shape[1]) for image in images])
