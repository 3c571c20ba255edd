"""Summary and recommendations: sentences with their figures, and none about quantities that are unknown."""

import dataclasses

import numpy as np
import pytest

from ssdlite.report.data import PriorFitSummary, describe_split
from ssdlite.report.recommendations import MOST, find, mean_excess
from ssdlite.report.summary import summarize
from tests.evaluation.cases import make_detections, make_record, make_split

from .cases import CAT, DOG, LEFT, NO_HISTORY, TRUE_POSITIVE, evaluate, make_evaluated, make_log, make_report

SPACE = "\u00a0"
SMALL, LARGE = (100, 100, 120, 120), (300, 300, 700, 700)  # 2 % and 40 % of the side of 1000x1000


def texts(report) -> str:
    return " | ".join(f"{recommendation.text} {recommendation.advice}" for recommendation in find(report)).replace(
        SPACE, " "
    )


def answer(report, question: str) -> str:
    return next(one.text for one in summarize(report) if question in one.question).replace(SPACE, " ")


def many(objects, found, times=10, class_names=("cat", "dog")):
    """One image `times` times, evaluated."""
    split = make_split(*(make_record(f"i{k}", objects) for k in range(times)), class_names=class_names)
    return evaluate(split, [make_detections(*found)] * times, threshold=0.5)


def test_how_good_it_is_in_plain_numbers(tmp_path):
    report = make_report(make_evaluated(tmp_path))
    # 4 objects, 2 of them found; 4 detections, 2 of them correct
    text = answer(report, "How good")
    assert "on 4 images with 4 objects" in text
    assert "it finds 50 of 100 objects, and 50 of 100 of its detections are correct" in text
    assert answer(report, "Which images").startswith("image1.jpg, image2.jpg and image0.jpg.")
    assert "3 images have errors" in answer(report, "Which images")
    assert answer(report, "What does it get wrong").startswith("1 of its 3 errors")
    assert answer(report, "threshold").startswith("0.50: precision 50 %, recall 50 %.")


def test_the_weaker_class_is_named_with_both_figures():
    report = make_report(many([(SMALL, CAT), (LARGE, DOG)], [(LARGE, 0.9, DOG)]), data={})
    assert answer(report, "class") == "‘cat’ (AP 0.000); the best is ‘dog’ (1.000)."
    assert (
        "‘cat’ is the weakest class: AP 0.000, against 1.000 of ‘dog’. Most of its errors are missed objects"
        in texts(report)
    )


def test_a_rare_class_is_to_be_labelled():
    evaluated = many([(SMALL, CAT), (LARGE, DOG)], [(LARGE, 0.9, DOG)], class_names=("cat", "dog", "cow"))
    train = make_split(
        make_record("t", [(SMALL, CAT)] + [(LARGE, DOG)] * 10 + [(LARGE, 3)] * 10),
        class_names=("cat", "dog", "cow"),
    )
    report = make_report(evaluated, data={"train": describe_split(train)})
    assert "it has 1 training object, the median class has 10" in texts(report)


def test_few_objects_make_no_weakest_class():
    objects = [(SMALL, CAT), ((500, 0, 700, 200), 3)]
    split = make_split(
        make_record("a", [*objects, (LARGE, DOG)]),
        *(make_record(f"i{k}", objects) for k in range(10)),
        class_names=("cat", "dog", "cow"),
    )
    found = [make_detections((SMALL, 0.9, CAT), (objects[1][0], 0.9, 3))] * 11
    report = make_report(evaluate(split, found), data={})
    assert "‘dog’ is the weakest" not in texts(report) and "‘dog’" not in answer(report, "class")
    assert "‘dog’ 1," in texts(report)  # among those with too few objects to evaluate by


def test_the_size_at_which_it_fails():
    report = make_report(many([(SMALL, CAT), (LARGE, CAT)], [(LARGE, 0.9, CAT)]), data={}, input_size=(288, 384))
    expected = (
        "At objects under 4 % of the image's side, 50 % of all: it can find 0 % of them; of those over 32 % it can "
        "find 100 %."
    )
    assert answer(report, "size") == expected
    assert "50 % of the objects have a size at which it fails" in texts(report)
    assert "Raise model.input_size (now 384x288)" in texts(report)
    fine = make_report(many([(SMALL, CAT), (LARGE, CAT)], [(SMALL, 0.8, CAT), (LARGE, 0.9, CAT)]), data={})
    assert "at which it fails" not in texts(fine) and answer(fine, "size").startswith("At none:")
    alone = make_report(many([(LARGE, CAT)], [(LARGE, 0.9, CAT)]), data={})
    assert answer(alone, "size") == "All objects are over 32 % of the image's side; it can find 100 %."


