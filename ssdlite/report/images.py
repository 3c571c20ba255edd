"""Pictures of the worst and the best images, with true positives, errors by type and missed objects."""

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
from ssdlite.report.summary import ERROR_NAMES
from ssdlite.structures import Detections, Record

NUM_WORST, NUM_BEST = 10, 4


LONGEST_SIDE = 640  # pixels of a picture


MOST_ENLARGED = 4  # largest scale, for images so small that class names would cover them


JPEG_QUALITY = 78


MAX_MARKS = 60  # boxes in a picture; more would hide the image


MAX_NAMED = 12  # true positives and errors up to which class names are drawn; more would hide the image


TRUE_POSITIVE_COLOR: Color = (52, 168, 83)


MISSED_COLOR: Color = (255, 214, 10)


IGNORED_COLOR: Color = (150, 150, 150)


ERROR_COLORS: dict[ErrorType, Color] = {
    "missed": MISSED_COLOR,
    "wrong class": (200, 60, 200),
    "badly placed": (245, 150, 20),
    "both": (140, 80, 220),
    "duplicate": (50, 130, 245),
    "background": (226, 50, 40),
}


ERROR_WORDS: dict[ErrorType, str] = {
    "missed": "an object that no detection explains",
    "wrong class": "the box fits an object of another class",
    "badly placed": "the class is correct, but the box fits the object too loosely (IoU under .5)",
    "both": "the class is wrong, and the box fits too loosely",
    "duplicate": "another box on an object that was found already",
    "background": "a box where there is no object",
}


class Chip(NamedTuple):
    """Number of errors of a type in one image."""

    kind: str  # name of the type, as in `legend`
    text: str


class Picture(NamedTuple):
    """Image with its matches, as the page shows it."""

    name: str  # the last folder and the file name
    size: tuple[int, int]  # (width, height) of the picture, pixels
    data: str  # a data URI, or "" where the image cannot be read
    problem: str  # why the image cannot be read, or ""
    chips: tuple[Chip, ...]
    summary: str  # '3 of 5 objects found'


def choose_pictures(evaluated: EvaluatedSplit) -> tuple[list[Picture], list[Picture]]:
    """Draw the worst images, then the best."""
    images = evaluated.analysis.images
    worst = worst_images(images, NUM_WORST)
    best = best_images(images, NUM_BEST)
    return [draw_matches(evaluated, image) for image in worst], [draw_matches(evaluated, image) for image in best]


def draw_matches(evaluated: EvaluatedSplit, image: MatchedImage) -> Picture:
    """Draw `image` with its detections and errors; an image that cannot be read gives a picture without data."""
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
    """Return (name, CSS colour, meaning) of true positives and of each error type."""
    rows = [("true positive", _css(TRUE_POSITIVE_COLOR), "a detection that found an object")]
    return rows + [(ERROR_NAMES[kind], _css(ERROR_COLORS[kind]), ERROR_WORDS[kind]) for kind in ERROR_TYPES]


def _marks(image: MatchedImage, record: Record, found: Detections, class_names: tuple[str, ...]) -> list[Mark]:
    """Return boxes, the uppermost first: false positives, missed objects (dashed), true positives, ignored ones."""

    def name(label: int) -> str:
        return shortened(class_names[int(label) - 1])

    def box(detection: int, color: Color, named: bool = True) -> Mark:
        text = f"{name(found.labels[detection])} {100 * float(found.scores[detection]):.0f}%" if named else ""
        return Mark(found.boxes[detection], color, text)

    errors = [(error.detection, error.kind) for error in image.errors]
    false_positives = [box(number, ERROR_COLORS[kind]) for number, kind in errors if number is not None]
    missed = {error.object for error in image.errors if error.kind == "missed"}
    named = len(image.right) + len(image.errors) <= MAX_NAMED
    true_positives = [box(number, TRUE_POSITIVE_COLOR, named) for number in image.right]
    ignored = [box(number, IGNORED_COLOR, named=False) for number in image.excused]
    does_not_count = record.ignore | record.crowd

    def dashes(number: int) -> Mark:
        color = IGNORED_COLOR if does_not_count[number] else MISSED_COLOR if number in missed else WHITE
        text = f"missed {name(record.labels[number])}" if number in missed and named else ""
        return Mark(record.boxes[number], color, text, is_dashed=True)

    objects = [dashes(number) for number in range(len(record.boxes)) if number not in image.found]
    objects.sort(key=lambda mark: mark.color != MISSED_COLOR)
    return false_positives + objects + true_positives + ignored


def _chips(image: MatchedImage) -> tuple[Chip, ...]:
    counts = Counter(error.kind for error in image.errors)
    return tuple(
        Chip(ERROR_NAMES[kind], f"{counts[kind]} {ERROR_NAMES[kind]}") for kind in ERROR_TYPES if counts[kind]
    )


def _fitted(image: np.ndarray) -> tuple[np.ndarray, float]:
    """Return `image` scaled to a longest side of LONGEST_SIDE, at most MOST_ENLARGED times, and the scale."""
    height, width = image.shape[:2]
    scale = min(LONGEST_SIDE / max(height, width), MOST_ENLARGED)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC), scale


def _as_uri(image: np.ndarray) -> str:
    # JPEG's usual chroma subsampling would dull thin coloured lines.
    sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, *sampling]
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.tobytes()).decode('ascii')}"


def _css(color: Color) -> str:
    return f"rgb({color[0]} {color[1]} {color[2]})"
