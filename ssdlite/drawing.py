"""Pictures of boxes: detections, ground truth, both on one image, and grids of images.

Images are (H, W, 3) uint8 RGB; boxes are xyxy pixels of the image that they are drawn on. Line width and text
grow with the image. Nothing is drawn in place.
"""

from __future__ import annotations

import colorsys
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np

from ssdlite.boxes_np import iou
from ssdlite.errors import DataError
from ssdlite.structures import Detections, Record

Color: TypeAlias = tuple[int, int, int]  # RGB, 0..255


WHITE: Color = (255, 255, 255)


BLACK: Color = (0, 0, 0)


GREY: Color = (160, 160, 160)


FONT = cv2.FONT_HERSHEY_SIMPLEX


JPEG_QUALITY = 92


FOUND_IOU = 0.5  # the overlap at which a drawn detection stands for an object


def class_color(label: int) -> Color:
    """A colour for the label 1..K: the same in every picture, and far from those of its neighbours."""
    hue = (0.58 + 0.618034 * (label - 1)) % 1  # the golden ratio never comes near an earlier hue soon
    saturation, value = ((0.80, 0.95), (0.60, 1.0), (0.95, 0.72))[(label - 1) // 7 % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_detections(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    scores: np.ndarray | None = None,
    *,
    color: Color | None = None,
) -> np.ndarray:
    """A copy of `image` with a box and a name for each object, the best score on top.

    Args:
        boxes: (D, 4) xyxy pixels.
        labels: (D,) in 1..K; `class_names[label - 1]` is written.
        scores: (D,) in 0..1, written behind the name in percent.
        color: one colour for all; by default each class has its own.
    """
    canvas = _copy(image)
    _draw_objects(canvas, boxes, labels, class_names, scores, color)
    return canvas


