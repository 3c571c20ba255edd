"""Options of the loss: the recipes and the assigners, each with its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    model_validator,
)

from ssdlite.config.overrides import (
    as_node,
)
from ssdlite.config.section import Fraction, NotNegative, NotNegativeFloat, Positive, Section


class IouAssignmentConfig(Section):
    """A prior learns the object that it overlaps enough, and each object has its best prior (Liu et al. 2016)."""

    kind: Literal["iou"] = "iou"
    iou_threshold: Annotated[float, Field(gt=0, le=1)] = 0.5
    """A prior learns an object from this overlap on."""
    background_below: Annotated[float, Field(gt=0, le=1)] | None = None
    """Priors from this overlap up to iou_threshold take no part. Default: iou_threshold, so that there are none."""
    all_ties: bool = False
    """Let all of several priors that are an object's best learn it, unless they overlap another more (compare
    Faster R-CNN's RPN, which leaves the condition out)."""

    @model_validator(mode="after")
    def _band_is_below(self) -> IouAssignmentConfig:
        if self.background_below is not None and self.background_below > self.iou_threshold:
            raise ValueError(
                f"background_below={self.background_below} must not exceed iou_threshold={self.iou_threshold}"
            )
        return self


class AtssAssignmentConfig(Section):
    """A threshold for each object, from the overlaps of the nearest priors of each level (Zhang et al. 2020)."""

    kind: Literal["atss"] = "atss"
    candidates: Positive = 9
    """Nearest priors of each level that set the threshold."""


class TaskAlignedAssignmentConfig(Section):
    """The priors whose predictions are best by score^score_power · IoU^overlap_power (Feng et al. 2021)."""

    kind: Literal["task-aligned"] = "task-aligned"
    candidates: Positive = 13
    """Priors that an object has at most."""
    score_power: Annotated[float, Field(ge=0)] = 1.0
    overlap_power: Annotated[float, Field(ge=0)] = 6.0


AssignmentConfig = Annotated[
    IouAssignmentConfig | AtssAssignmentConfig | TaskAlignedAssignmentConfig, Field(discriminator="kind")
]


BoxLossName = Literal["smooth_l1", "giou", "diou", "ciou"]


def _class_weights(value: Any) -> Any:
    if value is None or value == "balanced":
        return value
    if not isinstance(value, Mapping):
        raise ValueError("must be balanced, or weights by class name such as {person: 2}")
    for name, weight in value.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise ValueError(
                f"the weight of '{name}' must be a number, 0 or more, as in {{person: 2}} (got {weight!r})"
            )
    return {str(name): weight for name, weight in value.items()}


class PriorLossConfig(Section):
    """Options that all recipes of the SSDLite head have."""

    assignment: AssignmentConfig
    """Assignment of objects to priors: iou, atss or task-aligned."""
    box_loss: BoxLossName = "smooth_l1"
    """On the encoded box (smooth_l1), or on its overlap with the object (giou, diou, ciou)."""
    box_weight: NotNegativeFloat = 1.0
    """Weight of the box term beside the classification term."""
    class_weights: Annotated[Literal["balanced"] | dict[str, float] | None, BeforeValidator(_class_weights)] = None
    """Weight of the classification of priors that learn an object of a class, {NAME: WEIGHT} with 1 for the others;
    balanced: proportional to 1 / sqrt(objects of the class), 1 on average over the objects."""

    @model_validator(mode="before")
    @classmethod
    def _complete_assignment(cls, values: Any) -> Any:
        """A part of the assignment changes that part of the recipe's own."""
        given = as_node(values.get("assignment")) if isinstance(values, Mapping) else None
        if not isinstance(given, Mapping):
            return values
        own = cls.model_fields["assignment"].default.model_dump()
        same_kind = given.get("kind", own["kind"]) == own["kind"]
        return {**values, "assignment": {**own, **given} if same_kind else given}


