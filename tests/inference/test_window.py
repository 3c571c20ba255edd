import numpy as np
import pytest

from ssdlite.inference import video
from ssdlite.inference.frames import Frame, Prediction
from ssdlite.inference.video import Display, has_display
from ssdlite.structures import Detections

WITH_GTK = "  GUI:                           GTK3\n"
HEADLESS = "  GUI:                           NONE\n"


@pytest.mark.parametrize(
    ("build", "display", "expected"),
    [(HEADLESS, ":0", False), (WITH_GTK, ":0", True), (WITH_GTK, "", False)],
)
def test_a_screen_needs_windows_and_a_display(monkeypatch, build, display, expected):
    monkeypatch.setattr(video.cv2, "getBuildInformation", lambda: build)
    monkeypatch.setattr(video.sys, "platform", "linux")
    monkeypatch.setenv("DISPLAY", display)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert has_display() is expected
    if build == WITH_GTK:
        monkeypatch.setattr(video.sys, "platform", "darwin")
        assert has_display()


def test_pictures_are_shown_until_a_key_is_pressed(monkeypatch):
    shown, keys = [], iter([-1, ord("x"), 27])
    monkeypatch.setattr(video.cv2, "imshow", lambda _, picture: shown.append(picture), raising=False)
    monkeypatch.setattr(video.cv2, "waitKey", lambda _: next(keys), raising=False)
    monkeypatch.setattr(video.cv2, "getWindowProperty", lambda *_: 1.0, raising=False)
    screen = Display()
    prediction = Prediction(Frame(None, lambda: None), np.zeros((2, 2, 3), np.uint8), Detections.empty())
    picture = np.full((2, 2, 3), (200, 0, 0), np.uint8)
    for expected in (False, False, True):
        screen.write(prediction, picture)
        assert screen.is_closed is expected
    assert shown[0][0, 0].tolist() == [0, 0, 200]  # OpenCV's windows take BGR
