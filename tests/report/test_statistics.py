"""Counts, sizes and aspect ratios of a split, against numbers worked out by hand."""

import pytest

from ssdlite.report.charts import data_charts
from ssdlite.report.data import describe_split
from tests.evaluation.cases import make_record, make_split


def test_by_hand():
    split = make_split(
        make_record("a", [((0, 0, 100, 100), 1), ((0, 0, 200, 50), 2)]),  # of images of 1000x1000
        make_record("b", [((0, 0, 10, 10), 1), ((0, 0, 500, 500), 2)], difficult=[0], crowd=[1]),
        make_record("c", []),
    )
    found = describe_split(split)
    assert (found.num_images, found.num_empty, found.num_ignored, found.total) == (3, 2, 2, 2)
    assert found.num_objects == {"cat": 1, "dog": 1}
    assert found.sides.tolist() == pytest.approx([0.1, 0.1])
    assert found.ratios.tolist() == pytest.approx([1, 4])
    assert found.objects_per_image.tolist() == [2, 0, 0]


def test_boxes_without_area_have_a_bounded_shape():
    found = describe_split(make_split(make_record("a", [((5, 5, 5, 9), 1), ((5, 5, 9, 5), 1)])))
    assert found.sides.tolist() == [0, 0] and found.ratios.tolist() == [1e-4, 1e4]
    assert len(data_charts({"val": found})) == 3


def test_nothing_at_all():
    found = describe_split(make_split())
    assert (found.num_images, found.total) == (0, 0)
    assert data_charts({"val": found}) == [] and data_charts({}) == []
    empty = describe_split(make_split(make_record("a", [])))
    assert [chart.title for chart in data_charts({"val": empty})] == ["Objects per image"]
