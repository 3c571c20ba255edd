"""Detector for Python programs: loaded from a file, it finds objects in images.

from ssdlite import Detector

detector = Detector.load("best.pt")
detections = detector.predict("street.jpg")
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, overload

import numpy as np
from PIL import Image, ImageOps

from ssdlite.build.load import LoadedModel, load_model
from ssdlite.data.images import read_image
from ssdlite.data.records import number_classes
from ssdlite.drawing import draw_detections, write_image
from ssdlite.errors import ConfigError, UserError
from ssdlite.evaluation.coco import to_coco_rows
from ssdlite.importers.pretrained import model_path
from ssdlite.inference.images import Finder, Thresholds, keep_above
from ssdlite.inference.tiles import LEAST_SIDE, MOST_OVERLAP, OVERLAP, Tiling
from ssdlite.structures import Detections, ImageId

if TYPE_CHECKING:
    import supervision

__all__ = ["Detector", "Found", "ImageDetections"]


Picture: TypeAlias = "str | os.PathLike[str] | Image.Image | np.ndarray"
"""A path, a Pillow image, or an array (H, W, 3) uint8 RGB."""


SCORE_THRESHOLD = 0.4


class Found(NamedTuple):
    """One object."""

    class_name: str
    score: float  # 0..1
    box: tuple[float, float, float, float]  # xyxy, pixels of the image


class Detector:
    """A trained network with everything that it needs to answer for images: `Detector.load("best.pt")`.

    This is the way in for Python programs. The network itself, a `torch.nn.Module` to train, is
    `ssdlite.models.detector.Detector`.
    """

    def __init__(self, model: LoadedModel) -> None:
        self._model = model

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str = "auto") -> Detector:
        """Load a checkpoint, an exported file, which needs no PyTorch, or a pretrained network by its name.

        The names are "coco" and "pedestrian"; the first use fetches the network. A file that is called like one is
        given as "./coco". `device` is for checkpoints: auto, cpu, cuda, cuda:N or mps. Raises CheckpointError where
        the file is missing, broken or of another program, FetchError where a network cannot be had.
        """
        return cls(load_model(model_path(os.fspath(path)), device=device, alone=False))

    @property
    def class_names(self) -> tuple[str, ...]:
        """`class_names[label - 1]` for the labels that it gives."""
        return self._model.class_names

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) in pixels that images are brought to; they may be of any size."""
        return self._model.input_size

    @overload  # a text is also a sequence of texts; here it is always a path
    def predict(  # type: ignore[overload-overlap]
        self,
        images: Picture,
        *,
        score_threshold: float | Mapping[str, float] = ...,
        tile: int | None = ...,
        tile_overlap: float = ...,
        batch_size: int | None = ...,
    ) -> ImageDetections: ...

    @overload
    def predict(
        self,
        images: Sequence[Picture],
        *,
        score_threshold: float | Mapping[str, float] = ...,
        tile: int | None = ...,
        tile_overlap: float = ...,
        batch_size: int | None = ...,
    ) -> list[ImageDetections]: ...

    def predict(
        self,
        images: Picture | Sequence[Picture],
        *,
        score_threshold: float | Mapping[str, float] = SCORE_THRESHOLD,
        tile: int | None = None,
        tile_overlap: float = OVERLAP,
        batch_size: int | None = None,
    ) -> ImageDetections | list[ImageDetections]:
        """Return the objects in an image, or in each image of a list.

        Args:
            images: a path, a Pillow image or an array (H, W, 3) uint8 RGB (OpenCV's are BGR: turn them); or a list.
            score_threshold: objects must score above it. {class name: threshold} is for those classes, and .4 for
                the others. A network has a bound of its own, eval.score_threshold, which is .01 by default.
            tile: look at images that are larger in tiles of this side too, in pixels: for small objects.
            tile_overlap: of neighbouring tiles, as a share of their side.
            batch_size: images that the network gets at once. Default: what suits the file.

        Raises DataError for an image that cannot be read, ConfigError for what is no image, for a class that the
        network does not know, and for a number out of bounds.
        """
        _require_number("tile", tile, LEAST_SIDE, math.inf)
        _require_number("tile_overlap", tile_overlap, 0, MOST_OVERLAP)
        _require_number("batch_size", batch_size, 1, math.inf)
        model = self._model
        limits = _thresholds(score_threshold).for_classes(model.class_names)
        batch_size = batch_size or model.batch_size
        tiling = Tiling(tile, tile_overlap, model.config.eval.iou_threshold) if tile is not None else None
        finder = Finder(model.predictor, model.input_size, model.alignment, batch_size=batch_size, tiling=tiling)
        if isinstance(images, str | os.PathLike | Image.Image | np.ndarray):
            return self._predict(finder, [images], limits)[0]
        if not isinstance(images, Sequence):
            raise ConfigError(f"predict takes an image or a list of them, but {type(images).__name__} was given.")
        found: list[ImageDetections] = []
        for start in range(0, len(images), batch_size):
            found += self._predict(finder, images[start : start + batch_size], limits)
        return found

    def _predict(self, finder: Finder, images: Sequence[Picture], limits: np.ndarray) -> list[ImageDetections]:
        arrays = [_as_array(image) for image in images]
        return [
            ImageDetections(array, keep_above(detections, limits), self.class_names)
            for array, detections in zip(arrays, finder(arrays), strict=True)
        ]

    def __repr__(self) -> str:
        height, width = self.input_size
        return f"Detector({len(self.class_names)} classes, input {width}x{height})"


