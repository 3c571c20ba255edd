"""metrics.jsonl and TensorBoard hold what was logged."""

import json
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.backend_context import Context
from tensorboard.plugins.hparams.list_session_groups import Handler
from tensorboard.util.tensor_util import make_ndarray

from ssdlite.training.loggers import CURVE_THRESHOLDS, Logbook


def points(run_dir: Path) -> EventAccumulator:
    return EventAccumulator(str(run_dir), {"tensors": 0, "histograms": 0}).Reload()


def rows(log_dir: Path) -> list[tuple[dict, dict, str]]:
    """TensorBoard's table of hyperparameters as its own plugin answers: values, figures and state of each run."""
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(log_dir)).Reload()
    context = Context(TBContext(data_provider=MultiplexerDataProvider(multiplexer, str(log_dir))))
    request = api_pb2.ListSessionGroupsRequest(
        slice_size=100, allowed_statuses=[api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_RUNNING, api_pb2.STATUS_SUCCESS]
    )
    found = []
    for group in Handler(RequestContext(), context, "", request).run().session_groups:
        (session,) = group.sessions
        values = {name: getattr(value, value.WhichOneof("kind")) for name, value in group.hparams.items()}
        figures = {metric.name.tag: metric.value for metric in session.metric_values}
        found.append((values, figures, api_pb2.Status.Name(session.status)))
    return found


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


def test_what_is_watched_leaves_no_line(tmp_path):
    with Logbook(tmp_path) as logbook:
        logbook.watch("lr", 3, {"backbone": 0.5, "head": float("nan")})
        logbook.histogram("counts", 3, np.array([1, 1, 2, 5]), np.arange(7) - 0.5)
        logbook.histogram("nothing", 3, np.zeros(0), np.arange(7))
        assert logbook.num_lines == 0
    assert (tmp_path / "metrics.jsonl").read_text() == ""
    events = points(tmp_path)
    assert events.Tags()["scalars"] == ["lr/backbone"] and events.Scalars("lr/backbone")[0].value == 0.5
    assert events.Tags()["histograms"] == ["counts"]
    histogram = events.Histograms("counts")[0].histogram_value
    counts = dict(zip(histogram.bucket_limit, histogram.bucket, strict=True))
    assert {limit: count for limit, count in counts.items() if count} == {1.5: 2, 2.5: 1, 5.5: 1}


def test_precision_and_recall(tmp_path):
    # Two objects: a right detection of score .9 and a wrong one of .5.
    right, wrong = (CURVE_THRESHOLDS <= 0.9).astype(int), (CURVE_THRESHOLDS <= 0.5).astype(int)
    with Logbook(tmp_path) as logbook:
        logbook.precision_recall("curve/cat", 7, right, wrong, num_objects=2)
    (event,) = points(tmp_path).Tensors("curve/cat")
    true_positives, false_positives, true_negatives, missed, precision, recall = make_ndarray(event.tensor_proto)
    assert event.step == 7
    at = {threshold: round(threshold * 126) for threshold in (0, 0.5, 0.6, 1)}
    assert true_positives[[*at.values()]].tolist() == [1, 1, 1, 0]
    assert false_positives[[*at.values()]].tolist() == [1, 1, 0, 0]
    assert missed[[*at.values()]].tolist() == [1, 1, 1, 2] and not true_negatives.any()
    assert precision[[*at.values()]].tolist() == [0.5, 0.5, 1, 1]
    assert recall[[*at.values()]].tolist() == [0.5, 0.5, 0.5, 0]


def test_hyperparameters_are_a_row_of_the_run_itself(tmp_path):
    values = {"optim.lr": 0.5, "model.pretrained": True, "loss.kind": "focal"}
    with Logbook(tmp_path / "run") as logbook:
        logbook.hyperparameters(values, ["val/AP", "val/AP50"])
        logbook.log("val", 10, {"AP": 0.25})
        logbook.log("val", 20, {"AP": 0.75})
        logbook.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert not any(path.is_dir() for path in (tmp_path / "run").iterdir())
    expected = [(values, {"val/AP": pytest.approx(0.75)}, "STATUS_SUCCESS")]
    assert rows(tmp_path) == rows(tmp_path / "run") == expected


def test_a_resumed_run_has_one_row(tmp_path):
    values = {"optim.lr": 0.5}
    with Logbook(tmp_path) as logbook:
        logbook.hyperparameters(values, ["val/AP"])
        logbook.log("val", 10, {"AP": 0.25})
    assert rows(tmp_path) == [(values, {"val/AP": 0.25}, "STATUS_UNKNOWN")]  # it has not come to its end
    with Logbook(tmp_path, purge_step=11) as logbook:
        logbook.hyperparameters(values, ["val/AP"])
        logbook.log("val", 20, {"AP": 0.5})
        logbook.finish()
    assert rows(tmp_path) == [(values, {"val/AP": 0.5}, "STATUS_SUCCESS")]
    assert [event.step for event in points(tmp_path).Scalars("val/AP")] == [10, 20]


def test_what_lies_beyond_the_resumed_step_is_taken_back(tmp_path):
    for purge_step in (None, 11):
        with Logbook(tmp_path, purge_step) as logbook:
            for step in (10, 20) if purge_step is None else (20,):
                logbook.watch("lr", step, {"head": step})
                logbook.histogram("counts", step, np.array([1]), np.arange(3))
                logbook.precision_recall("curve", step, np.ones(127), np.ones(127), 2)
    shown = EventMultiplexer().AddRunsFromDirectory(str(tmp_path)).Reload()  # what TensorBoard itself reads with
    for tag in ("lr/head", "counts", "curve"):
        assert [event.step for event in shown.Tensors(".", tag)] == [10, 20]
