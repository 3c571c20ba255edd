"""Options of the data: sources, splits, augmentation, loading and caching."""

from __future__ import annotations

import typing
from dataclasses import MISSING, fields
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    create_model,
    model_validator,
)

from ssdlite.config.section import FilePath, NotNegative, Positive, Section, _distinct, _listed
from ssdlite.data.formats.base import Format
from ssdlite.data.formats.registry import FORMATS

OPTION_TYPES: dict[Any, Any] = {
    Path: FilePath,
    tuple[str, ...]: Annotated[list[str], Field(min_length=1)],
}
"""Types of options by the types of a source's fields, where they are not the same."""


def source_section(annotation_format: Format[Any]) -> type[Section]:
    """Return the section of an explicit source of a format: `kind`, and the fields of its source."""
    source_type = annotation_format.source_type
    types = typing.get_type_hints(source_type)
    options = {
        field.name: (
            OPTION_TYPES.get(types[field.name], types[field.name]),
            ... if field.default is MISSING else field.default,
        )
        for field in fields(source_type)
    }
    return create_model(  # type: ignore[call-overload]
        f"{source_type.__name__}Config",
        __base__=Section,
        __doc__=source_type.__doc__,
        __module__=__name__,
        kind=(Literal[annotation_format.name], ...),
        **options,
    )


SOURCE_SECTIONS: dict[str, type[Section]] = {one.name: source_section(one) for one in FORMATS}
"""By `kind`."""


globals().update({section.__name__: section for section in SOURCE_SECTIONS.values()})  # where pickle looks for them


if TYPE_CHECKING:
    SourceConfig: TypeAlias = Any
else:
    SourceConfig = Annotated[reduce(or_, SOURCE_SECTIONS.values()), Field(discriminator="kind")]


Sources = Annotated[list[SourceConfig], Field(min_length=1), BeforeValidator(_listed)]
"""One source or a list of them."""


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
    """Sources, splits, augmentation, loading and caching of the data."""

    SHORTHAND: ClassVar[str | None] = "path"

    path: FilePath | None = None
    """A data set: its folder, a file of annotations, or YOLO's data.yaml. On the command line `data=PATH` sets it
    and clears the sources."""
    draw: DrawConfig | None = None
    """Draw the quick-start data set at `path` first."""
    train: Sources | None = None
    """Training sources, concatenated; in place of `path`."""
    val: Sources | None = None
    """Validation sources; in place of `path`."""
    test: Sources | None = None
    """Test sources, which only `eval --split test` reads; in place of `path`."""
    val_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of the training images that validate where the data set has no validation set, chosen by groups that
    belong together: see docs/data.md. 0: validate on the training images."""
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
    """Place where training images are resized, coloured and mirrored; the draws are the same. device: loader
    processes hand out parts of what a cache would keep, and the rest is done for whole batches where the network
    is, which is for GPUs that wait for data."""
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


DATA_SOURCES = (
    "data.val_fraction",
    "data.ignore_unknown",
    "data",
    "data.path",
    "data.train",
    "data.train.",
    "data.val",
    "data.val.",
    "data.test",
    "data.test.",
)
"""Options that say which images and annotations there are; `data` is a path in place of all."""
