"""From another program's network to a checkpoint of ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ssdlite.config import config_from_dict

if TYPE_CHECKING:
    from ssdlite.importers.names import ForeignNetwork
    from ssdlite.model.detector import Detector


def build_imported(network: ForeignNetwork) -> Detector:
    """Return the detector, in evaluation mode, that gives the answers of `network`."""
    from ssdlite.model.detector import Detector

    detector = Detector(network.dialect, num_classes=network.num_classes, input_size=network.input_size)
    detector.load_state_dict(detector.state_dict() | network.weights)
    return detector.eval()


def to_checkpoint(network: ForeignNetwork, class_names: Sequence[str], origin: str) -> dict[str, Any]:
    """Return what `save_checkpoint` writes for `network`; `origin` is for messages."""
    model = {"dialect": network.dialect.name, "input_size": list(network.input_size), "weights": "none"}
    config = config_from_dict({"model": model, "eval": network.decoding}, origin=origin)
    header = {"config": config.to_dict(), "classes": list(class_names), "metrics": {}}
    return {**header, "weights": build_imported(network).state_dict()}
