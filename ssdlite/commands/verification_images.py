"""Images that an exported file is verified on and calibrated with, out of the checkpoint's own data."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ssdlite.build.data import find_sources, read_data
from ssdlite.build.model import LoadedDetector
from ssdlite.data.images import read_image, resize
from ssdlite.data.records import spread_indices
from ssdlite.data.stream import ImageStream
from ssdlite.data.synthetic.pictures import draw_scene
from ssdlite.errors import ConfigError, DataError
from ssdlite.evaluation.evaluate import predict_split, score_detections
from ssdlite.export.verify.verify import Evaluator, VerificationImages
from ssdlite.inference.inputs import ImageFile, find_inputs
from ssdlite.structures import DataSplit, Predictor

COMPARED_IMAGES = 16
"""Number of images of the validation split on which every number is compared with float64."""


EVALUATED_IMAGES = 200
"""Number of images of the validation split on which AP is compared: both take seconds."""


CALIBRATION_IMAGES = 100
"""Number of images of the training split: with 50 or 100 of them int8 files scored alike."""


def gather_verification_images(loaded: LoadedDetector, allowed_loss: float | None) -> VerificationImages:
    """Validation images of the checkpoint's data, spread over the split; drawn pictures where it names no data.

    Drawn pictures have no AP: nothing in them is what the network has learnt. Raises ConfigError for an
    `allowed_loss` without data, and as `validation_split`.
    """
    if not find_sources(loaded.config.data).has("val"):
        if allowed_loss is not None:
            raise ConfigError("--tolerance bounds the AP on validation images, and there are none: give data=PATH.")
        return VerificationImages(_drawn_pictures(loaded.detector.input_size))
    split = validation_split(loaded)
    evaluated = thin_split(split, EVALUATED_IMAGES)
    evaluator = make_evaluator(loaded, evaluated, loaded.config.eval.batch_size)
    return VerificationImages(
        _pixels(loaded, thin_split(split, COMPARED_IMAGES)), evaluator, len(evaluated), allowed_loss
    )


def validation_split(loaded: LoadedDetector) -> DataSplit:
    """Raise ConfigError or DataError where there are no validation images."""
    if not find_sources(loaded.config.data).has("val"):
        raise ConfigError("there are no validation images to compare on: give data=PATH, or --no-verify.")
    (split,) = read_data(loaded.config.data, ["val"], loaded.class_names)
    if not len(split):
        raise DataError("there are no validation images to compare on; use --no-verify, or data=PATH.")
    return split


def make_evaluator(loaded: LoadedDetector, split: DataSplit, batch_size: int) -> Evaluator:
    """Return a function that computes the AP of a predictor on `split`, `batch_size` images at a time."""

    def evaluator(predictor: Predictor) -> float:
        found = predict_split(predictor, _stream(loaded, split, batch_size), len(split))
        return score_detections(split, [found[index] for index in range(len(split))]).coco.summary["AP"]

    return evaluator


def calibration_images(loaded: LoadedDetector, path: Path | None) -> np.ndarray:
    """(N, 3, H, W) uint8: of the folder or file `path`, or else of the training split, spread over it.

    Raises ConfigError or DataError where there are none.
    """
    if path is not None:
        paths = [source.path for source in find_inputs([str(path)]) if isinstance(source, ImageFile)]
        if not paths:
            raise DataError(f"{path} holds no images to choose 8 bits by; name a folder of images.")
        chosen = [paths[index] for index in spread_indices(len(paths), CALIBRATION_IMAGES)]
        detector = loaded.detector
        alignment = detector.dialect.resize_alignment
        pixels = np.stack([resize(read_image(image), detector.input_size, alignment) for image in chosen])
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    if not find_sources(loaded.config.data).has("train"):
        raise ConfigError(
            "8 bits are chosen by training images, and there are none: give data=PATH or --calibration FOLDER."
        )
    (split,) = read_data(loaded.config.data, ["train"], loaded.class_names)
    if not len(split):
        raise DataError("there are no training images to choose 8 bits by; give --calibration FOLDER.")
    return _pixels(loaded, thin_split(split, CALIBRATION_IMAGES))


def _drawn_pictures(size: tuple[int, int]) -> np.ndarray:
    """(N, 3, H, W) uint8: `COMPARED_IMAGES` scenes, the same each time."""
    scenes = [draw_scene(np.random.default_rng(number), size)[0] for number in range(COMPARED_IMAGES)]
    return np.ascontiguousarray(np.stack(scenes).transpose(0, 3, 1, 2))


def _pixels(loaded: LoadedDetector, split: DataSplit) -> np.ndarray:
    return np.concatenate([np.asarray(batch.images) for batch in _stream(loaded, split, batch_size=16)])


def _stream(loaded: LoadedDetector, split: DataSplit, batch_size: int) -> ImageStream:
    """The images as the network sees them."""
    detector = loaded.detector
    alignment = detector.dialect.resize_alignment
    return ImageStream(split, detector.input_size, alignment=alignment, batch_size=batch_size)


def thin_split(split: DataSplit, count: int) -> DataSplit:
    """Return at most `count` images of `split`, evenly spaced."""
    records = [split.records[index] for index in spread_indices(len(split), count)]
    return DataSplit(records, split.class_names, split.category_ids)
