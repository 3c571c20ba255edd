"""Drawn videos, and servers that stream them well or not at all."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np

os.environ.setdefault(
    "OPENCV_FFMPEG_LOGLEVEL", "-8"
)  # as ssdlite.inference.video does: read when FFmpeg is first used


def draw_frame(number: int, size: tuple[int, int]) -> np.ndarray:
    """RGB: a grey level of its own, so that a decoded frame says which one it is."""
    return np.full((*size, 3), 20 + 8 * number % 230, np.uint8)


def number_of(image: np.ndarray) -> int:
    """The inverse of `draw_frame`, for numbers below 28."""
    return round((float(np.median(image)) - 20) / 8)


def write_film(path: Path, count: int = 12, size: tuple[int, int] = (48, 64), rate: float = 25.0) -> Path:
    codec = "mp4v" if path.suffix == ".mp4" else "MJPG"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), rate, size[::-1])
    assert writer.isOpened()
    for number in range(count):
        writer.write(draw_frame(number, size))
    writer.release()
    return path


def read_film(path: Path) -> tuple[list[np.ndarray], float]:
    """All frames (BGR) and the rate, by OpenCV alone."""
    capture = cv2.VideoCapture(str(path))
    rate, frames = capture.get(cv2.CAP_PROP_FPS), []
    while (read := capture.read())[0]:
        frames.append(read[1])
    capture.release()
    return frames, rate


@contextmanager
def serve_frames(count: int, size: tuple[int, int] = (48, 64), then_silent: bool = False) -> Iterator[str]:
    """The address of a stream of `count` JPEG images over HTTP, which then ends or falls silent."""
    released = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            for number in range(count):
                data = cv2.imencode(".jpg", draw_frame(number, size))[1].tobytes()
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                self.wfile.write(head.encode() + data + b"\r\n")
            if then_silent:
                released.wait(30)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/live"
    finally:
        released.set()
        server.shutdown()
        server.server_close()


@contextmanager
def serve_nothing() -> Iterator[str]:
    """The address of a server that accepts and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/live"
