"""Every option of the project on one page.

`load_config(path, ["optim.lr=5e-3", "data=photos"])` gives a frozen `Config` or raises `ConfigError` with the
dotted name, the value and the nearest real name. Nothing that can be derived is an option. The type of an option
decides how its text is read: see `ssdlite.config.overrides`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import (
    ValidationError,
    model_validator,
)

from ssdlite.config.data import DATA_SOURCES, DataConfig
from ssdlite.config.loss import LossConfig, MultiboxConfig
from ssdlite.config.messages import first_error
from ssdlite.config.model import ModelConfig, PriorShapeConfig
from ssdlite.config.option_types import types_at
from ssdlite.config.overrides import (
    apply_overrides,
    as_node,
    expand_words,
    is_among,
    option_names,
    parse_overrides,
    read_yaml,
)
from ssdlite.config.section import Section
from ssdlite.config.training import EvalConfig, OptimConfig, RunConfig, TrainConfig
from ssdlite.errors import ConfigError

RECIPES_DIR = Path(__file__).with_name("recipes")


class Config(Section):
    """All options, by section."""

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
        """Return the config without paths, for files that are handed on."""
        places = {"path": None, "draw": None, "train": None, "val": None, "test": None, "cache_dir": None}
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


def recipe_path(name: str) -> Path:
    """Return the config file of a named recipe, which is part of the package.

    Raises ConfigError for a name that is none, with the ones that there are.
    """
    names = sorted(path.stem for path in RECIPES_DIR.glob("*.yaml"))
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"recipes are {', '.join(names)}."
        raise ConfigError(f"there is no recipe '{name}'; {hint}")
    return RECIPES_DIR / f"{name}.yaml"


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


def config_from_checkpoint(
    nodes: Mapping[str, Any], overrides: Mapping[str, Any] | None = None, *, origin: str = "the checkpoint"
) -> Config:
    """Return the config of a checkpoint or exported file, with the values of `overrides`, by dotted name.

    One that is older than data.val_fraction validated on its training images where there was no validation set, and
    keeps to that. Raises ConfigError as `load_config`.
    """
    data = nodes.get("data")
    if isinstance(data, Mapping) and "val_fraction" not in data:
        nodes = {**nodes, "data": {**data, "val_fraction": 0.0}}
    return config_from_dict(nodes, overrides, origin=origin)


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
        raise ConfigError(first_error(error, origin, Config)) from None
