"""qfgaohao/pytorch-ssd's mb2-ssd-lite and its Jetson fork: `torch.save(net.state_dict())`."""

from __future__ import annotations

from ssdlite.importers.names import Names
from ssdlite.model.layers import Layer

# Of torchvision before 0.3, unwrapped: convolution, norm, activation, one after the other.
PYTORCH_SSD_POSITIONS = {"expand": 0, "depthwise": 3, "project": 6}
PYTORCH_SSD_HEADERS = {"classification": "classification_headers", "regression": "regression_headers"}


def pytorch_ssd_name(layer: Layer) -> Names:
    match layer.part:
        case "stem":
            return Names("base_net.0.0", "base_net.0.1")
        case "block":
            # The first block has no expansion, so all its layers stand three places earlier.
            position = PYTORCH_SSD_POSITIONS[layer.role] - (3 if layer.index == 1 else 0)
            return _in_sequence(f"base_net.{layer.index}.conv", position)
        case "last":
            return Names("base_net.18.0", "base_net.18.1")
        case "extra":
            return _in_sequence(f"extras.{layer.index}.conv", PYTORCH_SSD_POSITIONS[layer.role])
        case "classification" | "regression":
            header = f"{PYTORCH_SSD_HEADERS[layer.part]}.{layer.index}"
            if layer.conv.endswith(".3"):
                return Names(f"{header}.3")
            return Names(f"{header}.0", f"{header}.1") if layer.norm else Names(header)


def _in_sequence(prefix: str, position: int) -> Names:
    return Names(f"{prefix}.{position}", f"{prefix}.{position + 1}")
