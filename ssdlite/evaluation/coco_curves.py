"""COCO's precision and recall, one class at a time: by faster-coco-eval where it is installed, else by pycocotools.

Both give the same figures. pycocotools keeps a dictionary for every image, class and area range until the end,
which is 2.2 GB for 5,000 images with 100 detections and 80 classes; class by class it is a small part of that.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import count, pairwise
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from pycocotools.cocoeval import COCOeval

from ssdlite.errors import ConfigError
from ssdlite.structures import DataSplit, Detections

logger = logging.getLogger(__name__)

Backend: TypeAlias = Literal["auto", "pycocotools", "faster"]
"""Who judges: "auto" is faster-coco-eval where it is installed and works, else pycocotools."""

LARGEST_SHARE = 1e5  # of the image's side: in place of infinity, the square of which is COCO's largest area

Rows: TypeAlias = list[dict[str, Any]]
"""Annotations in COCO's words with their "image", a number in the order of the ids of the images."""


class Curves(NamedTuple):
    """What COCO's figures are means of; -1 where a class has no object that could count.

    T IoU thresholds .50:.05:.95, R recalls 0:.01:1, K classes, A area ranges (all, small, medium, large, unless
    others are asked for), L limits of detections an image (1, 10, 100).
    """

    precision: np.ndarray  # (T, R, K, A, L)
    recall: np.ndarray  # (T, K, A, L): the highest that is reached


def coco_curves(
    split: DataSplit,
    detections: Sequence[Detections],
    backend: Backend = "auto",
    *,
    side_shares: Sequence[float] | None = None,
) -> Curves:
    """The curves of `detections[i]` found in the image of `split.records[i]`; the rules are `coco_metrics`'s.

    With `side_shares`, (A + 1,) and ascending, the sizes are no longer COCO's: range a holds the boxes whose side,
    as a share of the image's (the root of area over area), is at least side_shares[a] and less than the next.

    Raises ConfigError if `backend` is "faster" and faster-coco-eval is missing or does not work.
    """
    evaluator = _evaluator(backend)
    params = COCOeval(iouType="bbox").params
    ranges = None if side_shares is None else _area_ranges(side_shares)
    T, R, K = len(params.iouThrs), len(params.recThrs), len(split.class_names)
    A, L = len(ranges or params.areaRng), len(params.maxDets)
    curves = Curves(np.full((T, R, K, A, L), -1.0), np.full((T, K, A, L), -1.0))
    for k, (truths, found) in enumerate(_classes(split, detections, ranges is not None) if split.records else ()):
        if truths:
            result = _run(evaluator, truths, found, ranges)
            curves.precision[:, :, k] = result["precision"][:, :, 0]
            curves.recall[:, k] = result["recall"][:, 0]
    return curves


class PycocotoolsClassEval(COCOeval):
    """COCOeval fed from memory with the objects and detections of one class.

    `_prepare` is replaced because the original overwrites `ignore` with `iscrowd`, which would make a
    difficult object either count or absorb every detection around it.
    """

    truths: Rows
    found: Rows

    def _prepare(self) -> None:
        (category,) = self.params.catIds
        self._gts: defaultdict[tuple[int, int], Rows] = defaultdict(list)
        self._dts: defaultdict[tuple[int, int], Rows] = defaultdict(list)
        self.evalImgs: Any = []
        self.eval: dict[str, Any] = {}
        for by_image, rows in ((self._gts, self.truths), (self._dts, self.found)):
            for row in rows:
                by_image[row["image"], category].append(row)


@functools.cache
def load_faster() -> type | None:
    """`FasterClassEval`; None if faster-coco-eval is not installed, or, with a warning, if it does not work.

    What other programs do not need is tried once: that it tells a difficult object from a crowd. One that is hit
    twice excuses one hit, and the other halves the precision of the object found after it.
    """
    hard, plain = [0.0, 0.0, 50.0, 50.0], [100.0, 0.0, 50.0, 50.0]
    truths = [
        {"image": 0, "id": n, "bbox": box, "area": 2500.0, "ignore": ignore, "iscrowd": 0}
        for n, (box, ignore) in enumerate([(hard, 1), (plain, 0)], start=1)
    ]
    found = [
        {"image": 0, "id": n, "bbox": box, "area": 2500.0, "score": 1 - n / 10}
        for n, box in enumerate([hard, hard, plain], start=1)
    ]
    try:
        from ssdlite.evaluation.coco_faster import FasterClassEval

        precision = _run(FasterClassEval, truths, found)["precision"][:, :, 0, 0, -1]
    except Exception as error:  # not installed, another version, another platform's library: anything may come
        if isinstance(error, ModuleNotFoundError) and error.name == "faster_coco_eval":
            return None
        reason = f"{type(error).__name__}: {error}"
    else:
        if np.allclose(precision, 0.5):
            return FasterClassEval
        reason = f"it finds a precision of {precision.mean():.3f} where .5 is right"
    logger.warning(
        "faster-coco-eval is installed but does not work (%s); COCO's figures come from pycocotools, more slowly. "
        "Install it again: pip install --upgrade faster-coco-eval",
        " ".join(reason.split())[:200],
    )
    return None


