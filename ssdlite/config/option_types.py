"""Types that an option may have, read from the annotations of pydantic models."""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from pathlib import PurePath
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel

Types: typing.TypeAlias = Sequence[Any]
"""Alternatives without unions: classes such as int and Path, Literal["a", "b"], list[...], dict[...], models."""


def alternatives(annotation: Any) -> list[Any]:
    """Return the members of an annotation such as `Literal["auto"] | list[Path] | None`."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return alternatives(typing.get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [found for member in typing.get_args(annotation) for found in alternatives(member)]
    return [annotation]


def types_at(dotted_name: str, root: type[BaseModel]) -> list[Any]:
    """Return what the option of this name may be; [] where there is no such option."""
    found: list[Any] = [root]
    for name in dotted_name.split("."):
        found = types_of_part(found, name)
    return found


def types_of_part(owners: Types, name: Any) -> list[Any]:
    """Return what the part `name` of `owners` may be: a model's option, or a dict's value.

    One item may stand for a list of them, so that lists have the parts of their items.
    """
    found: list[Any] = []
    for owner in owners:
        if is_model(owner):
            found += alternatives(owner.model_fields[name].annotation) if name in owner.model_fields else []
        elif typing.get_origin(owner) is dict:
            found += alternatives(typing.get_args(owner)[1])
        else:
            found += types_of_part(types_of_items([owner]), name)
    return found


def types_of_items(owners: Types) -> list[Any]:
    """Return what the items of the lists and tuples among `owners` may be."""
    return [
        found
        for owner in owners
        if typing.get_origin(owner) in (list, tuple)
        for item in typing.get_args(owner)
        for found in alternatives(item)
    ]


def types_of_keys(owners: Types) -> list[Any]:
    """Return what the keys of the dicts among `owners` may be."""
    dicts = [owner for owner in owners if typing.get_origin(owner) is dict]
    return [found for owner in dicts for found in alternatives(typing.get_args(owner)[0])]


def is_model(kind: Any) -> bool:
    """Return whether a type is a section of the config."""
    return isinstance(kind, type) and not isinstance(kind, types.GenericAlias) and issubclass(kind, BaseModel)


def is_word(text: str, kinds: Types) -> bool:
    """Return whether `text` is one of the words that a Literal among `kinds` lists."""
    return any(typing.get_origin(kind) is Literal and text in typing.get_args(kind) for kind in kinds)


def takes_text(kinds: Types) -> bool:
    """Return whether any text can be meant: a path or a name, also as the shorthand of a model."""
    return any(
        takes_text(types_of_part([kind], kind.SHORTHAND))
        if getattr(kind, "SHORTHAND", None)
        else isinstance(kind, type)
        and not isinstance(kind, types.GenericAlias)
        and issubclass(kind, str | PurePath)
        for kind in kinds
    )


def takes_number(kinds: Types) -> bool:
    """Return whether an option of these types can be a number."""
    return any(kind in (int, float) for kind in kinds)
