"""Every option of the project on one page, and the reader that turns a YAML file and overrides into it.

`load_config(path, ["optim.lr=5e-3", "data=photos"])` gives a frozen `Config` or raises `ConfigError` with the
dotted name, the value and the nearest real name. Nothing that can be derived is an option.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from ssdlite.errors import ConfigError

QUICKSTART_PATH = Path(__file__).with_name("quickstart.yaml")

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    """A frozen node that knows its own names and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class CocoSourceConfig(Section):
    """Images of a folder with one COCO annotation file."""

    kind: Literal["coco"]
    images: Path
    annotations: Path


class VocSourceConfig(Section):
    """A VOC folder (Annotations, ImageSets/Main, JPEGImages) and the splits to read from it."""

    kind: Literal["voc"]
    root: Path
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
    path: Path | None = None
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
    workers: NotNegative | Literal["auto"] = "auto"
    """Loader processes of each training process; auto leaves most of the processor to the network on a CPU."""

    @model_validator(mode="after")
    def _path_has_a_use(self) -> DataConfig:
        if None not in (self.path, self.train, self.val):
            raise ValueError("path has no effect beside both train and val; data=PATH replaces them")
        return self

    @model_validator(mode="after")
    def _flip_has_a_use(self) -> DataConfig:
        if self.vertical_flip and self.augmentation == "none":
            raise ValueError("vertical_flip has no effect with augmentation=none; flip mirrors and does no more")
        return self


class ModelConfig(Section):
    dialect: Literal["paper", "tensorflow", "pytorch-ssd", "lufficc", "mmdetection"] = "paper"
    """Whose constants: paper (TensorFlow's SSDLite with symmetric padding and softmax), tensorflow (the Object
    Detection API), pytorch-ssd (qfgaohao, Jetson), lufficc (SSD) or mmdetection."""
    width: Annotated[float, Field(gt=0, le=4)] = 1.0
    """Width multiplier of the backbone and of the extra layers."""
    input_size: Annotated[tuple[Side, Side], BeforeValidator(_square)] = (320, 320)
    """Network input, pixels: [height, width], or one number for a square."""
    weights: Literal["auto", "imagenet", "none"] | Path = "auto"
    """Start. auto: ImageNet backbone at width 1 where it can be had, else scratch with a warning; imagenet: or
    fail; none: scratch; FILE: a checkpoint of ours or an imported one, of any dialect and with any classes."""
    freeze: Annotated[
        list[Literal["early", "backbone", "norms"]], BeforeValidator(_words), AfterValidator(_distinct)
    ] = []
    """Parts that do not learn, their norms' statistics included. early: the backbone's first seven stages, up to
    stride 8, which are half of a step's work; backbone: all of it; norms: every BatchNorm."""


class MultiboxConfig(Section):
    """Cross-entropy, by softmax or sigmoid as the dialect has it, with hard-negative mining, and smooth L1 (Liu et
    al. 2016)."""

    kind: Literal["multibox"] = "multibox"
    iou_threshold: Fraction = 0.5
    """A prior learns an object from this overlap on."""
    neg_pos_ratio: Annotated[float, Field(ge=0)] = 3.0
    """Mined negatives for each positive, image by image."""
    min_negatives: NotNegative = 3
    """Mined negatives of an image that has few or no positives."""
    box_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the box term beside the classification term."""


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
    """Multiples of lr for backbone, extras and head: a backbone that knows something may go slower."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 4e-5
    """L2 on weights; never on norms and biases."""
    warmup_steps: NotNegative = 200
    """Steps from lr/1000 to lr; at most a tenth of the run."""


class TrainConfig(Section):
    epochs: Positive = 100
    batch_size: Positive = 32
    """Images a step, over all processes together."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Autocast type. auto: bf16 where the processor has it, fp16 with a loss scaler on older GPUs, else fp32."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.9998
    """Average of the weights that is validated and shipped, with a warm-up; 0 switches it off."""
    clip_norm: Annotated[float, Field(ge=0)] = 100.0
    """Bound on the gradient's norm, which starts near 50 and settles near 5; 0 switches it off."""
    log_interval: Positive = 20
    """Steps between lines of the log."""
    val_interval: Positive = 5
    """Epochs between validations; the last epoch is always validated."""


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
    dir: Path = Path("runs")
    """Folder of all runs."""
    name: Annotated[str, Field(pattern=r"^[^/\\\\]+$")] | None = None
    """Folder of this run. Default: the name of the config file or data set, numbered if taken."""
    seed: int = 0
    """Of weights, order and augmentation."""


class Config(Section):
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    loss: MultiboxConfig = MultiboxConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    run: RunConfig = RunConfig()

    @model_validator(mode="after")
    def _frozen_part_has_no_rate(self) -> Config:
        if "backbone" in self.model.freeze and self.optim.lr_factors.backbone != 1:
            raise ValueError("optim.lr_factors.backbone has no effect, because model.freeze keeps the backbone")
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain strings, numbers, lists and dicts: what YAML and checkpoints hold."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_dict(), sort_keys=False)


