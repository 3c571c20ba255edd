"""Lets `train.precision=auto` mean what SSDLITE_TEST_PRECISION says, whatever this processor multiplies natively.

`tests/conftest.py` imports this, and puts its folder on PYTHONPATH: Python imports a module of this name as it
starts, so the processes that tests start choose as the tests do. What chooses, `choose_precision`, is the real one.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

PRECISION = os.environ.get("SSDLITE_TEST_PRECISION")
CHOOSER = "ssdlite.training.optim"  # nothing else asks PyTorch about the processor


def pretend(precision: str) -> None:
    """Let PyTorch say that the processor has instructions for bf16, or that it has none."""
    import torch

    if precision not in ("fp32", "bf16"):
        raise ValueError(f"SSDLITE_TEST_PRECISION is fp32 or bf16, not '{precision}'")
    torch.cpu._is_avx512_bf16_supported = lambda: precision == "bf16"
    torch.cpu._is_amx_tile_supported = lambda: False


class PretendOnceNeeded:
    """Waits for the module that chooses, because PyTorch takes a second to import and --help does without."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != CHOOSER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.loader is not None
        execute = spec.loader.exec_module

        def execute_and_pretend(module: ModuleType) -> None:
            execute(module)
            pretend(PRECISION)

        spec.loader.exec_module = execute_and_pretend
        return spec


if PRECISION:
    sys.meta_path.insert(0, PretendOnceNeeded())
