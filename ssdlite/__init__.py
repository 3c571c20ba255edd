"""Train, judge and ship MobileNetV2-SSDLite object detectors."""

__version__ = "0.1.0"