def load_config(path: Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read `path` (all defaults when None) and apply `KEY=VALUE` overrides.

    Raises ConfigError for a missing or malformed file, an unknown name, or a value out of range.
    """
    return config_from_dict(_read_yaml(path) if path else {}, overrides, origin=str(path))


def config_from_dict(
    nodes: Mapping[str, Any], overrides: Sequence[str] = (), *, origin: str = "the checkpoint"
) -> Config:
    """As `load_config`, from a dict such as a checkpoint holds."""
    merged = {name: dict(node) if isinstance(node, Mapping) else node for name, node in nodes.items()}
    merged = {name: _expand(name, node, {}) for name, node in merged.items()}
    config = _validate(merged, origin)
    if not overrides:
        return config
    for override in overrides:
        _apply(merged, override)
    return _validate(merged, "the command line")


def _validate(nodes: Mapping[str, Any], origin: str) -> Config:
    try:
        return Config.model_validate(nodes)
    except ValidationError as error:
        raise ConfigError(_sentence(error, origin)) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        nodes = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"cannot read the config {path}: {reason}.") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is not valid YAML: {reason}.") from None
    if nodes is None:
        return {}
    if not isinstance(nodes, dict) or not all(isinstance(name, str) for name in nodes):
        raise ConfigError(f"{path} must hold sections such as 'data:' and 'model:', not a {type(nodes).__name__}.")
    return nodes


def _apply(nodes: dict[str, Any], override: str) -> None:
    """Set one `dotted.name=value` in place; the value is read as YAML."""
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise ConfigError(f"'{override}' is not of the form KEY=VALUE, for example optim.lr=0.01.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"the value of '{override}' is not valid YAML; put quotes around it.") from None
    if isinstance(value, str):
        value = _number(value)
    *parents, leaf = name.split(".")
    node = nodes
    for depth, parent in enumerate(parents):
        child = node.get(parent)
        if child is None:
            child = node[parent] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"{'.'.join(parents[: depth + 1])} is a value, so '{name}' cannot be set in it.")
        node = child
    node[leaf] = value if parents else _expand(leaf, value, node.get(leaf) or {})


def _number(text: str) -> str | float:
    """YAML 1.1 reads 5e-3 as text; people mean the number."""
    try:
        return float(text) if any(character.isdigit() for character in text) else text
    except ValueError:
        return text


def _expand(section: str, value: Any, current: Mapping[str, Any]) -> Any:
    """`data=PATH` and `loss=KIND` stand for a whole node."""
    if section == "data" and isinstance(value, str):
        kept = {k: v for k, v in current.items() if k not in ("path", "draw", "train", "val", "class_names")}
        return {**kept, "path": value}
    if section == "loss" and isinstance(value, str):
        return {"kind": value}
    return value


def _sentence(error: ValidationError, origin: str) -> str:
    """The first problem as one sentence with the dotted name and, for a typo, the nearest real name."""
    problem = error.errors(include_url=False)[0]
    unknown = problem["type"] == "extra_forbidden"
    location, known = _walk(problem["loc"], keep_last=unknown)
    dotted = ".".join(location)
    if unknown:
        return f"unknown option '{dotted}' in {origin}; {_hint(location, known)}"
    if problem["type"] in ("union_tag_not_found", "union_tag_invalid"):
        example = "{kind: coco, images: DIR, annotations: FILE}"
        return f"'{dotted}' in {origin} needs a 'kind' that is coco or voc, as in {example}."
    if problem["type"] == "model_type":
        return f"'{dotted}' in {origin} is a section: give its options, as in {dotted}.NAME=VALUE."
    message = problem["msg"].removeprefix("Value error, ")
    if not dotted:  # about two sections at once
        return f"{message} ({origin})."
    given = problem.get("input")
    shown = f" (got {given!r})" if isinstance(given, str | int | float | None) else ""
    return f"'{dotted}' in {origin}: {message[0].lower()}{message[1:]}{shown}."


def _hint(location: Sequence[str], known: Sequence[str]) -> str:
    """The nearest real name: the same word in another section, or a like one in this section."""
    *parents, word = location
    elsewhere = [f"{name}.{word}" for name, field in Config.model_fields.items() if _has_option(field, word)]
    alike = [".".join([*parents, name]) for name in difflib.get_close_matches(word, known, n=1, cutoff=0.5)]
    if near := elsewhere + alike:
        return f"did you mean '{near[0]}'?"
    return f"known are {', '.join(known)}."


def _has_option(field: FieldInfo, word: str) -> bool:
    return any(word in section.model_fields for section in _sections_in(field.annotation))


def _walk(location: Sequence[int | str], keep_last: bool) -> tuple[list[str], list[str]]:
    """Pydantic's location without the tags of unions, and the option names known at its last node."""
    models: list[type[Section]] = [Config]
    dotted: list[str] = []
    known: list[str] = []
    for position, part in enumerate(location):
        fields = {name: field for model in models for name, field in model.model_fields.items()}
        last = keep_last and position == len(location) - 1
        if isinstance(part, int):
            dotted.append(str(part))
        elif part in fields or last:
            dotted.append(part)
            known = list(fields)
            models = _sections_in(fields[part].annotation) if part in fields else []
        else:  # the tag of a union: one of its variants
            models = [m for m in models if typing.get_args(m.model_fields["kind"].annotation) == (part,)]
    return dotted, known


def _sections_in(annotation: Any) -> list[type[Section]]:
    """The Section classes that an annotation such as `list[A | B] | None` can hold."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, Section) else []
    return [found for argument in typing.get_args(annotation) for found in _sections_in(argument)]
