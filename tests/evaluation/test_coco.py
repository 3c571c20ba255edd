import json
import math

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ssdlite.errors import DataError
from ssdlite.evaluation.coco import SUMMARY_NAMES, CocoMetrics, coco_metrics, read_coco_results, to_coco_results
from ssdlite.evaluation.voc import voc_metrics
from ssdlite.structures import DataSplit, Detections

from .cases import (
    bccd_split,
    hard_case,
    make_detections,
    make_record,
    make_split,
    random_case,
    truth_as_detections,
)

A, B = (0, 0, 100, 100), (200, 0, 300, 100)


@pytest.fixture(params=["pycocotools", "faster"])
def backend(request):
    if request.param == "faster":
        pytest.importorskip("faster_coco_eval")
    return request.param


def test_hand_worked_figures(backend):
    # IoU .82: right at the thresholds .50 .55 ... .80, seven of ten. Area 100² > 96² is large.
    split = make_split(make_record(1, [(A, 1)]))
    metrics = coco_metrics(split, [make_detections(((0, 0, 100, 82), 0.9, 1))], backend)
    assert tuple(metrics.summary) == SUMMARY_NAMES
    for name in ("AP", "AP_large", "AR1", "AR10", "AR100", "AR_large"):
        assert metrics.summary[name] == pytest.approx(0.7), name
    assert metrics.summary["AP50"] == metrics.summary["AP75"] == pytest.approx(1)
    for name in ("AP_small", "AP_medium", "AR_small", "AR_medium"):
        assert math.isnan(metrics.summary[name]), name
    assert metrics.ap["cat"] == pytest.approx(0.7) and metrics.ap50["cat"] == pytest.approx(1)
    assert math.isnan(metrics.ap["dog"])


def test_area_is_the_annotation_s_own(backend):
    record = make_record(1, [(A, 1)])
    split = make_split(record)
    record.areas[0] = 50.0  # a thin mask in a large box
    summary = coco_metrics(split, truth_as_detections(split), backend).summary
    assert summary["AP_small"] == pytest.approx(1) and math.isnan(summary["AP_large"])


@pytest.mark.parametrize("kind, expected", [("difficult", 0.5), ("crowd", 1.0)])
def test_difficult_takes_one_detection_and_crowd_any_number(kind, expected, backend):
    # Two better-scored hits on the ignored A, then the object B. A crowd excuses both hits; a difficult
    # object one of them, the double is wrong and halves the precision.
    split = make_split(make_record(1, [(A, 1), (B, 1)], **{kind: [0]}))
    found = make_detections((A, 0.9, 1), (A, 0.8, 1), (B, 0.7, 1))
    assert coco_metrics(split, [found], backend).summary["AP"] == pytest.approx(expected)


@pytest.mark.parametrize("kind, expected", [("difficult", 0.5), ("crowd", 1.0)])
def test_difficult_goes_by_iou_and_crowd_by_the_share_inside(kind, expected, backend):
    split = make_split(make_record(1, [(A, 1), (B, 1)], **{kind: [0]}))
    found = make_detections(((0, 0, 20, 20), 0.9, 1), (B, 0.7, 1))  # IoU .04, all of it inside
    assert coco_metrics(split, [found], backend).summary["AP"] == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(2))
def test_equals_pycocotools_from_files(seed, backend):
    split, detections = random_case(seed)
    split.records[:] = split.records[::-1]  # ids out of order
    check_against_files(split, detections[::-1], backend)


@pytest.mark.parametrize("seed, text_ids", [(0, False), (1, True), (2, False)])
def test_hard_cases_equal_pycocotools_from_files(seed, text_ids, backend):
    split, detections = hard_case(seed, text_ids=text_ids)
    metrics = check_against_files(split, detections, backend)
    assert 0.02 < metrics.ap["dog"] < 0.9 and metrics.ap["owl"] == 0
    assert math.isnan(metrics.ap["absent"]) and math.isnan(metrics.ap50["only difficult"])


