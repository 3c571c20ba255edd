"""From options to objects: the only room that knows both."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import ssdlite
from ssdlite import pretrained
from ssdlite.config import (
    AssignmentConfig,
    AtssAssignmentConfig,
    Config,
    CornerConfig,
    EvalConfig,
    FocalConfig,
    IouAssignmentConfig,
    LossConfig,
    ModelConfig,
    MultiboxConfig,
    QualityConfig,
    SampledConfig,
    TaskAlignedAssignmentConfig,
    config_from_dict,
    require_changeable,
    require_start,
    require_steps,
)
from ssdlite.deploy.metadata import ExportMetadata
from ssdlite.errors import CheckpointError, ConfigError, DataError, FetchError, StallError
from ssdlite.evaluation.voc import count_objects
from ssdlite.losses.atss import assign_atss
from ssdlite.losses.corner import CornerCriterion
from ssdlite.losses.criterion import Assigner, Criterion
from ssdlite.losses.focal import FocalLoss
from ssdlite.losses.matching import assign_iou
from ssdlite.losses.multibox import MultiboxLoss
from ssdlite.losses.quality import QualityLoss
from ssdlite.losses.sampled import SampledLoss
from ssdlite.losses.task_aligned import assign_task_aligned
from ssdlite.losses.terms import BoxTerm, balance_classes
from ssdlite.model.architecture import DIALECTS, PAPER, TENSORFLOW, Dialect, PriorLevel, PriorShape
from ssdlite.model.backbone import load_imagenet
from ssdlite.model.corner import CornerDetector
from ssdlite.model.decode import Decoder
from ssdlite.model.detector import Detector
from ssdlite.model.network import Network
from ssdlite.model.norms import measure_norms, merged_norms
from ssdlite.model.transfer import TransferReport, transfer
from ssdlite.structures import DataSplit, ResizeAlignment
from ssdlite.training.checkpoint import load_checkpoint
from ssdlite.training.distributed import in_main_process, local_processes, rank, world_size
from ssdlite.training.ema import WeightAverage
from ssdlite.training.optim import AUTOCAST_DTYPE, build_schedule, build_sgd, choose_precision
from ssdlite.training.step import TrainStep

if TYPE_CHECKING:
    from ssdlite.data.dataset import Sample

logger = logging.getLogger(__name__)

NORM_IMAGES = 64  # that statistics of norms are measured on
NORM_BATCH = 8


def build_loader(
    config: Config,
    split: DataSplit,
    *,
    training: bool,
    alignment: ResizeAlignment,
    device: torch.device,
    workers: int | None = None,
    beside: DataLoader[Sample] | None = None,
) -> DataLoader[Sample]:
    """Batches of this process's share of `split`, to train on or to validate on, through the cache of `data.cache`.

    `workers` replaces `data.workers`; a cache in memory leaves room for that of the loader `beside`. Raises
    ConfigError where the cache has no room, or the batch cannot be shared by all processes.
    """
    # Here, because albumentations takes half a second, and a network is built without it.
    from ssdlite.data.cache import build_cache, choose_form, memory_of
    from ssdlite.data.dataset import DetectionDataset, DraftDataset
    from ssdlite.data.loader import build_train_loader, build_val_loader, default_workers

    data, size = config.data, config.model.input_size
    if config.train.batch_size % world_size():
        raise ConfigError(
            f"train.batch_size={config.train.batch_size} cannot be shared by {world_size()} processes evenly."
        )
    recipe = data.augmentation if training else "none"
    form = choose_form(recipe, size, alignment, data.cache_side)
    cache = build_cache(
        data.cache,
        split,
        form,
        folder=data.cache_dir or config.run.dir / "image-cache",
        processes=local_processes(),
        reserved=memory_of(beside.dataset.cache) if beside else 0,  # type: ignore[attr-defined]
    )
    if workers is None:
        workers = default_workers(device, local_processes()) if data.workers == "auto" else data.workers
    if not training:
        batch_size = config.eval.batch_size
        dataset = DetectionDataset(split, size, recipe, alignment=alignment, cache=cache)
        return build_val_loader(
            dataset,
            batch_size=batch_size,
            workers=workers,
            rank=rank(),
            world_size=world_size(),
            pin_memory=device.type == "cuda",
        )
    if data.augment_on == "device" and device.type == "cpu":
        logger.warning("data.augment_on=device is for GPUs: on a CPU the loader processes are faster at it.")
    make = partial(DraftDataset, form=form) if data.augment_on == "device" else DetectionDataset
    return build_train_loader(
        make(split, size, recipe, alignment=alignment, vertical_flip=data.vertical_flip, cache=cache),
        batch_size=config.train.batch_size // world_size(),
        workers=workers,
        seed=config.run.seed,
        rank=rank(),
        world_size=world_size(),
        pin_memory=device.type == "cuda",
    )


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
    """What model.weights=auto stands for; why nothing better is added to `reasons`."""
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
    from ssdlite.data.boxes import spread
    from ssdlite.data.dataset import DetectionDataset

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
    detector = make(dialect_of(model), num_classes=len(class_names), input_size=model.input_size, width=model.width)
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
    load_imagenet(detector.backbone, state, mean, std)
    logger.info("Started from ImageNet's weights of %s.", origin)


def _start_from_checkpoint(detector: Network, class_names: Sequence[str], path: Path) -> TransferReport:
    source = load_detector(path)
    report = transfer(source.detector, source.class_names, detector, class_names)
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
    """What a transfer between two dialects cannot make up for."""
    found = {
        "another padding": old.padding != new.padding,
        "another map at stride 16": old.tap != new.tap,
        "another activation of the extra levels": extras and old.extra_activation != new.extra_activation,
    }
    return [difference for difference, there in found.items() if there]


def build_criterion(config: LossConfig, split: DataSplit, *, seed: int = 0) -> nn.Module:
    """From output and targets to loss terms, for the objects to train on; `seed` is of what is drawn at random.

    Raises ConfigError for a weight of a class that there is not.
    """
    if isinstance(config, CornerConfig):
        return CornerCriterion(**config.model_dump(exclude={"kind"}))
    box = BoxTerm(config.box_loss, config.box_weight)
    weights = _class_weights(config.class_weights, split)
    recipe: nn.Module
    match config:
        case MultiboxConfig():
            recipe = MultiboxLoss(
                box=box,
                neg_pos_ratio=config.neg_pos_ratio,
                min_negatives=config.min_negatives,
                label_smoothing=config.label_smoothing,
                weights=weights,
            )
        case FocalConfig():
            recipe = FocalLoss(box=box, alpha=config.alpha, gamma=config.gamma, weights=weights)
        case SampledConfig():
            recipe = SampledLoss(
                box=replace(box, beta=1 / config.sigma**2),
                num_samples=config.num_samples,
                positive_share=config.positive_share,
                label_smoothing=config.label_smoothing,
                weights=weights,
                seed=seed,
            )
        case QualityConfig():
            recipe = QualityLoss(box=box, classification=config.classification, weights=weights)
    return Criterion(_build_assigner(config.assignment), recipe)


def _build_assigner(config: AssignmentConfig) -> Assigner:
    options = config.model_dump(exclude={"kind"})
    match config:
        case IouAssignmentConfig():
            return partial(assign_iou, **options)
        case AtssAssignmentConfig():
            return partial(assign_atss, **options)
        case TaskAlignedAssignmentConfig():
            return partial(assign_task_aligned, **options)


def _class_weights(config: Literal["balanced"] | dict[str, float] | None, split: DataSplit) -> list[float] | None:
    """One weight a class, or None for none."""
    names = split.class_names
    if config is None:
        return None
    if config == "balanced":
        return balance_classes(list(count_objects(split).values()))
    if unknown := [name for name in config if name not in names]:
        raise ConfigError(f"loss.class_weights names '{unknown[0]}', but the classes are {', '.join(names)}.")
    return [config.get(name, 1.0) for name in names]


def build_step(
    config: Config,
    detector: Network,
    criterion: nn.Module,
    *,
    total_steps: int,
    device: torch.device,
    dtype: torch.dtype,
) -> TrainStep:
    """What trains `detector`, which is on `device`; it lasts `total_steps`. Raises ConfigError: `require_steps`."""
    require_steps(config.train)
    optim = config.optim
    factors = optim.lr_factors.model_dump()
    optimizer = build_sgd(
        detector,
        lr=optim.lr,
        momentum=optim.momentum,
        weight_decay=optim.weight_decay,
        lr_factors={child: factors[part] for child, part in detector.parts.items()},
    )
    return TrainStep(
        model=detector,
        criterion=criterion.to(device),
        optimizer=optimizer,
        schedule=build_schedule(optimizer, total_steps=total_steps, warmup_steps=optim.warmup_steps),
        ema=WeightAverage(detector, config.train.ema_decay) if config.train.ema_decay else None,
        device=device,
        dtype=dtype,
        clip_norm=config.train.clip_norm,
        accumulate=config.train.accumulate,
        compile_mode=config.train.compile,
    )


def build_decoder(config: EvalConfig, input_size: tuple[int, int]) -> Decoder:
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
        config = settle_dialect(config_from_dict(content["config"], values, origin=str(path)))
        class_names = tuple(content["classes"])
        detector = empty_detector(config, class_names)
        detector.load_state_dict(content["weights"])
    except (KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"the weights in {path} do not fit its options: {reason}.") from None
    metrics = content.get("metrics", {}) if input_size is None else {}  # which are of another size
    return LoadedDetector(detector.eval(), class_names, config, metrics)


def export_metadata(config: Config, class_names: Sequence[str], metrics: Mapping[str, Any]) -> ExportMetadata:
    """What an exported file says of where it comes from."""
    return ExportMetadata(
        class_names=tuple(class_names),
        config=config.without_paths().to_dict(),
        dialect=config.model.dialect,
        width=config.model.width,
        metrics=metrics,
        version=ssdlite.__version__,
    )


def build_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The autocast type of `train.precision`."""
    return AUTOCAST_DTYPE[choose_precision(device) if precision == "auto" else precision]
