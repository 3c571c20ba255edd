"""Pictures of drawn shapes, with the boxes that a careful annotator would give them."""

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
    def crop(self) -> tuple[slice, slice]:
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
    patch = canvas[shape.crop]
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


EMPTY_FRACTION = 0.08


OBJECT_COUNT_WEIGHTS = (0.24, 0.24, 0.2, 0.14, 0.09, 0.06, 0.03)  # of 1..7 objects


MIN_EXTENT, MAX_EXTENT = 0.2, 0.6  # √(box area) / √(image area), drawn log-uniform


MIN_EXTENT_PIXELS = 16.0  # below this a star and a cross look the same


MIN_VISIBLE = 0.85  # an object that would show less of itself, or leave another less, is put elsewhere


PLACE_TRIES = 12


@dataclass(frozen=True)
class DrawnObject:
    """One object as it can be seen: what others or the border hide is not counted (modal, as in COCO)."""

    class_name: str
    box: tuple[int, int, int, int]  # xyxy pixels, tight around the visible pixels
    area: int  # visible pixels


def draw_scene(rng: Generator, size: tuple[int, int]) -> tuple[np.ndarray, list[DrawnObject]]:
    """A picture of `size` (height, width) as (H, W, 3) uint8, and its objects from back to front."""
    canvas = _draw_background(rng, size)
    owner = np.zeros(size, np.uint8)  # 1 + the index of the object seen at a pixel; 0 for none
    shapes: list[Shape] = []
    for _ in range(_draw_count(rng)):
        shape = _find_place(rng, owner, shapes)
        if shape is None:
            continue
        shapes.append(shape)
        owner[shape.crop][shape.alpha > 127] = len(shapes)
        paint(rng, canvas, shape)
    objects = [_measure(shape, owner[shape.crop] == index) for index, shape in enumerate(shapes, start=1)]
    return _photograph(rng, canvas), objects


def _draw_count(rng: Generator) -> int:
    if rng.random() < EMPTY_FRACTION:
        return 0
    return 1 + int(rng.choice(len(OBJECT_COUNT_WEIGHTS), p=OBJECT_COUNT_WEIGHTS))


def _find_place(rng: Generator, owner: np.ndarray, shapes: list[Shape]) -> Shape | None:
    """A new shape where it and all it covers stay recognisable; None if the picture has no such place."""
    size: tuple[int, int] = owner.shape
    side = np.sqrt(size[0] * size[1])
    smallest = min(max(MIN_EXTENT * side, MIN_EXTENT_PIXELS), MAX_EXTENT * side)
    extent = np.exp(rng.uniform(np.log(smallest), np.log(MAX_EXTENT * side)))
    class_name = str(rng.choice(list(SHAPES)))
    outline = turned_outline(rng, class_name, extent)
    half = np.ptp(outline[0], axis=0) / 2
    overhang = 0.4 * half if rng.random() < 0.15 else -0.02 * side
    for _ in range(PLACE_TRIES):
        low, high = half - overhang, np.array(size[::-1]) - half + overhang
        shape = place(class_name, outline, rng.uniform(np.minimum(low, high), np.maximum(low, high)), size)
        if _stays_visible(shape, owner, shapes):
            return shape
    return None


def _stays_visible(new: Shape, owner: np.ndarray, shapes: list[Shape]) -> bool:
    covered = new.alpha > 127
    if covered.sum() < MIN_VISIBLE * new.full_area:
        return False
    lost = np.bincount(owner[new.crop][covered], minlength=len(shapes) + 1)
    return all(
        np.count_nonzero(owner[shape.crop] == index) - lost[index] >= MIN_VISIBLE * shape.full_area
        for index, shape in enumerate(shapes, start=1)
        if lost[index]
    )


def _measure(shape: Shape, visible: np.ndarray) -> DrawnObject:
    """`visible` is (h, w) bool over the shape's window."""
    columns, rows = np.flatnonzero(visible.any(axis=0)), np.flatnonzero(visible.any(axis=1))
    x1, x2 = int(columns[0]) + shape.left, int(columns[-1]) + 1 + shape.left
    y1, y2 = int(rows[0]) + shape.top, int(rows[-1]) + 1 + shape.top
    return DrawnObject(shape.class_name, (x1, y1, x2, y2), int(visible.sum()))


# --- background ----------------------------------------------------------------------------------------