def test_what_costs_most(tmp_path):
    # Every other object is taken for the other class.
    report = make_report(many([(LARGE, CAT), (SMALL, DOG)], [(LARGE, 0.9, DOG), (SMALL, 0.8, DOG)]), data={})
    assert "Classification errors cost the most (10 at the recommended threshold)" in texts(report)
    assert "‘cat’ is detected as ‘dog’ 10 times, which is 100 % of its objects." in texts(report)


def test_false_positives_in_images_without_objects():
    empty = many([], [(LARGE, 0.9, CAT)])
    split = make_split(*empty.split.records, make_record("a", [(SMALL, CAT)]))
    found = [*empty.detections, make_detections((SMALL, 0.95, CAT))]
    report = make_report(evaluate(split, found, threshold=0.5), data={})
    assert "100 % of the 10 images without objects have a false positive" in texts(report)
    few = make_report(evaluate(split, [make_detections()] * 10 + [found[-1]], threshold=0.5), data={})
    assert "without objects" not in texts(few)


def test_scores_that_promise_too_much():
    wrong = [((0, 100 * k, 50, 100 * k + 50), 0.95, CAT) for k in range(3)]
    evaluated = many([(LARGE, CAT)], [(LARGE, 0.95, CAT), *wrong])
    assert mean_excess(evaluated.analysis.calibration_here) == pytest.approx(0.95 - 0.25, abs=1e-6)
    assert "they are 0.70 higher, on average" in texts(make_report(evaluated, data={}))


@pytest.mark.parametrize(
    ("last", "words"),
    [
        ({"AP": 0.25}, "AP still rose by 0.050 between the last two validations, to 0.250."),
        ({"AP": 0.15}, "AP was best at step 50, 0.200, and fell to 0.150 by the end."),
        ({"AP": 0.205}, ""),
        ({"AP": np.nan}, ""),
    ],
)
def test_the_course_of_ap(last, words):
    found = texts(make_report(history=make_log(**last), epochs=2))
    assert words in found and bool(words) == ("AP" in found)


def test_a_run_that_is_not_done_or_waits():
    history = make_log()
    history.train["waiting_for_data"].values[:] = 0.5
    found = texts(make_report(history=history, epochs=9))
    assert "the log ends in epoch 3 of 9" in found and "waits for data 50 % of the time" in found
    assert "waits" not in texts(make_report(history=make_log()))


def test_priors_that_do_not_fit():
    fit = PriorFitSummary(num_objects=100, reached=0.46, forced=0.5, unmatched=0.04)
    report = make_report(fit=fit)
    assert "Only 46 % of the training objects have a prior with IoU .5 or more, and 4 %" in texts(report)
    fits = "46 % of 100 training objects have a prior with IoU .5 or more"
    assert answer(report, "priors") == f"{fits}; 50 % are assigned to a worse one, 4 % to none."
    assert "prior" not in texts(make_report(fit=dataclasses.replace(fit, reached=0.99)))
    assert answer(make_report(has_priors=False), "priors") == "The head of this network has no priors."
    assert answer(make_report(), "priors") == "The fit was not measured."
    assert not [one for one in summarize(make_report(has_priors=None)) if "priors" in one.question]


def test_splits_that_differ_or_share_images():
    small, large = (describe_split(make_split(make_record("a", [(box, CAT)]))) for box in (SMALL, LARGE))
    found = texts(make_report(data={"train": small, "val": large}, num_shared=11))
    assert "2.0 % of the image's side in the training images, and 40.0 % in the validation" in found
    assert "11 image files are in both splits" in found


def test_nothing_found_and_nothing_to_find():
    nothing = make_report(many([(LARGE, CAT)], []), data={})
    assert texts(nothing).startswith("It detects nothing at any threshold.")
    assert "It detects nothing at any threshold." in answer(nothing, "How good")
    wrong = make_report(many([(LARGE, CAT)], [(SMALL, 0.9, CAT)]), data={})
    assert texts(wrong).startswith("None of its 10 detections is correct.")
    assert answer(wrong, "threshold").startswith("Unknown")
    empty = make_report(many([], [(SMALL, 0.9, CAT)]), data={})
    assert texts(empty).startswith("None of the 10 images has an object that counts")
    for question in ("How good", "class", "size", "threshold"):
        assert answer(empty, question).startswith("Unknown"), question


def test_a_run_without_an_evaluation_has_only_its_history():
    report = make_report(why_not_evaluated="Not yet.", history=NO_HISTORY)
    assert answer(report, "How good") == "Not yet."
    assert find(report) == []


def test_eight_at_most_and_the_heaviest_first(tmp_path):
    report = make_report(make_evaluated(tmp_path), num_shared=3, epochs=99)
    weights = [recommendation.weight for recommendation in find(report)]
    assert weights == sorted(weights, reverse=True) and len(weights) <= MOST
    assert LEFT != TRUE_POSITIVE
