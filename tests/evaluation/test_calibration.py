"""Reliability bins by hand, and against scikit-learn."""

import math

import numpy as np
import pytest

from ssdlite.evaluation.curves import calibration, calibration_bins
from ssdlite.evaluation.matching import FALSE_POSITIVE, IGNORED, TRUE_POSITIVE, match_split
from ssdlite.structures import Detections

from .cases import make_detections, make_record, make_split


def test_hand_worked():
    scores = np.array([0.9, 0.8, 0.75, 0.5, 0.2, 0.1])
    outcomes = np.array([TRUE_POSITIVE, FALSE_POSITIVE, IGNORED, TRUE_POSITIVE, FALSE_POSITIVE, FALSE_POSITIVE])
    bins = calibration_bins(scores, outcomes, num_bins=4)
    assert bins.edges.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert bins.counts.tolist() == [2, 1, 0, 2]  # .5 is the end of its bin; the excused .75 is left out
    assert bins.scores == pytest.approx([0.15, 0.5, math.nan, 0.85], nan_ok=True)
    assert bins.precision == pytest.approx([0, 1, math.nan, 0.5], nan_ok=True)
    assert bins.error == pytest.approx((2 * 0.15 + 1 * 0.5 + 2 * 0.35) / 5)


def test_nothing_there():
    bins = calibration_bins(np.zeros(0), np.zeros(0, np.int64))
    assert math.isnan(bins.error) and bins.counts.tolist() == [0] * 10 and np.isnan(bins.precision).all()
    assert math.isnan(calibration([], []).error)
    split = make_split(make_record(1, [((0, 0, 9, 9), 1)]))
    assert math.isnan(calibration([Detections.empty()], match_split(split, [Detections.empty()])).error)


def test_scores_of_0_and_1_have_a_bin():
    assert calibration_bins(np.array([0.0, 1.0]), np.array([FALSE_POSITIVE, TRUE_POSITIVE])).counts.tolist() == [
        1
    ] + [0] * 8 + [1]
    assert calibration_bins(np.array([0.0, 1.0]), np.array([FALSE_POSITIVE, TRUE_POSITIVE])).error == 0


def drawn(count: int = 3000) -> tuple[np.ndarray, np.ndarray]:
    """Scores that are believed too much: of those that score s, s² are right."""
    rng = np.random.default_rng(0)
    scores = rng.random(count)
    return scores, np.where(rng.random(count) < scores**2, TRUE_POSITIVE, FALSE_POSITIVE)


def test_equals_scikit_learn():
    sklearn = pytest.importorskip("sklearn.calibration")
    scores, outcomes = drawn()
    bins = calibration_bins(scores, outcomes, num_bins=15)
    precision, mean_scores = sklearn.calibration_curve(outcomes == TRUE_POSITIVE, scores, n_bins=15)
    assert bins.precision == pytest.approx(precision) and bins.scores == pytest.approx(mean_scores)
    counts, _ = np.histogram(scores, bins=15, range=(0, 1))
    assert bins.error == pytest.approx(np.average(np.abs(precision - mean_scores), weights=counts))
    assert bins.error == pytest.approx(1 / 2 - 1 / 3, abs=0.02)  # the mean of s - s²


def test_only_what_scores_enough():
    split = make_split(make_record(1, [((0, 0, 9, 9), 1)]))
    found = [make_detections(((0, 0, 9, 9), 0.75, 1), ((50, 50, 60, 60), 0.25, 1))]
    matches = match_split(split, found)
    assert calibration(found, matches).error == pytest.approx(0.25)
    assert calibration(found, matches, score_threshold=0.75).counts.sum() == 1
    assert calibration(found, matches, score_threshold=0.75).error == pytest.approx(0.25)
