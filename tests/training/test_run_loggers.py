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
from ssdlite.errors import ConfigError, UserError
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
    assert "tensorboard" not in result.out


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


class FullDisk(ListLogger):
    """Cannot log at all from step 2 on."""

    name = "full"

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        if step >= 2:
            raise OSError(28, "No space left on device")
        super().scalars(step, values)


class NoServer(ListLogger):
    """Cannot be opened."""

    name = "absent"

    def __init__(self, run_dir: Path, first_step: int | None) -> None:
        raise ConnectionError("no answer from\nhttp://example.com")


def test_a_logger_that_fails_is_left_out_and_the_others_go_on(tmp_path, told, monkeypatch, caplog):
    monkeypatch.setattr(run_loggers, "LOGGERS", (FullDisk, ListLogger))
    with Logbook(tmp_path, loggers=["full", "list"]) as logbook:
        for step in (1, 2, 3):
            logbook.log("train", step, {"loss": 0.5})
        logbook.finish()
    steps = [step for _, step, _ in _scalars(told)]
    assert steps == [1, 1, 2, 3] and told[-1] == ("close", True) and told[-2][0] == "scalars"  # one is closed
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3
    (warning,) = caplog.messages
    assert warning.startswith("full has failed") and "No space left on device" in warning


def test_a_logger_that_cannot_be_opened_is_a_sentence(cli, drawn, tmp_path, told, monkeypatch):
    """The training ends before its first step, leaves no folder, and closes what was opened."""
    monkeypatch.setattr(run_loggers, "LOGGERS", (ListLogger, NoServer))
    options = [f"data={drawn}", f"run.dir={tmp_path}", "train.epochs=1", *TINY]
    result = cli("train", *options, "run.loggers=[list, absent]")
    assert result.code == 1 and not list(tmp_path.iterdir())
    assert (
        "error: run.loggers=absent cannot be opened: no answer from http://example.com; mend that, or leave it out"
        in " ".join(result.err.split())
    )
    assert [row[0] for row in told] == ["open", "close"]
    with pytest.raises(UserError, match=r"run\.loggers=absent cannot be opened"):
        Logbook(tmp_path / "run", loggers=["absent"])


def log_resumed(make, run_dir: Path) -> None:
    """A run that is killed after step 3, and resumed from what was saved after step 2."""
    run_dir.mkdir()
    for first_step, steps in ((None, (1, 2, 3)), (3, (3, 4))):
        each = make(run_dir, first_step)
        each.config({"optim.lr": 0.5, "model.head": "ssdlite"}, ["val/AP"])
        for step in steps:
            each.scalars(step, {"val/AP": step / 10, "val/per_class/é & x": 1.0})
            each.image("samples", step, np.full((8, 8, 3), 9, np.uint8))
        each.close(first_step is not None)


@pytest.fixture
def mlflow_client(tmp_path, monkeypatch):
    """A client of the store of runs in `tmp_path`."""
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return MlflowClient((tmp_path / "mlruns").absolute().as_uri())


def mlflow_runs(client) -> list:
    return client.search_runs([client.get_experiment_by_name("ssdlite").experiment_id])


def test_mlflow(tmp_path, mlflow_client):
    """A run that is resumed is one run, with each point once."""
    log_resumed(MlflowLogger, tmp_path / "run")
    (run,) = mlflow_runs(mlflow_client)
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.params == {"optim.lr": "0.5", "model.head": "ssdlite"}
    history = mlflow_client.get_metric_history(run.info.run_id, "val/AP")
    assert [(point.step, point.value) for point in history] == [(1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)]
    assert set(run.data.metrics) == {"val/AP", "val/per_class/é _ x"}
    assert {file.path for file in mlflow_client.list_artifacts(run.info.run_id)} == {
        f"samples-{step}.png" for step in (1, 2, 3, 4)
    }


def test_mlflow_without_the_run_to_resume_begins_a_new_one(tmp_path, mlflow_client, caplog):
    (tmp_path / "run").mkdir()
    MlflowLogger(tmp_path / "run", None).close(False)
    (old,) = mlflow_runs(mlflow_client)
    mlflow_client.delete_run(old.info.run_id)
    each = MlflowLogger(tmp_path / "run", 3)
    each.scalars(3, {"val/AP": 0.5})
    each.close(True)
    (new,) = mlflow_runs(mlflow_client)
    assert new.info.run_id != old.info.run_id and new.data.metrics == {"val/AP": 0.5}
    assert f"MLflow cannot continue the run {old.info.run_id}" in caplog.text