def draw_truth(image: np.ndarray, boxes: np.ndarray, ignore: np.ndarray | None = None) -> np.ndarray:
    """A copy of `image` with `boxes` (N, 4) in thin dashes: white, or grey where `ignore` (N,) is set."""
    canvas, style = _copy(image), _Style.of(image)
    for i in range(len(boxes)):
        ignored = ignore is not None and bool(ignore[i])
        _dashed_rectangle(canvas, boxes[i], GREY if ignored else WHITE, style, max(1, style.line_width // 2))
    return canvas


def draw_comparison(
    image: np.ndarray, truth: Record, detections: Detections, class_names: Sequence[str]
) -> np.ndarray:
    """Detections in colour and the ground truth dashed, on one copy of `image`.

    An object of `truth` is named only where no detection of its class overlaps it by .5: those are missed.
    """
    canvas = draw_truth(image, truth.boxes, truth.ignore)
    tags = _draw_objects(canvas, detections.boxes, detections.labels, class_names, detections.scores)
    for i in np.flatnonzero(~_found(truth, detections) & ~truth.ignore):
        tags.write(f"missed {class_names[int(truth.labels[i]) - 1]}", truth.boxes[i], BLACK, inside=True)
    return canvas


class Mark(NamedTuple):
    """A box as it is to be drawn, with a text or without."""

    box: np.ndarray  # (4,) xyxy pixels
    color: Color
    text: str = ""
    is_dashed: bool = False  # with the text at its lower edge


def draw_marks(image: np.ndarray, marks: Sequence[Mark]) -> np.ndarray:
    """A copy of `image` with `marks`: the first lies on top, and its text has the first choice of a place."""
    canvas, style = _copy(image), _Style.of(image)
    for mark in reversed(marks):
        if mark.is_dashed:
            _dashed_rectangle(canvas, mark.box, mark.color, style, style.line_width + 1)
        else:
            cv2.rectangle(canvas, *_corners(canvas, mark.box), mark.color, style.line_width)
    tags = _Tags(canvas, style)
    for mark in marks:
        if mark.text:
            tags.write(mark.text, mark.box, mark.color, inside=mark.is_dashed)
    return canvas


def make_grid(
    images: Sequence[np.ndarray], columns: int, cell_size: tuple[int, int], padding: int = 8
) -> np.ndarray:
    """One white picture of `images` in rows of `columns`, each fitted into `cell_size` (height, width)."""
    assert columns > 0, f"a grid of {columns} columns"
    columns = max(1, min(columns, len(images)))
    rows = max(1, -(-len(images) // columns))
    height, width = cell_size[0] + padding, cell_size[1] + padding
    grid = np.full((rows * height + padding, columns * width + padding, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = padding + i // columns * height, padding + i % columns * width
        grid[top : top + cell_size[0], left : left + cell_size[1]] = _letterbox(image, cell_size)
    return grid


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an RGB image in the format of the file's suffix (JPEG at quality 92), making its folders.

    The file appears whole or not at all. Raises DataError for a suffix that cannot be written.
    """
    path = Path(path)
    jpeg = path.suffix.lower() in (".jpg", ".jpeg")
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if jpeg else []  # OpenCV warns where it has no use
    try:
        done, encoded = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    except cv2.error:
        done = False
    if not done:
        raise DataError(f"{path}: cannot write images as '{path.suffix}'; use .jpg or .png")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(encoded.tobytes())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _draw_objects(
    canvas: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    scores: np.ndarray | None = None,
    color: Color | None = None,
) -> _Tags:
    """`draw_detections` in place; gives the tags, so that more can be written around them."""
    style = _Style.of(canvas)
    order = list(range(len(boxes))) if scores is None else np.argsort(-scores, kind="stable").tolist()
    colors = [color or class_color(int(label)) for label in labels]
    for i in reversed(order):
        cv2.rectangle(canvas, *_corners(canvas, boxes[i]), colors[i], style.line_width)
    tags = _Tags(canvas, style)
    for i in order:  # the best score has the first choice of a place
        name = class_names[int(labels[i]) - 1]
        tags.write(name if scores is None else f"{name} {100 * float(scores[i]):.0f}%", boxes[i], colors[i])
    return tags


class _Style(NamedTuple):
    line_width: int
    font_scale: float
    font_width: int

    @classmethod
    def of(cls, image: np.ndarray) -> _Style:
        side = float(np.sqrt(image.shape[0] * image.shape[1]))
        font_scale = max(0.4, side / 1300)  # below .4 the strokes of the font run together
        return cls(max(1, round(side / 350)), font_scale, max(1, round(font_scale * 1.5)))


class _Tags:
    """Names on a coloured ground, put where they hide neither each other nor leave the image."""

    def __init__(self, canvas: np.ndarray, style: _Style) -> None:
        self._canvas, self._style = canvas, style
        self._taken = np.zeros(canvas.shape[:2], bool)

    def write(self, text: str, box: np.ndarray, color: Color, inside: bool = False) -> None:
        """Write `text` at a corner of `box`; `inside` prefers its lower edge to the place above it."""
        scale, stroke = self._style.font_scale, self._style.font_width
        (text_width, text_height), baseline = cv2.getTextSize(text, FONT, scale, stroke)
        margin = max(2, round(4 * scale))
        width, height = text_width + 2 * margin, text_height + baseline // 2 + 2 * margin
        left, top = self._place(box, width, height, inside)
        self._taken[top : top + height, left : left + width] = True
        cv2.rectangle(self._canvas, (left, top), (left + width - 1, top + height - 1), color, cv2.FILLED)
        dark = np.dot(color, (0.299, 0.587, 0.114)) < 140  # luma, ITU-R BT.601
        origin = (left + margin, top + margin + text_height)
        cv2.putText(self._canvas, text, origin, FONT, scale, WHITE if dark else BLACK, stroke, cv2.LINE_AA)

    def _place(self, box: np.ndarray, width: int, height: int, inside: bool) -> tuple[int, int]:
        """The first free place of a few around the box; if all are taken, the first."""
        (x1, y1), (x2, y2) = _corners(self._canvas, box)
        line = self._style.line_width
        left, right = x1 - line // 2, x2 - width + line // 2 + 1
        above, upper, lower, below = y1 - height + 1, y1, y2 - height + 1, y2
        places = [(left, above), (left, upper), (right, above), (left, below), (right, lower)]
        if inside:
            places = [(left, lower), (left, upper), (right, lower), (left, below), (left, above)]
        canvas_height, canvas_width = self._canvas.shape[:2]
        kept = [(max(0, min(x, canvas_width - width)), max(0, min(y, canvas_height - height))) for x, y in places]
        free = [
            place
            for place in kept
            if not self._taken[place[1] : place[1] + height, place[0] : place[0] + width].any()
        ]
        return (free or kept)[0]


def _found(truth: Record, detections: Detections) -> np.ndarray:
    """(N,) bool: the object is overlapped by a detection of its class."""
    overlap = iou(truth.boxes, detections.boxes)
    return ((overlap >= FOUND_IOU) & (truth.labels[:, None] == detections.labels[None])).any(axis=1)


def _copy(image: np.ndarray) -> np.ndarray:
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3, (image.dtype, image.shape)
    return np.array(image, order="C")


def _corners(canvas: np.ndarray, box: np.ndarray) -> tuple[tuple[int, int], tuple[int, int]]:
    """Whole pixels of the box, brought inside the image."""
    height, width = canvas.shape[:2]
    x1, y1, x2, y2 = np.clip(np.round(box), 0, (width - 1, height - 1) * 2).astype(int).tolist()
    return (x1, y1), (x2, y2)


def _dashed_rectangle(canvas: np.ndarray, box: np.ndarray, color: Color, style: _Style, width: int) -> None:
    (x1, y1), (x2, y2) = _corners(canvas, box)
    # A dark line beneath keeps white dashes visible on white ground.
    cv2.rectangle(canvas, (x1, y1), (x2, y2), BLACK, width)
    dash = 4 * style.line_width + 2
    for start, end in (
        ((x1, y1), (x2, y1)),
        ((x2, y1), (x2, y2)),
        ((x2, y2), (x1, y2)),
        ((x1, y2), (x1, y1)),
    ):
        length = max(abs(end[0] - start[0]), abs(end[1] - start[1]))
        step = np.sign(np.subtract(end, start))
        for begin in range(0, length, 2 * dash):
            a, b = start + step * begin, start + step * min(begin + dash, length)
            cv2.line(canvas, a.tolist(), b.tolist(), color, width)


def _letterbox(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The image at its own aspect ratio in the middle of a light `size` (height, width)."""
    height, width = image.shape[:2]
    scale = min(size[0] / height, size[1] / width)
    new_height, new_width = max(1, round(height * scale)), max(1, round(width * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    cell = np.full((*size, 3), 240, np.uint8)
    top, left = (size[0] - new_height) // 2, (size[1] - new_width) // 2
    cell[top : top + new_height, left : left + new_width] = cv2.resize(
        image, (new_width, new_height), interpolation=method
    )
    return cell