class ImageDetections:
    """The objects found in one image, best first. Iterating gives (class_name, score, box) of each."""

    def __init__(self, image: np.ndarray, detections: Detections, class_names: tuple[str, ...]) -> None:
        self.image = image
        """(H, W, 3) uint8 RGB, upright: what `boxes` are in the pixels of."""
        self.boxes, self.scores, self.labels = detections
        """(D, 4) float32 xyxy pixels; (D,) float32 in 0..1, descending; (D,) int64 in 1..K."""
        self.class_names = class_names
        """Class names of the detector, `class_names[label - 1]`."""

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Found]:
        for label, score, box in zip(self.labels.tolist(), self.scores.tolist(), self.boxes.tolist(), strict=True):
            yield Found(self.class_names[label - 1], score, tuple(box))

    def above(self, score_threshold: float | Mapping[str, float]) -> ImageDetections:
        """Return the objects that score above a threshold, as in `Detector.predict`."""
        limits = _thresholds(score_threshold).for_classes(self.class_names)
        kept = keep_above(Detections(self.boxes, self.scores, self.labels), limits)
        return ImageDetections(self.image, kept, self.class_names)

    def plot(self) -> np.ndarray:
        """The image with a box, a name and a score for each object: (H, W, 3) uint8 RGB."""
        return draw_detections(self.image, self.boxes, self.labels, self.class_names, self.scores)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `plot()` as an image file. Raises DataError for a suffix that cannot be written."""
        write_image(Path(path), self.plot())

    def to_coco(self, image_id: ImageId, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Rows of a COCO result file: {"image_id", "category_id", "bbox": [x, y, width, height], "score"}.

        `category_ids` are the data set's own numbers, one for each of `class_names`; by default COCO's where the
        names are those of its 80 classes, otherwise the labels 1..K.
        """
        ids = number_classes(self.class_names, {}) if category_ids is None else category_ids
        if len(ids) != len(self.class_names):
            raise ConfigError(f"to_coco was given {len(ids)} category ids for {len(self.class_names)} classes.")
        return to_coco_rows(Detections(self.boxes, self.scores, self.labels), image_id, ids)

    def to_supervision(self) -> supervision.Detections:
        """Return `supervision.Detections`, whose class ids count from 0. Raises UserError where it is not
        installed."""
        try:
            import supervision
        except ImportError:
            raise UserError("supervision is not installed; run pip install 'ssdlite[supervision]'.") from None
        names = np.array([self.class_names[label - 1] for label in self.labels.tolist()], dtype=np.str_)
        return supervision.Detections(
            xyxy=self.boxes, confidence=self.scores, class_id=self.labels - 1, data={"class_name": names}
        )

    def __repr__(self) -> str:
        return f"ImageDetections({', '.join(f'{name} {score:.2f}' for name, score, _ in self) or 'none'})"


def _require_number(name: str, value: object, least: float, most: float) -> None:
    """Raise ConfigError for what is no number from `least` to `most`, or None."""
    if value is None:
        return
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:  # type: ignore[operator]
        bounds = f"{least:g} or more" if most == math.inf else f"from {least:g} to {most:g}"
        raise ConfigError(f"{name} must be a number, {bounds} (got {value!r}).")


def _thresholds(given: float | Mapping[str, float]) -> Thresholds:
    for number in given.values() if isinstance(given, Mapping) else [given]:
        _require_number("score_threshold", number, 0, 1)
    return Thresholds(SCORE_THRESHOLD, given) if isinstance(given, Mapping) else Thresholds(given)


def _as_array(image: Picture) -> np.ndarray:
    """(H, W, 3) uint8 RGB, upright."""
    if isinstance(image, Image.Image):
        return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ConfigError(f"an image is (H, W, 3) uint8 RGB, but {image.shape} {image.dtype} was given.")
        return np.ascontiguousarray(image)
    if isinstance(image, str | os.PathLike):
        return read_image(Path(image))
    raise ConfigError(f"an image is a path, a Pillow image or an array, but {type(image).__name__} was given.")
