"""Video files, cameras and streams through OpenCV: reading frames, writing a video, and a window on the screen."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ssdlite.errors import DataError
from ssdlite.inference.frames import Frame, Prediction

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".mjpeg")


USUAL_RATE = 25.0  # frames a second, where a source gives none that can be


FASTEST_RATE = 240.0


CODECS = ("mp4v", "avc1")  # the first one that this build of OpenCV can write; its wheels have MPEG-4 part 2


@dataclass(frozen=True)
class Video:
    """A video file; or, with `patience`, a camera (its number) or a stream (its address)."""

    name: str
    stem: str
    every: int = 1  # only every N-th frame is given
    patience: float | None = None  # seconds

    @property
    def num_frames(self) -> int | None:
        """Number of frames that a file claims to have; None where it does not say, or would never end."""
        if self.patience is not None:
            return None
        with _Capture(self) as capture:
            count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        return -(-count // self.every) if count > 0 else None

    def __iter__(self) -> Iterator[Frame]:
        """Its frames, upright. Raises DataError for what cannot be opened, has no frames, or falls silent."""
        with _Capture(self) as capture:
            rate = capture.get(cv2.CAP_PROP_FPS)
            if not 1 <= rate <= FASTEST_RATE:
                rate = USUAL_RATE
            number = 0
            while self._advance(capture):
                if number % self.every == 0:
                    is_good, pixels = capture.retrieve()
                    if is_good:
                        image = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)
                        yield Frame(self, partial(_unchanged, image), number, rate)
                number += 1
        if not number:
            raise DataError(f"{self.name}: there are no frames in it that OpenCV can read.")

    def _advance(self, capture: Any) -> bool:
        """Go to the next frame, or say that there is none."""
        started = time.monotonic()
        if capture.grab():
            return True
        if self.patience is not None and time.monotonic() - started > 0.9 * self.patience:
            raise silent(self.name, self.patience)
        return False


class _Capture:
    """OpenCV's capture of a source within a context."""

    def __init__(self, video: Video) -> None:
        _hush()
        if video.patience is None:
            self._capture = cv2.VideoCapture(video.name)
        elif video.name.isdigit():
            self._capture = cv2.VideoCapture(int(video.name))
        else:
            wait = round(1000 * video.patience)
            limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, wait, cv2.CAP_PROP_READ_TIMEOUT_MSEC, wait]
            self._capture = cv2.VideoCapture(video.name, cv2.CAP_FFMPEG, limits)
        if not self._capture.isOpened():
            self._capture.release()
            raise _unopened(video)

    def __enter__(self) -> Any:
        return self._capture

    def __exit__(self, *_: object) -> None:
        self._capture.release()


class FilmWriter:
    """An MP4 file without sound, of pictures (H, W, 3) uint8 RGB at `rate` a second.

    It has the size of the first picture, less a row or column where that is odd; others are brought to it. The file
    appears when it is closed. Raises DataError where OpenCV can write no MP4.
    """

    def __init__(self, path: Path, rate: float) -> None:
        self.path = path
        self.rate = rate
        self._size: tuple[int, int] | None = None  # (width, height)
        self._partial = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
        self._writer: Any = None

    def write(self, picture: np.ndarray, times: int = 1) -> None:
        """Append a picture, `times` over."""
        if self._writer is None:
            self._size = (picture.shape[1], picture.shape[0])
            self._writer = self._open(self._size)
        if picture.shape[1::-1] != self._size:
            picture = cv2.resize(picture, self._size, interpolation=cv2.INTER_AREA)
        pixels = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        for _ in range(times):
            self._writer.write(pixels)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.release()
            self._writer = None
            self._partial.replace(self.path)

    def _open(self, size: tuple[int, int]) -> Any:
        _hush()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for codec in CODECS:
            writer = cv2.VideoWriter(str(self._partial), cv2.VideoWriter.fourcc(*codec), self.rate, size)
            if writer.isOpened():
                return writer
            writer.release()
        self._partial.unlink(missing_ok=True)
        raise DataError(
            f"{self.path}: this OpenCV cannot write a video of {size[0]}x{size[1]} pixels; leave the film out with "
            "--no-pictures."
        )


def _unchanged(image: np.ndarray) -> np.ndarray:
    return image


def silent(name: str, patience: float) -> DataError:
    """Return the error of a live source that has fallen silent."""
    return DataError(
        f"{name}: no picture came for {patience:g} s; check the source, or wait longer with --timeout."
    )


def _unopened(video: Video) -> DataError:
    if video.patience is None:
        return DataError(f"{video.name}: not a video that OpenCV can read; convert it to .mp4.")
    if video.name.isdigit():
        return DataError(f"camera {video.name} cannot be opened; check its number and that nothing else uses it.")
    return DataError(f"{video.name}: the stream cannot be opened within {video.patience:g} s; check the address.")


def _hush() -> None:
    """OpenCV and FFmpeg print lines of their own about what cannot be opened, beside our sentence."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


TITLE = "ssdlite"


CLOSING_KEYS = (27, ord("q"))  # 27: Escape


class Display:
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


def has_display() -> bool:
    """Return whether this OpenCV can open windows here; the one that is installed with ssdlite cannot."""
    lines = (line.strip() for line in cv2.getBuildInformation().splitlines())
    if any(line.startswith("GUI:") and "NONE" in line for line in lines):
        return False
    # Where there is no display, its toolkits do not raise: they end the process.
    return sys.platform in ("win32", "darwin") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
