"""False detections an image, counted by hand."""

import math

import numpy as np
import pytest

from ssdlite.evaluation.confusion import FalsePositives, false_positives
from ssdlite.evaluation.matching import match_split
from ssdlite.structures import DataSplit, Detections

from .cases import make_detections, make_record, make_split

A, FAR = (0, 0, 10, 10), (500, 500, 510, 510)


def false_positives_of(split: DataSplit, detections: list[Detections], threshold: float = 0.5) -> FalsePositives:
    return false_positives(split, detections, match_split(split, detections), score_threshold=threshold)


def test_hand_worked():
    # Two images with an object, one of which is ignored; two without.
    split = make_split(
        make_record(1, [(A, 1)]), make_record(2, [(A, 1)], difficult=[0]), make_record(3, []), make_record(4, [])
    )
    detections = [
        make_detections((A, 0.9, 1), (A, 0.8, 2), (FAR, 0.7, 1)),  # two false
        make_detections((A, 0.9, 1)),  # excused
        make_detections((A, 0.5, 1), (FAR, 0.5, 2), (FAR, 0.4, 1)),  # two at .5
        make_detections((A, 0.3, 1)),  # none at .5
    ]
    false_positives = false_positives_of(split, detections)
    assert (false_positives.num_images, false_positives.num_empty, false_positives.threshold) == (4, 2, 0.5)
    assert false_positives.per_image_here == 4 / 4 and false_positives.per_empty_image_here == 2 / 2
    assert false_positives.share_of_empty_hit == 0.5
    at = dict(zip(np.round(false_positives.thresholds, 2).tolist(), range(99), strict=True))
    assert false_positives.per_image[[at[0.01], at[0.45], at[0.71], at[0.99]]].tolist() == [6 / 4, 4 / 4, 1 / 4, 0]
    assert false_positives.per_empty_image[[at[0.01], at[0.35], at[0.51]]].tolist() == [4 / 2, 3 / 2, 0]
    assert false_positives_of(split, detections, 0.75).per_image_here == 1 / 4


def test_without_empty_images():
    false_positives = false_positives_of(make_split(make_record(1, [(A, 1)])), [make_detections((FAR, 0.9, 1))])
    assert false_positives.per_image_here == 1 and false_positives.num_empty == 0
    assert math.isnan(false_positives.per_empty_image_here) and math.isnan(false_positives.share_of_empty_hit)
    assert np.isnan(false_positives.per_empty_image).all()


def test_without_images_or_detections():
    assert math.isnan(false_positives_of(make_split(), []).per_image_here)
    false_positives = false_positives_of(make_split(make_record(1, [])), [Detections.empty()])
    assert (
        false_positives.per_image_here
        == false_positives.share_of_empty_hit
        == false_positives.per_empty_image.max()
        == 0
    )


@pytest.mark.parametrize("threshold", [0.25, 0.8])
def test_a_detection_that_scores_exactly_the_threshold_is_kept(threshold):
    split = make_split(make_record(1, []))
    assert (
        false_positives_of(split, [make_detections((A, threshold, 1))], float(np.float32(threshold))).per_image_here
        == 1
    )
