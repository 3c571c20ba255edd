"""Figures by size: COCO's own, and those by the share of the image's side."""

import math
from dataclasses import replace

import numpy as np
import pytest

from ssdlite.evaluation.coco import coco_metrics, load_faster
from ssdlite.evaluation.sizes import SHARES, coco_sizes, relative_sizes
from ssdlite.structures import DataSplit, Detections

from .cases import hard_case, make_detections, make_record, make_split, random_case

# Images are 1000 x 1000, so that a side of 10 px is 1 %.
TINY, SMALL, BIG = (0, 0, 20, 20), (100, 0, 160, 60), (200, 200, 700, 700)
FAR_TINY = (900, 900, 920, 920)


@pytest.mark.parametrize("case", [random_case, hard_case])
def test_means_are_cocos_figures(case):
    split, detections = case(1)
    metrics = coco_metrics(split, detections)
    for bucket in coco_sizes(split, metrics.curves).buckets:
        assert bucket.mean_ap == pytest.approx(metrics.summary[f"AP_{bucket.name}"])
        assert bucket.mean_recall == pytest.approx(metrics.summary[f"AR_{bucket.name}"])


def test_cocos_sizes_are_of_the_annotations_own_area():
    record = make_record(1, [(TINY, 1), (SMALL, 1), (BIG, 2)])
    record.areas[1] = 1000  # a mask that fills less than a third of its box: small
    split = make_split(record)
    small, medium, large = coco_sizes(split, coco_metrics(split, [Detections.empty()]).curves).buckets
    assert (small.num_objects, medium.total, large.num_objects) == ({"cat": 2, "dog": 0}, 0, {"cat": 0, "dog": 1})
    assert math.isnan(small.ap["dog"]) and math.isnan(medium.mean_ap) and large.mean_ap == 0
    shares = [bucket.num_objects["cat"] for bucket in relative_sizes(split, [Detections.empty()]).buckets]
    assert shares == [1, 1, 0, 0, 0]  # of the boxes


def test_relative_sizes_by_hand():
    # cats: 2 % found after a false detection of its size, 6 % missed; dog: 50 % found.
    split = make_split(make_record(1, [(TINY, 1), (SMALL, 1), (BIG, 2)]))
    found = make_detections((FAR_TINY, 0.9, 1), (TINY, 0.8, 1), (BIG, 0.7, 2))
    first, second, third, fourth, last = relative_sizes(split, [found]).buckets
    assert first.ap["cat"] == first.ap50["cat"] == pytest.approx(0.5) and math.isnan(first.ap["dog"])
    assert (first.mean_ap, first.mean_recall, first.mean_recall50) == (pytest.approx(0.5), 1, 1)
    assert second.ap["cat"] == second.recall["cat"] == 0 and second.total == 1
    assert third.total == fourth.total == 0 and math.isnan(third.mean_ap50)
    assert last.ap["dog"] == last.recall50["dog"] == 1 and last.low == 0.32 and last.high == math.inf


def test_a_size_on_the_border_is_in_the_upper_bucket_only():
    split = make_split(make_record(1, [((0, 0, 40, 40), 1), ((100, 0, 420, 320), 1)]))  # 4 % and 32 %
    found = make_detections(((0, 0, 40, 40), 0.9, 1), ((100, 0, 420, 320), 0.9, 1))
    table = relative_sizes(split, [found])
    assert [bucket.total for bucket in table.buckets] == [0, 1, 0, 0, 1]
    assert [bucket.mean_ap for bucket in table.buckets] == pytest.approx(
        [math.nan, 1, math.nan, math.nan, 1], nan_ok=True
    )


def test_the_share_is_of_each_image():
    split, detections = random_case(0)
    doubled = [
        replace(record, size=(2000, 2000), boxes=record.boxes * 2, areas=record.areas * 4)
        for record in split.records
    ]
    larger = DataSplit(doubled, split.class_names, split.category_ids)
    found = [each._replace(boxes=each.boxes * 2) for each in detections]
    for one, other in zip(
        relative_sizes(split, detections).buckets, relative_sizes(larger, found).buckets, strict=True
    ):
        assert one.num_objects == other.num_objects
        assert one.mean_ap == pytest.approx(other.mean_ap, nan_ok=True)
    narrow = replace(split.records[0], size=(10, 1000), boxes=np.array([[0, 0, 10, 10]], np.float32))
    narrow = replace(
        narrow,
        **{name: getattr(make_record(1, [(TINY, 1)]), name) for name in ("labels", "ignore", "crowd", "areas")},
    )
    counts = [bucket.total for bucket in relative_sizes(make_split(narrow), [Detections.empty()]).buckets]
    assert counts == [0, 0, 1, 0, 0]  # the root of 100 px² in 10,000


def test_all_objects_are_in_some_bucket_and_both_backends_agree():
    split, detections = hard_case(2)
    table = relative_sizes(split, detections, "pycocotools")
    counted = sum(int((~record.ignore).sum()) for record in split.records)
    assert sum(bucket.total for bucket in table.buckets) == counted
    if load_faster() is None:
        pytest.skip("faster-coco-eval is not installed")
    for slow, fast in zip(table.buckets, relative_sizes(split, detections, "faster").buckets, strict=True):
        assert slow.ap == pytest.approx(fast.ap, nan_ok=True)
        assert slow.recall50 == pytest.approx(fast.recall50, nan_ok=True)


def test_nothing_there():
    for split in (make_split(), make_split(make_record(1, []))):
        nothing = [Detections.empty()] * len(split)
        tables = relative_sizes(split, nothing), coco_sizes(split, coco_metrics(split, nothing).curves)
        assert [len(table.buckets) for table in tables] == [len(SHARES) - 1, 3]
        assert all(math.isnan(bucket.mean_ap) and not bucket.total for table in tables for bucket in table.buckets)
