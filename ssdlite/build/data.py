"""Builder of annotated images from the options of `data`; without PyTorch, for whoever only evaluates an exported
file.

Start with `read_data`; `find_sources` says which files that are.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from ssdlite.config.data import DataConfig
from ssdlite.data.formats.base import Source
from ssdlite.data.formats.layout import find_layout, read_split
from ssdlite.data.formats.registry import source_from_options
from ssdlite.data.settle import settle_images
from ssdlite.data.split import split_off_validation
from ssdlite.errors import ConfigError, DataError
from ssdlite.io import write_text
from ssdlite.structures import DataSplit

logger = logging.getLogger(__name__)


SplitName: TypeAlias = Literal["train", "val", "test"]


SPLITS: tuple[SplitName, ...] = ("train", "val", "test")


NAMES = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class DataSources:
    """Sources of each split that a config names; None where it names neither the split nor a path."""

    train: list[Source] | None = None
    val: list[Source] | None = None  # empty where the data set has no validation set
    test: list[Source] | None = None
    val_fraction: float = 0.0
    val_is_given: bool = False  # by data.val
    description: str = field(default="", compare=False)  # sentence about what was found at the path

    def of(self, split: str) -> list[Source] | None:
        sources: list[Source] | None = getattr(self, split)
        return sources

    @property
    def val_is_train(self) -> bool:
        """True where there is no validation set, or it is the training set and nobody asked for that."""
        return bool(self.train) and not self.val_is_given and (not self.val or self.val == self.train)

    def has(self, split: str) -> bool:
        """Return whether there are images for `split`: without a validation set those of training validate."""
        return bool(self.of(split)) or (split == "val" and self.val_is_train)


def find_sources(config: DataConfig) -> DataSources:
    """Return the sources that the config names, and for splits that it does not name those that lie at its path.

    Raises DataError where nothing is recognised at the path.
    """
    given: dict[str, list[Source] | None] = {
        split: [source_from_options(**dict(node)) for node in nodes]
        for split in SPLITS
        if (nodes := getattr(config, split)) is not None
    }
    found: dict[str, list[Source] | None] = dict.fromkeys(SPLITS)
    description = ""
    if config.path is not None and not {"train", "val"} <= given.keys():
        layout = find_layout(config.path)
        found = {"train": layout.train, "val": layout.val, "test": layout.test}
        description = layout.description
    found.update(given)
    return DataSources(
        **found, val_fraction=config.val_fraction, val_is_given="val" in given, description=description
    )


def read_data(
    config: DataConfig,
    splits: Sequence[str] = ("train", "val"),
    class_names: Sequence[str] | None = None,
    *,
    with_images: bool = True,
) -> list[DataSplit]:
    """Read the annotations of `splits`, each 'train', 'val' or 'test'; the first one's classes hold for all.

    Where the data set has no validation set, a part of the training images becomes one (`config.val_fraction`),
    which is the same in every run. Images that cannot be used are left out, with a count, unless the images are not
    needed (`with_images=False`). Logs what was found at `config.path`. No image is decoded.

    Raises ConfigError where the config names no sources, and DataError for annotations that cannot be used.
    """
    sources = find_sources(config)
    if sources.description:
        logger.info("%s", sources.description)
    reader = _Reader(config, sources, with_images)
    data: list[DataSplit] = []
    for split in splits:
        names = class_names or (data[0].class_names if data else config.class_names)
        data.append(reader.read(split, names))
        if not data[0].class_names:
            raise DataError(
                f"the annotations to {split} name no class; label some objects, or set data.class_names."
            )
        if config.ignore_unknown and not any(len(record.boxes) for record in data[-1].records):
            raise DataError(
                f"no object to {split} is of the classes {', '.join(data[-1].class_names)}; correct "
                "data.class_names, since data.ignore_unknown leaves out all others."
            )
    return data


class _Reader:
    """Reads the splits of one data set, each source once."""

    def __init__(self, config: DataConfig, sources: DataSources, with_images: bool) -> None:
        self.config, self.sources, self.with_images = config, sources, with_images
        self._parts: tuple[DataSplit, DataSplit] | None = None  # of the training images, where they are split

    def read(self, split: str, class_names: Sequence[str] | None) -> DataSplit:
        sources = self.sources.of(split)
        if split in ("train", "val") and self.sources.val_is_train:
            return self._part(split, class_names)
        if sources is None:
            raise ConfigError(f"there is no {NAMES[split]} set: give data=PATH, or data.{split} with a source.")
        if not sources:
            raise DataError(f"the data set has no {NAMES[split]} set; add one, or name another data set")
        return self._read(sources, class_names)

    def _read(self, sources: Sequence[Source], class_names: Sequence[str] | None) -> DataSplit:
        split = read_split(sources, class_names, ignore_unknown=self.config.ignore_unknown)
        return settle_images(split, " and ".join(map(str, sources))) if self.with_images else split

    def _part(self, split: str, class_names: Sequence[str] | None) -> DataSplit:
        """A side of the training images, some of which validate."""
        if self._parts is None:
            assert self.sources.train is not None
            whole = self._read(self.sources.train, class_names)
            parts = split_off_validation(whole, self.config.val_fraction) if self.config.val_fraction else None
            self._parts = parts or (whole, whole)
            _describe_parts(*self._parts, self.config.val_fraction)
        return self._parts[("train", "val").index(split)]


def _describe_parts(train: DataSplit, val: DataSplit, fraction: float) -> None:
    if train is not val:
        logger.info(
            "There is no validation set: %d of the %d images validate, chosen by groups that belong together "
            "(data.val_fraction=%g).",
            *(len(val), len(train) + len(val), fraction),
        )
    elif fraction:
        logger.warning("there is no validation set, and the images cannot be split: all are of one group")
    if train is val:
        logger.warning("the training images validate, so the figures will flatter the model")


def require_objects(split: DataSplit) -> None:
    """Raise DataError for training images from which nothing can be learnt."""
    num_objects = sum(len(record.boxes) for record in split.records)
    if not num_objects:
        raise DataError(
            f"the {len(split)} training images have no objects, so there is nothing to learn; label some, or check "
            "that the annotations are found with 'ssdlite check-data'"
        )
    if all(record.ignore.all() for record in split.records):
        raise DataError(
            f"all {num_objects} objects of the training images are crowds or difficult, so there is nothing to "
            "learn; check iscrowd or difficult in the annotations"
        )


def write_validation_list(val: DataSplit, path: Path) -> None:
    """Write the images that validate to `path`, one per line."""
    write_text(path, "".join(f"{record.image_path}\n" for record in val.records))