def check_against_files(split: DataSplit, detections: list[Detections], backend: str) -> CocoMetrics:
    metrics = coco_metrics(split, detections, backend)
    reference = evaluate_files(split, detections)
    expected = np.where(reference.stats < 0, np.nan, reference.stats)
    np.testing.assert_allclose(list(metrics.summary.values()), expected, atol=1e-9)
    precision = np.where(reference.eval["precision"] < 0, np.nan, reference.eval["precision"])[..., 0, -1]
    np.testing.assert_allclose(list(metrics.ap.values()), precision.mean(axis=(0, 1)), atol=1e-9)
    np.testing.assert_allclose(list(metrics.ap50.values()), precision[0].mean(axis=0), atol=1e-9)
    return metrics


def evaluate_files(split: DataSplit, detections: list[Detections]) -> COCOeval:
    """The usual way: an annotation file, a result list, and COCOeval over all images and classes."""
    truth = COCO()
    annotations = [
        {
            "image_id": record.image_id,
            "category_id": split.category_ids[label - 1],
            "bbox": [*box[:2], *(box[2:] - box[:2])],
            "area": area,
            "difficult": int(ignore and not crowd),
            "iscrowd": int(crowd),
        }
        for record in split.records
        for box, label, area, ignore, crowd in zip(
            record.boxes.astype(float), record.labels, record.areas, record.ignore, record.crowd, strict=True
        )
    ]
    truth.dataset = {
        "images": [{"id": record.image_id} for record in split.records],
        "annotations": [{"id": number, **row} for number, row in enumerate(annotations, start=1)],
        "categories": [{"id": category_id} for category_id in split.category_ids],
    }
    truth.createIndex()
    evaluation = EvalWithDifficult(truth, truth.loadRes(to_coco_results(split, detections)), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


class EvalWithDifficult(COCOeval):
    """COCOeval has no word for an ignored object that is no crowd, but follows `ignore` where it is set."""

    def _prepare(self):
        super()._prepare()
        for truths in self._gts.values():
            for truth in truths:
                truth["ignore"] = truth["difficult"] or truth["iscrowd"]


def test_agrees_with_voc_where_the_rules_coincide():
    # Objects far apart, 100 of them: what is left is 101 sampled recalls against the area.
    rng = np.random.default_rng(0)
    records, detections = [], []
    for image in range(100):
        records.append(make_record(image, [(A, 1)]))
        box = A if rng.random() < 0.7 else B
        detections.append(make_detections((box, float(rng.random()), 1)))
    split = make_split(*records)
    area = voc_metrics(split, detections).ap12["cat"]
    assert coco_metrics(split, detections).ap50["cat"] == pytest.approx(area, abs=0.011)
    assert 0.3 < area < 0.8


def test_nothing_found_nothing_to_find(capsys, backend):
    def ap(split, detections):
        return coco_metrics(split, detections, backend).summary["AP"]

    assert ap(make_split(make_record(1, [(A, 1)]), make_record(2, [])), [Detections.empty()] * 2) == 0
    assert math.isnan(ap(make_split(make_record(1, [])), [make_detections((A, 0.9, 1))]))
    assert math.isnan(ap(make_split(make_record(1, [])), [Detections.empty()]))
    assert math.isnan(ap(make_split(), []))
    assert math.isnan(ap(make_split(class_names=()), []))
    assert capsys.readouterr().out == ""


def test_equal_scores_count_in_the_order_of_the_ids(backend):
    # The image "a" first: right, wrong gives 1 at every recall; the other way round 1/2.
    right, wrong = make_detections((A, 0.5, 1)), make_detections((B, 0.5, 1))
    for ids, expected in ((("a", "b"), 1), (("b", "a"), 0.5), ((2, 10), 1), ((10, 2), 0.5)):
        split = make_split(make_record(ids[0], [(A, 1)]), make_record(ids[1], []))
        assert coco_metrics(split, [right, wrong], backend).ap["cat"] == pytest.approx(expected), ids


def test_results_carry_the_data_set_s_own_ids():
    split = make_split(make_record("2007_000027", [(A, 2)]))
    (row,) = to_coco_results(split, [make_detections(((1.004, 2, 11.5, 32), 0.123456789, 2))])
    expected = {
        "image_id": "2007_000027",
        "category_id": 17,
        "bbox": [1.0, 2.0, 10.5, 30.0],
        "score": 0.123457,
    }
    assert row == expected
    assert json.loads(json.dumps(row)) == expected


def test_results_round_trip(tmp_path):
    split, detections = random_case(0)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(to_coco_results(split, detections)[::-1]))  # any order of rows
    for ours, theirs in zip(detections, read_coco_results(path, split), strict=True):
        np.testing.assert_allclose(theirs.boxes, ours.boxes, atol=0.011)
        np.testing.assert_allclose(theirs.scores, ours.scores, atol=1e-6)
        np.testing.assert_array_equal(theirs.labels, ours.labels)
        assert theirs.boxes.dtype == np.float32 and theirs.labels.dtype == np.int64


