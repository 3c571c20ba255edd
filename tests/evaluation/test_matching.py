"""COCO's rule against pycocotools, and where VOC's differs from it; VOC's figures are in test_voc.py."""

import numpy as np
import pytest

from ssdlite.evaluation.coco import PycocotoolsClassEval, to_xywh
from ssdlite.evaluation.matching import FALSE_POSITIVE, IGNORED, TRUE_POSITIVE, match_coco, match_split, match_voc
from ssdlite.structures import DataSplit, Detections

from .cases import hard_case, make_detections, make_record, random_case

A, B = (0, 0, 10, 10), (3, 0, 13, 10)
FAR = (500, 500, 510, 510)


def test_each_object_is_taken_once():
    record = make_record(1, [(A, 1), (FAR, 2)])
    matched = match_coco(record, make_detections((A, 0.9, 1), (A, 0.8, 1), (A, 0.7, 2), (FAR, 0.6, 2)))
    assert matched.outcome.tolist() == [TRUE_POSITIVE, FALSE_POSITIVE, FALSE_POSITIVE, TRUE_POSITIVE]
    assert matched.matched.tolist() == [0, -1, -1, 1]
    assert matched.found_by.tolist() == [0, 3]


def test_a_taken_object_sends_on_to_the_next_in_coco_and_not_in_voc():
    record = make_record(1, [(A, 1), (B, 1)])
    found = make_detections((A, 0.9, 1), ((1, 0, 11, 10), 0.8, 1))  # the second overlaps A by 9/11, B by 8/12
    assert match_coco(record, found).matched.tolist() == [0, 1]
    assert match_voc(record, found).matched.tolist() == [0, -1]
    assert match_voc(record, found).found_by.tolist() == [0, -1]


def test_ignored_objects_excuse():
    record = make_record(1, [(A, 1), (FAR, 1), ((100, 0, 200, 100), 1)], difficult=[0], crowd=[2])
    in_crowd = ((100, 0, 110, 10), 0.5, 1), ((150, 50, 160, 60), 0.4, 1)
    found = make_detections((A, 0.9, 1), (A, 0.8, 1), (FAR, 0.7, 1), *in_crowd)
    coco, voc = match_coco(record, found), match_voc(record, found)
    # A difficult object takes one detection in COCO and all in VOC; a crowd takes all in both.
    assert coco.outcome.tolist() == [IGNORED, FALSE_POSITIVE, TRUE_POSITIVE, IGNORED, IGNORED]
    assert voc.outcome.tolist() == [IGNORED, IGNORED, TRUE_POSITIVE, IGNORED, IGNORED]
    assert coco.matched.tolist() == [0, -1, 1, 2, 2] and voc.matched.tolist() == [0, 0, 1, 2, 2]
    assert coco.found_by.tolist() == voc.found_by.tolist() == [-1, 2, -1]


def test_an_object_that_counts_comes_before_a_better_one_that_is_ignored():
    record = make_record(1, [(A, 1), (B, 1)], difficult=[0])
    assert match_coco(record, make_detections((A, 0.9, 1))).matched.tolist() == [1]  # IoU 7/13 before 1
    assert match_voc(record, make_detections((A, 0.9, 1))).matched.tolist() == [0]


@pytest.mark.parametrize("match", [match_coco, match_voc])
def test_nothing_there(match):
    empty, full = make_record(1, []), make_record(1, [(A, 1)])
    found = make_detections((A, 0.9, 1))
    assert match(empty, found).outcome.tolist() == [FALSE_POSITIVE] and not len(match(empty, found).found_by)
    assert match(full, Detections.empty()).found_by.tolist() == [-1]
    assert not len(match(empty, Detections.empty()).outcome)


@pytest.mark.parametrize("threshold", [0.5, 0.75])
@pytest.mark.parametrize("case", [random_case, hard_case])
def test_equals_pycocotools(case, threshold):
    split, detections = case(3)
    matches = match_split(split, detections, threshold)
    compared = 0
    for index, (found, matched) in enumerate(zip(detections, matches, strict=True)):
        for label in range(1, len(split.class_names) + 1):
            ours = matched.outcome[found.labels == label].tolist()
            assert ours == pycocotools_outcomes(split, index, found, label, threshold)
            compared += len(ours)
    assert compared > 150


def pycocotools_outcomes(
    split: DataSplit, index: int, found: Detections, label: int, threshold: float
) -> list[int]:
    record = split.records[index]
    objects, chosen = np.flatnonzero(record.labels == label), np.flatnonzero(found.labels == label)
    if not len(objects) and not len(chosen):
        return []
    evaluation = PycocotoolsClassEval(iouType="bbox")
    evaluation.truths = [
        {"image": 0, "id": n + 1, "bbox": box, "area": 1.0, "ignore": int(ignore), "iscrowd": int(crowd)}
        for n, (box, ignore, crowd) in enumerate(
            zip(to_xywh(record.boxes[objects]), record.ignore[objects], record.crowd[objects], strict=True)
        )
    ]
    evaluation.found = [
        {"image": 0, "id": n + 1, "bbox": box, "area": 1.0, "score": float(score)}
        for n, (box, score) in enumerate(zip(to_xywh(found.boxes[chosen]), found.scores[chosen], strict=True))
    ]
    params = evaluation.params
    params.catIds, params.imgIds, params.maxDets, params.iouThrs = [1], [0], [1000], np.array([threshold])
    params.areaRng = params.areaRng[:1]
    evaluation.evaluate()
    (result,) = evaluation.evalImgs
    pairs = zip(result["dtMatches"][0], result["dtIgnore"][0], strict=True)
    return [IGNORED if ignored else TRUE_POSITIVE if match else FALSE_POSITIVE for match, ignored in pairs]
