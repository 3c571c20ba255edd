"""Train, judge and ship MobileNetV2-SSDLite object detectors."""

import os

__version__ = "0.1.0"

# OpenCV reads it when it is first imported: a small file can hold any number of pixels. The bound is Pillow's.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", "178956970")
