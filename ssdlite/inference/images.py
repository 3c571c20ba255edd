"""Detection in images of any size with any predictor, whole or in tiles, and the score thresholds of classes."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ssdlite.data.images import resize
from ssdlite.data.stream import array_batch
from ssdlite.errors import ConfigError
from ssdlite.inference.tiles import Tiling, merge_tiles, tile_positions
from ssdlite.io import quoted
from ssdlite.structures import Detections, Predictor, ResizeAlignment


@dataclass(frozen=True)
class Thresholds:
    """Scores that detections must exceed; a class that `by_class` does not name has `default`."""

    default: float
    by_class: Mapping[str, float] = field(default_factory=dict)

    @property
    def lowest(self) -> float:
        """Score below which a predictor may leave out detections of any class."""
        return min((self.default, *self.by_class.values()))

    def for_classes(self, class_names: Sequence[str]) -> np.ndarray:
        """(K,) float32, one for each of `class_names`. Raises ConfigError for a class that is not among them."""
        for name in self.by_class:
            if name not in class_names:
                raise ConfigError(f"there is no class {quoted(name)} in this model; {_hint(name, class_names)}")
        return np.array([self.by_class.get(name, self.default) for name in class_names], np.float32)


def parse_thresholds(texts: Sequence[str], default: float) -> Thresholds:
    """`["0.3", "helmet=0.5"]` as Thresholds; what is not given for all classes is `default`.

    Raises ConfigError for what is no number in 0..1, and for a class, or all classes, given twice.
    """
    given: dict[str | None, float] = {}
    for text in texts:
        name, separator, number = text.rpartition("=")
        key = name if separator else None
        if key in given:
            raise ConfigError(
                f"--score-threshold is given twice for {quoted(key) if separator else 'all classes'}."
            )
        given[key] = _fraction(number, text)
    return Thresholds(given.pop(None, default), {name: value for name, value in given.items() if name is not None})


def keep_above(detections: Detections, limits: np.ndarray) -> Detections:
    """Return the detections that score above the limit of their class; `limits` (K,) for the labels 1..K."""
    kept = detections.scores > limits[detections.labels - 1]
    return Detections(*(field[kept] for field in detections))


def _fraction(number: str, text: str) -> float:
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:  # NaN is not either
        raise ConfigError(
            f"--score-threshold {quoted(text)}: give a number from 0 to 1, or CLASS=NUMBER as in helmet=0.3."
        )
    return value


def _hint(name: str, class_names: Sequence[str]) -> str:
    if near := difflib.get_close_matches(name, class_names, n=1, cutoff=0.5):
        return f"did you mean {quoted(near[0])}?"
    more = f" and {len(class_names) - 20} more" if len(class_names) > 20 else ""
    return f"known are {', '.join(class_names[:20])}{more}."


class Prepared(NamedTuple):
    """An image as the network sees it: as a whole, and in its tiles if it has any."""

    size: tuple[int, int]  # (height, width) of the image, pixels
    tiles: np.ndarray  # (V, 4) int xyxy: the parts of the image that are looked at, the whole first
    inputs: list[np.ndarray]  # one for each: (h, w, 3) uint8 RGB


class Finder:
    """Images (H, W, 3) uint8 RGB -> the Detections of each, in its own pixels.

    A call is `find` of what `prepare` gives for each image; the two may run in different threads.

    Args:
        predictor: what finds objects in network inputs.
        input_size: theirs, (height, width) pixels.
        alignment: of the resize to them, which is the one of validation.
        batch_size: network inputs of one call of `predictor`.
        tiling: how images are cut that are larger than a tile; None looks at each as a whole only.
    """

    def __init__(
        self,
        predictor: Predictor,
        input_size: tuple[int, int],
        alignment: ResizeAlignment = "half_pixel",
        *,
        batch_size: int = 8,
        tiling: Tiling | None = None,
    ) -> None:
        self.predictor = predictor
        self.input_size = input_size
        self.alignment: ResizeAlignment = alignment
        self.batch_size = batch_size
        self.tiling = tiling

    def __call__(self, images: Sequence[np.ndarray]) -> list[Detections]:
        return self.find([self.prepare(image) for image in images])

    def prepare(self, image: np.ndarray) -> Prepared:
        """Cut and resize."""
        height, width = image.shape[:2]
        tiles = np.array([[0, 0, width, height]])
        if self.tiling is not None:
            tiles = np.concatenate([tiles, tile_positions((height, width), self.tiling)])
        inputs = [resize(image[y1:y2, x1:x2], self.input_size, self.alignment) for x1, y1, x2, y2 in tiles.tolist()]
        return Prepared((height, width), tiles, inputs)

    def find(self, images: Sequence[Prepared]) -> list[Detections]:
        """Run the network over all parts of all `images`, and join those of each."""
        inputs = [part for image in images for part in image.inputs]
        sizes = [(y2 - y1, x2 - x1) for image in images for x1, y1, x2, y2 in image.tiles.tolist()]
        found: list[Detections] = []
        for start in range(0, len(inputs), self.batch_size):
            stop = start + self.batch_size
            found += self.predictor(array_batch(np.stack(inputs[start:stop]), sizes[start:stop]))
        return [self._join(image, [found.pop(0) for _ in image.inputs]) for image in images]

    def _join(self, image: Prepared, parts: list[Detections]) -> Detections:
        if self.tiling is None or len(parts) == 1:
            return parts[0]
        return merge_tiles(parts, image.tiles, image.size, self.tiling.iou_threshold)
