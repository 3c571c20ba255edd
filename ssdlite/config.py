"""Every option of the project on one page.

`load_config(path, ["optim.lr=5e-3", "data=photos"])` gives a frozen `Config` or raises `ConfigError` with the
dotted name, the value and the nearest real name. Nothing that can be derived is an option. The type of an option
decides how its text is read: see `ssdlite.overrides`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from ssdlite.errors import ConfigError
from ssdlite.files import spelt_path
from ssdlite.mistakes import first_mistake
from ssdlite.overrides import (
    apply_overrides,
    as_node,
    expand_words,
    is_among,
    option_names,
    parse_overrides,
    read_yaml,
)
from ssdlite.schema import types_at

QUICKSTART_PATH = Path(__file__).with_name("quickstart.yaml")

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]


def _expand_home(value: Any) -> Any:
    """Expand ~ and ~user as a shell does, which after `data=` some do and some do not."""
    if not isinstance(value, str) or not value.startswith("~"):
        return value
    try:
        return Path(value).expanduser()
    except RuntimeError:  # there is no such user
        return value


FilePath = Annotated[Path, BeforeValidator(_expand_home)]


class Section(BaseModel):
    """A frozen node that knows its own names and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    SHORTHAND: ClassVar[str | None] = None
    """Option of the section that a mere word in its place stands for."""

    @model_validator(mode="before")
    @classmethod
    def _no_word_is_a_number(cls, values: Any) -> Any:
        """YAML's true, yes and on would pass for 1."""
        for name, value in values.items() if isinstance(values, Mapping) else ():
            field = cls.model_fields.get(name)
            if isinstance(value, bool) and field and field.annotation is not bool:
                raise ValueError(f"{name} must not be {str(value).lower()}")
        return values


class CocoSourceConfig(Section):
    """Images of a folder with one COCO annotation file."""

    kind: Literal["coco"]
    images: FilePath
    annotations: FilePath


class VocSourceConfig(Section):
    """A VOC folder (Annotations, ImageSets/Main, JPEGImages) and the splits to read from it."""

    kind: Literal["voc"]
    root: FilePath
    splits: Annotated[list[str], Field(min_length=1)]


SourceConfig = Annotated[CocoSourceConfig | VocSourceConfig, Field(discriminator="kind")]


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, Mapping | Section) else value


Sources = Annotated[list[SourceConfig], Field(min_length=1), BeforeValidator(_listed)]
"""One source or a list of them."""


def _distinct(names: list[str]) -> list[str]:
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"'{repeated[0]}' is named twice")
    return names


Side = Annotated[int, Field(ge=64, le=4096)]


def _square(value: Any) -> Any:
    return (value, value) if isinstance(value, int) else value


