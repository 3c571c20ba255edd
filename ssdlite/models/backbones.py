"""Names of the backbones. A new one is a module with a `Backbone`, and a line here.

Options are checked without PyTorch, so each is imported when it is built.
"""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING

from ssdlite.errors import ConfigError

if TYPE_CHECKING:
    from ssdlite.models.backbone import Backbone


MOBILENET_V2 = "mobilenet_v2"


BACKBONES: dict[str, str] = {
    MOBILENET_V2: "ssdlite.models.backbone:MobileNetV2",
}
"""Module and class by name."""


def require_backbone(name: str) -> None:
    """Raise ConfigError for a name that is none."""
    if name not in BACKBONES:
        near = difflib.get_close_matches(name, BACKBONES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"backbones are {', '.join(BACKBONES)}."
        raise ConfigError(f"model.backbone: there is no backbone '{name}'; {hint}")


def load_backbone(name: str) -> type[Backbone]:
    """Return the class of a backbone. Raises ConfigError as `require_backbone`."""
    require_backbone(name)
    module, _, attribute = BACKBONES[name].partition(":")
    found: type[Backbone] = getattr(importlib.import_module(module), attribute)
    return found
