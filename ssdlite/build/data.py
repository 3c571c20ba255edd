"""From the options of `data` to annotated images; without PyTorch, for whoever only evaluates an exported file.

Start with `read_data`; `find_sources` says which files that are.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ssdlite.config.data import DataConfig
from ssdlite.data.formats.base import Source
from ssdlite.data.formats.layout import find_layout, read_split
from ssdlite.data.formats.registry import source_from_options
from ssdlite.errors import ConfigError, DataError
from ssdlite.structures import DataSplit

logger = logging.getLogger(__name__)


def read_data(
    config: DataConfig, splits: Sequence[str] = ("train", "val"), class_names: Sequence[str] | None = None
) -> list[DataSplit]:
    """Read the annotations of `splits`, each 'train' or 'val'; the first one's classes hold for all.

    Logs what was found at `config.path`. No image is opened but for sizes that annotations lack.
    """
    found = find_sources(config)
    if config.path is not None:
        logger.info("%s", find_layout(config.path).description)
    data: list[DataSplit] = []
    for split in splits:
        sources = found[split]
        if sources is None:
            raise ConfigError(f"there is no data to {split}: give data=PATH, or data.{split} with a source.")
        names = class_names or (data[0].class_names if data else config.class_names)
        data.append(read_split(sources, names, ignore_unknown=config.ignore_unknown))
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


def has_split(config: DataConfig, split: str) -> bool:
    """Return whether there are sources for 'train' or 'val'."""
    return bool(find_sources(config)[split])


def find_sources(config: DataConfig) -> dict[str, Sequence[Source] | None]:
    """Return the sources that the config names, and for splits that it does not name those that lie at its path."""
    found: dict[str, Sequence[Source] | None] = {"train": None, "val": None}
    if config.path is not None and None in (config.train, config.val):
        layout = find_layout(config.path)
        found = {"train": layout.train, "val": layout.val}
    for split, nodes in (("train", config.train), ("val", config.val)):
        if nodes is not None:
            found[split] = [source_from_options(**dict(node)) for node in nodes]
    return found
