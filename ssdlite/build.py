"""From options to objects: the only room that knows both."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch

from ssdlite.config import Config, DataConfig, EvalConfig, ModelConfig, MultiboxConfig, config_from_dict
from ssdlite.data.layout import CocoSource, Source, VocSource, find_layout, read_split
from ssdlite.errors import CheckpointError, ConfigError, DataError
from ssdlite.importers.names import ForeignNetwork
from ssdlite.losses.criterion import Criterion
from ssdlite.losses.multibox import MultiboxLoss
from ssdlite.model.architecture import DIALECTS, Dialect
from ssdlite.model.backbone import download_imagenet_state, load_imagenet
from ssdlite.model.decode import Decoder
from ssdlite.model.detector import Detector
from ssdlite.model.transfer import TransferReport, transfer
from ssdlite.structures import DataSplit
from ssdlite.training.checkpoint import load_checkpoint
from ssdlite.training.optim import AUTOCAST_DTYPE, choose_precision

logger = logging.getLogger(__name__)


def read_data(
    config: DataConfig, splits: Sequence[str] = ("train", "val"), class_names: Sequence[str] | None = None
) -> list[DataSplit]:
    """Read the annotations of `splits`, each 'train' or 'val'; the first one's classes hold for all.

    Says what was found at `config.path`. No image is opened but for sizes that annotations lack.
    """
    found = _find_sources(config)
    if config.path is not None:
        logger.info("%s", find_layout(config.path).description)
    data: list[DataSplit] = []
    for split in splits:
        sources = found[split]
        if sources is None:
            raise ConfigError(f"there is no data to {split}: give data=PATH, or data.{split} with a source.")
        names = class_names or (data[0].class_names if data else config.class_names)
        data.append(read_split(sources, names, ignore_unknown=config.ignore_unknown))
        if not data[0].class_names:
            raise DataError(
                f"the annotations to {split} name no class; label some objects, or set data.class_names."
            )
        if config.ignore_unknown and not any(len(record.boxes) for record in data[-1].records):
            raise DataError(
                f"no object to {split} is of the classes {', '.join(data[-1].class_names)}; correct "
                "data.class_names, since data.ignore_unknown leaves out all others."
            )
    return data


def has_split(config: DataConfig, split: str) -> bool:
    """Whether there are sources for 'train' or 'val'."""
    return bool(_find_sources(config)[split])


def _find_sources(config: DataConfig) -> dict[str, Sequence[Source] | None]:
    """What the config names, and for splits that it does not name what lies at its path."""
    found: dict[str, Sequence[Source] | None] = {"train": None, "val": None}
    if config.path is not None and None in (config.train, config.val):
        layout = find_layout(config.path)
        found = {"train": layout.train, "val": layout.val}
    for split, nodes in (("train", config.train), ("val", config.val)):
        if nodes is not None:
            found[split] = [_source(node) for node in nodes]
    return found


def build_detector(config: ModelConfig, class_names: Sequence[str]) -> Detector:
    """A Detector to train: started as `config.weights` says, and frozen as `config.freeze` says."""
    detector = empty_detector(config, class_names)
    match config.weights:
        case "none":
            trained: set[str] = set()
        case "auto" | "imagenet":
            trained = {"early", "backbone"} if _start_from_imagenet(detector, config) else set()
        case path:
            report = _start_from_checkpoint(detector, class_names, path)
            trained = {"early", "backbone"} if report.new_norms else {"early", "backbone", "norms"}
    for part in config.freeze:
        if part not in trained:
            raise ConfigError(
                f"model.freeze={part} would keep layers as they are that have nothing learnt yet; start from a "
                "model.weights=FILE of this dialect, or leave it out."
            )
    return detector


def empty_detector(config: ModelConfig, class_names: Sequence[str]) -> Detector:
    """A Detector with fresh weights, whatever `config.weights` says: for weights that come from elsewhere."""
    detector = Detector(
        DIALECTS[config.dialect], num_classes=len(class_names), input_size=config.input_size, width=config.width
    )
    detector.freeze(config.freeze)
    return detector


def _start_from_imagenet(detector: Detector, config: ModelConfig) -> bool:
    """Whether there were weights to start from."""
    if config.width != 1.0:
        if config.weights == "imagenet":
            raise ConfigError("there are ImageNet weights for model.width=1.0 only; set model.weights=none.")
        logger.warning("there are ImageNet weights for model.width=1.0 only: training from scratch.")
        return False
    try:
        state = download_imagenet_state()
    except (OSError, RuntimeError, HTTPException) as error:  # no network; a damaged file; a broken transfer
        if config.weights == "imagenet":
            raise ConfigError(
                f"the ImageNet weights cannot be downloaded ({error}); put torchvision's file into its cache, or "
                "set model.weights=none to train from scratch."
            ) from None
        logger.warning(
            "the ImageNet weights cannot be downloaded (%s): training from scratch, which needs several times the "
            "epochs and ends lower. model.weights=none silences this.",
            error,
        )
        return False
    mean, std = detector.normalize.mean.flatten(), detector.normalize.std.flatten()
    load_imagenet(detector.backbone, state, mean, std)
    return True


def _start_from_checkpoint(detector: Detector, class_names: Sequence[str], path: Path) -> TransferReport:
    if not path.exists():
        raise ConfigError(f"model.weights is auto, imagenet, none or a checkpoint, but there is no file {path}.")
    source = load_detector(path)
    report = transfer(source.detector, source.class_names, detector, class_names)
    if report.parts["backbone"].new:
        raise ConfigError(
            f"the backbone in {path} does not fit: it is of width {source.config.model.width}, but model.width is "
            f"{detector.width}."
        )
    old, new = source.detector.dialect, detector.dialect
    logger.info("Started from %s (%s):\n%s", path, old.name, report)
    if differences := _differences(old, new):
        logger.warning(
            "the layers do not compute quite what they did, because %s has %s; model.dialect=%s keeps everything.",
            *(new.name, " and ".join(differences), old.name),
        )
    return report


def _differences(old: Dialect, new: Dialect) -> list[str]:
    """What a transfer between two dialects cannot make up for."""
    found = {
        "another padding": old.padding != new.padding,
        "another map at stride 16": old.tap != new.tap,
        "another activation of the extra levels": old.extra_activation != new.extra_activation,
        "another way from logits to scores (so that no class is kept)": old.score_activation
        != new.score_activation,
    }
    return [difference for difference, there in found.items() if there]


def build_criterion(config: MultiboxConfig) -> Criterion:
    recipe = MultiboxLoss(
        neg_pos_ratio=config.neg_pos_ratio, min_negatives=config.min_negatives, box_weight=config.box_weight
    )
    return Criterion(recipe, iou_threshold=config.iou_threshold)


def build_decoder(config: EvalConfig, input_size: tuple[int, int]) -> Decoder:
    return Decoder(
        input_size=input_size,
        score_threshold=config.score_threshold,
        iou_threshold=config.iou_threshold,
        candidates_per_class=config.candidates_per_class,
        max_detections=config.max_detections,
    )


def require_changeable(overrides: Sequence[str]) -> None:
    """Raises ConfigError for an override that has no meaning once a network is trained."""
    for override in overrides:
        name = override.partition("=")[0]
        if name.split(".")[0] not in ("data", "eval") or name == "data.class_names":
            raise ConfigError(f"{name} cannot be changed for a trained model; only data and eval options can.")


def build_imported(network: ForeignNetwork) -> Detector:
    """The Detector of a foreign checkpoint."""
    detector = Detector(network.dialect, num_classes=network.num_classes, input_size=network.input_size)
    detector.load_state_dict(detector.state_dict() | network.weights)
    return detector.eval()


@dataclass(frozen=True, eq=False)
class LoadedDetector:
    """A checkpoint as objects."""

    detector: Detector  # in evaluation mode, on the CPU
    class_names: tuple[str, ...]
    config: Config
    metrics: Mapping[str, Any]


def load_detector(path: Path, overrides: Sequence[str] = ()) -> LoadedDetector:
    """The network that a checkpoint ships, with its own classes and options.

    Raises CheckpointError when the file cannot be read or its weights do not fit its options, ConfigError for
    overrides that a trained network cannot follow.
    """
    require_changeable(overrides)
    content = load_checkpoint(path)
    try:
        config = config_from_dict(content["config"], overrides, origin=str(path))
        class_names = tuple(content["classes"])
        detector = empty_detector(config.model, class_names)
        detector.load_state_dict(content["weights"])
    except (KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"the weights in {path} do not fit its options: {reason}.") from None
    return LoadedDetector(detector.eval(), class_names, config, content.get("metrics", {}))


def _source(node: Any) -> Source:
    if node.kind == "coco":
        return CocoSource(node.images, node.annotations)
    return VocSource(node.root, tuple(node.splits))


def build_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The autocast type of `train.precision`."""
    return AUTOCAST_DTYPE[choose_precision(device) if precision == "auto" else precision]
