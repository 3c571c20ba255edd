"""Train, evaluate and ship MobileNetV2-SSDLite object detectors."""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssdlite.api import Detector as Detector

__all__ = ["Detector", "__version__"]

__version__ = "0.1.0"

# OpenCV reads it when it is first imported: a small file can hold any number of pixels. The bound is Pillow's.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", "178956970")


def __getattr__(name: str) -> Any:
    """`ssdlite.Detector`, imported when it is asked for: the command line's help is there at once."""
    if name == "Detector":
        from ssdlite.api import Detector

        return Detector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
