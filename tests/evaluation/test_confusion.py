"""The confusion matrix: by hand, against scikit-learn, and where it must agree with precision and recall."""

import numpy as np
import pytest

from ssdlite.evaluation.confusion import Confusion, confusion_matrix
from ssdlite.evaluation.curves import class_curves
from ssdlite.evaluation.matching import IGNORED, match_split
from ssdlite.structures import DataSplit, Detections

from .cases import hard_case, make_detections, make_record, make_split, random_case

A, B, C, FAR = (0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10), (500, 500, 510, 510)


def matrix_of(split: DataSplit, detections: list[Detections], score_threshold: float = 0.5) -> Confusion:
    return confusion_matrix(
        split, detections, match_split(split, detections), score_threshold=score_threshold, iou_threshold=0.5
    )


def test_hand_worked():
    # cats A and B, dog C: A found, B called a dog, C missed (its detection scores too little), a dog invented.
    split = make_split(make_record(1, [(A, 1), (B, 1)]), make_record(2, [(C, 2)]))
    detections = [
        make_detections((A, 0.9, 1), (B, 0.8, 2), (FAR, 0.7, 2)),
        make_detections((C, 0.4, 2)),
    ]
    confusion = matrix_of(split, detections)
    assert confusion.names == ("cat", "dog", "background")
    assert confusion.counts.tolist() == [[1, 1, 0], [0, 0, 1], [0, 1, 0]]
    assert confusion.shares().tolist() == [[0.5, 0.5, 0], [0, 0, 1], [0, 1, 0]]
    assert matrix_of(split, detections, 0.4).counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 1, 0]]


def test_the_right_class_goes_first():
    # Both lie on A, the dog a little better and more confident: the cat is right all the same, the dog invented.
    split = make_split(make_record(1, [(A, 1)]))
    found = make_detections((A, 0.9, 2), ((0, 0, 10, 9), 0.8, 1))
    assert matrix_of(split, [found]).counts.tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_of_wrong_classes_the_better_placed_is_the_mistake():
    split = make_split(make_record(1, [(A, 1)]), class_names=("cat", "dog", "owl"))
    found = make_detections(((0, 0, 10, 6), 0.9, 2), ((0, 0, 10, 9), 0.8, 3))
    assert matrix_of(split, [found]).counts.tolist() == [[0, 0, 1, 0], [0] * 4, [0] * 4, [0, 1, 0, 0]]


def test_ignored_objects_do_not_appear():
    split = make_split(make_record(1, [(A, 1), ((100, 0, 200, 100), 2)], difficult=[0], crowd=[1]))
    found = make_detections((A, 0.9, 1), ((100, 0, 110, 10), 0.8, 2))
    assert not matrix_of(split, [found]).counts.any()
    assert matrix_of(split, [make_detections((A, 0.9, 2))]).counts.tolist() == [[0, 0, 0]] * 2 + [[0, 1, 0]]


def test_nothing_there():
    assert matrix_of(make_split(), []).counts.tolist() == [[0] * 3] * 3
    assert np.isnan(matrix_of(make_split(), []).shares()).all()
    split = make_split(make_record(1, [(A, 1)]), make_record(2, []))
    assert matrix_of(split, [Detections.empty()] * 2).counts.tolist() == [[0, 0, 1], [0] * 3, [0] * 3]


def test_equals_scikit_learn():
    """Objects far from each other, each with one detection at most: then a detector is a classifier."""
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    truth, given = rng.integers(0, 4, (2, 300))  # 0: background
    truth[(truth == 0) & (given == 0)] = 1
    boxes = np.array([(30 * n, 0, 30 * n + 20, 20) for n in range(300)])
    objects = [(box, int(label)) for box, label in zip(boxes, truth, strict=True) if label]
    found = [(box, rng.uniform(0.5, 1), int(label)) for box, label in zip(boxes, given, strict=True) if label]
    split = make_split(make_record(1, objects), class_names=("cat", "dog", "owl"))
    expected = metrics.confusion_matrix(truth, given, labels=[1, 2, 3, 0])
    assert matrix_of(split, [make_detections(*found)]).counts.tolist() == expected.tolist()


@pytest.mark.parametrize("case", [random_case, hard_case])
@pytest.mark.parametrize("threshold", [0, 0.45, 0.85])
def test_agrees_with_precision_and_recall(case, threshold):
    split, detections = case(5)
    matches = match_split(split, detections)
    counts = matrix_of(split, detections, threshold).counts
    points = [curve.at(threshold) for curve in class_curves(split, detections, matches).values()]
    assert counts.diagonal()[:-1].tolist() == [point.right for point in points]
    assert counts.sum(axis=1)[:-1].tolist() == [point.right + point.missed for point in points]
    assert counts.sum(axis=0)[:-1].tolist() == [point.right + point.wrong for point in points]
    assert counts[:-1, :-1].sum() > counts.diagonal().sum() or case is random_case  # some are misnamed
    assert any((matched.outcome == IGNORED).any() for matched in matches) == (case is hard_case)
