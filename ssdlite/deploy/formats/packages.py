"""Packages that only one format needs."""

from __future__ import annotations

import importlib
import importlib.util
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ssdlite.deploy.formats.kinds import FormatName
from ssdlite.errors import UserError

MODULES: dict[FormatName, tuple[str, ...]] = {
    "openvino": ("openvino",),
    "ncnn": ("ncnn", "pnnx"),
    "litert": ("litert_torch", "ai_edge_litert"),
    "executorch": ("executorch",),
    "coreml": ("coremltools",),
}
"""What a format needs to be written and run."""


def is_installed(name: FormatName) -> bool:
    """Whether a format can be written and run here. Nothing is imported."""
    return all(importlib.util.find_spec(module) is not None for module in MODULES[name])


def load_package(module: str, extra: str) -> Any:
    """Import `module`. Raises UserError with the command that installs it, or with what is wrong with it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        root = module.split(".")[0]
        if isinstance(error, ModuleNotFoundError) and error.name is not None and error.name.split(".")[0] == root:
            raise UserError(f"{root} is not installed; run: pip install 'ssdlite[{extra}]'") from None
        raise UserError(f"{root} is installed but cannot be imported ({error}); install it anew.") from None


def versions_of(*distributions: str) -> dict[str, str]:
    """The installed ones with their versions."""
    found = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
