"""Any file that can predict, as one kind of object."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ssdlite import build
from ssdlite.config import Config, config_from_dict
from ssdlite.deploy.runtime import OnnxPredictor
from ssdlite.evaluation.evaluate import Predictor
from ssdlite.model.predictor import TorchPredictor
from ssdlite.structures import ResizeAlignment
from ssdlite.training.distributed import choose_device

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A checkpoint or an exported file, ready to predict."""

    predictor: Predictor
    class_names: tuple[str, ...]
    input_size: tuple[int, int]  # (height, width), pixels
    alignment: ResizeAlignment  # of images that are brought to that size
    config: Config  # what it was trained with, and the overrides


def is_exported(path: Path) -> bool:
    return path.suffix.lower() == ".onnx"


def load_model(path: Path, overrides: Sequence[str] = (), device: str = "auto") -> LoadedModel:
    """Load `path` by its suffix: .onnx with onnxruntime, anything else as a checkpoint.

    Raises CheckpointError when it cannot be read, ConfigError for overrides that do not exist.
    """
    if is_exported(path):
        build.require_changeable(overrides)
        inside = [text for text in overrides if text.startswith("eval.") and "batch_size" not in text]
        if inside:
            logger.warning("%s has no effect: it is part of the exported file.", ", ".join(inside))
        if device != "auto":
            logger.warning("--device %s has no effect: exported files run on the CPU.", device)
        predictor = OnnxPredictor(path)
        config = config_from_dict(predictor.config, overrides, origin=str(path))
        card = predictor.card
        return LoadedModel(predictor, card.class_names, card.input_size, card.resize_alignment, config)
    loaded = build.load_detector(path, overrides)
    chosen = choose_device(device)
    decoder = build.build_decoder(loaded.config.eval, loaded.detector.input_size)
    torch_predictor = TorchPredictor(loaded.detector.to(chosen), decoder, chosen)
    alignment = loaded.detector.dialect.resize_alignment
    return LoadedModel(torch_predictor, loaded.class_names, loaded.detector.input_size, alignment, loaded.config)
