"""Six shapes, and how one is painted.

Outline makes the class. Colour hints at it, as yellow hints at a helmet: most objects of a class are of one family
of hues, some are of any colour, and textures and borders are random for all.
Points are (x, y) float; a second contour is a hole. All randomness comes from the generator handed in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator

SUBPIXEL_BITS = 4  # OpenCV draws polygons at 1/16 pixel
HINT_FRACTION = 0.93  # of objects that wear their class's hue
HUE_SPREAD = 12.0  # degrees, standard deviation within a class
MIN_COLOR_DISTANCE = 100.0  # Euclidean, 0..255 a channel, between an object and the mean of what it covers

Contours = list[np.ndarray]


def _around(radii: np.ndarray) -> np.ndarray:
    """(V,) radii at equal angles -> (V, 2)."""
    angles = np.arange(len(radii)) * 2 * np.pi / len(radii)
    return radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _ring(rng: Generator) -> Contours:
    return [_around(np.ones(48)), _around(np.full(48, rng.uniform(0.45, 0.68)))]


def _triangle(rng: Generator) -> Contours:
    return [np.array([[-1.0, 1.0], [1.0, 1.0], [rng.uniform(-0.5, 0.5), rng.uniform(-1.1, -0.6)]])]


def _rectangle(rng: Generator) -> Contours:
    half = rng.uniform(0.42, 1.0)
    return [np.array([[-1.0, -half], [1.0, -half], [1.0, half], [-1.0, half]])]


def _star(rng: Generator) -> Contours:
    return [_around(np.tile([1.0, rng.uniform(0.38, 0.5)], 5))]


def _cross(rng: Generator) -> Contours:
    arm = rng.uniform(0.24, 0.36)
    corner = np.array([[1.0, -arm], [1.0, arm], [arm, arm]])
    quarter_turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    return [np.concatenate([corner @ np.linalg.matrix_power(quarter_turn, turn) for turn in range(4)])]


def _heart(rng: Generator) -> Contours:
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 5 * np.cos(2 * t) + 2 * np.cos(3 * t) + np.cos(4 * t) - 13 * np.cos(t)
    return [np.stack([x, y * rng.uniform(0.9, 1.15)], axis=1)]


SHAPES: dict[str, Callable[[Generator], Contours]] = {
    "ring": _ring,
    "triangle": _triangle,
    "rectangle": _rectangle,
    "star": _star,
    "cross": _cross,
    "heart": _heart,
}


@dataclass(frozen=True, eq=False)
class Shape:
    """A shape at its place in the image."""

    class_name: str
    contours: Contours  # image pixels; may lie outside the image in part
    left: int
    top: int
    alpha: np.ndarray  # (h, w) uint8 coverage of the part inside the image; h or w may be 0
    full_area: float  # pixels², the part outside the image included

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the image that `alpha` covers."""
        height, width = self.alpha.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def turned_outline(rng: Generator, class_name: str, extent: float) -> Contours:
    """The outline of a class, stretched, turned, about the origin; √(box area) is `extent` pixels."""
    contours = SHAPES[class_name](rng)
    stretch = np.diag([1.0, rng.uniform(0.72, 1.0)])
    matrix = _rotation(rng.uniform(0, np.pi)) @ stretch @ _rotation(rng.uniform(0, 2 * np.pi))
    turned = [contour @ matrix.T for contour in contours]
    low, high = turned[0].min(axis=0), turned[0].max(axis=0)
    scale = extent / np.sqrt(np.prod(high - low))
    return [(contour - (low + high) / 2) * scale for contour in turned]


def _rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def place(class_name: str, outline: Contours, center: np.ndarray, size: tuple[int, int]) -> Shape:
    """`outline` with its box centred at `center` (x, y) of an image of `size` (height, width)."""
    contours = [contour + center for contour in outline]
    limits = np.array(size[::-1])
    left, top = np.clip(np.floor(contours[0].min(axis=0)).astype(int) - 1, 0, limits)
    right, bottom = np.clip(np.ceil(contours[0].max(axis=0)).astype(int) + 2, 0, limits)
    alpha = np.zeros((max(0, bottom - top), max(0, right - left)), np.uint8)
    if alpha.size:
        cv2.fillPoly(alpha, _fixed_point(contours, left, top), 255, cv2.LINE_AA, SUBPIXEL_BITS)
    outer, *holes = (contour.astype(np.float32) for contour in contours)
    # OpenCV also paints half a pixel beyond every edge.
    rim = sum(cv2.arcLength(contour, True) for contour in (outer, *holes)) / 2
    full_area = cv2.contourArea(outer) - sum(map(cv2.contourArea, holes)) + rim
    return Shape(class_name, contours, int(left), int(top), alpha, full_area)