def _words(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class DrawConfig(Section):
    """A drawn data set, made at `data.path` when it is not there yet."""

    train: Positive = 1500
    """Training images."""
    val: Positive = 300
    """Validation images."""
    size: Positive = 256
    """Side of the images, pixels."""
    seed: int = 0


class DataConfig(Section):
    SHORTHAND: ClassVar[str | None] = "path"

    path: FilePath | None = None
    """A folder in VOC or COCO layout. On the command line `data=PATH` sets it and clears the sources."""
    draw: DrawConfig | None = None
    """Draw the quick-start data set at `path` first."""
    train: Sources | None = None
    """Training sources, concatenated; in place of `path`."""
    val: Sources | None = None
    """Validation sources; in place of `path`."""
    class_names: Annotated[list[str], Field(min_length=1), AfterValidator(_distinct)] | None = None
    """The classes in the order of their labels. Default: what the training annotations name."""
    ignore_unknown: bool = False
    """Leave out objects of classes that are not among the known ones, in place of an error."""
    augmentation: Literal["ssd", "light", "flip", "none"] = "ssd"
    """ssd: colour, zoom-out, IoU crop, mirror. light: IoU crop and mirror. flip: mirror, for images that are all
    taken at one distance. none: resize only."""
    vertical_flip: bool = False
    """Mirror top to bottom as well, for images without an up such as those of microscopes and from the air."""
    augment_on: Literal["workers", "device"] = "workers"
    """Where training images are resized, coloured and mirrored; the draws are the same. device: loader processes
    hand out parts of what a cache would keep, and the rest is done for whole batches where the network is, which is
    for GPUs that wait for data."""
    workers: NotNegative | Literal["auto"] = "auto"
    """Loader processes of each training process. auto: this process's share of the cores but one, at most 8; on a
    machine with a GPU at least 1 and at most 32."""
    cache: Literal["none", "memory", "disk"] = "none"
    """Keep what was decoded and shrunk, so that it is done once: in memory, shared by the loader processes, or in
    files that later runs find again. Validation keeps the network's inputs, so no figure changes."""
    cache_side: Positive | None = None
    """Longest side of a training image in the cache, pixels. Default: one and a half times the network input's,
    because random crops enlarge."""
    cache_dir: FilePath | None = None
    """Folder of the files. Default: image-cache in run.dir."""

    @model_validator(mode="after")
    def _path_has_a_use(self) -> DataConfig:
        if None not in (self.path, self.train, self.val):
            raise ValueError("path has no effect beside both train and val; data=PATH replaces them")
        return self

    @model_validator(mode="after")
    def _cache_options_have_a_use(self) -> DataConfig:
        if self.cache == "none" and self.augment_on == "workers" and self.cache_side is not None:
            raise ValueError("cache_side has no effect with cache=none; set data.cache=memory or disk")
        if self.cache_side is not None and self.augmentation in ("flip", "none"):
            raise ValueError(f"cache_side has no effect with augmentation={self.augmentation}, which has no crops")
        if self.cache != "disk" and self.cache_dir is not None:
            raise ValueError(f"cache_dir has no effect with cache={self.cache}; set data.cache=disk")
        return self

    @model_validator(mode="after")
    def _device_has_a_use(self) -> DataConfig:
        if self.augment_on == "device" and self.augmentation == "none":
            raise ValueError("augment_on=device has no effect with augmentation=none; set data.augment_on=workers")
        return self

    @model_validator(mode="after")
    def _flip_has_a_use(self) -> DataConfig:
        if self.vertical_flip and self.augmentation == "none":
            raise ValueError("vertical_flip has no effect with augmentation=none; flip mirrors and does no more")
        return self


class PriorShapeConfig(Section):
    """A prior of every cell of a map, or density² of them."""

    scale: Annotated[float, Field(gt=0, le=100)]
    """√(width·height), in units of the input's shorter side."""
    aspect: Annotated[float, Field(ge=0.01, le=100)]
    """Width over height."""
    density: Annotated[int, Field(ge=1, le=4)] = 1
    """Priors along each side of a cell: 2 gives four of this shape, half a cell apart. It is for objects smaller
    than a cell, which else are too far from the nearest centre."""


NUM_MAPS = 6  # of every dialect, from stride 16 on
MAX_PER_CELL = 256  # priors; SSD has 6


def _shapes(value: Any) -> Any:
    if isinstance(value, str):
        return value
    if not isinstance(value, list | tuple) or not all(isinstance(level, list | tuple) and level for level in value):
        raise ValueError("must be dialect, auto, or lists of shapes such as {scale: 0.1, aspect: 1, density: 2}")
    if len(value) != NUM_MAPS:
        raise ValueError(
            f"needs a list of shapes for each of the {NUM_MAPS} maps, and there are {len(value)} lists"
        )
    return value


def _bounded(levels: list[list[PriorShapeConfig]]) -> list[list[PriorShapeConfig]]:
    most = max(sum(shape.density**2 for shape in level) for level in levels)
    if most > MAX_PER_CELL:
        raise ValueError(f"must have {MAX_PER_CELL} priors in a cell at most, and there are {most} in one")
    return levels


PriorsConfig = Annotated[
    Annotated[Literal["dialect", "auto"], Tag("word")]
    | Annotated[list[list[PriorShapeConfig]], AfterValidator(_bounded), Tag("shapes")],
    Discriminator(lambda value: "word" if isinstance(value, str) else "shapes"),
    BeforeValidator(_shapes),
]


STARTS = ("auto", "coco", "pedestrian", "imagenet", "none")


def _start(value: Any) -> Any:
    if not isinstance(value, str) or value in STARTS:
        return value
    return spelt_path(str(_expand_home(value)), STARTS)


class ModelConfig(Section):
    head: Literal["ssdlite", "corner"] = "ssdlite"
    """ssdlite: classes and boxes at priors; corner: a light CornerNet on the same backbone, with loss=corner."""
    dialect: Literal["auto", "paper", "tensorflow", "pytorch-ssd", "lufficc", "mmdetection"] = "auto"
    """Whose constants: auto (those that the start was trained with, or paper), paper (TensorFlow's SSDLite with
    symmetric padding and softmax), tensorflow (the Object Detection API), pytorch-ssd (qfgaohao, Jetson), lufficc
    (SSD) or mmdetection. A training writes what auto stood for into its config.yaml."""
    width: Annotated[float, Field(gt=0, le=4)] = 1.0
    """Width multiplier of the backbone and of the extra layers."""
    input_size: Annotated[tuple[Side, Side], BeforeValidator(_square)] = (320, 320)
    """Network input, pixels: [height, width], or one number for a square."""
    priors: PriorsConfig = "dialect"
    """dialect: those of its published network; auto: fitted to the objects when a training starts, which then keeps
    them; or the shapes of each map, six lists from stride 16 on, as `ssdlite fit-priors CONFIG --write FILE` writes
    them."""
    weights: Annotated[
        Literal["auto", "coco", "pedestrian", "imagenet", "none"] | Path, BeforeValidator(_start)
    ] = "auto"
    """Start. coco, pedestrian, imagenet: pretrained networks of width 1, fetched once; auto: coco, or imagenet
    where that cannot be had, or scratch with a warning; none: scratch; FILE: a checkpoint of ours or an imported
    one, of any dialect and with any classes. A file that is called coco is given as ./coco."""
    freeze: Annotated[
        list[Literal["early", "backbone", "norms"]], BeforeValidator(_words), AfterValidator(_distinct)
    ] = []
    """Parts that do not learn, their norms' statistics included. early: the backbone's first seven stages, up to
    stride 8, which are half of a step's work; backbone: all of it; norms: every BatchNorm."""

    @model_validator(mode="after")
    def _priors_have_a_use(self) -> ModelConfig:
        if self.head == "corner" and self.priors != "dialect":
            raise ValueError("priors has no effect with head=corner, which has none; leave it at dialect")
        return self


def require_start(config: ModelConfig) -> None:
    """Raise ConfigError where a training cannot start from `weights`. Nothing is fetched.

    Pretrained networks are of width 1. A path where there is no file is taken for a misspelt word.
    """
    if config.weights in ("coco", "pedestrian", "imagenet") and config.width != 1:
        raise ConfigError(f"there are weights '{config.weights}' for model.width=1.0 only; set model.weights=none.")
    if isinstance(config.weights, Path) and not config.weights.exists():
        near = difflib.get_close_matches(str(config.weights), STARTS, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else "."
        raise ConfigError(
            f"model.weights is {', '.join(STARTS)} or a checkpoint, but there is no file {config.weights}{hint}"
        )


class IouAssignmentConfig(Section):
    """A prior learns the object that it overlaps enough, and each object has its best prior (Liu et al. 2016)."""

    kind: Literal["iou"] = "iou"
    iou_threshold: Annotated[float, Field(gt=0, le=1)] = 0.5
    """A prior learns an object from this overlap on."""
    background_below: Annotated[float, Field(gt=0, le=1)] | None = None
    """Priors from this overlap up to iou_threshold take no part. Default: iou_threshold, so that there are none."""
    all_ties: bool = False
    """Where several priors are an object's best, all of them learn it that overlap no other more (compare Faster
    R-CNN's RPN, which leaves the condition out)."""

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
NotNegativeFloat = Annotated[float, Field(ge=0)]


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
    """What the recipes of the SSDLite head share."""

    assignment: AssignmentConfig
    """Which prior learns which object: iou, atss or task-aligned."""
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
    """How much what is easy counts less; 0 is cross-entropy."""
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
    """Of smooth_l1, which turns from a parabola into a line at 1 / sigma²."""
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
    """How much what is easy counts less."""
    heatmap_beta: NotNegativeFloat = 4.0
    """How much the neighbourhood of a corner counts less."""
    pull_weight: NotNegativeFloat = 0.1
    """Of the term that makes the two corners of an object alike."""
    push_weight: NotNegativeFloat = 0.1
    """Of the term that makes objects differ."""
    offset_weight: NotNegativeFloat = 1.0
    """Of the term that places a corner within its cell."""
    min_overlap: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """IoU that a box keeps whose corners are anywhere within the radius of the heatmap's peaks."""
    historical_radius: bool = False
    """The radius as CornerNet first computed it, by a formula that is wrong, and that many have copied."""


LossConfig = Annotated[
    MultiboxConfig | FocalConfig | SampledConfig | QualityConfig | CornerConfig, Field(discriminator="kind")
]


class LrFactorsConfig(Section):
    """Of the learning rate, part by part."""

    backbone: Annotated[float, Field(gt=0)] = 1.0
    extras: Annotated[float, Field(gt=0)] = 1.0
    head: Annotated[float, Field(gt=0)] = 1.0


class OptimConfig(Section):
    """SGD with Nesterov momentum, linear warm-up, cosine to zero."""

    lr: Annotated[float, Field(gt=0)] = 0.02
    """Peak learning rate, for the whole batch as given by train.batch_size."""
    lr_factors: LrFactorsConfig = LrFactorsConfig()
    """Multiples of lr for backbone, extras (or the corner head's neck) and head: what knows something may go
    slower."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 4e-5
    """L2 on weights; never on norms and biases."""
    warmup_steps: NotNegative = 200
    """Steps from lr/1000 to lr; at most a tenth of the run."""


class TrainConfig(Section):
    epochs: Positive = 100
    batch_size: Positive = 32
    """Images a step, over all processes together."""
    sync_norms: bool = False
    """BatchNorm over the images of all processes, on GPUs; else each process has statistics of its own images, and
    those of the first are kept."""
    accumulate: Positive = 1
    """Parts that a step's images go through the network in, one after the other, where memory is short."""
    compile: Literal["none", "default", "reduce-overhead"] = "none"
    """torch.compile's mode for the network: default fuses what lies between the convolutions, reduce-overhead uses
    CUDA graphs as well, without train.accumulate. Compiling takes a minute or two, and on a CPU needs a C++
    compiler. Validation is not compiled."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Autocast type. auto: bf16 where the processor has it, fp16 with a loss scaler on older GPUs, else fp32. fp32
    is IEEE's single precision on GPUs too, and not TF32, as validation of a checkpoint is."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.9998
    """Average of the weights that is validated and shipped, with a warm-up; 0 switches it off."""
    clip_norm: Annotated[float, Field(ge=0)] = 100.0
    """Bound on the gradient's norm, which starts near 50 and settles near 5; 0 switches it off."""
    log_interval: Positive = 20
    """Steps between lines of the log."""
    val_interval: Positive = 5
    """Epochs between validations; the last epoch is always validated."""
    save_interval: NotNegative = 1000
    """Steps between checkpoints within an epoch, besides the one after each; 0 for none."""
    keep: Annotated[int, Field(ge=1, le=100)] = 2
    """Checkpoints to resume from that are kept: if the newest cannot be read, the one before it is taken."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """Where a loss or gradient is infinite or no number, which never reaches the weights. stop: save the batch and
    say who is likely to blame; skip: leave the step out, up to 20 times a run."""


def require_steps(config: TrainConfig) -> None:
    """Raise ConfigError for options that no step can be trained with.

    A checkpoint may hold them, from a version that did not refuse them, and is read all the same.
    """
    # Gradients lie where the next replay of the graph writes: https://github.com/pytorch/pytorch/issues/169545
    if config.compile == "reduce-overhead" and config.accumulate > 1:
        raise ConfigError(
            "train.compile=reduce-overhead cannot keep the gradients of a step's parts; set train.accumulate=1, or "
            "train.compile=default."
        )


class EvalConfig(Section):
    batch_size: Positive = 32
    score_threshold: Fraction = 0.01
    """Detections below are dropped before suppression."""
    iou_threshold: Fraction = 0.5
    """Of two boxes of a class that overlap more, the weaker is suppressed."""
    candidates_per_class: Positive = 400
    """Best boxes of each class that enter suppression."""
    max_detections: Positive = 100
    """Detections of one image."""


class RunConfig(Section):
    dir: FilePath = Path("runs")
    """Folder of all runs."""
    name: Annotated[str, Field(pattern=r"^[^/\\\\]+$")] | None = None
    """Folder of this run. Default: the name of the config file or data set, numbered if taken."""
    seed: NotNegative = 0
    """Of weights, order, augmentation and sampling."""
    report: bool = True
    """Write report.html at the end, which takes some seconds; `ssdlite report` writes it at any time."""


class Config(Section):
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = MultiboxConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    run: RunConfig = RunConfig()

    @model_validator(mode="before")
    @classmethod
    def _default_recipe(cls, values: Any) -> Any:
        """A loss that does not say its kind has the one that goes with the head."""
        loss = as_node(values["loss"]) if values.get("loss") is not None else {}
        if not isinstance(loss, Mapping) or "kind" in loss:
            return {**values, "loss": loss}
        model = values.get("model") or {}
        head = model.get("head") if isinstance(model, Mapping) else getattr(model, "head", None)
        return {**values, "loss": {**loss, "kind": "corner" if head == "corner" else "multibox"}}

    @model_validator(mode="after")
    def _recipe_fits_head(self) -> Config:
        if self.loss.kind == "corner" and self.model.head != "corner":
            raise ValueError("loss=corner needs model.head=corner")
        if self.loss.kind != "corner" and self.model.head == "corner":
            raise ValueError(f"model.head=corner learns by loss=corner, not by loss={self.loss.kind}")
        return self

    @model_validator(mode="after")
    def _frozen_norms_need_no_other_images(self) -> Config:
        if self.train.sync_norms and "norms" in self.model.freeze:
            raise ValueError("train.sync_norms has no effect, because model.freeze keeps the norms")
        return self

    @model_validator(mode="after")
    def _frozen_part_has_no_rate(self) -> Config:
        if "backbone" in self.model.freeze and self.optim.lr_factors.backbone != 1:
            raise ValueError("optim.lr_factors.backbone has no effect, because model.freeze keeps the backbone")
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain strings, numbers, lists and dicts: what YAML and checkpoints hold."""
        return self.model_dump(mode="json")

    def without_paths(self) -> Config:
        """The same without whatever names a place on this machine: for files that are handed on."""
        places = {"path": None, "draw": None, "train": None, "val": None, "cache_dir": None}
        cache = {"cache": "none", "cache_side": None}  # has no effect without its folder or a training
        weights = "none" if isinstance(self.model.weights, Path) else self.model.weights
        return self.model_copy(
            update={
                "data": self.data.model_copy(update=places | cache),
                "model": self.model.model_copy(update={"weights": weights}),
                "run": self.run.model_copy(update={"dir": RunConfig().dir}),
            }
        )

    def to_yaml(self) -> str:
        return as_yaml(self.to_dict())


class _Dumper(yaml.SafeDumper):
    """Writes a prior's shape on a line of its own, because a network may have dozens."""

    def represent_dict(self, data: Any) -> yaml.MappingNode:
        node = super().represent_dict(data)
        if data.keys() == PriorShapeConfig.model_fields.keys():
            node.flow_style = True
        return node


_Dumper.add_representer(dict, _Dumper.represent_dict)


def as_yaml(nodes: Mapping[str, Any]) -> str:
    """Options as a config file."""
    return yaml.dump(dict(nodes), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def parse_options(words: Sequence[str]) -> dict[str, Any]:
    """Return the values of `KEY=VALUE` words by dotted name, read as the type of each option asks for.

    Raises ConfigError for words that are none, and for numbers, lists and sections that are not YAML. An unknown
    name is found when the values are applied.
    """
    return parse_overrides(words, Config)


def load_config(path: Path | None = None, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Config:
    """Read `path` (all defaults when None) and apply overrides: `KEY=VALUE` words, or values by dotted name.

    Raises ConfigError for a missing or malformed file, an unknown name, or a value out of range.
    """
    values = overrides if isinstance(overrides, Mapping) else parse_options(overrides)
    return config_from_dict(read_options(path) if path else {}, values, origin=str(path))


def read_options(path: Path) -> dict[str, Any]:
    """Return the sections of a config file, unchecked. Raises ConfigError as `read_yaml`."""
    return read_yaml(path, Config)


def config_from_dict(
    nodes: Mapping[str, Any], overrides: Mapping[str, Any] | None = None, *, origin: str = "the checkpoint"
) -> Config:
    """Return the config of a dict such as a checkpoint holds, with the values of `overrides`, by dotted name.

    Raises ConfigError as `load_config`.
    """
    nodes = expand_words(nodes)
    config = _validate(nodes, origin)
    return _validate(apply_overrides(nodes, overrides), "the command line") if overrides else config


DATA_SOURCES = ("data", "data.path", "data.train", "data.train.", "data.val", "data.val.", "data.ignore_unknown")
"""Options that say which images and annotations there are; `data` is a path in place of all."""


def find_unused(overrides: Mapping[str, Any], used: Sequence[str]) -> str | None:
    """Return the first option that there is but that is not among `used` (see `is_among`), or None."""
    names = (name for name in option_names(overrides) if types_at(name, Config))
    return next((name for name in names if not is_among(name, used)), None)


def require_changeable(overrides: Mapping[str, Any]) -> None:
    """Raise ConfigError for an override that has no meaning, or no effect, once a network is trained."""
    for name in option_names(overrides):
        if name.split(".")[0] not in ("data", "eval") or name == "data.class_names":
            raise ConfigError(f"{name} cannot be changed for a trained model; only data and eval options can.")
    if unused := find_unused(overrides, (*DATA_SOURCES, "data.workers", "eval", "eval.")):
        raise ConfigError(f"{unused} has no effect on a trained model, because it is for training; leave it out.")


def _validate(nodes: Mapping[str, Any], origin: str) -> Config:
    try:
        return Config.model_validate(nodes)
    except ValidationError as error:
        raise ConfigError(first_mistake(error, origin, Config)) from None
