"""Priors fitted to a data set, and what they change: for `ssdlite fit-priors` and for model.priors=auto."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ssdlite.build.model import dialect_of, empty_detector, prior_levels
from ssdlite.config.model import ModelConfig
from ssdlite.config.schema import Config
from ssdlite.models.detector import Detector
from ssdlite.models.priors import generate_priors, level_map_sizes
from ssdlite.priors.fit import PriorFit, draw_boxes, input_boxes, measure_fit, spread
from ssdlite.priors.search import fit_priors
from ssdlite.structures import DataSplit

logger = logging.getLogger(__name__)


MAX_GROWTH = 8  # how many times the priors that the dialect has there may be


MAX_IMAGES = 2000  # to fit to


MAX_WORK = 0.25  # multiply-adds that the others may cost, as a share of the network's


@dataclass(frozen=True)
class Cost:
    """Multiply-adds, parameters and milliseconds that a network spends on its priors."""

    num_priors: int
    head_parameters: int  # of all predictors
    multiply_adds: int  # of the whole network, for one image
    multiply_adds_per_prior: int  # of one more on the first map, where they are dearest


def with_priors(config: Config, priors: Any) -> Config:
    """`config` with other model.priors: `dialect`, or the shapes of each map."""
    nodes = config.model.model_dump() | {"priors": priors}
    return config.model_copy(update={"model": ModelConfig.model_validate(nodes)})


def fit(config: Config, split: DataSplit, *, max_priors: int | None = None) -> Config:
    """`config` with the dialect's priors fitted to the objects of `split`.

    They are taken once as in validation and once under data.augmentation. Without objects there is nothing to fit.
    By default there are as many priors as MAX_GROWTH and MAX_WORK allow. Of more images than MAX_IMAGES so many are
    fitted to.
    """
    own = with_priors(config, "dialect")
    size = own.model.input_size
    sample = spread(split, MAX_IMAGES)
    boxes = input_boxes(sample, size) + draw_boxes(sample, size, config.data.augmentation, seed=config.run.seed)
    if max_priors is None:
        max_priors = default_bound(own, split.class_names)
    objects = np.concatenate([np.zeros((0, 4)), *boxes])
    fitted = fit_priors(objects, prior_levels(own.model), size, max_priors=max_priors)
    return with_priors(config, [[shape._asdict() for shape in level.shapes] for level in fitted])


def default_bound(config: Config, class_names: Sequence[str]) -> int:
    """The priors that the network of `config` may have: with 80 classes each one costs twelve times that of two."""
    own = cost(config, class_names)
    affordable = MAX_WORK * own.multiply_adds / own.multiply_adds_per_prior
    return int(min(MAX_GROWTH * own.num_priors, own.num_priors + affordable))


def fit_and_tell(config: Config, split: DataSplit) -> Config:
    """`fit`, with a line in the log that says what came of it."""
    fitted = fit(config, split)
    boxes = input_boxes(split, config.model.input_size)
    old, new = (measure(one, boxes) for one in (with_priors(config, "dialect"), fitted))
    if not len(old.best_iou):
        logger.warning("model.priors=auto: there is no object to fit priors to, so they stay the dialect's.")
        return fitted
    logger.info(
        "Priors fitted: %d in place of %d; %s of the objects to train on have one at IoU .5 or more, before %s.",
        new.num_priors,
        old.num_priors,
        *(f"{100 * (one.total.share_reached or 0):.1f} %" for one in (new, old)),
    )
    return fitted


def measure(config: Config, boxes: Sequence[np.ndarray]) -> PriorFit:
    """Measure how the priors of `config` fit `boxes`, (N, 4) xyxy in input pixels of each image."""
    return measure_fit(boxes, place(config.model))


def place(config: ModelConfig) -> Tensor:
    """The priors that a network of `config` has: (P, 4) cxcywh, input pixels."""
    size, levels = config.input_size, prior_levels(config)
    clamp = dialect_of(config).clamp_priors
    return generate_priors(levels, level_map_sizes(size, len(levels)), size, clamp)


def cost(config: Config, class_names: Sequence[str]) -> Cost:
    """Return the cost of the network that `config` makes."""
    detector = empty_detector(config, class_names).eval()
    assert isinstance(detector, Detector)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        detector(torch.zeros(1, 3, *config.model.input_size))
    last = detector.head.classification[0][-1]  # type: ignore[index]
    assert isinstance(last, nn.Conv2d)
    return Cost(
        num_priors=len(detector.priors),
        head_parameters=sum(parameter.numel() for parameter in detector.head.parameters()),
        multiply_adds=counter.get_total_flops() // 2,
        multiply_adds_per_prior=last.in_channels * (detector.head.num_logits + 4),
    )
