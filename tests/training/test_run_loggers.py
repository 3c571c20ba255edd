"""The seam of loggers: a new one is a class and a place in a tuple. MLflow and Weights & Biases with stores of
their own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from ssdlite.config.schema import load_config
from ssdlite.errors import ConfigError
from ssdlite.training import run_loggers
from ssdlite.training.loggers import Logbook
from ssdlite.training.run_loggers import MlflowLogger, RunLogger, WandbLogger, require_loggers
from tests.conftest import TINY


class ListLogger(RunLogger):
    """Keeps all that it is told."""

    name = "list"
    package = "json"
    told: ClassVar[list[tuple]] = []

    def __init__(self, run_dir: Path, first_step: int | None) -> None:
        self.told.append(("open", run_dir.name, first_step))

    def config(self, options: Mapping[str, bool | float | str], figures: Sequence[str]) -> None:
        self.told.append(("config", options["optim.lr"], next(iter(figures))))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.told.append(("scalars", step, dict(values)))

    def image(self, name: str, step: int, image: np.ndarray) -> None:
        self.told.append(("image", name, image.shape[-1]))

    def close(self, finished: bool) -> None:
        self.told.append(("close", finished))


@pytest.fixture
def told(monkeypatch) -> list[tuple]:
    monkeypatch.setattr(run_loggers, "LOGGERS", (*run_loggers.LOGGERS, ListLogger))
    monkeypatch.setattr(ListLogger, "told", [])
    return ListLogger.told


def test_a_logger_that_the_package_does_not_know(cli, drawn, tmp_path, told):
    """A training tells it options, every figure of metrics.jsonl, pictures, and its end."""
    options = [
        f"data={drawn}",
        f"run.dir={tmp_path}",
        "run.name=toy",
        "train.epochs=2",
        "train.log_interval=1",
        *TINY,
    ]
    result = cli("train", *options, "run.loggers=list")
    assert result.code == 0, result.err
    assert (
        told[0] == ("open", "toy", None) and told[1] == ("config", 0.02, "val/AP") and told[-1] == ("close", True)
    )
    assert ("image", "samples", 3) in told
    lines = [json.loads(line) for line in (tmp_path / "toy/metrics.jsonl").read_text().splitlines()]
    expected = {
        (f"{line['kind']}/{name}", line["step"]): value
        for line in lines
        for name, value in line.items()
        if isinstance(value, int | float) and name not in ("kind", "step")
    }
    found = {(name, step): value for kind, step, values in _scalars(told) for name, value in values.items()}
    assert expected.items() <= found.items() and any(name == "val/AP" for name, _ in found)
    assert not list((tmp_path / "toy").glob("events.*"))  # TensorBoard was not asked for


def _scalars(told: list[tuple]) -> list[tuple]:
    return [row for row in told if row[0] == "scalars"]


def test_a_run_that_is_stopped_has_not_come_to_its_end(tmp_path, told):
    with Logbook(tmp_path, loggers=["list"]) as logbook:
        logbook.log("val", 3, {"AP": float("nan"), "per_class": {"cat": 0.5}})
        logbook.log("val", 4, {"AP": float("nan")})
    assert told[1:] == [("scalars", 3, {"val/per_class/cat": 0.5}), ("close", False)]
    with Logbook(tmp_path, purge_step=5, loggers=["list", "tensorboard"]) as logbook:
        logbook.finish()
    assert told[-2:] == [("open", tmp_path.name, 5), ("close", True)]


def test_no_logger_at_all(tmp_path):
    with Logbook(tmp_path, loggers=()) as logbook:
        logbook.log("train", 1, {"loss": 0.5})
        logbook.picture("a", 1, np.zeros((2, 2, 3), np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_names_and_packages_are_checked_before_the_first_step(cli, drawn, tmp_path, monkeypatch):
    assert load_config(None, ["run.loggers=mlflow"]).run.loggers == ["mlflow"]
    assert load_config(None, ["run.loggers=[]"]).run.loggers == []
    with pytest.raises(ConfigError, match=r"there is no logger 'tensorbord'; did you mean tensorboard\?"):
        require_loggers(["tensorbord"])
    with pytest.raises(ConfigError, match=r"run\.loggers"):
        load_config(None, ["run.loggers=[wandb, wandb]"])
    monkeypatch.setattr(run_loggers.importlib.util, "find_spec", lambda name: None)
    result = cli("train", f"data={drawn}", f"run.dir={tmp_path}", "run.loggers=[tensorboard, wandb]")
    assert result.code == 2 and not list(tmp_path.iterdir())
    assert "needs a package that is not installed" in result.err


def log_twice(make, run_dir: Path) -> None:
    """A run of two steps, and one more after it was resumed."""
    run_dir.mkdir()
    for first_step, steps in ((None, (1, 2)), (3, (3,))):
        each = make(run_dir, first_step)
        each.config({"optim.lr": 0.5, "model.head": "ssdlite"}, ["val/AP"])
        for step in steps:
            each.scalars(step, {"val/AP": step / 10, "val/per_class/é & x": 1.0})
            each.image("samples", step, np.full((8, 8, 3), 9, np.uint8))
        each.close(first_step is not None)


def test_mlflow(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    log_twice(MlflowLogger, tmp_path / "run")
    client = MlflowClient((tmp_path / "mlruns").absolute().as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("ssdlite").experiment_id])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.params == {"optim.lr": "0.5", "model.head": "ssdlite"}
    points = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "val/AP")]
    assert points == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert "val/per_class/_ _ x" in run.data.metrics or "val/per_class/é _ x" in run.data.metrics
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {
        f"samples-{step}.png" for step in (1, 2, 3)
    }


def test_wandb(tmp_path, monkeypatch):
    """Offline: each part of the run is a file of its own, with the same id."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    log_twice(WandbLogger, tmp_path / "run")
    parts = sorted((tmp_path / "run/wandb").glob("offline-run-*"))
    run_id = json.loads((tmp_path / "run/wandb.json").read_text())["run_id"]
    assert parts and all(part.name.endswith(run_id) for part in parts)
    stored = b"".join(file.read_bytes() for part in parts for file in part.glob("*.wandb"))
    assert b"val/AP" in stored and b"optim.lr" in stored
    assert len(list((tmp_path / "run/wandb").glob("offline-run-*/files/media/images/samples_*.png"))) == 3