@pytest.mark.parametrize("own, written", [(12, "12"), ("12", 12), ("2007_000027", "2007_000027")])
def test_ids_are_compared_as_text(tmp_path, own, written):
    path = write(tmp_path, [row(image_id=written, category_id="7")])
    (found,) = read_coco_results(path, make_split(make_record(own, [])))
    assert found.labels.tolist() == [1] and found.boxes.tolist() == [[1, 2, 4, 6]]


def test_empty_result_list(tmp_path):
    found = read_coco_results(write(tmp_path, []), make_split(make_record(1, []), make_record(2, [])))
    assert [len(each.scores) for each in found] == [0, 0] and found[0].boxes.shape == (0, 4)


@pytest.mark.parametrize(
    "content, sentence",
    [
        ([{"image_id": 99}], "result 0 has no category_id and no bbox and no score"),
        ({"images": []}, "not the annotations"),
        ([3], "result 0 is int"),
        ("", "not a JSON file"),
        ("[{", "not a JSON file"),
        ([{"image_id": 1, "category_id": 7, "bbox": [1, 2, 3], "score": 1}], r"bbox \[1, 2, 3\]"),
        ([{"image_id": 1, "category_id": 7, "bbox": [1, 2, -3, 4], "score": 1}], r"bbox \[1, 2, -3, 4\]"),
        ([{"image_id": 1, "category_id": 7, "bbox": [1, 2, "3", 4], "score": 1}], "bbox"),
        ([{"image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4], "score": float("nan")}], "score nan"),
        ([{"image_id": 1, "category_id": 7, "bbox": [1, 2, 3, float("inf")], "score": 1}], "inf"),
        ([{"image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 10**400], "score": 1}], "bbox"),
    ],
)
def test_malformed_results_are_named(tmp_path, content, sentence):
    path = write(tmp_path, content)
    with pytest.raises(DataError, match=sentence) as caught:
        read_coco_results(path, make_split(make_record(1, [])))
    assert str(path) in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="cannot read the results"):
        read_coco_results(tmp_path / "none.json", make_split())


def test_unknown_ids_are_named(tmp_path):
    split = make_split(make_record(1, []), make_record(2, []))
    some = write(tmp_path, [row(image_id=1), row(image_id=41), row(image_id=41), row(image_id="x")])
    with pytest.raises(DataError, match=r"2 of its image ids are not in this split \(41, x\)"):
        read_coco_results(some, split)
    every = write(tmp_path, [row(image_id=41), row(image_id=42)])
    with pytest.raises(
        DataError, match=r"none of its image ids \(41, 42\) .* \(which has 1, 2\).* another data set"
    ):
        read_coco_results(every, split)
    category = write(tmp_path, [row(), row(category_id=1)])
    with pytest.raises(DataError, match=r"1 of its category ids are not in this split \(1\)"):
        read_coco_results(category, split)


def row(**changes: object) -> dict[str, object]:
    return {"image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4], "score": 0.5, **changes}


def write(folder, content):
    path = folder / "results.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_ground_truth_through_json_is_perfect_on_real_records(tmp_path):
    split = bccd_split()
    path = write(tmp_path, to_coco_results(split, truth_as_detections(split)))
    metrics = coco_metrics(split, read_coco_results(path, split))
    assert all(
        math.isnan(value) or value == pytest.approx(1)
        for name, value in metrics.summary.items()
        if name.startswith("AP")
    )
    assert metrics.summary["AP"] == pytest.approx(1)
