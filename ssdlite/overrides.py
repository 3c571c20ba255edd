"""From a YAML file and `KEY=VALUE` words to nested dicts of options; which of them exist is not known here."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ssdlite.errors import ConfigError

FIRST = ("model.head", "data", "loss", "loss.assignment")
"""What replaces a whole node comes before what changes a part of it, in whatever order they were given."""


def read_yaml(path: Path) -> dict[str, Any]:
    """The sections of a config file; {} if it is empty. Raises ConfigError for what is none."""
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


def expand_words(nodes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy where each word that stands for a whole node is one: `data: PATH`, `loss: KIND` and its assignment."""
    expanded = {name: _expand(name, node, {}) for name, node in copy.deepcopy(dict(nodes)).items()}
    loss = expanded.get("loss")
    if isinstance(loss, dict) and "assignment" in loss:
        loss["assignment"] = as_node(loss["assignment"])
    return expanded


def apply_overrides(nodes: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy with each `dotted.name=value` set. Raises ConfigError for words that are no override."""
    changed = copy.deepcopy(dict(nodes))
    for override in sorted(overrides, key=_turn):
        _apply(changed, override)
    return changed


def as_node(value: Any) -> Any:
    """A word stands for a choice of that kind, with its own defaults."""
    return {"kind": value} if isinstance(value, str) else value


def _turn(override: str) -> int:
    name = override.partition("=")[0]
    return FIRST.index(name) if name in FIRST else len(FIRST)


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
    if not parents or leaf == "assignment":
        value = _expand(leaf, value, node.get(leaf) or {})
    node[leaf] = value
    if name == "model.head":
        _keep_fitting_loss(nodes)


def _keep_fitting_loss(nodes: dict[str, Any]) -> None:
    """Another head brings its own loss: that of the file goes, unless it is for this head."""
    loss = as_node(nodes.get("loss") or {})
    is_corner = isinstance(loss, Mapping) and loss.get("kind", "multibox") == "corner"
    if is_corner != (nodes["model"]["head"] == "corner"):
        nodes.pop("loss", None)


def _number(text: str) -> str | float:
    """YAML 1.1 reads 5e-3 as text; people mean the number."""
    try:
        return float(text) if any(character.isdigit() for character in text) else text
    except ValueError:
        return text


def _expand(section: str, value: Any, current: Mapping[str, Any]) -> Any:
    """`data=PATH`, `loss=KIND` and `loss.assignment=KIND` stand for a whole node."""
    if section == "data" and isinstance(value, str):
        kept = {k: v for k, v in current.items() if k not in ("path", "draw", "train", "val", "class_names")}
        return {**kept, "path": value}
    return as_node(value) if section in ("loss", "assignment") else value
