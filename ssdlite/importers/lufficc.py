"""lufficc/SSD's mobilenet_v2_ssd320: a checkpoint whose `model` is the state of its SSDDetector."""

from __future__ import annotations

from ssdlite.importers.names import Names
from ssdlite.model.layers import Layer

LUFFICC_HEADERS = {"classification": "cls_headers", "regression": "reg_headers"}


def lufficc_name(layer: Layer) -> Names:
    match layer.part:
        case "stem" | "block" | "last":  # torchvision's own, as ours
            return Names(layer.conv, layer.norm)
        case "extra":
            prefix = f"backbone.extras.{layer.index}.conv"
            match layer.role:
                case "expand":
                    return Names(f"{prefix}.0.0", f"{prefix}.0.1")
                case "depthwise":
                    return Names(f"{prefix}.1.0", f"{prefix}.1.1")
                case "project":  # not wrapped
                    return Names(f"{prefix}.2", f"{prefix}.3")
        case "classification" | "regression":
            header = f"box_head.predictor.{LUFFICC_HEADERS[layer.part]}.{layer.index}"
            if layer.conv.endswith(".3"):
                return Names(f"{header}.conv.3")
            return Names(f"{header}.conv.0", f"{header}.conv.1") if layer.norm else Names(header)
