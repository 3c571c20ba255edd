"""The whole analysis agrees with itself and with the figures it stands beside, and goes into a JSON file."""

import json

import numpy as np
import pytest

from ssdlite.evaluation.analysis import Analysis, analyse
from ssdlite.evaluation.curves import RULE
from ssdlite.evaluation.evaluate import score_detections
from ssdlite.structures import DataSplit, Detections

from .cases import hard_case, make_detections, make_record, make_split, random_case

A, B = (0, 0, 10, 10), (20, 0, 30, 10)


def analysis_of(split: DataSplit, detections: list[Detections], **options: float) -> Analysis:
    return analyse(split, score_detections(split, detections), **options)


@pytest.mark.parametrize("case", [random_case, hard_case])
def test_its_parts_agree(case):
    split, detections = case(4)
    analysis = analysis_of(split, detections)
    here = analysis.here
    assert [row.name for row in analysis.classes] == list(split.class_names) == list(analysis.curves)
    assert here.right == sum(row.here.right for row in analysis.classes) == np.trace(analysis.confusion.counts)
    assert here.wrong == sum(analysis.errors.values()) - analysis.errors["missed"]
    assert here.wrong / len(split) == pytest.approx(analysis.false_positives.per_image_here)
    assert here.missed == sum(image.num_missed for image in analysis.images)
    assert analysis.calibration_here.counts.sum() == here.right + here.wrong
    assert analysis.calibration.counts.sum() > analysis.calibration_here.counts.sum()
    for index, image in enumerate(analysis.images):
        kept = int((detections[index].scores >= analysis.threshold).sum())
        false = [error for error in image.errors if error.detection is not None]
        assert image.index == index and len(image.right) + len(image.excused) + len(false) == kept


def test_figures_of_classes_are_those_of_the_evaluation():
    split, detections = random_case(0)
    evaluation = score_detections(split, detections)
    analysis = analyse(split, evaluation)
    rows = evaluation.to_dict()["per_class"]
    assert [row.ap for row in analysis.classes] == [row["AP"] for row in rows.values()]
    assert [row.voc07 for row in analysis.classes] == [row["VOC07_AP50"] for row in rows.values()]
    for column, name in (("ap", "AP"), ("ap50", "AP50"), ("ap75", "AP75"), ("ar100", "AR100")):
        mean = np.mean([getattr(row, column) for row in analysis.classes])
        assert mean == pytest.approx(evaluation.coco.summary[name])


def test_the_recommended_threshold_is_the_best_there_is():
    split, detections = random_case(6)
    analysis = analysis_of(split, detections)
    assert analysis.threshold_rule == RULE

    def mean_f1(threshold: float) -> float:
        return float(np.mean([curve.at(threshold).f1 for curve in analysis.curves.values()]))

    tried = max(mean_f1(threshold) for threshold in np.arange(1, 1000) / 1000)
    assert mean_f1(analysis.threshold) == pytest.approx(tried)
    assert all(row.best.f1 >= row.here.f1 for row in analysis.classes)
    for goal, point in analysis.alternatives.items():
        assert point is None or point.precision >= goal


def test_a_given_threshold_is_kept():
    split, detections = random_case(6)
    analysis = analysis_of(split, detections, threshold=0.25)
    assert (analysis.threshold, analysis.threshold_rule) == (0.25, "given")
    assert (
        analysis.confusion.score_threshold == analysis.false_positives.threshold == analysis.here.threshold == 0.25
    )


def test_another_overlap():
    split = make_split(make_record(1, [(A, 1)]))
    found = [make_detections(((0, 0, 10, 6), 0.9, 1))]  # IoU .6
    assert analysis_of(split, found).here.f1 == 1
    strict = analysis_of(split, found, iou_threshold=0.75)
    assert strict.here.f1 == 0 and strict.errors["badly placed"] == 1 and strict.delta_ap["badly placed"] == 1


def test_json_holds_everything_and_no_nan():
    split, detections = hard_case(1, text_ids=True)
    figures = json.loads(json.dumps(analysis_of(split, detections).to_dict(), allow_nan=False))
    assert figures["classes"][3]["ap"] is None and figures["classes"][3]["name"] == "absent"
    assert len(figures["worst_images"]) == 20
    assert figures["worst_images"][0]["image_id"].startswith("image ")
    assert figures["worst_images"][0]["weight"] >= figures["worst_images"][-1]["weight"]
    assert len(figures["confusion"]["counts"]) == 6
    assert len(figures["curves"]["cat"]["recall"]) == len(figures["curves"]["cat"]["scores"]) <= 200
    assert "0.9" in figures["alternatives"] and figures["relative_sizes"]["buckets"][-1]["high"] is None


@pytest.mark.parametrize(
    "split",
    [
        make_split(),
        make_split(make_record(1, [])),
        make_split(make_record(1, [(A, 1)], difficult=[0])),
        make_split(make_record(1, [(A, 1), (B, 2)])),
        make_split(make_record(1, []), class_names=()),
    ],
    ids=["no images", "no objects", "only ignored", "only objects", "no classes"],
)
def test_nothing_there(split):
    analysis = analysis_of(split, [Detections.empty()] * len(split))
    assert analysis.threshold == 0.5 and analysis.here.wrong == 0
    assert json.dumps(analysis.to_dict(), allow_nan=False)
    assert analysis.here.missed == sum(row.num_objects for row in analysis.classes) == analysis.errors["missed"]
