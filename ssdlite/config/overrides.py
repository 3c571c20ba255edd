"""Parser of a YAML file and `KEY=VALUE` words into nested dicts of options, read by the type that each option has.

A path or a name is taken verbatim, whatever it would mean in YAML: `data=2024`, `data=data #3`, `run.name=no`. The
words that an option lists (`model.weights=none`) come before paths; `./none` is the path. Numbers, lists and
sections are YAML. In a YAML file YAML decides what a value is, but a path, a name or a key that it takes for a
number, a date or a truth value is the text that stands there. A path that may be absent is absent in a file by
`null`; on the command line `null` is a name like any other.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from ssdlite.config.option_types import (
    Types,
    is_word,
    takes_number,
    takes_text,
    types_at,
    types_of_items,
    types_of_keys,
    types_of_part,
)
from ssdlite.errors import ConfigError
from ssdlite.io import is_usable, one_line, quoted, read_text

MAX_CHARACTERS = 1_000_000  # PyYAML takes ten seconds for that many; a config has some hundreds


MAX_NODES = 100_000  # with every alias written out; a config has some dozens, and a name for each class


def read_yaml(path: Path, root: type[BaseModel]) -> dict[str, Any]:
    """Return the sections of a config file, which `root` declares; {} if it is empty.

    Raises ConfigError for a file that cannot be read, is no YAML, or holds no sections.
    """
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"cannot read the config {path}: {reason}.") from None
    try:
        nodes = _load(text, [root])
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


def parse_overrides(words: Sequence[str], root: type[BaseModel]) -> dict[str, Any]:
    """Return the values of `dotted.name=value` words by name, each read as the type of its option in `root`.

    Of a name that is given twice the last value counts. The value of an unknown name is its text. Raises
    ConfigError for words that are no override, and for values that cannot be read.
    """
    values: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise ConfigError(f"{quoted(word)} is not of the form KEY=VALUE, for example optim.lr=0.01.")
        values[name] = _read_value(word, text, types_at(name, root))
    return values


def _read_value(word: str, text: str, kinds: Types) -> Any:
    if not kinds or is_word(text, kinds):
        return text
    if takes_text(kinds):
        if not text:
            raise ConfigError(f"{quoted(word)} names nothing: write a path or a name behind it, or leave it out.")
        if not is_usable(text):
            raise ConfigError(
                f"{quoted(word)}: a path or name has no control characters, and no bytes that are not UTF-8."
            )
        return text
    try:
        value = _load(text, kinds)
    except ValueError:
        raise ConfigError(f"the value of {quoted(word)} is not valid YAML; put quotes around it.") from None
    return _number(value) if isinstance(value, str) and takes_number(kinds) else value


def apply_overrides(nodes: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of `nodes` with each value of `overrides` at its dotted name.

    What replaces a whole node comes before what changes a part of it, in whatever order they were given. Raises
    ConfigError for a name inside of what is no section.
    """
    changed = copy.deepcopy(dict(nodes))
    for name in sorted(overrides, key=_turn):
        _apply(changed, name, copy.deepcopy(overrides[name]))
    return changed


def option_names(overrides: Mapping[str, Any]) -> Iterator[str]:
    """Yield the dotted names of all single options that `overrides` sets; a section's name if it is no mapping."""
    for name, value in overrides.items():
        if isinstance(value, Mapping) and value:
            yield from option_names({f"{name}.{part}": inner for part, inner in value.items()})
        else:
            yield name


def is_among(name: str, known: Sequence[str]) -> bool:
    """Return whether `name` is one of `known`; one that ends with a dot stands for all options in that section."""
    return any(name == one or (one.endswith(".") and name.startswith(one)) for one in known)


def as_node(value: Any) -> Any:
    """A word stands for a choice of that kind, with its own defaults."""
    return {"kind": value} if isinstance(value, str) else value


def _turn(name: str) -> tuple[bool, int]:
    """Order of application: the head before the loss, which goes with it; then from the whole to its parts."""
    return name not in ("model", "model.head"), name.count(".")


def _apply(nodes: dict[str, Any], name: str, value: Any) -> None:
    """Set one value in place."""
    *parents, leaf = name.split(".")
    node = nodes
    for depth, parent in enumerate(parents):
        child = node.get(parent)
        if child is None:
            child = node[parent] = {}
        if not isinstance(child, dict):
            node_name = one_line(".".join(parents[: depth + 1]))
            raise ConfigError(f"'{node_name}' is a value, so {quoted(name)} cannot be set in it.")
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


@dataclass(frozen=True)
class _Scalar:
    """A plain scalar that YAML takes for something else than text: a number, a date, true or null."""

    text: str
    value: Any  # or the error that reading it gave, as for the date 2023-13-45

    def read(self, kinds: Types) -> Any:
        """Return the text where the types ask for text, else the value. Raises the error of reading the value."""
        is_absent = self.value is None and (self.text in ("", "~") or str not in kinds or type(None) in kinds)
        if is_word(self.text, kinds) or (takes_text(kinds) and type(self.value) not in kinds and not is_absent):
            return self.text
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


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

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        if not isinstance(node, yaml.ScalarNode) or node.style is not None:
            return super().construct_object(node, deep)
        plain_tag = self.resolve(yaml.ScalarNode, node.value, (True, False))
        if node.tag != plain_tag or plain_tag == self.DEFAULT_SCALAR_TAG:
            return super().construct_object(node, deep)
        try:
            return _Scalar(node.value, super().construct_object(node, deep))
        except Exception as error:  # besides YAML's own, any of Python's
            return _Scalar(node.value, error)


def _load(text: str, kinds: Types) -> Any:
    """Return the value of a YAML document that may be of `kinds`.

    Raises ValueError for what is no YAML, and for aliases that explode.
    """
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"it is longer than {MAX_CHARACTERS} characters")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        _count(node, {})
        value = None if node is None else loader.construct_document(node)
        _count(value, {})
        return _settle(value, kinds)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except Exception as error:  # besides its own, any of Python's, as for the date 2023-13-45
        raise ValueError(one_line(" ".join(str(error).split()))) from None


def _settle(value: Any, kinds: Types) -> Any:
    """Return `value` with each scalar read as the types ask for."""
    if isinstance(value, _Scalar):
        return value.read(kinds)
    if isinstance(value, dict):
        keys = {key: _settle(key, types_of_keys(kinds)) for key in value}
        return {keys[key]: _settle(part, types_of_part(kinds, keys[key])) for key, part in value.items()}
    if isinstance(value, list | tuple | set):
        return type(value)(_settle(part, types_of_items(kinds)) for part in value)
    return value


def _count(value: Any, known: dict[int, int | None]) -> int:
    """The values in a tree, with those that it shares as often as it shows them. `known` is for its own use.

    Raises ValueError for more than MAX_NODES, for what contains itself, for integers of more than 64 bits and for
    tensors.
    """
    if isinstance(value, _Scalar):
        value = value.value
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
    """Return the children of a node of YAML, or of a plain value."""
    if isinstance(value, yaml.MappingNode):
        return [node for pair in value.value for node in pair]
    if isinstance(value, yaml.SequenceNode):
        return value.value
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    return list(value) if isinstance(value, list | tuple | set | frozenset) else ()
