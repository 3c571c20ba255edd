"""Series read from a log, also from one that is damaged or cut short."""

import json

import numpy as np

from ssdlite.report.data import Series, make_history, read_history, thinned


def test_lines_become_series(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [
        {"kind": "train", "step": 20, "epoch": 0, "lr": 0.1, "loss": 5.0, "box": 2.0, "classification": 3.0},
        {"kind": "train", "step": 40, "epoch": 0, "lr": 0.2, "loss": None, "box": 1.0, "classification": 1.0},
        {"kind": "val", "step": 40, "epoch": 1, "AP": 0.25, "per_class_AP": {"cat": 0.25}},
        {"kind": "another", "step": 50},
    ]
    path.write_text("\n".join(map(json.dumps, lines)) + '\n{"kind": "train", "st')
    history = read_history(path)
    assert history.train["lr"].steps.tolist() == [20, 40] and history.train["lr"].values.tolist() == [0.1, 0.2]
    assert np.isnan(history.train["loss"].values[1])
    assert set(history.terms) == {"box", "classification"}
    assert history.val["AP"].values.tolist() == [0.25] and "per_class_AP" not in history.val
    assert history.last_step == 40


def test_there_may_be_no_log(tmp_path):
    history = read_history(tmp_path / "metrics.jsonl")
    assert history.train == history.val == {} and history.last_step == 0


def test_what_is_no_log_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"\xff\xfe\x00")
    assert read_history(path).train == {}
    path.write_text('[1]\n"text"\n{"kind": "train"}\n{"kind": "train", "step": "x"}\n')
    assert read_history(path).train == {}
    assert make_history([{"kind": "train", "step": 1, "flag": True, "word": "x"}]).train == {}


def test_long_series_are_thinned_to_means():
    series = thinned(Series(np.arange(10), np.arange(10.0)), most=5)
    assert series.steps.tolist() == [0, 2, 4, 6, 8] and series.values.tolist() == [0.5, 2.5, 4.5, 6.5, 8.5]
    odd = thinned(Series(np.arange(7), np.arange(7.0)), most=3)
    assert len(odd) == 3 and odd.values.tolist() == [0.5, 2.5, 5.0]
    assert len(thinned(Series(np.arange(3), np.zeros(3)), most=5)) == 3