class MultiboxConfig(PriorLossConfig):
    """Cross-entropy, by softmax or sigmoid as the dialect has it, with hard-negative mining (Liu et al. 2016)."""

    kind: Literal["multibox"] = "multibox"
    assignment: AssignmentConfig = IouAssignmentConfig()
    neg_pos_ratio: NotNegativeFloat = 3.0
    """Mined negatives for each positive, image by image."""
    min_negatives: NotNegative = 3
    """Mined negatives of an image that has few or no positives."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target that is spread evenly over all classes."""

    @model_validator(mode="before")
    @classmethod
    def _move_threshold(cls, values: Any) -> Any:
        """Checkpoints from before there was a choice of assignment have its threshold here."""
        if isinstance(values, Mapping) and "iou_threshold" in values and "assignment" not in values:
            kept = {name: value for name, value in values.items() if name != "iou_threshold"}
            return {**kept, "assignment": {"kind": "iou", "iou_threshold": values["iou_threshold"]}}
        return values


class FocalConfig(PriorLossConfig):
    """Sigmoid focal loss over all priors, without mining (Lin et al. 2017)."""

    kind: Literal["focal"] = "focal"
    assignment: AssignmentConfig = IouAssignmentConfig(background_below=0.4)
    alpha: Fraction = 0.25
    """Weight of the class that is there; 1 − alpha is that of those that are not."""
    gamma: NotNegativeFloat = 2.0
    """Exponent by which easy examples count less; 0 is cross-entropy."""
    class_prior: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Probability of each class at every prior before training."""


class SampledConfig(PriorLossConfig):
    """Softmax cross-entropy over priors sampled at random, as Faster R-CNN's RPN (Ren et al. 2015)."""

    kind: Literal["sampled"] = "sampled"
    assignment: AssignmentConfig = IouAssignmentConfig(iou_threshold=0.7, background_below=0.3, all_ties=True)
    num_samples: Positive = 256
    """Priors of an image that count."""
    positive_share: Fraction = 0.5
    """Positives among them at most; negatives fill up."""
    sigma: Annotated[float, Field(gt=0)] = 3.0
    """Parameter of smooth_l1, which turns from a parabola into a line at 1 / sigma²."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target that is spread evenly over all classes."""

    @model_validator(mode="after")
    def _options_have_a_use(self) -> SampledConfig:
        if int(self.num_samples * self.positive_share) < 1:
            raise ValueError("num_samples * positive_share must be 1 or more, or no object is ever learnt")
        if self.box_loss != "smooth_l1" and self.sigma != type(self).model_fields["sigma"].default:
            raise ValueError(f"sigma has no effect with box_loss={self.box_loss}")
        return self


class QualityConfig(PriorLossConfig):
    """Sigmoid scores that learn how good the box is, and positives chosen by what the network predicts (Li et al.
    2020, Zhang et al. 2021, Feng et al. 2021)."""

    kind: Literal["quality"] = "quality"
    assignment: AssignmentConfig = TaskAlignedAssignmentConfig()
    box_loss: BoxLossName = "giou"
    box_weight: NotNegativeFloat = 2.0
    classification: Literal["quality_focal", "varifocal"] = "quality_focal"
    class_prior: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """Probability of each class at every prior before training."""


class CornerConfig(Section):
    """Heatmaps, embeddings and offsets of corners (Law and Deng 2018); for model.head=corner."""

    kind: Literal["corner"] = "corner"
    heatmap_alpha: NotNegativeFloat = 2.0
    """Exponent by which easy cells count less."""
    heatmap_beta: NotNegativeFloat = 4.0
    """Exponent by which the neighbourhood of a corner counts less."""
    pull_weight: NotNegativeFloat = 0.1
    """Weight of the term that makes the embeddings of an object's two corners alike."""
    push_weight: NotNegativeFloat = 0.1
    """Weight of the term that makes the embeddings of objects differ."""
    offset_weight: NotNegativeFloat = 1.0
    """Weight of the term that places a corner within its cell."""
    min_overlap: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """IoU that a box keeps whose corners are anywhere within the radius of the heatmap's peaks."""
    historical_radius: bool = False
    """The radius as CornerNet first computed it, by a formula that is wrong, and that many have copied."""


LossConfig = Annotated[
    MultiboxConfig | FocalConfig | SampledConfig | QualityConfig | CornerConfig, Field(discriminator="kind")
]
