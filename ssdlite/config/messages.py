"""Messages about options that pydantic refuses: one sentence that names the option and, for typos, the nearest
one."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from ssdlite.io import one_line, quoted


def first_error(error: ValidationError, origin: str, root: type[BaseModel]) -> str:
    """The first problem as one sentence with the dotted name and, for a typo, the nearest real name."""
    return one_line(_first_error(error, origin, root))


def _first_error(error: ValidationError, origin: str, root: type[BaseModel]) -> str:
    problem = error.errors(include_url=False)[0]
    unknown = problem["type"] == "extra_forbidden"
    location, known = _walk(problem["loc"], root, keep_last=unknown)
    dotted = one_line(".".join(location), 200)
    if unknown:
        return f"unknown option '{dotted}' in {origin}; {_hint(location, known, root)}"
    if problem["type"] in ("union_tag_not_found", "union_tag_invalid"):
        section = [part for part in location if not part.isdigit()]
        kinds = [_kind(variant) for variant in _models_at(section, root)]
        example = "{kind: coco, images: DIR, annotations: FILE}" if "coco" in kinds else f"{dotted}={kinds[0]}"
        return f"'{dotted}.kind' in {origin} must be {' or '.join(kinds)}, as in {example}."
    if problem["type"] == "model_type":
        return f"'{dotted}' in {origin} is a section: give its options, as in {dotted}.NAME=VALUE."
    if problem["type"] == "invalid_key":
        return f"the names of options in {origin} must be text (got {quoted(problem.get('input'))})."
    message = problem["msg"].removeprefix("Value error, ")
    if not dotted:  # about two sections at once
        return f"{message} ({origin})."
    given = problem.get("input")
    shown = f" (got {quoted(given)})" if isinstance(given, str | int | float | None) else ""
    return f"'{dotted}' in {origin}: {message[0].lower()}{message[1:]}{shown}."


def _hint(location: Sequence[str], known: Sequence[str], root: type[BaseModel]) -> str:
    """The nearest real name: the same word in another section, or a like one in this section."""
    *parents, word = location
    where = ".".join(parents)
    variants = [model for model in _models_at(parents, root) if "kind" in model.model_fields]
    if kinds := [_kind(variant) for variant in variants if word in variant.model_fields]:
        return f"it belongs to {where}={' and '.join(kinds)}."
    nested = [
        f"{where}.{name}.{word}"
        for variant in variants
        for name, field in variant.model_fields.items()
        if _has_option(field, word)
    ]
    elsewhere = [f"{name}.{word}" for name, field in root.model_fields.items() if _has_option(field, word)]
    others = {name: _kind(variant) for variant in variants for name in variant.model_fields if name not in known}
    alike = [".".join([*parents, name]) for name in _alike(word, known)]
    alike += [f"{where}.{name}' of '{where}={others[name]}" for name in _alike(word, [*others])]
    if near := nested + elsewhere + alike:
        return f"did you mean '{near[0]}'?"
    return f"known are {', '.join(known)}."


def _alike(word: str, names: Sequence[str]) -> list[str]:
    return difflib.get_close_matches(word, names, n=1, cutoff=0.5)


def _models_at(parents: Sequence[str], root: type[BaseModel]) -> list[type[BaseModel]]:
    """Return all models that an option of this dotted name can hold."""
    models = [root]
    for parent in parents:
        fields = [model.model_fields[parent] for model in models if parent in model.model_fields]
        models = list(dict.fromkeys(model for field in fields for model in _sections_in(field.annotation)))
    return models


def _kind(variant: type[BaseModel]) -> str:
    return typing.get_args(variant.model_fields["kind"].annotation)[0]


def _has_option(field: FieldInfo, word: str) -> bool:
    return any(word in section.model_fields for section in _sections_in(field.annotation))


def _walk(location: Sequence[int | str], root: type[BaseModel], keep_last: bool) -> tuple[list[str], list[str]]:
    """Pydantic's location without the tags of unions, and the option names known at its last node."""
    models: list[type[BaseModel]] = [root]
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
        else:  # the tag of a union: one of its variants, if these are models
            models = [model for model in models if "kind" in model.model_fields and _kind(model) == part] or models
    return dotted, known


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that an annotation such as `list[A | B] | None` can hold."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [found for argument in typing.get_args(annotation) for found in _sections_in(argument)]
