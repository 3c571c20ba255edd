"""Selections checked by hand: 10×10 boxes have IoU 80 / 120 = .67 if shifted by 2, 50 / 150 = .33 if by 5."""

import numpy as np

from ssdlite.export.metadata import Selection
from ssdlite.export.verify.choices import check_selection, match_detections
from ssdlite.structures import Detections

BOXES = np.array([[0, 0, 10, 10], [2, 0, 12, 10], [5, 0, 15, 10], [50, 50, 60, 60]], np.float64)
SCORES = np.array([[0.9, 0.1], [0.8, 0.7], [0.7, 0.0], [0.2, 0.0]])
SELECTION = Selection(score_threshold=0.3, iou_threshold=0.5, candidates_per_class=400, max_detections=100)


def problems(kept, selection=SELECTION, scores=SCORES, margin=0.001, optional=()):
    priors, labels = np.array(kept, np.int64).reshape(-1, 2).T
    is_optional = np.isin(np.arange(len(BOXES)), optional)
    return list(check_selection(priors, labels, BOXES, scores, is_optional, selection, margin))


def test_the_greedy_set_is_right_in_any_order():
    # Class 1: prior 0 suppresses 1 (.67) but not 2 (.33); class 2 has prior 1 alone.
    assert problems([(0, 1), (2, 1), (1, 2)]) == []
    assert problems([(1, 2), (2, 1), (0, 1)]) == []


def test_each_mistake_is_named():
    assert problems([(0, 1), (1, 2)]) == ["1 detections are missing"]
    assert problems([]) == ["4 detections are missing"]
    assert problems([(0, 1), (1, 1), (2, 1), (1, 2)]) == ["3 detections should have suppressed each other"]
    assert problems([(0, 1), (2, 1), (1, 2), (3, 1)]) == ["1 detections have scores that are too low"]
    # The weaker of two is kept: it may not suppress the better.
    assert problems([(1, 1), (1, 2)]) == ["1 detections are missing"]


def test_ties_may_go_either_way():
    tied = np.array([[0.8005, 0.1], [0.8, 0.7], [0.7, 0.0], [0.2, 0.0]])
    assert problems([(1, 1), (1, 2)], scores=tied) == []
    assert problems([(0, 1), (2, 1), (1, 2)], scores=tied) == []
    assert problems([(0, 1), (2, 1), (1, 2)], SELECTION.__class__(0.7, 0.5, 400, 100)) == []  # exclusive


def test_a_full_image_and_few_candidates_leave_the_weakest_out():
    assert problems([(0, 1), (2, 1)], Selection(0.3, 0.5, 400, 2)) == []  # .7 ties with .7
    assert problems([(0, 1)], Selection(0.3, 0.5, 400, 1)) == []
    assert problems([(2, 1)], Selection(0.3, 0.5, 400, 1)) == ["2 detections are missing"]
    # With two candidates a class, prior 2 never competes.
    assert problems([(0, 1), (1, 2)], Selection(0.3, 0.5, 2, 100)) == []


def test_optional_boxes_may_be_there_or_not():
    assert problems([(0, 1), (2, 1), (1, 2)], optional=[0]) == []
    assert problems([(2, 1), (1, 2)], optional=[0]) == []  # prior 0 suppressed prior 1 and is not reported
    assert problems([(1, 1), (1, 2)], optional=[0]) == []  # it took no part
    assert problems([(0, 1), (1, 2)], optional=[0]) == ["1 detections are missing"]  # it is not like prior 2
    weak = np.array([[0.2, 0.1], [0.8, 0.7], [0.7, 0.0], [0.2, 0.0]])
    assert problems([(2, 1), (1, 2)], scores=weak, optional=[0]) == ["1 detections are missing"]


def test_no_boxes_at_all():
    assert problems([], Selection(0.95, 0.5, 400, 100)) == []


def test_detections_are_matched_by_box_and_score_of_their_class():
    found = Detections(
        np.array([[2, 0, 12, 10.05], [0, 0, 10, 10]], np.float32),
        np.array([0.7, 0.4], np.float32),
        np.array([2, 1]),
    )
    matches = match_detections(found, BOXES, SCORES, 0.1, 0.001)
    np.testing.assert_allclose(matches.box_errors[0], 0.05, atol=1e-6)
    np.testing.assert_allclose(matches.score_errors[0], 0, atol=1e-6)
    assert matches.priors[0] == 1
    assert matches.score_errors[1] / 0.001 + matches.box_errors[1] / 0.1 > 100  # no prior is like it
    empty = match_detections(Detections.empty(), BOXES, SCORES, 0.1, 0.001)
    assert empty.priors.shape == (0,)