def test_mlflow_takes_any_class_name(tmp_path, mlflow_client):
    (tmp_path / "run").mkdir()
    each = MlflowLogger(tmp_path / "run", None)
    names = ["a//b", "..", "x/", "人 & co", "n" * 300]
    each.scalars(1, {f"val/per_class_AP/{name}": 0.5 for name in names})
    each.scalars(1, {f"val/per_class_AP/{number}": 0.5 for number in range(1200)})  # as many as LVIS has
    each.close(True)
    (run,) = mlflow_runs(mlflow_client)
    assert len(run.data.metrics) == len(names) + 1200
    assert "val/per_class_AP/a/_/b" in run.data.metrics and "val/per_class_AP/_" in run.data.metrics


def test_a_training_in_all_stores(cli, drawn, tmp_path, mlflow_client, monkeypatch):
    """What MLflow has of a real training are the figures of metrics.jsonl."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    options = [f"data={drawn}", f"run.dir={tmp_path}", "run.name=a", "train.epochs=1", "train.log_interval=1"]
    result = cli("train", *options, *TINY, "run.loggers=[mlflow, tensorboard, wandb]")
    assert result.code == 0 and "has failed" not in result.err, result.err
    (run,) = mlflow_runs(mlflow_client)
    lines = [json.loads(line) for line in (tmp_path / "a/metrics.jsonl").read_text().splitlines()]
    losses = [(line["step"], line["loss"]) for line in lines if line["kind"] == "train"]
    history = mlflow_client.get_metric_history(run.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == losses
    assert [point["train/loss"] for point in wandb_history(tmp_path / "a") if "train/loss" in point] == [
        value for _, value in losses
    ]
    assert run.data.params["model.width"] == "0.25" and run.info.status == "FINISHED"
    assert list((tmp_path / "a").glob("events.*"))


def wandb_history(run_dir: Path) -> list[dict]:
    """The points of all parts of an offline run, in the order in which they were begun.

    A .wandb file is a log of LevelDB: blocks of 32 KiB with parts of records, each after its CRC (4 bytes), length
    (2) and kind (1: whole, 2 to 4: first, middle and last part); the file begins with 7 bytes of its own.
    """
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # its process may still be writing when a run has finished
    points = []
    for file in sorted(run_dir.glob("wandb/offline-run-*/*.wandb"), key=lambda file: file.stat().st_mtime_ns):
        data, position, record = file.read_bytes(), 7, b""
        while position + 7 <= len(data):
            if 32768 - position % 32768 < 7:
                position += 32768 - position % 32768
                continue
            length, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
            record += data[position + 7 : position + 7 + length]
            position += 7 + length
            if kind in (1, 4):
                history = Record.FromString(record).history
                if history.item:
                    pairs = {item.key or "/".join(item.nested_key): item.value_json for item in history.item}
                    points.append({key: json.loads(value) for key, value in pairs.items()})
                record = b""
    return points


def test_wandb(tmp_path, monkeypatch):
    """Offline, each part of the run is a folder of its own with the same id."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    log_resumed(WandbLogger, tmp_path / "run")
    parts = list((tmp_path / "run/wandb").glob("offline-run-*"))
    run_id = json.loads((tmp_path / "run/wandb.json").read_text())["run_id"]
    assert len(parts) == 2 and all((part / f"run-{run_id}.wandb").is_file() for part in parts)
    assert [(point["_step"], point["val/AP"]) for point in wandb_history(tmp_path / "run")] == [
        (1, 0.1), (2, 0.2), (3, 0.3), (3, 0.3), (4, 0.4),
    ]  # fmt: skip
    assert len(list((tmp_path / "run/wandb").glob("offline-run-*/files/media/images/samples_*.png"))) == 5


def test_wandb_does_not_log_steps_again(tmp_path, monkeypatch, capfd):
    """Online, W&B says at which step a run stands that is continued; here an earlier step comes again."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "run").mkdir()
    each = WandbLogger(tmp_path / "run", None)
    for step in (2, 1, 2, 3):
        each.scalars(step, {"val/AP": step / 10})
        each.image("samples", step, np.zeros((8, 8, 3), np.uint8))
    each.close(True)
    assert [point["_step"] for point in wandb_history(tmp_path / "run")] == [2, 3]
    assert "WARNING" not in "".join(capfd.readouterr())


def test_wandb_without_a_key_is_offline(tmp_path, monkeypatch, capfd):
    wandb = pytest.importorskip("wandb")
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr(wandb, "login", lambda prompt, verify: False)
    (tmp_path / "run").mkdir()
    WandbLogger(tmp_path / "run", None).close(True)
    assert len(list((tmp_path / "run/wandb").glob("offline-run-*"))) == 1
    assert "WARNING" not in "".join(capfd.readouterr())
