"""Builder of objects from options: the only folder that knows both."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch.utils.data import DataLoader

from ssdlite.config.loss import (
    AssignmentConfig,
    AtssAssignmentConfig,
    CornerConfig,
    FocalConfig,
    IouAssignmentConfig,
    LossConfig,
    MultiboxConfig,
    QualityConfig,
    SampledConfig,
    TaskAlignedAssignmentConfig,
)
from ssdlite.config.schema import Config
from ssdlite.config.training import require_steps
from ssdlite.errors import ConfigError
from ssdlite.evaluation.voc import count_objects
from ssdlite.losses.assigners import assign_atss, assign_task_aligned
from ssdlite.losses.corner import CornerCriterion
from ssdlite.losses.matching import assign_iou
from ssdlite.losses.recipes import (
    Assigner,
    BoxLoss,
    Criterion,
    FocalLoss,
    MultiboxLoss,
    QualityLoss,
    SampledLoss,
    balance_classes,
)
from ssdlite.models.network import Network
from ssdlite.structures import DataSplit, ResizeAlignment
from ssdlite.training.distributed import local_processes, rank, world_size
from ssdlite.training.optim import AUTOCAST_DTYPE, WeightAverage, build_schedule, build_sgd, choose_precision
from ssdlite.training.step import TrainStep

if TYPE_CHECKING:
    from ssdlite.data.loader import Sample


logger = logging.getLogger(__name__)


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
    from ssdlite.data.loader import (
        DetectionDataset,
        DraftDataset,
        build_train_loader,
        build_val_loader,
        default_workers,
    )

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


def build_criterion(config: LossConfig, split: DataSplit, *, seed: int = 0) -> nn.Module:
    """Build the criterion for the objects of a training set; `seed` is that of its random draws.

    Raises ConfigError for a weight of a class that there is not.
    """
    if isinstance(config, CornerConfig):
        return CornerCriterion(**config.model_dump(exclude={"kind"}))
    box = BoxLoss(config.box_loss, config.box_weight)
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
    """Build the step that trains `detector`, which is on `device`, for `total_steps`. Raises ConfigError:
    `require_steps`."""
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


def build_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The autocast type of `train.precision`."""
    return AUTOCAST_DTYPE[choose_precision(device) if precision == "auto" else precision]
