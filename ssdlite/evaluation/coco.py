"""COCO's twelve figures, and COCO's result files.

Lin et al. 2014; the figures are defined on cocodataset.org, "Detection Evaluation".
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools.cocoeval import COCOeval

from ssdlite.errors import DataError
from ssdlite.evaluation.coco_curves import Backend, Curves, coco_curves, to_xywh
from ssdlite.files import one_line, quoted, read_json
from ssdlite.structures import DataSplit, Detections, ImageId

SUMMARY_NAMES = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large"),
)
"""In the order of `COCOeval.stats`."""

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

    `backend` says which package judges; the figures are the same. Raises ConfigError if it is "faster" and
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
        if fault := _fault(row):
            raise DataError(f"{path}: result {number} {fault}; write the results again in COCO's format")
    return rows


def _fault(row: object) -> str | None:
    """What is wrong with one entry of a result file, as the rest of a sentence."""
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
