"""Checks of arguments that several commands share; they run before PyTorch is imported, which takes seconds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssdlite.build.data import SPLITS, find_sources
from ssdlite.build.load import PARTS_OF_FILE, require_checkpoint
from ssdlite.commands.run_folder import latest_run
from ssdlite.config.data import DATA_SOURCES, DataConfig
from ssdlite.config.model import require_start
from ssdlite.config.schema import Config, config_from_dict, find_unused, load_config
from ssdlite.config.training import require_steps
from ssdlite.data.formats.layout import is_data_set, require_files
from ssdlite.errors import ConfigError
from ssdlite.training.run_loggers import require_loggers

DATA_SET = (*DATA_SOURCES, "data.class_names")
"""Options of a data set, whatever is done with it."""


def require_device_name(name: str) -> None:
    """Raise ConfigError for what names no device. Whether it is there, PyTorch has to say."""
    if not re.fullmatch(r"auto|(cpu|cuda|mps)(:\d{1,4})?", name, re.ASCII):
        raise ConfigError(f"unknown device '{name}'; use auto, cpu, cuda, cuda:N or mps.")


def require_split_name(name: str) -> None:
    """Raise ConfigError for what is no split."""
    if name not in SPLITS:
        raise ConfigError(f"--split is {', '.join(SPLITS[:-1])} or {SPLITS[-1]}, not '{name}'.")


def require_effect(overrides: Mapping[str, Any], used: Sequence[str], *, on: str) -> None:
    """Raise ConfigError for an option of `overrides` that is not among `used` (see `is_among`).

    `on` says what it has no effect on.
    """
    if name := find_unused(overrides, used):
        raise ConfigError(f"{name} has no effect on {on}; leave it out.")


def require_training(config: Config, default_name: str, *, resume: bool, device: str) -> None:
    """Raise UserError where a training cannot start, as far as that can be told without PyTorch.

    The device must have a name, and the data, the run to resume and the weights to start from must be there.
    """
    require_device_name(device)
    require_steps(config.train)
    require_loggers(config.run.loggers)
    if resume:
        latest_run(config.run.dir, config.run.name or default_name)
    else:
        require_start(config.model)
    require_data(config.data)


def require_export_options(
    checkpoint: Path,
    overrides: Mapping[str, Any],
    input_size: tuple[int, int] | None = None,
    *,
    compares: bool,
    calibrates: bool = False,
) -> None:
    """Raise UserError for what a checkpoint cannot be exported with, as far as that can be told without PyTorch.

    Images are read where the file `compares` with PyTorch or `calibrates` itself; else no option of data has an
    effect. `input_size` is (height, width), pixels.
    """
    require_checkpoint(checkpoint, overrides)
    if input_size is not None:
        config_from_dict({}, {"model.input_size": input_size})
    used = (*PARTS_OF_FILE, "eval", *(("eval.batch_size",) if compares else ()))
    if compares or calibrates:
        require_effect(overrides, (*used, *DATA_SOURCES), on="an export")
    else:
        require_effect(overrides, used, on="an export with --no-verify, which reads no images")


def require_data(config: DataConfig) -> None:
    """Raise ConfigError or DataError where the files of a data set to train on are not there. None is read."""
    if config.draw is not None:
        if config.path is None:
            raise ConfigError("data.draw needs data.path, the folder to draw into.")
        return
    sources = find_sources(config)
    if sources.train is None:
        raise ConfigError("there is no training set: give data=PATH, or data.train with a source.")
    for split in (sources.train, sources.val, sources.test):
        require_files(split or [])


def config_of(path: Path | None, overrides: Mapping[str, Any]) -> Config:
    """Return the config that `CONFIG|PATH [KEY=VALUE]...` stands for. Raises ConfigError where it names no data."""
    if path is not None and not path.exists():
        raise ConfigError(f"{path}: there is no such folder or config file; check the path.")
    if path is not None and is_data_set(path):
        config = load_config(None, {"data.path": str(path), **overrides})
    else:
        config = load_config(path, overrides)
    if (config.data.path, config.data.train, config.data.val, config.data.test) == (None,) * 4:
        raise ConfigError("there is no data to look at: name a folder, a config file, or data=PATH.")
    return config
