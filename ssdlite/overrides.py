"""From a YAML file and `KEY=VALUE` words to nested dicts of options; which of them exist is not known here."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ssdlite.errors import ConfigError
from ssdlite.files import one_line, quoted, read_text

FIRST = ("model.head", "data", "loss", "loss.assignment")
"""What replaces a whole node comes before what changes a part of it, in whatever order they were given."""

MAX_CHARACTERS = 1_000_000  # PyYAML takes ten seconds for that many; a config has some hundreds
MAX_NODES = 100_000  # with every alias written out; a config has some dozens, and a name for each class


def read_yaml(path: Path) -> dict[str, Any]:
    """The sections of a config file; {} if it is empty. Raises ConfigError for what is none."""
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"cannot read the config {path}: {reason}.") from None
    try:
        nodes = _load(text)
    except ValueError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}.") from None
    if nodes is None:
        return {}
    if not isinstance(nodes, dict) or not all(isinstance(name, str) for name in nodes):
        raise ConfigError(f"{path} must hold sections such as 'data:' and 'model:', not a {type(nodes).__name__}.")
    return nodes


def expand_words(nodes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy where each word that stands for a whole node is one: `data: PATH`, `loss: KIND` and its assignment.

    Raises ConfigError for options that are no tree of a sensible size, which a checkpoint may hold.
    """
    try:
        _count(nodes, {})
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ConfigError(f"the options cannot be used: {reason}.") from None
    expanded = {name: _expand(name, node, None) for name, node in copy.deepcopy(dict(nodes)).items()}
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


def require_changeable(overrides: Sequence[str]) -> None:
    """Raises ConfigError for an override that has no meaning once a network is trained."""
    for override in overrides:
        name = override.partition("=")[0]
        if name.split(".")[0] not in ("data", "eval") or name == "data.class_names":
            raise ConfigError(f"{name} cannot be changed for a trained model; only data and eval options can.")


def _turn(override: str) -> int:
    name = override.partition("=")[0]
    return FIRST.index(name) if name in FIRST else len(FIRST)


def _apply(nodes: dict[str, Any], override: str) -> None:
    """Set one `dotted.name=value` in place; the value is read as YAML."""
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise ConfigError(f"{quoted(override)} is not of the form KEY=VALUE, for example optim.lr=0.01.")
    try:
        value = _load(text)
    except ValueError:
        raise ConfigError(f"the value of {quoted(override)} is not valid YAML; put quotes around it.") from None
    if isinstance(value, str):
        value = _number(value)
    *parents, leaf = name.split(".")
    node = nodes
    for depth, parent in enumerate(parents):
        child = node.get(parent)
        if child is None:
            child = node[parent] = {}
        if not isinstance(child, dict):
            node_name = one_line(".".join(parents[: depth + 1]))
            raise ConfigError(f"{node_name} is a value, so {quoted(name)} cannot be set in it.")
        node = child
    if not parents or leaf == "assignment":
        value = _expand(leaf, value, node.get(leaf))
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


def _expand(section: str, value: Any, current: Any) -> Any:
    """`data=PATH`, `loss=KIND` and `loss.assignment=KIND` stand for a whole node."""
    if section == "data" and isinstance(value, str):
        current = current if isinstance(current, Mapping) else {}
        kept = {k: v for k, v in current.items() if k not in ("path", "draw", "train", "val", "class_names")}
        return {**kept, "path": value}
    return as_node(value) if section in ("loss", "assignment") else value


class _Loader(yaml.SafeLoader):
    """Makes nothing but plain values, and refuses a name that is given twice: the first value would be lost."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        assert node is not None
        names: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in names:
                    raise yaml.MarkedYAMLError(problem=f"'{key.value}' is given twice", problem_mark=key.start_mark)
                names.add(key.value)
        return node


def _load(text: str) -> Any:
    """The value of a YAML document. Raises ValueError for what is none, and for aliases that explode."""
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"it is longer than {MAX_CHARACTERS} characters")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        _count(node, {})
        value = None if node is None else loader.construct_document(node)
        _count(value, {})
        return value
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except Exception as error:  # besides its own, any of Python's, as for the date 2023-13-45
        raise ValueError(one_line(" ".join(str(error).split()))) from None


def _count(value: Any, known: dict[int, int | None]) -> int:
    """The values in a tree, with those that it shares as often as it shows them. `known` is for its own use.

    Raises ValueError for more than MAX_NODES, for what contains itself, for integers of more than 64 bits and for
    tensors.
    """
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ValueError("a number is too large")
    if hasattr(value, "__array__"):  # whose truth and equality are no bool
        raise ValueError("a tensor is no option")
    children = _children(value)
    if not children:
        return 1
    if id(value) not in known:
        known[id(value)] = None
        count = 1 + sum(_count(child, known) for child in children)
        if count > MAX_NODES:
            raise ValueError(f"with its aliases it has more than {MAX_NODES} values")
        known[id(value)] = count
    found = known[id(value)]
    if found is None:
        raise ValueError("an alias contains itself")
    return found


def _children(value: Any) -> Sequence[Any]:
    """Of a node of YAML, or of a plain value."""
    if isinstance(value, yaml.MappingNode):
        return [node for pair in value.value for node in pair]
    if isinstance(value, yaml.SequenceNode):
        return value.value
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    return list(value) if isinstance(value, list | tuple | set | frozenset) else ()
