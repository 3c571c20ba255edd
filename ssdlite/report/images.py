"""The images to look at, with what is right and wrong in them."""

from __future__ import annotations

import base64
from collections import Counter
from typing import NamedTuple

import cv2
import numpy as np

from ssdlite.data.images import read_annotated
from ssdlite.drawing import WHITE, Color, Mark, draw_marks
from ssdlite.errors import DataError
from ssdlite.evaluation.errors import ERROR_TYPES, ErrorType, MatchedImage, best_images, worst_images
from ssdlite.report.data import EvaluatedSplit
from ssdlite.report.figure import shortened
from ssdlite.report.formatting import counted
from ssdlite.structures import Detections, Record

NUM_WORST, NUM_BEST = 10, 4


LONGEST_SIDE = 640  # pixels of a picture


MOST_ENLARGED = 4  # times, for images so small that names would cover them


JPEG_QUALITY = 78


MAX_MARKS = 60  # boxes of a picture; more would hide it


MAX_NAMED = 12  # right detections and missed objects that are named; of more the names would hide the image


RIGHT_COLOR: Color = (52, 168, 83)


MISSED_COLOR: Color = (255, 214, 10)


EXCUSED_COLOR: Color = (150, 150, 150)


ERROR_COLORS: dict[ErrorType, Color] = {
    "missed": MISSED_COLOR,
    "wrong class": (200, 60, 200),
    "badly placed": (245, 150, 20),
    "both": (140, 80, 220),
    "duplicate": (50, 130, 245),
    "background": (226, 50, 40),
}


ERROR_WORDS: dict[ErrorType, str] = {
    "missed": "an object that was not found",
    "wrong class": "an object was found, but taken for another class",
    "badly placed": "the class is right, but the box fits too badly (IoU under .5)",
    "both": "another class, and a box that fits badly",
    "duplicate": "a second box for an object that was found already",
    "background": "a box where no object is",
}


class Chip(NamedTuple):
    """Number of errors of a type in one image."""

    kind: str
    text: str


class Picture(NamedTuple):
    """One image as the page shows it."""

    name: str  # of the file and its folder
    size: tuple[int, int]  # (width, height) of the picture, pixels
    data: str  # a data URI, or "" where the image cannot be read
    problem: str  # why it cannot
    chips: tuple[Chip, ...]
    summary: str  # '3 of 5 objects found'


def choose_pictures(evaluated: EvaluatedSplit) -> tuple[list[Picture], list[Picture]]:
    """The worst images and the best, drawn."""
    images = evaluated.analysis.images
    worst = worst_images(images, NUM_WORST)
    best = best_images(images, NUM_BEST)
    return [draw_matches(evaluated, image) for image in worst], [draw_matches(evaluated, image) for image in best]


def draw_matches(evaluated: EvaluatedSplit, image: MatchedImage) -> Picture:
    """`image` with its detections and errors; a picture without data where it cannot be read."""
    record = evaluated.split.records[image.index]
    detections = evaluated.detections[image.index]
    try:
        pixels, problem = read_annotated(record), ""
    except DataError as error:
        pixels, problem = None, str(error)
    data, size = "", (4, 3)
    if pixels is not None:
        pixels, scale = _fitted(pixels)
        marks = _marks(image, record, detections, evaluated.split.class_names)[:MAX_MARKS]
        drawn = draw_marks(pixels, [mark._replace(box=mark.box * scale) for mark in marks])
        data, size = _as_uri(drawn), (drawn.shape[1], drawn.shape[0])
    found = f"{len(image.found)} of {counted(image.num_objects, 'object')} found"
    summary = found if image.num_objects else "no objects"
    name = "/".join(record.image_path.parts[-2:])
    return Picture(name, size, data, problem, _chips(image), summary)


def legend() -> list[tuple[str, str, str]]:
    """(name, CSS colour, meaning) of everything that a picture may show."""
    rows = [("right", _css(RIGHT_COLOR), "an object that was found")]
    return rows + [(kind, _css(ERROR_COLORS[kind]), ERROR_WORDS[kind]) for kind in ERROR_TYPES]


def _marks(image: MatchedImage, record: Record, found: Detections, class_names: tuple[str, ...]) -> list[Mark]:
    """Return what is wrong on top of what is right, and beneath in dashes the objects that were not found."""

    def name(label: int) -> str:
        return shortened(class_names[int(label) - 1])

    def box(detection: int, color: Color, named: bool = True) -> Mark:
        text = f"{name(found.labels[detection])} {100 * float(found.scores[detection]):.0f}%" if named else ""
        return Mark(found.boxes[detection], color, text)

    errors = [(error.detection, error.kind) for error in image.errors]
    false = [box(number, ERROR_COLORS[kind]) for number, kind in errors if number is not None]
    missed = {error.object for error in image.errors if error.kind == "missed"}
    named = len(image.right) + len(image.errors) <= MAX_NAMED
    right = [box(number, RIGHT_COLOR, named) for number in image.right]
    excused = [box(number, EXCUSED_COLOR, named=False) for number in image.excused]
    ignored = record.ignore | record.crowd

    def dashes(number: int) -> Mark:
        color = EXCUSED_COLOR if ignored[number] else MISSED_COLOR if number in missed else WHITE
        text = f"missed {name(record.labels[number])}" if number in missed and named else ""
        return Mark(record.boxes[number], color, text, is_dashed=True)

    objects = [dashes(number) for number in range(len(record.boxes)) if number not in image.found]
    return false + sorted(objects, key=lambda mark: mark.color != MISSED_COLOR) + right + excused


def _chips(image: MatchedImage) -> tuple[Chip, ...]:
    counts = Counter(error.kind for error in image.errors)
    return tuple(Chip(kind, f"{counts[kind]} {kind}") for kind in ERROR_TYPES if counts[kind])


def _fitted(image: np.ndarray) -> tuple[np.ndarray, float]:
    """`image` with a longest side of LONGEST_SIDE, as far as that is sensible, and by how much it was scaled."""
    height, width = image.shape[:2]
    scale = min(LONGEST_SIDE / max(height, width), MOST_ENLARGED)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC), scale


def _as_uri(image: np.ndarray) -> str:
    # Halving the resolution of colour, as JPEG else does, would dull thin lines.
    sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, *sampling]
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode('ascii')}"


def _css(color: Color) -> str:
    return f"rgb({color[0]} {color[1]} {color[2]})"