def _draw_background(rng: Generator, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8: two or three muted colours mixed by random fields, with clutter on top."""
    planes = _muted_color(rng)[:, None, None]
    for _ in range(rng.integers(1, 3)):
        weight = _FIELDS[rng.integers(len(_FIELDS))](rng, size) * np.float32(rng.uniform(0.4, 1))
        planes = planes + (_muted_color(rng)[:, None, None] - planes) * weight
    planes = planes + (_noise_field(rng, size) - 0.5) * np.float32(rng.uniform(10, 70))
    canvas = cv2.merge(list(np.clip(planes, 0, 255).astype(np.uint8)))
    for _ in range(rng.integers(0, 12)):
        _CLUTTER[rng.integers(len(_CLUTTER))](rng, canvas)
    return canvas


def _muted_color(rng: Generator) -> np.ndarray:
    grey = rng.uniform(20, 235)
    return np.clip(grey + rng.uniform(-60, 60, 3), 0, 255).astype(np.float32)


def _noise_field(rng: Generator, size: tuple[int, int]) -> np.ndarray:
    """(H, W) float32 in 0..1: octaves of value noise, each finer and weaker."""
    cells, persistence = int(rng.integers(2, 5)), rng.uniform(0.4, 0.75)
    total: np.ndarray = rng.random((cells, cells), np.float32)
    for octave in range(1, 6):
        total = cv2.resize(total, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
        total = total + rng.random(total.shape, np.float32) * np.float32(persistence**octave)
    total = (total - total.min()) / np.ptp(total)
    return cv2.resize(total, size[::-1], interpolation=cv2.INTER_LINEAR)


def _gradient_field(rng: Generator, size: tuple[int, int]) -> np.ndarray:
    corners = rng.random((2, 2), np.float32)
    return cv2.resize(corners, size[::-1], interpolation=cv2.INTER_LINEAR)


def _stripe_field(rng: Generator, size: tuple[int, int]) -> np.ndarray:
    """Straight or wavy stripes, soft or hard."""
    angle, period = rng.uniform(0, np.pi), rng.uniform(0.04, 0.2) * max(size)
    x, y = np.arange(size[1], dtype=np.float32)[None], np.arange(size[0], dtype=np.float32)[:, None]
    along = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    if rng.random() < 0.6:
        along = along + _gradient_field(rng, size) * np.float32(3 * period)
    wave = np.sin(along * np.float32(2 * np.pi / period))
    return np.clip(0.5 + wave * np.float32(rng.choice([0.5, 4.0])), 0, 1)


def _patch_field(rng: Generator, size: tuple[int, int]) -> np.ndarray:
    """Flat cells of a random warp: fields and walls seen from afar."""
    return np.floor(_noise_field(rng, size) * int(rng.integers(3, 6))) / 5


_FIELDS: tuple[Callable[[Generator, tuple[int, int]], np.ndarray], ...] = (
    _noise_field,
    _gradient_field,
    _stripe_field,
    _patch_field,
)


def _scribble(rng: Generator, canvas: np.ndarray) -> None:
    """An open, wandering line."""
    height, width = canvas.shape[:2]
    steps = rng.normal(0, rng.uniform(0.03, 0.12) * max(height, width), (int(rng.integers(2, 7)), 2))
    points = rng.uniform(0, 1, 2) * (width, height) + np.cumsum(steps, axis=0)
    _stroke(rng, canvas, points)


def _long_line(rng: Generator, canvas: np.ndarray) -> None:
    height, width = canvas.shape[:2]
    _stroke(rng, canvas, rng.uniform(-0.2, 1.2, (2, 2)) * (width, height))


def _arc(rng: Generator, canvas: np.ndarray) -> None:
    """At most 140 degrees, so that it is no ring."""
    height, width = canvas.shape[:2]
    start, span = rng.uniform(0, 2 * np.pi), np.deg2rad(rng.uniform(40, 140))
    angles = start + np.linspace(0, span, 16)
    radius = rng.uniform(0.05, 0.3) * max(height, width)
    center = rng.uniform(0, 1, 2) * (width, height)
    _stroke(rng, canvas, center + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1))


def _stroke(rng: Generator, canvas: np.ndarray, points: np.ndarray) -> None:
    thickness = int(rng.integers(1, 2 + max(canvas.shape) // 100))
    cv2.polylines(canvas, [points.astype(np.int32)], False, _muted_color(rng).tolist(), thickness, cv2.LINE_AA)


def _blot(rng: Generator, canvas: np.ndarray) -> None:
    """A filled potato."""
    height, width = canvas.shape[:2]
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    radii = np.ones(40)
    for wave in (2, 3):  # no notch is so deep that the blot becomes a heart, no lobe so long as a star's
        radii += rng.uniform(0.03, 0.15) * np.sin(wave * angles + rng.uniform(0, 2 * np.pi))
    radii *= np.exp(rng.uniform(np.log(0.02), np.log(0.18))) * max(height, width)
    points = radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    points += rng.uniform(0, 1, 2) * (width, height)
    cv2.fillPoly(canvas, [points.astype(np.int32)], _muted_color(rng).tolist(), cv2.LINE_AA)


def _speckle(rng: Generator, canvas: np.ndarray) -> None:
    height, width = canvas.shape[:2]
    color, radius = _muted_color(rng).tolist(), int(rng.integers(1, 3))
    middle, spread = rng.uniform(0, 1, 2) * (width, height), rng.uniform(0.05, 0.3) * max(height, width)
    for x, y in rng.normal(middle, spread, (int(rng.integers(8, 40)), 2)):
        cv2.circle(canvas, (int(x), int(y)), radius, color, -1, cv2.LINE_AA)


_CLUTTER: tuple[Callable[[Generator, np.ndarray], None], ...] = (_scribble, _long_line, _arc, _blot, _speckle)


# --- camera --------------------------------------------------------------------------------------------


def _photograph(rng: Generator, canvas: np.ndarray) -> np.ndarray:
    """Blur, uneven light, exposure and sensor noise."""
    size: tuple[int, int] = canvas.shape[:2]
    if rng.random() < 0.4:
        canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.4, 1.3) * max(size) / 256)
    light = (0.75 + 0.5 * _gradient_field(rng, size)) * np.float32(rng.uniform(0.7, 1.25))
    offset = rng.standard_normal(size, np.float32) * np.float32(rng.uniform(1, 8)) + np.float32(
        rng.uniform(-12, 25)
    )
    return cv2.merge([np.clip(plane * light + offset, 0, 255).astype(np.uint8) for plane in cv2.split(canvas)])
