"""Precision, recall and F1 over the score threshold: by hand, against scikit-learn, and against COCO's curves."""

import math

import numpy as np
import pytest

from ssdlite.evaluation.coco import coco_curves
from ssdlite.evaluation.curves import Curve, class_curves, make_curve, pool, recommend_threshold
from ssdlite.evaluation.matching import FALSE_POSITIVE, IGNORED, TRUE_POSITIVE, match_split

from .cases import make_detections, make_record, make_split, random_case

A, B, C, FAR = (0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10), (500, 500, 510, 510)


def curve_of(*rows: tuple[float, int], num_objects: int) -> Curve:
    """From (score, outcome) in any order."""
    return make_curve(np.array([score for score, _ in rows]), np.array([out for _, out in rows]), num_objects)


def test_hand_worked():
    # 4 objects; by score: right .9, wrong .8, right .8, excused .7, right .5
    rows = [(0.9, TRUE_POSITIVE), (0.8, FALSE_POSITIVE), (0.8, TRUE_POSITIVE), (0.7, IGNORED), (0.5, TRUE_POSITIVE)]
    curve = curve_of(*rows[::-1], num_objects=4)
    assert curve.scores.tolist() == [0.9, 0.8, 0.5]  # equal scores are kept or dropped together
    assert curve.precision == pytest.approx([1, 2 / 3, 3 / 4])
    assert curve.recall == pytest.approx([1 / 4, 2 / 4, 3 / 4])
    assert curve.f1 == pytest.approx([2 / 5, 4 / 7, 6 / 8])
    assert curve.at(0.6) == curve.at(0.8)._replace(threshold=0.6)
    assert curve.at(0.8) == (0.8, 2 / 3, 0.5, 4 / 7, 2, 1, 2)  # at the score itself it is kept
    assert curve.best() == curve.at(0.5)
    assert curve.reaching(0.75) == curve.at(0.5) and curve.reaching(0.76) == curve.at(0.9)


def test_above_all_scores():
    point = curve_of((0.5, TRUE_POSITIVE), num_objects=1).at(0.6)
    assert math.isnan(point.precision) and point[2:] == (0, 0, 0, 0, 1)


def test_without_objects_or_detections():
    nothing, false_only = curve_of(num_objects=3), curve_of((0.5, FALSE_POSITIVE), num_objects=0)
    assert nothing.best() is None and nothing.reaching(0.1) is None and not len(nothing.f1)
    assert nothing.at(0.5)[2:] == (0, 0, 0, 0, 3)
    assert false_only.best() is None and math.isnan(false_only.at(0.5).recall)
    assert false_only.at(0.5).precision == 0 and np.isnan(false_only.recall).all()


def test_equals_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    scores = rng.integers(1, 60, 400) / 60  # many ties
    is_right = rng.random(400) < scores
    curve = make_curve(scores, np.where(is_right, TRUE_POSITIVE, FALSE_POSITIVE), int(is_right.sum()))
    precision, recall, thresholds = metrics.precision_recall_curve(is_right, scores)
    assert curve.scores[::-1] == pytest.approx(thresholds)
    assert curve.precision[::-1] == pytest.approx(precision[:-1])
    assert curve.recall[::-1] == pytest.approx(recall[:-1])
    ap = np.sum(np.diff(curve.recall, prepend=0) * curve.precision)
    assert ap == pytest.approx(metrics.average_precision_score(is_right, scores))
    best = max(metrics.f1_score(is_right, scores >= threshold) for threshold in thresholds)
    assert curve.best().f1 == pytest.approx(best)
    assert metrics.f1_score(is_right, scores >= curve.best().threshold) == pytest.approx(best)


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_curve_behind_coco_ap50(seed):
    split, detections = random_case(seed, difficult=True)
    curves = class_curves(split, detections, match_split(split, detections))
    coco = coco_curves(split, detections, "pycocotools")
    for k, curve in enumerate(curves.values()):
        # COCO reads the best precision at each of 101 recalls or beyond.
        recalls = np.linspace(0, 1, 101)
        reached = curve.recall[None] >= recalls[:, None]
        precision = np.where(reached, curve.precision, 0).max(axis=1)
        assert precision == pytest.approx(coco.precision[0, :, k, 0, -1], abs=1e-9)
        assert curve.recall[-1] == pytest.approx(coco.recall[0, k, 0, -1])


def test_pool_counts_all_classes_alike():
    cat = curve_of((0.9, TRUE_POSITIVE), (0.5, FALSE_POSITIVE), num_objects=2)
    dog = curve_of((0.9, FALSE_POSITIVE), (0.7, TRUE_POSITIVE), num_objects=1)
    pooled = pool([cat, dog])
    assert pooled.scores.tolist() == [0.9, 0.7, 0.5] and pooled.num_objects == 3
    assert pooled.right.tolist() == [1, 2, 2] and pooled.wrong.tolist() == [1, 1, 2]
    assert pool([]).num_objects == 0 and not len(pool([]).scores)


def test_recommended_threshold():
    # Mean F1:  t <= .2: (2/3 + 2/3) / 2;  .2 < t <= .4: (1 + 2/3) / 2;  .4 < t <= .6: (1 + 1) / 2;  then less.
    cat = curve_of((0.6, TRUE_POSITIVE), (0.2, FALSE_POSITIVE), num_objects=1)
    dog = curve_of((0.8, TRUE_POSITIVE), (0.4, FALSE_POSITIVE), num_objects=1)
    assert recommend_threshold({"cat": cat, "dog": dog}) == 0.5  # of .401 to .600, the middle
    # What has no objects has no F1 and no say.
    owl = curve_of((0.9, FALSE_POSITIVE), num_objects=0)
    assert recommend_threshold({"cat": cat, "dog": dog, "owl": owl}) == 0.5
    assert recommend_threshold({"cat": cat}) == 0.4  # of .201 to .600


def test_recommended_threshold_where_nothing_can_be_found():
    assert recommend_threshold({}) == recommend_threshold({"cat": curve_of(num_objects=0)}) == 0.5
    assert recommend_threshold({"cat": curve_of(num_objects=3)}) == 0.5
    assert recommend_threshold({"cat": curve_of((0.9, FALSE_POSITIVE), num_objects=3)}) == 0.5


def test_classes_are_kept_apart():
    split = make_split(make_record(1, [(A, 1), (B, 2), (C, 2)], difficult=[2]), make_record(2, []))
    detections = [make_detections((A, 0.9, 1), (B, 0.8, 2), (C, 0.7, 2)), make_detections((FAR, 0.6, 2))]
    curves = class_curves(split, detections, match_split(split, detections))
    assert curves["cat"].at(0) == (0, 1, 1, 1, 1, 0, 0)
    assert curves["dog"].at(0) == (0, 0.5, 1, 2 / 3, 1, 1, 0)


def test_thinned_curves_keep_their_shape():
    rng = np.random.default_rng(1)
    scores = rng.random(5000)
    curve = make_curve(scores, np.where(rng.random(5000) < scores**3, TRUE_POSITIVE, FALSE_POSITIVE), 2000)
    thin = curve.thinned(100)
    assert 50 < len(thin.scores) <= 100 and thin.num_objects == 2000
    assert (thin.scores[0], thin.right[-1]) == (curve.scores[0], curve.right[-1])
    errors = np.abs(np.interp(curve.recall, thin.recall, thin.precision) - curve.precision)
    assert errors[(curve.recall > 0.02) & (curve.recall < curve.recall[-1])].max() < 0.02
    assert curve.thinned(5000) is curve
