"""Parts that the sections of the config share: a frozen base class, ranges of numbers, paths and lists."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

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


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, Mapping | Section) else value


def _distinct(names: list[str]) -> list[str]:
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"'{repeated[0]}' is named twice")
    return names


def _square(value: Any) -> Any:
    return (value, value) if isinstance(value, int) else value


def _words(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


NotNegativeFloat = Annotated[float, Field(ge=0)]
