"""Data that flow from sources to writers: frames that are to be read, and predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from ssdlite.structures import Detections


class Source(Protocol):
    """One thing that pictures come from: an image file, a video, a camera, standard input."""

    @property
    def name(self) -> str:
        """Name of the source in messages, such as its path."""
        ...

    @property
    def stem(self) -> str:
        """Name of files about the source, without a suffix."""
        ...

    @property
    def patience(self) -> float | None:
        """Seconds until it is given up if no picture comes; None if it is waited for. What has one is live:
        pictures that cannot be kept up with are left out."""
        ...

    def __iter__(self) -> Iterator[Frame]:
        """Its pictures. Raises DataError where it cannot be opened."""
        ...


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a source, which `read` gives as (H, W, 3) uint8 RGB, or raises DataError."""

    source: Source
    read: Callable[[], np.ndarray]
    number: int | None = None  # among all pictures of the source, from 0; None for the only one
    rate: float | None = None  # pictures a second of a video, counting those that are left out

    @property
    def stem(self) -> str:
        """Name of files about this picture, without a suffix."""
        return self.source.stem if self.number is None else f"{self.source.stem}-{self.number:06}"


class Prediction(NamedTuple):
    """A picture and what was found in it."""

    frame: Frame
    image: np.ndarray  # (H, W, 3) uint8 RGB
    detections: Detections  # in pixels of `image`


def prediction_to_json(prediction: Prediction, class_names: Sequence[str]) -> dict[str, Any]:
    """{"image", "width", "height", "detections": [{"label", "score", "box": [x1, y1, x2, y2]}]}, box in pixels.

    A picture of a video or of standard input also has its number as "frame", and that of a video its "time" in
    seconds.
    """
    frame = prediction.frame
    height, width = prediction.image.shape[:2]
    boxes, scores, labels = prediction.detections
    place = {} if frame.number is None else {"frame": frame.number}
    time = {} if frame.number is None or frame.rate is None else {"time": round(frame.number / frame.rate, 3)}
    return {
        "image": frame.source.name,
        **place,
        **time,
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
