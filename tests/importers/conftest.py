"""Files as other programs write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from . import reference


class Program(NamedTuple):
    """One of the three programs that save with torch.save."""

    dialect: str
    shapes: Callable[[int], reference.Shapes]
    network: Callable[[dict[str, Tensor]], Any]
    columns: int  # classes of its test file, background among them
    background: int  # its column of the background
    wrap: Callable[[dict[str, Tensor]], Any]  # state -> content of its file


CLASSES = ("cat", "dog", "ewe", "fox")
PROGRAMS = {
    program.dialect: program
    for program in (
        Program("pytorch-ssd", reference.pytorch_ssd_shapes, reference.PytorchSsd, 21, 0, lambda state: state),
        Program(
            "lufficc",
            reference.lufficc_shapes,
            reference.Lufficc,
            3,
            0,
            # Its trainer leaves its optimizer and a counter beside the model.
            lambda state: {"model": state, "optimizer": {"param_groups": [{"lr": 0.001}]}, "iteration": 120_000},
        ),
        Program(
            "mmdetection",
            reference.mmdetection_shapes,
            reference.Mmdetection,
            len(CLASSES) + 1,
            -1,
            lambda state: {"meta": {"CLASSES": CLASSES, "epoch": 120, "config": "..."}, "state_dict": state},
        ),
    )
}


@pytest.fixture(scope="session", params=list(PROGRAMS))
def program(request) -> Program:
    return PROGRAMS[request.param]


@pytest.fixture(scope="session")
def states() -> dict[str, dict[str, Tensor]]:
    """A random checkpoint's state of each program."""
    return {name: reference.random_state(program.shapes(program.columns)) for name, program in PROGRAMS.items()}


@pytest.fixture
def write(tmp_path) -> Callable[..., Path]:
    """`write(content)` saves a .pth file in this test's folder."""

    def save(content: Any, name: str = "theirs.pth") -> Path:
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return save
