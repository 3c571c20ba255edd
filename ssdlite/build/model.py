"""Builder of objects from options: the only folder that knows both."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

import ssdlite
from ssdlite.build.training import logger
from ssdlite.config.loss import (
    CornerConfig,
    FocalConfig,
    QualityConfig,
    SampledConfig,
)
from ssdlite.config.model import ModelConfig, require_start
from ssdlite.config.schema import Config, config_from_checkpoint, config_from_dict, require_changeable
from ssdlite.config.training import EvalConfig
from ssdlite.errors import CheckpointError, ConfigError, DataError, FetchError, StallError
from ssdlite.export.metadata import ExportMetadata
from ssdlite.importers import pretrained
from ssdlite.models.backbone import MobileNetV2, load_imagenet
from ssdlite.models.backbones import MOBILENET_V2
from ssdlite.models.corner import CornerDetector
from ssdlite.models.decode import Decoder
from ssdlite.models.detector import Detector
from ssdlite.models.network import Network
from ssdlite.models.norms import measure_norms, merged_norms
from ssdlite.models.transfer import TransferReport, transfer
from ssdlite.models.variants import DIALECTS, PAPER, TENSORFLOW, Dialect, PriorLevel, PriorShape
from ssdlite.structures import DataSplit
from ssdlite.training.checkpoint import load_checkpoint
from ssdlite.training.distributed import in_main_process

if TYPE_CHECKING:
    pass


NORM_IMAGES = 64  # that statistics of norms are measured on


NORM_BATCH = 8


def settle_start(config: Config) -> Config:
    """`config` with what model.weights=auto and model.dialect=auto stand for; the log says which, and why.

    auto takes coco where it is kept or can be fetched, else imagenet, else none; with a dialect that is not coco's
    imagenet comes first. Raises as `settle_dialect`.
    """
    model = config.model
    reasons: list[str] = []
    if model.weights == "auto":
        config = _with_model(config, weights=_choose_start(model, reasons))
    settled = settle_dialect(config)
    start, dialect = settled.model.weights, settled.model.dialect
    because = f", because {'; '.join(reasons)}" if reasons else ""
    if model.weights == "auto" and start == "none":
        logger.warning(
            "The training starts from scratch%s. That needs several times the epochs and ends lower; "
            "model.weights=none silences this. model.dialect is %s.",
            because,
            dialect,
        )
    elif "auto" in (model.weights, model.dialect):
        logger.info("The training starts from %s%s; model.dialect is %s.", start, because, dialect)
    return settled


def settle_dialect(config: Config) -> Config:
    """`config` with the dialect that model.dialect=auto stands for: that in which its start has learnt.

    Nothing is fetched: where the start is still to be chosen, a line says which dialect is assumed. Raises
    ConfigError or CheckpointError for a start that is a file and cannot be read.
    """
    model = config.model
    if (model.dialect, model.weights, model.width) == ("auto", "auto", 1):
        if pretrained.is_at_hand("coco"):
            reason = "coco is on this machine"
        else:
            reason = "coco is not on this machine yet; where it cannot be fetched, a training is of another"
        logger.info("model.dialect is taken to be %s: %s.", dialect_of(model).name, reason)
    return _with_model(config, dialect=dialect_of(config.model).name)


def dialect_of(model: ModelConfig) -> Dialect:
    """The constants of a network; see `settle_dialect`."""
    if model.dialect != "auto":
        return DIALECTS[model.dialect]
    match model.weights:
        case "coco" | "pedestrian":
            return TENSORFLOW
        case "auto":  # not settled yet: what it will be where coco can be had
            return TENSORFLOW if model.width == 1 else PAPER
        case "imagenet" | "none":
            return PAPER
        case path:
            require_start(model)
            content = load_checkpoint(path)
            if "config" not in content:
                raise CheckpointError(f"{path} holds no detector, which model.weights=FILE starts from.")
            return dialect_of(config_from_dict(content["config"], origin=str(path)).model)


def _with_model(config: Config, **options: Any) -> Config:
    return config.model_copy(update={"model": config.model.model_copy(update=options)})


def _choose_start(model: ModelConfig, reasons: list[str]) -> Literal["coco", "imagenet", "none"]:
    """Return the start that model.weights=auto stands for, and add to `reasons` why it is no better one."""
    if model.backbone != MOBILENET_V2:
        reasons.append(f"there are pretrained weights for {MOBILENET_V2} only, and it is {model.backbone}")
        return "none"
    if model.width != 1:
        reasons.append(f"there are pretrained weights for model.width=1.0 only, and it is {model.width:g}")
        return "none"
    order: tuple[Literal["coco", "imagenet"], ...] = ("coco", "imagenet")
    if model.dialect not in ("auto", TENSORFLOW.name):  # in which its layers do not compute what they did
        reasons.append(f"model.dialect={model.dialect} is not coco's")
        order = ("imagenet", "coco")
    silent = False
    for name in order:
        if silent and pretrained.needs_network(name):
            reasons.append(f"{name} is not tried over a network that is silent")
            continue
        try:
            if name == "coco":
                pretrained.load_kept(name)
            else:
                pretrained.imagenet_state()
        except (CheckpointError, FetchError) as error:
            reasons.append(str(error).rstrip("."))
            silent |= isinstance(error, StallError)
        else:
            return name
    return "none"


def build_detector(config: Config, class_names: Sequence[str]) -> Network:
    """A detector to train: started as `model.weights` says, and frozen as `model.freeze` says."""
    if config.model.weights == "auto":
        config = settle_start(config)
    require_start(config.model)
    detector = empty_detector(config, class_names)
    match config.model.weights:
        case "none":
            trained: set[str] = set()
        case "imagenet":
            _start_from_imagenet(detector)
            trained = {"early", "backbone"}
        case start:
            report = _start_from_checkpoint(detector, class_names, Path(start))
            trained = {"early", "backbone"} if report.new_norms else {"early", "backbone", "norms"}
    for part in config.model.freeze:
        if part not in trained:
            raise ConfigError(
                f"model.freeze={part} would keep layers as they are that have nothing learnt yet; start from a "
                "model.weights=FILE of this dialect and head, or leave it out."
            )
    return detector


def restore_norms(detector: Network, config: Config, split: DataSplit, device: torch.device) -> None:
    """Give norms that came merged into convolutions the statistics of images of `split`, see `model.norms`.

    Those are up to NORM_IMAGES, spread evenly, as the network sees them in validation; images that cannot be read
    are left out. `detector` is on `device`. The main process measures, and all of them have what it found.
    """
    if not merged_norms(detector):
        return
    from ssdlite.data.loader import DetectionDataset
    from ssdlite.priors.fit import spread

    images = DetectionDataset(
        spread(split, NORM_IMAGES), config.model.input_size, alignment=detector.dialect.resize_alignment
    )

    def batches() -> Iterator[Tensor]:
        found: list[Tensor] = []
        for index in range(len(images)):
            with contextlib.suppress(DataError):
                found.append(images[index].image)
            if len(found) == NORM_BATCH or (found and index == len(images) - 1):
                yield torch.stack(found).to(device)
                found = []

    measured = in_main_process(lambda: measure_norms(detector, batches))
    if not measured.num_images:
        logger.warning("No norm statistics were measured, because none of %d images can be read.", len(images))
        return
    detector.load_state_dict(measured.state, strict=False)
    logger.info(
        "Norm statistics measured on %d training images; logits moved by %.0e at most.",
        measured.num_images,
        measured.largest_difference,
    )


def empty_detector(config: Config, class_names: Sequence[str]) -> Network:
    """A detector with fresh weights, whatever `model.weights` says: for weights that come from elsewhere.

    How logits become scores, and where they start, is for the loss recipe to say: everything after follows it.
    """
    model = config.model
    make: Callable[..., Network] = partial(Detector, prior_levels=prior_levels(model))
    match config.loss:
        case FocalConfig() | QualityConfig():
            make = partial(make, score_activation="sigmoid", class_prior=config.loss.class_prior)
        case SampledConfig():
            make = partial(make, score_activation="softmax")
        case CornerConfig():
            make = CornerDetector
    detector = make(
        dialect_of(model),
        num_classes=len(class_names),
        input_size=model.input_size,
        width=model.width,
        backbone=model.backbone,
    )
    detector.freeze(model.freeze)
    return detector


def prior_levels(config: ModelConfig) -> tuple[PriorLevel, ...]:
    """The priors of each map. Raises ConfigError for those that are still to be fitted."""
    own = dialect_of(config).prior_levels
    if config.priors == "dialect":
        return own
    if config.priors == "auto":
        raise ConfigError(
            "model.priors=auto is for 'ssdlite train'; let 'ssdlite fit-priors CONFIG --write FILE' fit them first."
        )
    shapes = [tuple(PriorShape(**shape.model_dump()) for shape in level) for level in config.priors]
    return tuple(replace(level, shapes=new) for level, new in zip(own, shapes, strict=True))


def _start_from_imagenet(detector: Network) -> None:
    state, origin = pretrained.imagenet_state()
    mean, std = detector.normalize.mean.flatten(), detector.normalize.std.flatten()
    assert isinstance(detector.backbone, MobileNetV2), "require_start"
    load_imagenet(detector.backbone, state, mean, std)
    logger.info("Started from ImageNet's weights of %s.", origin)


def _start_from_checkpoint(detector: Network, class_names: Sequence[str], path: Path) -> TransferReport:
    source = load_detector(path)
    report = transfer(source.detector, source.class_names, detector, class_names)
    if type(source.detector.backbone) is not type(detector.backbone):
        other = source.config.model.backbone
        raise ConfigError(f"the backbone in {path} does not fit: it is {other}; set model.backbone={other}.")
    if report.parts["backbone"].new:
        raise ConfigError(
            f"the backbone in {path} does not fit: it is of width {source.config.model.width}, but model.width is "
            f"{detector.width}."
        )
    old, new = source.detector.dialect, detector.dialect
    logger.info("Started from %s (%s):\n%s", path, old.name, report)
    if differences := _differences(old, new, extras=isinstance(detector, Detector)):
        logger.warning(
            "the layers do not compute quite what they did, because %s has %s; with model.dialect=%s they would.",
            *(new.name, " and ".join(differences), old.name),
        )
    both = {type(source.detector), type(detector)}
    if both == {Detector} and source.detector.score_activation != detector.score_activation:
        logger.info("No class is kept, because scores were made by %s.", source.detector.score_activation)
    return report


def _differences(old: Dialect, new: Dialect, *, extras: bool) -> list[str]:
    """Return the differences that a transfer between two dialects cannot make up for."""
    found = {
        "another padding": old.padding != new.padding,
        "another map at stride 16": old.tap != new.tap,
        "another activation of the extra levels": extras and old.extra_activation != new.extra_activation,
    }
    return [difference for difference, there in found.items() if there]


def build_decoder(config: EvalConfig, input_size: tuple[int, int]) -> Decoder:
    """Build the decoder of a network of this input size, (height, width) in pixels."""
    return Decoder(
        input_size=input_size,
        score_threshold=config.score_threshold,
        iou_threshold=config.iou_threshold,
        candidates_per_class=config.candidates_per_class,
        max_detections=config.max_detections,
    )


@dataclass(frozen=True, eq=False)
class LoadedDetector:
    """A checkpoint as objects."""

    detector: Network  # in evaluation mode, on the CPU
    class_names: tuple[str, ...]
    config: Config
    metrics: Mapping[str, Any]


def load_detector(
    path: Path, overrides: Mapping[str, Any] | None = None, input_size: tuple[int, int] | None = None
) -> LoadedDetector:
    """The network that a checkpoint ships, or one that has a name, with its own classes and options.

    `overrides` are values by dotted name. `input_size` (height, width) replaces the one of the training: the
    weights fit any, and the priors follow. Raises CheckpointError when the file cannot be read or its weights do
    not fit its options, ConfigError for overrides that a trained network cannot follow, FetchError for a name whose
    file cannot be had.
    """
    require_changeable(overrides or {})
    if pretrained.is_named(path):
        pretrained.require_detector(path)
        content = pretrained.load_kept(str(path))
    else:
        content = load_checkpoint(path)
    try:
        values = {**(overrides or {}), **({"model.input_size": input_size} if input_size else {})}
        config = settle_dialect(config_from_checkpoint(content["config"], values, origin=str(path)))
        class_names = tuple(content["classes"])
        detector = empty_detector(config, class_names)
        detector.load_state_dict(content["weights"])
    except (KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"the weights in {path} do not fit its options: {reason}.") from None
    metrics = content.get("metrics", {}) if input_size is None else {}  # which are of another size
    return LoadedDetector(detector.eval(), class_names, config, metrics)


def export_metadata(config: Config, class_names: Sequence[str], metrics: Mapping[str, Any]) -> ExportMetadata:
    """Return the origin of the network for the metadata of an exported file."""
    return ExportMetadata(
        class_names=tuple(class_names),
        config=config.without_paths().to_dict(),
        dialect=config.model.dialect,
        width=config.model.width,
        metrics=metrics,
        version=ssdlite.__version__,
    )
