"""The types of errors, one by one, and the order in which images are shown."""

import math

import pytest

from ssdlite.evaluation.curves import class_curves
from ssdlite.evaluation.errors import (
    ERROR_TYPES,
    DetectionError,
    MatchedImage,
    best_images,
    classify_errors,
    count_errors,
    match_images,
    worst_images,
)
from ssdlite.evaluation.matching import match_coco, match_split
from ssdlite.structures import DataSplit, Detections, Record

from .cases import hard_case, make_detections, make_record, make_split, random_case

A, B, C, FAR = (0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10), (500, 500, 510, 510)
THIRD = (0, 0, 10, 3.2)  # IoU .32 with A
TENTH = (0, 0, 10, 1), (0, 0, 10, 0.99)  # just enough, and not
CAT, DOG = 1, 2


def errors_of(record: Record, found: Detections, score_threshold: float = 0.0) -> list[tuple[str, int | None]]:
    """Kind and object of each error."""
    matched = match_coco(record, found)
    errors = classify_errors(record, found, matched, score_threshold=score_threshold)
    return [(error.kind, error.object) for error in errors]


@pytest.mark.parametrize(
    ("box", "label", "kinds"),
    [
        (A, CAT, []),
        (A, DOG, ["wrong class"]),
        (THIRD, CAT, ["badly placed"]),
        (THIRD, DOG, ["both", "missed"]),
        (TENTH[0], CAT, ["badly placed"]),
        (TENTH[1], CAT, ["background", "missed"]),
        (FAR, CAT, ["background", "missed"]),
    ],
)
def test_one_detection_of_one_object(box, label, kinds):
    # A missed object is not reported besides the error that is about it.
    record = make_record(1, [(A, CAT)])
    assert [kind for kind, _ in errors_of(record, make_detections((box, 0.9, label)))] == kinds


def test_duplicates_follow_the_one_that_is_right():
    found = make_detections((A, 0.9, CAT), (A, 0.8, CAT), (FAR, 0.7, CAT))
    record = make_record(1, [(B, DOG), (A, CAT)])
    assert errors_of(record, found) == [("duplicate", 1), ("background", None), ("missed", 0)]


def test_the_object_that_is_overlapped_most_decides():
    # A dog, A itself, and a cat that it overlaps a little: the detection "cat" on A is a wrong class.
    record = make_record(1, [(A, DOG), ((0, 7, 10, 17), CAT)])
    assert errors_of(record, make_detections((A, 0.9, CAT))) == [("wrong class", 0), ("missed", 1)]


def test_a_wrong_class_beside_a_right_one_is_a_error_too():
    record = make_record(1, [(A, CAT)])
    assert errors_of(record, make_detections((A, 0.9, CAT), (A, 0.8, DOG))) == [("wrong class", 0)]


def test_what_scores_less_than_the_threshold_is_not_there():
    record = make_record(1, [(A, CAT), (B, CAT)])
    found = make_detections((B, 0.6, CAT), (A, 0.4, DOG), (FAR, 0.3, CAT))
    assert errors_of(record, found, 0.5) == [("missed", 0)]
    assert errors_of(record, found, 0.6) == [("missed", 0)]
    assert errors_of(record, found, 0.61) == [("missed", 0), ("missed", 1)]


def test_ignored_objects_are_neither_missed_nor_found_twice():
    record = make_record(1, [(A, CAT), ((100, 0, 200, 100), CAT)], difficult=[0], crowd=[1])
    assert errors_of(record, Detections.empty()) == []
    in_crowd = ((100, 0, 180, 100), 0.9, CAT)
    assert errors_of(record, make_detections((A, 0.8, CAT), in_crowd)) == []
    # Of another class it is a detection of nothing: what is in a crowd has no box that it could be compared with.
    assert errors_of(record, make_detections((in_crowd[0], 0.9, DOG))) == [("background", None)]


def test_fields_of_a_error():
    record = make_record(1, [(A, CAT), (B, DOG)])
    found = make_detections((FAR, 0.75, DOG), (THIRD, 0.5, CAT))
    invented, misplaced, missed = classify_errors(record, found, match_coco(record, found))
    assert invented == DetectionError("background", DOG, 0, None, 0.0, 0.75)
    assert misplaced == DetectionError("badly placed", CAT, 1, 0, pytest.approx(0.32), 0.5)
    assert missed[:5] == ("missed", DOG, None, 1, 0.0) and math.isnan(missed.score)


def matched(split: DataSplit, detections: list[Detections], threshold: float = 0.5) -> list[MatchedImage]:
    return match_images(split, detections, match_split(split, detections), score_threshold=threshold)


def test_images_from_worst_to_best():
    one, three = [(A, CAT)], [(A, CAT), (B, CAT), (C, DOG)]
    split = make_split(*(make_record(f"image {n}", objects) for n, objects in enumerate([one] * 5 + [three, []])))
    images = matched(
        split,
        [
            make_detections((A, 0.7, CAT)),  # right
            make_detections((A, 0.9, CAT)),  # right, more confident
            make_detections((A, 0.9, CAT), (FAR, 0.6, CAT)),  # one invented: 1
            make_detections((A, 0.9, CAT), (FAR, 0.8, CAT)),  # as bad, more confident
            make_detections((A, 0.9, CAT), (A, 0.8, CAT)),  # a duplicate: .5
            make_detections((A, 0.9, CAT), (FAR, 0.3, CAT)),  # two missed: 2
            Detections.empty(),  # nothing to find, nothing found
        ],
    )
    assert [image.index for image in worst_images(images, 10)] == [5, 3, 2, 4]
    assert [image.index for image in worst_images(images, 2)] == [5, 3]
    assert [image.index for image in best_images(images, 10)] == [1, 0]
    worst = images[5]
    assert (worst.image_id, worst.num_objects, worst.right, worst.found) == ("image 5", 3, (0,), (0,))
    assert (worst.weight, worst.num_missed, worst.confidence) == (2, 2, pytest.approx(0.9))
    assert math.isnan(images[6].confidence) and images[6].weight == 0
    none = dict.fromkeys(ERROR_TYPES, 0)
    assert count_errors(images, split.class_names) == {
        "cat": none | {"missed": 1, "background": 2, "duplicate": 1},
        "dog": none | {"missed": 1},
    }


def test_excused_detections_are_named():
    split = make_split(make_record(1, [(A, CAT), (B, CAT)], difficult=[1]))
    (image,) = matched(split, [make_detections((B, 0.9, CAT), (A, 0.8, CAT))])
    assert (image.right, image.found, image.excused, image.errors) == ((1,), (0,), (0,), ())
    assert image.num_objects == 1


@pytest.mark.parametrize("case", [random_case, hard_case])
@pytest.mark.parametrize("threshold", [0, 0.45])
def test_every_false_detection_has_one_error_and_every_object_is_accounted_for(case, threshold):
    split, detections = case(2)
    images = matched(split, detections, threshold)
    counts = count_errors(images, split.class_names)
    curves = class_curves(split, detections, match_split(split, detections))
    for name, curve in curves.items():
        point = curve.at(threshold)
        assert sum(counts[name].values()) - counts[name]["missed"] == point.wrong
        assert counts[name]["missed"] <= point.missed
    for image in images:
        about = {error.object for error in image.errors if error.kind != "duplicate"} | set(image.found)
        record = split.records[image.index]
        assert {n for n in range(len(record.labels)) if not record.ignore[n]} <= about
        assert image.num_missed == image.num_objects - len(image.right)


def test_no_images():
    assert matched(make_split(), []) == worst_images([], 5) == best_images([], 5) == []
