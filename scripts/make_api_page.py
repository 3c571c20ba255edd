"""Write docs/api.md: the public Python names, from the `__all__` and the docstrings of their modules.

python scripts/make_api_page.py           # writes docs/api.md
"""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "api.md"


MODULES = (
    "ssdlite.api",
    "ssdlite.boxes",
    "ssdlite.losses.box",
    "ssdlite.losses.classification",
    "ssdlite.losses.matching",
    "ssdlite.losses.assigners",
    "ssdlite.losses.reduction",
    "ssdlite.losses.corner",
)
"""Modules whose names stay as they are from one version to the next."""


HEAD = """# Public Python names

`from ssdlite import Detector` is what most programs need: [python.md](python.md). The functions below are stable
too: they take plain tensors and numbers, know no config, and `help(NAME)` has shapes, units, errors and source. All
other modules may change. This page is written by `python scripts/make_api_page.py`.
"""


def make_page() -> str:
    """Return the text of the page."""
    parts = [HEAD]
    for name in MODULES:
        module = importlib.import_module(name)
        parts.append(f"\n## `{name}`\n\n{_summary(module)}\n\n| name | |\n|---|---|\n")
        for public in module.__all__:
            parts.append(
                f"| `{public}{_signature(getattr(module, public))}` | {_summary(getattr(module, public))} |\n"
            )
    return "".join(parts)


def _summary(value: Any) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split()).replace("|", "\\|")


def _signature(value: Any) -> str:
    """The names of the arguments."""
    if inspect.isclass(value):
        return ""
    return f"({', '.join(inspect.signature(value).parameters)})"


if __name__ == "__main__":
    PAGE.write_text(make_page(), encoding="utf-8")
