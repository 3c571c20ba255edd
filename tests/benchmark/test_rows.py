"""Rows by hand."""

import json

from ssdlite.benchmark.timing import Row, Rows


def test_units():
    rows = Rows("step")
    rows.time("forward", [0.002, 0.004, 0.003])
    rows.time("AP", [2.0], unit="s")
    rows.rate("images", [0.5, 0.25, 1.0], images=8, note="why")
    rows.memory("peak", 3_500_000)
    assert rows == [
        Row("step", "forward", 3.0, "ms", 2.5, 3.5, 3),
        Row("step", "AP", 2.0, "s"),
        Row("step", "images", 16.0, "images/s", 12.0, 24.0, 3, "why"),
        Row("step", "peak", 3.5, "MB"),
    ]


def test_a_ratio_is_the_median_of_the_quotients_of_each_turn():
    rows = Rows("step")
    rows.ratio("over", [2.0, 9.0, 4.0], [1.0, 3.0, 1.0])  # 2, 3, 4; the medians themselves would give 4
    assert rows[0].value == 3.0 and rows[0].unit == "ratio"


def test_latency_gives_two_percentiles_in_milliseconds():
    rows = Rows("infer")
    rows.latency("PyTorch", [0.001 * number for number in range(1, 22)])  # 1..21 ms: p95 is 19 steps of 20 on
    assert [(row.name, round(row.value, 9), row.runs) for row in rows] == [
        ("PyTorch, p50", 11.0, 21),
        ("PyTorch, p95", 20.0, 21),
    ]


def test_memory_that_the_system_does_not_tell_is_left_out():
    rows = Rows("train")
    rows.memory("of a worker", None)
    assert rows == []


def test_rows_become_json():
    rows = Rows("eval")
    rows.value("share", 3, "%")
    assert json.loads(json.dumps([row._asdict() for row in rows])) == [
        {
            "section": "eval",
            "name": "share",
            "value": 3.0,
            "unit": "%",
            "low": None,
            "high": None,
            "runs": 1,
            "note": "",
        }
    ]
