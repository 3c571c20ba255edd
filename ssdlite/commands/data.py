"""`ssdlite make-data`: the drawn data set; and what the other commands on data begin with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssdlite.commands.screen import bars, console
from ssdlite.config import Config, load_config
from ssdlite.data.synthetic import make_synthetic
from ssdlite.errors import ConfigError

VAL_SHARE = 6  # one image in six validates


def config_of(path: Path | None, overrides: Mapping[str, Any]) -> Config:
    """Return the config that `CONFIG|PATH [KEY=VALUE]...` stands for. Raises ConfigError where it names no data."""
    if path is not None and not path.exists():
        raise ConfigError(f"{path}: there is no such folder or config file; check the path.")
    if path is not None and path.is_dir():
        config = load_config(None, {"data.path": str(path), **overrides})
    else:
        config = load_config(path, overrides)
    if (config.data.path, config.data.train, config.data.val) == (None, None, None):
        raise ConfigError("there is no data to look at: name a folder, a config file, or data=PATH.")
    return config


def make_data(directory: Path, *, images: int, size: int, seed: int) -> None:
    """Draw `images` images of side `size` into `directory`; nothing happens when they are already there."""
    num_val = max(1, images // VAL_SHARE)
    draw_data(directory, num_train=images - num_val, num_val=num_val, size=size, seed=seed)
    console.print(f"{images - num_val} images to train on and {num_val} to validate on: {directory}")


def draw_data(directory: Path, *, num_train: int, num_val: int, size: int, seed: int) -> None:
    """`make_synthetic` with a progress bar."""
    with bars() as shown:
        task = shown.add_task("Drawing the data set", total=num_train + num_val)
        make_synthetic(
            directory,
            num_train=num_train,
            num_val=num_val,
            size=(size, size),
            seed=seed,
            progress=lambda done, total: shown.update(task, completed=done, total=total),
        )
