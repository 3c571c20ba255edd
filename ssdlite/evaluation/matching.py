"""Matching of detections and objects of an image, by COCO's rule and by VOC's.

Both take detections in the order of their scores and compare them with the objects of their own class only. They
differ in what a detection does whose best object is taken: COCO's takes the best of those that are free, VOC's is
wrong. Objects that are ignored (difficult, crowd) neither count nor punish, and a crowd takes all that lies in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ssdlite.boxes_np import coverage, iou
from ssdlite.structures import DataSplit, Detections, Record

TRUE_POSITIVE, FALSE_POSITIVE, IGNORED = 1, 0, -1


class ImageMatches(NamedTuple):
    """Outcomes of the D detections and the N objects of one image, in their own orders."""

    outcome: (
        np.ndarray
    )  # (D,) int64: TRUE_POSITIVE, FALSE_POSITIVE, or IGNORED for one that an ignored object excuses
    matched: np.ndarray  # (D,) int64: the object that a detection took; -1 where it is FALSE_POSITIVE
    found_by: (
        np.ndarray
    )  # (N,) int64: the TRUE_POSITIVE detection that took an object; -1 where none did, or it is ignored


def match_coco(record: Record, found: Detections, iou_threshold: float = 0.5) -> ImageMatches:
    """COCO's rule (cocodataset.org, "Detection Evaluation"), without its limit of 100 detections a class.

    A detection takes the free object of its class that it overlaps most, by at least `iou_threshold`; one that
    counts before one that is ignored. A crowd is never used up, and its overlap is the share of the detection that
    lies in it.
    """
    outcome, matched = _nothing_found(found)
    ignored = record.ignore | record.crowd
    overlap = _overlap(record, found)
    near = overlap >= iou_threshold
    is_free = np.ones(len(record.labels), bool)
    rank = _by_score(found)
    for detection in rank[near[rank].any(axis=1)]:
        free = near[detection] & (is_free | record.crowd)
        counting = free & ~ignored
        chosen = counting if counting.any() else free
        if chosen.any():
            # Of equals the last, as in the original.
            best = len(chosen) - 1 - int(np.where(chosen, overlap[detection], -1)[::-1].argmax())
            is_free[best] = False
            matched[detection] = best
            outcome[detection] = IGNORED if ignored[best] else TRUE_POSITIVE
    return ImageMatches(outcome, matched, _found_by(record, outcome, matched))


def match_voc(record: Record, found: Detections, iou_threshold: float = 0.5) -> ImageMatches:
    """VOC's rule (Everingham et al. 2010, sec. 4.2).

    A detection belongs to the object of its class that it overlaps most. It is right if that overlap is at least
    `iou_threshold` and no better one took the object.
    """
    outcome, matched = _nothing_found(found)
    if not len(found.scores) or not len(record.labels):
        return ImageMatches(outcome, matched, _found_by(record, outcome, matched))
    overlap = _overlap(record, found)
    to_objects = np.where(record.crowd, -1, overlap)
    best = to_objects.argmax(axis=1)
    rank = _by_score(found)
    hits = rank[to_objects[rank, best[rank]] >= iou_threshold]
    _, first = np.unique(best[hits], return_index=True)
    outcome[hits[first]] = TRUE_POSITIVE
    outcome[hits[record.ignore[best[hits]]]] = IGNORED
    matched[outcome != FALSE_POSITIVE] = best[outcome != FALSE_POSITIVE]

    to_crowds = np.where(record.crowd, overlap, -1)
    in_crowd = (to_crowds.max(axis=1) >= iou_threshold) & (outcome == FALSE_POSITIVE)
    outcome[in_crowd], matched[in_crowd] = IGNORED, to_crowds.argmax(axis=1)[in_crowd]
    return ImageMatches(outcome, matched, _found_by(record, outcome, matched))


def match_split(
    split: DataSplit, detections: Sequence[Detections], iou_threshold: float = 0.5
) -> list[ImageMatches]:
    """`judge_coco` of `detections[i]` found in the image of `split.records[i]`."""
    assert len(detections) == len(split), f"{len(detections)} detections for {len(split)} images"
    return [match_coco(*pair, iou_threshold) for pair in zip(split.records, detections, strict=True)]


def _overlap(record: Record, found: Detections) -> np.ndarray:
    """(D, N): IoU with the objects of the same class and coverage by its crowds; -1 for other classes."""
    same_class = found.labels[:, None] == record.labels[None]
    overlap = iou(found.boxes, record.boxes)
    if record.crowd.any():
        overlap = np.where(record.crowd, coverage(found.boxes, record.boxes), overlap)
    return np.where(same_class, overlap, -1.0)


def _by_score(found: Detections) -> np.ndarray:
    return np.argsort(-found.scores, kind="stable")


def _nothing_found(found: Detections) -> tuple[np.ndarray, np.ndarray]:
    return np.full(len(found.scores), FALSE_POSITIVE, np.int64), np.full(len(found.scores), -1, np.int64)


def _found_by(record: Record, outcome: np.ndarray, matched: np.ndarray) -> np.ndarray:
    found_by = np.full(len(record.labels), -1, np.int64)
    right = np.flatnonzero(outcome == TRUE_POSITIVE)
    found_by[matched[right]] = right
    return found_by
