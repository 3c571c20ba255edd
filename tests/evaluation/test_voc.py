import math

import numpy as np
import pytest

from ssdlite.evaluation.voc import area_ap, count_objects, eleven_point_ap, voc_metrics
from ssdlite.structures import DataSplit, Detections

from .cases import bccd_split, make_detections, make_record, make_split, random_case, truth_as_detections

A, B, C, D = (0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10), (60, 0, 70, 10)
NOWHERE = (500, 500, 510, 510)


def test_hand_worked_curve():
    # Sorted by score: right, wrong, right, right of 4 objects.
    #   recall     1/4  1/4  2/4  3/4
    #   precision   1   1/2  2/3  3/4     made monotone: 1, 3/4, 3/4, 3/4
    # area: 1/4·1 + 1/4·3/4 + 1/4·3/4 = .625
    # eleven points: 0 .1 .2 -> 1;  .3 .4 .5 .6 .7 -> 3/4;  .8 .9 1 -> 0:  (3 + 3.75) / 11
    split = make_split(make_record(1, [(A, 1), (B, 1)]), make_record(2, [(C, 1), (D, 1)]))
    detections = [
        make_detections((A, 0.9, 1), (NOWHERE, 0.8, 1), (B, 0.6, 1)),
        make_detections((C, 0.7, 1)),
    ]
    metrics = voc_metrics(split, detections)
    assert metrics.ap12["cat"] == pytest.approx(0.625)
    assert metrics.ap07["cat"] == pytest.approx(6.75 / 11)
    assert metrics.map07 == metrics.ap07["cat"]


def test_c36_overlap_of_exactly_the_threshold_is_right():
    split = make_split(make_record(1, [(A, 1)]))
    half = make_detections(((0, 0, 10, 5), 0.9, 1))  # 50 / 100
    assert voc_metrics(split, [half]).ap12["cat"] == 1
    assert voc_metrics(split, [half], iou_threshold=0.51).ap12["cat"] == 0


def test_c36_ties_keep_the_order_of_the_images():
    # Equal scores: the first image's detection comes first, so precision at full recall is 1, not 1/2.
    right, wrong = make_detections((A, 0.5, 1)), make_detections((NOWHERE, 0.5, 1))
    split = make_split(make_record(1, [(A, 1)]), make_record(2, []))
    assert voc_metrics(split, [right, wrong]).ap12["cat"] == 1
    split = make_split(make_record(1, []), make_record(2, [(A, 1)]))
    assert voc_metrics(split, [wrong, right]).ap12["cat"] == 0.5


def test_second_detection_of_an_object_is_wrong():
    # wrong first would cost; here: right, wrong (double), right -> precision 1, 1/2, 2/3
    split = make_split(make_record(1, [(A, 1), (B, 1)]))
    found = make_detections((A, 0.9, 1), (A, 0.8, 1), (B, 0.7, 1))
    assert voc_metrics(split, [found]).ap12["cat"] == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_a_taken_object_is_not_exchanged_for_the_next_best():
    # The second detection overlaps A most (.8) though B (>= .5) is free: the devkit calls it wrong.
    split = make_split(make_record(1, [((0, 0, 10, 10), 1), ((3, 0, 13, 10), 1)]))
    found = make_detections(((0, 0, 10, 10), 0.9, 1), ((1, 0, 11, 10), 0.8, 1))
    assert voc_metrics(split, [found]).ap12["cat"] == 0.5


def test_c37_difficult_objects_neither_count_nor_punish():
    split = make_split(make_record(1, [(A, 1), (B, 1)], difficult=[0]))
    with_hits = make_detections((A, 0.9, 1), (A, 0.8, 1), (B, 0.7, 1))
    metrics = voc_metrics(split, [with_hits])
    # Both hits on the difficult A come first: precision there is 0/0 and must not become NaN.
    assert metrics.ap07["cat"] == metrics.ap12["cat"] == 1
    assert count_objects(split) == {"cat": 1, "dog": 0}


def test_difficult_object_of_another_class_excuses_nothing():
    split = make_split(make_record(1, [(A, 2), (B, 1)], difficult=[0]))
    assert voc_metrics(split, [make_detections((A, 0.9, 1), (B, 0.7, 1))]).ap12["cat"] == 0.5