def paint(rng: Generator, canvas: np.ndarray, shape: Shape) -> None:
    """Fills `shape` on `canvas` (H, W, 3) uint8 BGR with a random gradient, texture and border."""
    patch = canvas[shape.window]
    behind = patch.mean(axis=(0, 1))
    first, second = _contrasting_colors(rng, behind, shape.class_name)
    weight = _texture(rng, patch.shape[:2])[..., None]
    fill = first + (second - first) * weight
    if rng.random() < 0.5:
        _draw_border(rng, fill, shape)
    alpha = shape.alpha[..., None].astype(np.float32) / 255
    patch[:] = patch + (fill - patch) * alpha + 0.5


def _contrasting_colors(rng: Generator, behind: np.ndarray, class_name: str) -> np.ndarray:
    """(2, 3) float32; neither they nor any mixture of them comes near the mean colour behind."""
    mixture = np.linspace(0, 1, 5)[:, None]
    hinted = rng.random() < HINT_FRACTION
    while True:
        first, second = _class_colors(rng, class_name) if hinted else rng.uniform(0, 255, (2, 3))
        mixed = first + (second - first) * mixture
        if np.linalg.norm(mixed - behind, axis=1).min() >= MIN_COLOR_DISTANCE:
            return np.stack([first, second]).astype(np.float32)


def _class_colors(rng: Generator, class_name: str) -> np.ndarray:
    """(2, 3) BGR 0..255: two shades of one hue; the classes' hues are spread evenly over the circle."""
    center = 360 / len(SHAPES) * list(SHAPES).index(class_name)
    hues = np.full(2, rng.normal(center, HUE_SPREAD) % 360)
    shades = np.stack([hues, rng.uniform(0.6, 1, 2), rng.uniform(0.6, 1, 2)], axis=1)
    return cv2.cvtColor(shades[None].astype(np.float32), cv2.COLOR_HSV2BGR)[0] * 255


def _texture(rng: Generator, size: tuple[int, int]) -> np.ndarray:
    """(h, w) float32 in 0..1: how much of the second colour shows."""
    height, width = size
    angle, scale = rng.uniform(0, 2 * np.pi), max(height, width)
    x = (np.arange(width, dtype=np.float32) / scale)[None]
    y = (np.arange(height, dtype=np.float32) / scale)[:, None]
    along = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    across = y * np.float32(np.cos(angle)) - x * np.float32(np.sin(angle))
    frequency = np.float32(rng.uniform(12, 32))
    match rng.integers(6):
        case 0:
            return np.full(size, rng.random(), np.float32)
        case 1:
            return 0.5 + 0.5 * np.sin(frequency * along)
        case 2:
            return 0.5 + 0.5 * np.sin(frequency * along) * np.sin(frequency * across)
        case 3:
            cells = rng.random((6, 6), np.float32)
            return cv2.resize(cells, (width, height), interpolation=cv2.INTER_LINEAR)
        case _:
            return (along - along.min()) / max(float(np.ptp(along)), 1e-6)


def _draw_border(rng: Generator, fill: np.ndarray, shape: Shape) -> None:
    """A stroke along the outline; the half of it outside the shape is cut off by the coverage."""
    color = rng.uniform(0, 1, 3) * 60 if rng.random() < 0.5 else 255 - rng.uniform(0, 1, 3) * 60
    thickness = max(2, round(np.sqrt(fill.shape[0] * fill.shape[1]) * rng.uniform(0.04, 0.12)))
    points = _fixed_point(shape.contours, shape.left, shape.top)
    stroke = np.zeros(fill.shape[:2], np.uint8)
    cv2.polylines(stroke, points, True, 255, thickness, cv2.LINE_AA, SUBPIXEL_BITS)
    fill += (color.astype(np.float32) - fill) * (stroke[..., None].astype(np.float32) / 255)


def _fixed_point(contours: Contours, left: int, top: int) -> list[np.ndarray]:
    """Contours relative to a window's corner, in 1/16 pixel. OpenCV's pixel centres are whole numbers."""
    return [np.round((contour - (left, top) - 0.5) * 2**SUBPIXEL_BITS).astype(np.int32) for contour in contours]
