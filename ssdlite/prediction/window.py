"""Pictures in a window on the screen, where there is one."""

from __future__ import annotations

import os
import sys

import cv2
import numpy as np

from ssdlite.prediction.frames import Prediction

TITLE = "ssdlite"
CLOSING_KEYS = (27, ord("q"))  # 27: Escape


class Window:
    """Shows each picture with its boxes until the window is closed, or Escape or q is pressed."""

    draws = True

    def __init__(self) -> None:
        self.is_closed = False

    def write(self, prediction: Prediction, picture: np.ndarray | None) -> None:
        assert picture is not None
        cv2.imshow(TITLE, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        key = cv2.waitKey(1) & 0xFF
        self.is_closed = key in CLOSING_KEYS or cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) < 1

    def close(self) -> None:
        cv2.destroyAllWindows()


def has_screen() -> bool:
    """Whether this OpenCV can open windows here; the one that is installed with ssdlite cannot."""
    lines = (line.strip() for line in cv2.getBuildInformation().splitlines())
    if any(line.startswith("GUI:") and "NONE" in line for line in lines):
        return False
    # Where there is no display, its toolkits do not raise: they end the process.
    return sys.platform in ("win32", "darwin") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