def test_crowd_takes_what_lies_in_it():
    split = make_split(make_record(1, [((0, 0, 100, 100), 1), ((200, 0, 210, 10), 1)], crowd=[0]))
    inside = [((0, 0, 10, 10), 0.9, 1), ((50, 50, 60, 60), 0.8, 1), ((95, 0, 105, 10), 0.75, 1)]
    real = ((200, 0, 210, 10), 0.7, 1)
    assert voc_metrics(split, [make_detections(*inside, real)]).ap12["cat"] == 1
    outside = ((96, 0, 106, 10), 0.9, 1)  # .4 of it lies in the crowd
    assert voc_metrics(split, [make_detections(outside, real)]).ap12["cat"] == 0.5


@pytest.mark.parametrize("found", range(1, 11))
def test_c38_eleven_points_reach_a_recall_of_exactly_tenths(found):
    # 10 objects, `found` of them, nothing wrong: the recalls 0 .. found/10 are reached.
    objects = [((20 * i, 0, 20 * i + 10, 10), 1) for i in range(10)]
    detections = make_detections(*((box, 0.9, 1) for box, _ in objects[:found]))
    metrics = voc_metrics(make_split(make_record(1, objects)), [detections])
    assert metrics.ap07["cat"] == pytest.approx((found + 1) / 11)


def test_c39_classes_without_objects_are_nan_and_left_out():
    split = make_split(
        make_record(1, [(A, 1), (B, 2)], difficult=[1]), class_names=("cat", "only difficult", "absent")
    )
    metrics = voc_metrics(split, [make_detections((A, 0.9, 1), (B, 0.9, 2), (B, 0.9, 3))])
    assert math.isnan(metrics.ap07["only difficult"]) and math.isnan(metrics.ap12["absent"])
    assert metrics.map07 == metrics.map12 == 1


def test_c40_empty_images_and_empty_splits():
    split = make_split(make_record(1, [(A, 1)]), make_record(2, []), make_record(3, [(A, 1)]))
    found = [make_detections((A, 0.9, 1)), Detections.empty(), Detections.empty()]
    assert voc_metrics(split, found).ap12["cat"] == 0.5
    assert voc_metrics(split, [Detections.empty()] * 3).map12 == 0
    assert math.isnan(voc_metrics(make_split(), []).map07)
    assert math.isnan(voc_metrics(make_split(make_record(1, [])), [make_detections((A, 0.9, 1))]).map12)


def test_empty_curve_has_no_area():
    assert eleven_point_ap(np.zeros(0), np.zeros(0)) == area_ap(np.zeros(0), np.zeros(0)) == 0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threshold", [0.5, 0.75])
def test_equals_a_plain_loop(seed, threshold):
    split, detections = random_case(seed, difficult=True)
    metrics = voc_metrics(split, detections, threshold)
    for label, name in enumerate(split.class_names, start=1):
        ap07, ap12 = devkit_loop(split, detections, label, threshold)
        assert metrics.ap07[name] == pytest.approx(ap07)
        assert metrics.ap12[name] == pytest.approx(ap12)
        assert 0.05 < ap12 < 0.95


def devkit_loop(
    split: DataSplit, detections: list[Detections], label: int, threshold: float
) -> tuple[float, float]:
    """The devkit's steps one by one, without vectors."""
    rows = [
        (float(score), image, [float(x) for x in box])
        for image, found in enumerate(detections)
        for box, score, found_label in zip(*found, strict=True)
        if found_label == label
    ]
    rows.sort(key=lambda row: -row[0])
    objects = {
        (image, n): [float(x) for x in record.boxes[n]]
        for image, record in enumerate(split.records)
        for n in np.flatnonzero(record.labels == label).tolist()
    }
    total = sum(not split.records[image].ignore[n] for image, n in objects)
    taken, curve, right, wrong = set(), [], 0, 0
    for _, image, box in rows:
        overlaps = [(plain_iou(box, other), key) for key, other in objects.items() if key[0] == image]
        overlap, key = max(overlaps, default=(-1.0, (0, 0)), key=lambda pair: pair[0])
        if overlap >= threshold and split.records[image].ignore[key[1]]:
            continue
        if overlap >= threshold and key not in taken:
            taken.add(key)
            right += 1
        else:
            wrong += 1
        curve.append((right / total, right / (right + wrong)))
    eleven = [max((p for r, p in curve if r >= t / 10 - 1e-9), default=0.0) for t in range(11)]
    area, last = 0.0, 0.0
    for recall in sorted({r for r, _ in curve}):
        area += (recall - last) * max(p for r, p in curve if r >= recall)
        last = recall
    return sum(eleven) / 11, area


def plain_iou(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union


def test_ground_truth_is_perfect_on_real_records():
    split = bccd_split()
    metrics = voc_metrics(split, truth_as_detections(split))
    assert metrics.map12 == pytest.approx(1) and metrics.map07 == pytest.approx(1)
