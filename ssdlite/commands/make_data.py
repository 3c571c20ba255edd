"""`ssdlite make-data`: the drawn data set; and what the other commands on data begin with."""

from __future__ import annotations

from pathlib import Path

from ssdlite.commands.console import console, progress_bars
from ssdlite.data.synthetic.dataset import make_synthetic

VAL_SHARE = 6  # one image in six validates


def run_make_data(directory: Path, *, images: int, size: int, seed: int) -> None:
    """Draw `images` images of side `size` into `directory`; nothing happens when they are already there."""
    num_val = max(1, images // VAL_SHARE)
    draw_data(directory, num_train=images - num_val, num_val=num_val, size=size, seed=seed)
    console.print(f"{images - num_val} images to train on and {num_val} to validate on: {directory}")


def draw_data(directory: Path, *, num_train: int, num_val: int, size: int, seed: int) -> None:
    """`make_synthetic` with a progress bar."""
    with progress_bars() as shown:
        task = shown.add_task("Drawing the data set", total=num_train + num_val)
        make_synthetic(
            directory,
            num_train=num_train,
            num_val=num_val,
            size=(size, size),
            seed=seed,
            progress=lambda done, total: shown.update(task, completed=done, total=total),
        )
