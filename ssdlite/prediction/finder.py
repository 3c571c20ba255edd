"""Images of any size to detections, with any predictor, whole or in tiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ssdlite.data.resize import resize
from ssdlite.data.stream import array_batch
from ssdlite.prediction.tiles import Tiling, merge_tiles, tile_windows
from ssdlite.structures import Detections, Predictor, ResizeAlignment


class Prepared(NamedTuple):
    """An image as the network sees it: as a whole, and in its tiles if it has any."""

    size: tuple[int, int]  # (height, width) of the image, pixels
    windows: np.ndarray  # (V, 4) int xyxy: the parts of the image that are looked at, the whole first
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
        windows = np.array([[0, 0, width, height]])
        if self.tiling is not None:
            windows = np.concatenate([windows, tile_windows((height, width), self.tiling)])
        inputs = [
            resize(image[y1:y2, x1:x2], self.input_size, self.alignment) for x1, y1, x2, y2 in windows.tolist()
        ]
        return Prepared((height, width), windows, inputs)

    def find(self, images: Sequence[Prepared]) -> list[Detections]:
        """Run the network over all parts of all `images`, and join those of each."""
        inputs = [part for image in images for part in image.inputs]
        sizes = [(y2 - y1, x2 - x1) for image in images for x1, y1, x2, y2 in image.windows.tolist()]
        found: list[Detections] = []
        for start in range(0, len(inputs), self.batch_size):
            stop = start + self.batch_size
            found += self.predictor(array_batch(np.stack(inputs[start:stop]), sizes[start:stop]))
        return [self._join(image, [found.pop(0) for _ in image.inputs]) for image in images]

    def _join(self, image: Prepared, parts: list[Detections]) -> Detections:
        if self.tiling is None or len(parts) == 1:
            return parts[0]
        return merge_tiles(parts, image.windows, image.size, self.tiling.iou_threshold)
