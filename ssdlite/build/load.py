"""Any file that can predict, as one kind of object."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssdlite.config.overrides import is_among, option_names
from ssdlite.config.schema import Config, config_from_checkpoint, config_from_dict, require_changeable
from ssdlite.errors import ConfigError
from ssdlite.export.formats.registry import runtime_of
from ssdlite.importers.pretrained import is_named, require_detector
from ssdlite.structures import Predictor, ResizeAlignment
from ssdlite.training.checkpoint import require_checkpoint_file

PARTS_OF_FILE = ("eval.score_threshold", "eval.iou_threshold", "eval.candidates_per_class", "eval.max_detections")
"""Options whose values an exported file holds."""


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A checkpoint or an exported file, ready to predict."""

    predictor: Predictor
    class_names: tuple[str, ...]
    input_size: tuple[int, int]  # (height, width), pixels
    alignment: ResizeAlignment  # of images that are brought to that size
    config: Config  # what it was trained with, and the overrides
    score_threshold: float  # the predictor gives nothing below
    runs_in_threads: bool = False  # several threads may call the predictor at once, and are the faster for it
    batch_size: int = 1  # images of a call: what it is fastest with, or made for


def is_exported(path: Path) -> bool:
    """Return whether it is a file of `export-onnx` or `export`, by its suffix."""
    return path.suffix.lower() == ".onnx" or runtime_of(path) is not None


def load_model(
    path: Path,
    overrides: Mapping[str, Any] | None = None,
    device: str = "auto",
    threads: int | None = None,
    *,
    alone: bool = True,
) -> LoadedModel:
    """Load `path` by its suffix: an exported file with its own runtime, anything else as a checkpoint with PyTorch.

    Path("coco") is the pretrained network of that name; see `pretrained.model_path`.

    None needs what another runs with. `overrides` are values by dotted name. `threads` are those of one call where
    the model `runs_in_threads`: 1 where others call it at the same time, None for all cores. `alone`: nothing else
    in this process uses a GPU, so that the device becomes the current one for good. Raises
    CheckpointError when it cannot be read, ConfigError for overrides that do not exist or have no effect,
    FetchError for a name that cannot be had, UserError where the runtime is not installed.
    """
    require_openable(path, overrides or {}, device)
    if is_exported(path):
        return _load_exported(path, overrides or {}, threads)
    return _load_checkpoint(path, overrides or {}, device, alone)


def require_openable(path: Path, overrides: Mapping[str, Any], device: str) -> None:
    """Raise what `load_model` would raise for its options or a checkpoint that is not there, without PyTorch."""
    if not is_exported(path):
        require_checkpoint(path, overrides)
        return
    _require_valid(overrides)
    if inside := next((name for name in option_names(overrides) if is_among(name, PARTS_OF_FILE)), None):
        raise ConfigError(f"{inside} has no effect on {path}: it is part of the exported file; leave it out.")
    if device not in ("auto", "cpu"):
        raise ConfigError(f"--device {device} has no effect on {path}: exported files run on the CPU.")


def require_checkpoint(path: Path, overrides: Mapping[str, Any]) -> None:
    """Raise as `require_openable` for what must be a checkpoint. What has a name may still have to be fetched."""
    _require_valid(overrides)
    if is_named(path):
        require_detector(path)
    else:
        require_checkpoint_file(path)


def _require_valid(overrides: Mapping[str, Any]) -> None:
    require_changeable(overrides)
    config_from_dict({}, overrides)  # for unknown names, and values out of range


def _load_exported(path: Path, overrides: Mapping[str, Any], threads: int | None) -> LoadedModel:
    from ssdlite.export.formats.registry import open_file
    from ssdlite.export.onnxruntime import OnnxPredictor

    is_onnx = runtime_of(path) is None
    # Other runtimes answer one thread at a time, so that this one may have all cores.
    predictor = OnnxPredictor(path, threads) if is_onnx else open_file(path)
    config = config_from_checkpoint(predictor.config, overrides, origin=str(path))
    metadata = predictor.metadata
    return LoadedModel(
        predictor,
        metadata.class_names,
        metadata.input_size,
        metadata.resize_alignment,
        config,
        metadata.selection.score_threshold,
        runs_in_threads=predictor.session.runs_in_threads,
        batch_size=predictor.batch_size or 1,
    )


def _load_checkpoint(path: Path, overrides: Mapping[str, Any], device: str, alone: bool) -> LoadedModel:
    was_enabled = gc.isenabled()
    gc.disable()  # importing PyTorch makes a million objects and no garbage, and looking for it takes half a second
    try:
        from ssdlite.build.model import build_decoder, load_detector
        from ssdlite.models.predictor import TorchPredictor
        from ssdlite.training.distributed import choose_device, number_device, prepare_device
    finally:
        if was_enabled:
            gc.enable()
    loaded = load_detector(path, overrides)
    chosen = number_device(choose_device(device))
    if alone:
        prepare_device(chosen)
    options = loaded.config.eval
    decoder = build_decoder(options, loaded.detector.input_size)
    predictor = TorchPredictor(loaded.detector.to(chosen), decoder, chosen)
    return LoadedModel(
        predictor,
        loaded.class_names,
        loaded.detector.input_size,
        loaded.detector.dialect.resize_alignment,
        loaded.config,
        options.score_threshold,
        batch_size=8,
    )
