"""COCO's twelve figures, and COCO's result files (Lin et al. 2014; "Detection Evaluation" on cocodataset.org).

Precision and recall come one class at a time from faster-coco-eval where it is installed, else from pycocotools.
Both give the same figures; one class at a time keeps the memory small, because pycocotools holds a dictionary for
every image, class and area range until the end.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import count, pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from pycocotools.cocoeval import COCOeval

from ssdlite.errors import ConfigError, DataError
from ssdlite.io import one_line, quoted, read_json
from ssdlite.structures import DataSplit, Detections, ImageId

logger = logging.getLogger(__name__)


Backend: TypeAlias = Literal["auto", "pycocotools", "faster"]
"""Package that evaluates: "auto" is faster-coco-eval where it is installed and works, else pycocotools."""


LARGEST_SHARE = 1e5  # of the image's side: in place of infinity, the square of which is COCO's largest area


Rows: TypeAlias = list[dict[str, Any]]
"""Annotations in COCO's words with their "image", a number in the order of the ids of the images."""


class Curves(NamedTuple):
    """Precision and recall that COCO's figures are means of; -1 where a class has no object that counts.

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
    """Yield the rows of `columns`, (N, ...) each, for the labels 1 to `num_classes`, one image after the other.

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


SUMMARY_NAMES = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large"),
)
"""Names of the figures in the order of `COCOeval.stats`."""


LARGEST = float(np.finfo(np.float32).max) / 2  # the sum of two is what `Detections` can hold


class CocoMetrics(NamedTuple):
    """Figures in 0..1; NaN where the split has no object that could count."""

    summary: dict[str, float]  # the names of SUMMARY_NAMES
    ap: dict[str, float]  # class name -> AP over IoU .50:.05:.95
    ap50: dict[str, float]  # class name -> AP at IoU .50
    curves: Curves  # what the figures are means of


def coco_metrics(split: DataSplit, detections: Sequence[Detections], backend: Backend = "auto") -> CocoMetrics:
    """COCO's figures for `detections[i]` found in the image of `split.records[i]`.

    A crowd takes any number of detections that lie in it (intersection over detection area). Any other
    ignored object (VOC's difficult) takes one by the ordinary IoU, and neither counts.

    `backend` says which package evaluates; the figures are the same. Raises ConfigError if it is "faster" and
    faster-coco-eval is missing or does not work.
    """
    assert len(detections) == len(split), f"{len(detections)} detections for {len(split)} images"
    curves = coco_curves(split, detections, backend)
    summary = {name: _or_nan(value) for name, value in zip(SUMMARY_NAMES, _summarize(curves), strict=True)}
    precision = curves.precision[:, :, :, 0, -1]  # all areas, 100 detections -> (T, R, K)
    ap = {name: _or_nan(precision[:, :, k].mean()) for k, name in enumerate(split.class_names)}
    ap50 = {name: _or_nan(precision[0, :, k].mean()) for k, name in enumerate(split.class_names)}
    return CocoMetrics(summary, ap, ap50, curves)


def _summarize(curves: Curves) -> np.ndarray:
    """The twelve figures, as pycocotools takes them from the curves."""
    evaluation = COCOeval(iouType="bbox")
    evaluation.eval = curves._asdict()
    with contextlib.redirect_stdout(io.StringIO()):  # it reports by print
        evaluation.summarize()
    return evaluation.stats


def to_coco_results(split: DataSplit, detections: Sequence[Detections]) -> list[dict[str, Any]]:
    """COCO's result format, with the data set's own image and category ids.

    Boxes are rounded to .01 px and scores to 1e-6: half the size of the file, and no figure moves.
    """
    assert len(detections) == len(split), f"{len(detections)} detections for {len(split)} images"
    return [
        row
        for record, found in zip(split.records, detections, strict=True)
        for row in to_coco_rows(found, record.image_id, split.category_ids)
    ]


