"""Verb `ssdlite convert-data`: a data set of any layout, written as COCO, VOC or YOLO."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssdlite.build.data import SPLITS, find_sources, read_data
from ssdlite.commands.arguments import DATA_SET, config_of, require_effect
from ssdlite.commands.console import console
from ssdlite.data.formats.write import WRITERS, ImageMode, require_empty, write_splits
from ssdlite.errors import ConfigError
from ssdlite.structures import DataSplit


def run_convert_data(
    path: Path | None, directory: Path, overrides: Mapping[str, Any], *, kind: str, images: str
) -> None:
    """Write what is read of a config's data or a folder; see `ssdlite convert-data --help`."""
    require_effect(overrides, DATA_SET, on="the conversion of a data set")
    require_kind(kind)
    mode = as_image_mode(images)
    config = config_of(path, overrides).data
    require_empty(directory)
    sources = find_sources(config)
    names = [split for split in SPLITS if sources.has(split)]
    if "test" in names and sources.test == sources.val:
        names.remove("test")
    splits: dict[str, DataSplit] = dict(zip(names, read_data(config, names), strict=True))
    if "val" in splits and splits["val"] is splits.get("train"):
        del splits["val"]  # there is none, and none was split off
    left_out = write_splits(splits, directory, kind, images=mode)
    for name, split in splits.items():
        num_objects = sum(len(record.boxes) for record in split.records)
        console.print(f"{name}: {len(split)} images with {num_objects} objects")
    for what, count in left_out.items():
        console.print(f"left out {count} {what}")
    console.print(f"Wrote {directory}; {next_step(directory, mode)}", soft_wrap=True)


def next_step(directory: Path, mode: ImageMode) -> str:
    """Return the clause that says how to train on a data set that was written."""
    command = f"ssdlite train {shlex.quote(f'data={directory}')}"
    if mode == "none":
        return f"it has no images, which must be added under their names before: {command}"
    return f"train on it with: {command}"


def require_kind(kind: str) -> None:
    """Raise ConfigError for a format that cannot be written."""
    if kind not in WRITERS:
        raise ConfigError(f"--to is {', '.join([*WRITERS][:-1])} or {[*WRITERS][-1]}, not '{kind}'.")


def as_image_mode(text: str) -> ImageMode:
    """Return a way to place images. Raises ConfigError for what is none."""
    match text:
        case "link" | "copy" | "none":
            return text
    raise ConfigError(f"--images is link, copy or none, not '{text}'.")
