"""metrics.jsonl and TensorBoard hold what was logged."""

import json

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ssdlite.training.logbook import Logbook


def test_lines_and_points(tmp_path):
    with Logbook(tmp_path) as logbook:
        logbook.log("train", 20, {"loss": 1.5, "epoch": 1})
        logbook.log("val", 20, {"AP": float("nan"), "per_class": {"cat": 0.25}})
        logbook.picture("samples", 20, np.zeros((8, 8, 3), np.uint8))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [
        {"kind": "train", "step": 20, "loss": 1.5, "epoch": 1},
        {"kind": "val", "step": 20, "AP": None, "per_class": {"cat": 0.25}},
    ]
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Scalars("val/per_class/cat")[0].value == 0.25
    assert set(events.Tags()["scalars"]) == {"train/loss", "train/epoch", "val/per_class/cat"}
    assert events.Tags()["images"] == ["samples"]


def test_a_second_logbook_continues_the_file(tmp_path):
    for step in (1, 2):
        with Logbook(tmp_path) as logbook:
            logbook.log("train", step, {"loss": 0.0})
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