def _evaluator(backend: Backend) -> type:
    faster = load_faster() if backend != "pycocotools" else None
    if backend == "faster" and faster is None:
        raise ConfigError(
            "backend 'faster' needs a working faster-coco-eval; install it with 'pip install faster-coco-eval', "
            "or choose 'pycocotools'."
        )
    return faster or PycocotoolsClassEval


def _area_ranges(side_shares: Sequence[float]) -> list[list[float]]:
    """The squares of neighbouring shares; COCO's ranges hold both their ends, these the lower one."""
    areas = [min(share, LARGEST_SHARE) ** 2 for share in side_shares]
    return [[low, math.nextafter(high, 0)] for low, high in pairwise(areas)]


def _run(
    evaluator: type, truths: Rows, found: Rows, area_ranges: list[list[float]] | None = None
) -> dict[str, Any]:
    """`COCOeval.eval` for one class; the curves of its arrays "precision" and "recall" have one class."""
    evaluation = evaluator(iouType="bbox")
    if area_ranges is not None:
        evaluation.params.areaRng = area_ranges
        evaluation.params.areaRngLbl = [str(number) for number in range(len(area_ranges))]
    evaluation.truths, evaluation.found = truths, found
    evaluation.params.catIds = [1]
    evaluation.params.imgIds = sorted({row["image"] for row in (*truths, *found)})
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports by print
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval


def _classes(split: DataSplit, detections: Sequence[Detections], relative: bool) -> Iterator[tuple[Rows, Rows]]:
    """The objects and the detections of each class, in the order of `class_names`.

    With `relative` the area is that of the box as a share of the image's, instead of the annotation's own.
    """
    ids = [record.image_id for record in split.records]
    # Images in the order of their ids, as in the original, which breaks ties of the score by it.
    order = sorted(range(len(ids)), key=lambda i: (isinstance(ids[i], str), ids[i]))
    records, results = [split.records[i] for i in order], [detections[i] for i in order]
    boxes = to_xywh(np.concatenate([record.boxes for record in records]))
    areas = np.concatenate([record.areas for record in records]).astype(np.float64)
    image_areas = np.array([float(math.prod(record.size)) for record in records])
    if relative:
        areas = boxes[:, 2] * boxes[:, 3] / np.repeat(image_areas, [len(record.labels) for record in records])
    truths = _by_class(
        [record.labels for record in records],
        len(split.class_names),
        bbox=boxes,
        area=areas,
        ignore=np.concatenate([record.ignore | record.crowd for record in records]).astype(np.int64),
        iscrowd=np.concatenate([record.crowd for record in records]).astype(np.int64),
    )
    boxes = to_xywh(np.concatenate([result.boxes for result in results]))
    areas = boxes[:, 2] * boxes[:, 3]
    if relative:
        areas = areas / np.repeat(image_areas, [len(result.labels) for result in results])
    found = _by_class(
        [result.labels for result in results],
        len(split.class_names),
        bbox=boxes,
        area=areas,
        score=np.concatenate([result.scores for result in results]).astype(np.float64),
    )
    return zip(truths, found, strict=True)


def _by_class(labels: Sequence[np.ndarray], num_classes: int, **columns: np.ndarray) -> Iterator[Rows]:
    """For the labels 1 to `num_classes` their rows of `columns`, (N, ...) each, one image after the other.

    One class is in memory at a time: half a million dictionaries would be 300 MB.
    """
    images = np.repeat(np.arange(len(labels)), np.array([len(each) for each in labels], np.int64))
    joined = np.concatenate(labels)
    order = np.argsort(joined, kind="stable")
    limits = np.searchsorted(joined[order], np.arange(1, num_classes + 2))
    names = ("id", "image", *columns)
    for start, stop in pairwise(limits):
        chosen = order[start:stop]
        lists = [column[chosen].tolist() for column in (images, *columns.values())]
        yield [dict(zip(names, row, strict=True)) for row in zip(count(1), *lists)]  # an id of 0 is "no match"


def to_xywh(boxes: np.ndarray) -> np.ndarray:
    """(N, 4) xyxy of any type -> (N, 4) x, y, width, height in float64."""
    boxes = boxes.reshape(-1, 4).astype(np.float64)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