def to_coco_rows(found: Detections, image_id: ImageId, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """`to_coco_results` of one image, its labels 1..K being numbered as `category_ids` says."""
    return [
        {
            "image_id": image_id,
            "category_id": category_ids[int(label) - 1],
            "bbox": [round(value, 2) for value in box],
            "score": round(float(score), 6),
        }
        for box, score, label in zip(to_xywh(found.boxes).tolist(), found.scores, found.labels, strict=True)
    ]


def read_coco_results(path: Path, split: DataSplit) -> list[Detections]:
    """The detections of a COCO result file, one entry for each record of `split`, best first.

    Ids are compared as text, so that 12 finds "12" and a VOC stem finds itself.

    Raises:
        DataError: the file is missing or malformed, or names images or categories that `split` lacks.
    """
    rows = _read_rows(path)
    index_of = {str(record.image_id): index for index, record in enumerate(split.records)}
    label_of = {str(category_id): label for label, category_id in enumerate(split.category_ids, start=1)}
    _refuse_unknown(path, "image", [row["image_id"] for row in rows], index_of)
    _refuse_unknown(path, "category", [row["category_id"] for row in rows], label_of)
    rows_of: list[list[dict[str, Any]]] = [[] for _ in split.records]
    for row in rows:
        rows_of[index_of[str(row["image_id"])]].append(row)
    return [_to_detections(rows, label_of) for rows in rows_of]


def _read_rows(path: Path) -> list[dict[str, Any]]:
    path = Path(path)
    try:
        rows = read_json(path)
    except OSError as error:
        raise DataError(f"{path}: cannot read the results ({error.strerror}); check the path") from error
    except ValueError as error:
        raise DataError(f"{path}: not a JSON file ({one_line(str(error))}); write the results again") from error
    if not isinstance(rows, list):
        raise DataError(
            f"{path}: expected a list of results with image_id, category_id, bbox and score, found "
            f"{type(rows).__name__}; give the result file, not the annotations"
        )
    for number, row in enumerate(rows):
        if reason := _reason(row):
            raise DataError(f"{path}: result {number} {reason}; write the results again in COCO's format")
    return rows


def _reason(row: object) -> str | None:
    """Return the reason why an entry of a result file is refused, as the rest of a sentence."""
    if not isinstance(row, dict):
        return f"is {type(row).__name__} where an object was expected"
    missing = [key for key in ("image_id", "category_id", "bbox", "score") if key not in row]
    if missing:
        return f"has no {' and no '.join(missing)}"
    for key in ("image_id", "category_id"):
        if type(row[key]) not in (int, str):
            return f"has {key} {quoted(row[key])} where a number or text was expected"
    box = row["bbox"]
    if not (isinstance(box, list) and len(box) == 4 and all(map(_is_finite, box)) and min(box[2:]) >= 0):
        return f"has bbox {quoted(box)} where [x, y, width, height] in pixels was expected"
    if not _is_finite(row["score"]):
        return f"has score {quoted(row['score'])} where a finite number was expected"
    return None


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def _refuse_unknown(path: Path, kind: str, ids: Sequence[object], known: Collection[str]) -> None:
    """Raise DataError if any of `ids` is not in `known`."""
    unknown = list(dict.fromkeys(str(id_) for id_ in ids if str(id_) not in known))
    if not unknown:
        return
    named, expected = _first(unknown), _first(list(known))
    if len(unknown) == len({str(id_) for id_ in ids}):
        raise DataError(
            f"{path}: none of its {kind} ids ({named}) is in this split (which has {expected}), so the file "
            "belongs to another data set or split; evaluate it against the one it was made from"
        )
    raise DataError(
        f"{path}: {len(unknown)} of its {kind} ids are not in this split ({named}); "
        "evaluate it against the split that it was made from"
    )


def _first(names: Sequence[str], count: int = 5) -> str:
    return one_line(", ".join(names[:count]) + (", ..." if len(names) > count else ""), 200)


def _to_detections(rows: Sequence[dict[str, Any]], label_of: Mapping[str, int]) -> Detections:
    if not rows:
        return Detections.empty()
    boxes = np.array([row["bbox"] for row in rows], np.float64)
    boxes[:, 2:] += boxes[:, :2]
    scores = np.array([row["score"] for row in rows], np.float32)
    labels = np.array([label_of[str(row["category_id"])] for row in rows], np.int64)
    order = np.argsort(-scores, kind="stable")
    return Detections(boxes[order].astype(np.float32), scores[order], labels[order])


def _or_nan(value: float) -> float:
    """pycocotools marks what is undefined by -1."""
    return math.nan if value < 0 else float(value)
