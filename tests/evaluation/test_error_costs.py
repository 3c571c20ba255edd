"""Gain of AP without the errors of a type, on cases where the AP before and after is known."""

import math

import pytest

from ssdlite.evaluation import errors as module
from ssdlite.evaluation.coco import coco_metrics
from ssdlite.evaluation.errors import ERROR_TYPES, delta_ap
from ssdlite.evaluation.matching import match_split
from ssdlite.structures import DataSplit, Detections

from .cases import make_detections, make_record, make_split, random_case

A, B, FAR = (0, 0, 10, 10), (20, 0, 30, 10), (500, 500, 510, 510)
THIRD = (0, 0, 10, 3.2)  # IoU .32 with A
CAT, DOG = 1, 2
HALF = 51 / 101  # AP where one of two objects is found: the recalls 0 to .50 are reached


def costs_of(split: DataSplit, detections: list[Detections]) -> dict[str, float]:
    """Those that are not nothing."""
    costs = delta_ap(split, detections, match_split(split, detections))
    assert tuple(costs) == ERROR_TYPES
    return {kind: cost for kind, cost in costs.items() if cost}


def one(*found: tuple) -> dict[str, float]:
    """Of detections in an image with the cat A."""
    return costs_of(make_split(make_record(1, [(A, CAT)])), [make_detections(*found)])


def test_nothing_wrong_costs_nothing():
    assert one((A, 0.9, CAT)) == {}


def test_a_confident_false_detection_halves_the_precision():
    assert one((FAR, 0.9, CAT), (A, 0.8, CAT)) == {"background": pytest.approx(0.5)}
    assert one((A, 0.9, CAT), (FAR, 0.8, CAT)) == {}  # one that comes after all that is right costs nothing
    two = make_split(make_record(1, [(A, CAT), (B, CAT)]))
    found = make_detections((A, 0.9, CAT), (A, 0.8, CAT), (B, 0.7, CAT))
    assert costs_of(two, [found]) == {"duplicate": pytest.approx(1 - (51 + 50 * 2 / 3) / 101)}


def test_a_badly_placed_detection_gets_the_box():
    assert one((THIRD, 0.9, CAT)) == {"badly placed": 1}
    # Where the object was found anyhow it is left out.
    assert one((THIRD, 0.9, CAT), (A, 0.8, CAT)) == {"badly placed": pytest.approx(0.5)}
    # The better of two becomes right, the other is left out.
    assert one((THIRD, 0.9, CAT), (THIRD, 0.8, CAT)) == {"badly placed": 1}


def test_a_wrong_class_becomes_the_right_one():
    split = make_split(make_record(1, [(A, CAT), (B, DOG)]))
    found = make_detections((A, 0.9, DOG), (B, 0.8, DOG))
    # cat 0 -> 1, dog 1/2 -> 1; the mean of two classes
    assert costs_of(split, [found]) == {"wrong class": pytest.approx(0.75)}


def test_both_is_left_out_and_what_was_missed_does_not_count():
    # The dogs cost the cat nothing; B is missed.
    split = make_split(make_record(1, [(A, CAT), (B, CAT)]))
    found = make_detections((THIRD, 0.9, DOG), (A, 0.8, CAT))
    assert costs_of(split, [found]) == {"missed": pytest.approx(1 - HALF)}


def test_without_objects_or_images():
    for split in (make_split(), make_split(make_record(1, []))):
        found = [make_detections((A, 0.9, CAT))] * len(split)
        costs = delta_ap(split, found, match_split(split, found))
        assert all(math.isnan(cost) for cost in costs.values())


def test_without_detections_all_is_missed():
    assert one() == {"missed": 1}
    two = make_split(make_record(1, [(A, CAT)]), make_record(2, [(A, CAT)]))
    found = [make_detections((A, 0.9, CAT)), Detections.empty()]
    assert costs_of(two, found) == {"missed": pytest.approx(1 - HALF)}


@pytest.mark.parametrize("seed", range(3))
def test_starts_from_cocos_ap50(seed, monkeypatch):
    split, detections = random_case(seed, difficult=True)
    seen = []
    mean_ap = module._mean_ap
    monkeypatch.setattr(module, "_mean_ap", lambda *arguments: seen.append(mean_ap(*arguments)) or seen[-1])
    costs = delta_ap(split, detections, match_split(split, detections))
    assert seen[0] == pytest.approx(coco_metrics(split, detections, "pycocotools").summary["AP50"])
    assert all(cost >= 0 for cost in costs.values()) and max(costs.values()) > 0.03
