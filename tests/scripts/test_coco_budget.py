"""Hours from rates, by hand."""

import json

import pytest

from scripts.coco_budget import Rates, on_nodes, read_rates


def test_rates_come_from_a_benchmark(tmp_path):
    rows = [
        ("train", "training on a resident batch", 20.0),
        ("loader", "decode + augmentation: a training sample", 300.0),
        ("loader", "a training sample from the disk cache", 1000.0),
    ]
    content = {
        "machine": {"processor": "P", "gpu": None, "cores": 2},
        "config": {"train": {"batch_size": 32}},
        "rows": [{"section": s, "name": n, "unit": "images/s", "value": v} for s, n, v in rows],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert read_rates(tmp_path / "a.json") == ("P, 2 cores", Rates(20.0, 600.0, 2000.0), 32)


def test_what_is_slowest_is_waited_for():
    assert on_nodes(Rates(20, 600, 2000), 32, 1) == (20, 20, "network")
    assert on_nodes(Rates(5000, 600, 2000), 32, 1) == (600, 2000, "decoding")


def test_gradients_take_their_time_between_machines():
    """26 MB at 1 GB/s, of which a ring of two sends half: 13 ms beside the 6.4 ms of 32 images."""
    files, cached, waits = on_nodes(Rates(5000, 9000, 9000), 32, 2)
    assert files == cached == pytest.approx(2 * 32 / (0.0064 + 0.013))
    assert waits == "exchange of gradients"
