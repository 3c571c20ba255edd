"""Programs that a run's figures are logged to: TensorBoard, MLflow, Weights & Biases.

Start with `RunLogger`. To add one: a subclass here, and its place in `LOGGERS`. Importing this module imports none
of the packages.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
import logging
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ssdlite.errors import ConfigError
from ssdlite.io import write_text

logger = logging.getLogger(__name__)


Options = Mapping[str, bool | float | str]
"""Options of a run by their dotted names."""


class RunLogger(ABC):
    """Logger of one run.

    Steps never fall, except where a run is resumed: then those from `first_step` on come again, with the same
    values but for times. What was logged of them before is taken back, or kept instead of what comes again.

    Any exception of the constructor ends the training before its first step, with a sentence. One of another method
    leaves the logger out from then on; the training goes on.
    """

    name: ClassVar[str]
    """Word in the option run.loggers."""
    package: ClassVar[str]
    """Module that is imported."""
    extra: ClassVar[str] = ""
    """Extra of ssdlite that installs the package; "" where it is always there."""

    @abstractmethod
    def __init__(self, run_dir: Path, first_step: int | None) -> None:
        """Open the log of the run in `run_dir`, or go on with it: `first_step` is None for a run that is new."""

    @abstractmethod
    def config(self, options: Options, figures: Sequence[str]) -> None:
        """Log the options of the run; `figures` are the names of the scalars that tell how good it is."""

    @abstractmethod
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log finite numbers by their names, which may hold slashes."""

    @abstractmethod
    def image(self, name: str, step: int, image: np.ndarray) -> None:
        """Log an (H, W, 3) uint8 RGB image."""

    def histogram(self, name: str, step: int, values: np.ndarray, edges: np.ndarray) -> None:  # noqa: B027
        """Log how many of (N,) `values` lie between each two of (E,) `edges`. Default: nothing."""

    def precision_recall(  # noqa: B027
        self, name: str, step: int, right: np.ndarray, wrong: np.ndarray, num_objects: int
    ) -> None:
        """Log a curve from the true and false positives at (S,) thresholds. Default: nothing."""

    @abstractmethod
    def close(self, finished: bool) -> None:
        """Write what is left; `finished` tells whether the run has come to its end."""


class TensorBoardLogger(RunLogger):
    """Events for TensorBoard in the run's folder."""

    name = "tensorboard"
    package = "tensorboard"

    def __init__(self, run_dir: Path, first_step: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if first_step is None and not any(run_dir.glob("events.out.tfevents.*")):
            first_step = 0  # TensorBoard takes back what lies beyond a restart only if it saw the start
        self._writer = SummaryWriter(str(run_dir), purge_step=first_step)
        self._end: Any = None

    def config(self, options: Options, figures: Sequence[str]) -> None:
        """Add the run's row to TensorBoard's table of hyperparameters, with its last points named `figures`.

        `SummaryWriter.add_hparams` would make a second run of it, in a folder inside this one's. TensorBoard keeps
        the first row of a run, so that one that is resumed may log it again.
        """
        from torch.utils.tensorboard.summary import hparams

        experiment, start, self._end = hparams(dict(options), dict.fromkeys(figures, 0.0))
        self._writer._get_file_writer().add_summary(experiment)
        self._writer._get_file_writer().add_summary(start)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def image(self, name: str, step: int, image: np.ndarray) -> None:
        self._writer.add_image(name, image, step, dataformats="HWC")

    def histogram(self, name: str, step: int, values: np.ndarray, edges: np.ndarray) -> None:
        self._writer.add_histogram(name, values, step, bins=edges)

    def precision_recall(
        self, name: str, step: int, right: np.ndarray, wrong: np.ndarray, num_objects: int
    ) -> None:
        """Log the curve; where nothing is kept, precision is 1 (as in scikit-learn), so that it ends where it
        should.

        Nobody counts what is rightly not found: TensorBoard's true negatives are 0.
        """
        kept = right + wrong
        self._writer.add_pr_curve_raw(
            name,
            true_positive_counts=right,
            false_positive_counts=wrong,
            true_negative_counts=np.zeros_like(right),
            false_negative_counts=num_objects - right,
            precision=np.where(kept > 0, right / np.maximum(kept, 1), 1.0),
            recall=right / num_objects,
            global_step=step,
            num_thresholds=len(right),
        )

    def close(self, finished: bool) -> None:
        if finished and self._end is not None:
            self._writer._get_file_writer().add_summary(self._end)
        self._writer.close()


class MlflowLogger(RunLogger):
    """Run of MLflow in the experiment `ssdlite` (or MLFLOW_EXPERIMENT_NAME).

    The store is MLFLOW_TRACKING_URI, or the folder mlruns beside the run's. The run's id is in mlflow.json, so that
    a training that is resumed goes on with it; where the store does not have it any more, a new run begins. MLflow
    takes nothing back: points that are there already are not logged again, and options keep their first value.
    """

    name = "mlflow"
    package = "mlflow"
    extra = "mlflow"

    def __init__(self, run_dir: Path, first_step: int | None) -> None:
        store = run_dir.parent / "mlruns"  # one for all runs, so that they can be compared
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3.13 asks for it
        from mlflow.entities import Metric, Param
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        self._metric, self._param = Metric, Param
        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or store.absolute().as_uri())
        self._continued = False
        self._last_steps: dict[str, int] = {}  # of the metrics of a run that is continued
        file = run_dir / "mlflow.json"
        if first_step is not None and file.exists():
            self._run_id = json.loads(file.read_text(encoding="utf-8"))["run_id"]
            try:
                self._client.update_run(self._run_id, status="RUNNING")
                self._continued = True
                return
            except MlflowException as error:
                logger.warning("MLflow cannot continue the run %s (%s); a new one begins.", self._run_id, error)
        experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "ssdlite"
        known = self._client.get_experiment_by_name(experiment)
        experiment_id = known.experiment_id if known else self._client.create_experiment(experiment)
        self._run_id = self._client.create_run(experiment_id, run_name=run_dir.name).info.run_id
        write_text(file, json.dumps({"run_id": self._run_id}) + "\n")

    def config(self, options: Options, figures: Sequence[str]) -> None:
        known = self._client.get_run(self._run_id).data.params
        params = [
            self._param(name, str(value)[:500] or "none") for name, value in options.items() if name not in known
        ]
        self._client.log_batch(self._run_id, params=params)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        metrics = [self._metric(_plain_name(name), value, now, step) for name, value in values.items()]
        if self._continued:
            metrics = [metric for metric in metrics if step > self._last_step(metric.key)]
        self._client.log_batch(self._run_id, metrics=metrics)

    def _last_step(self, name: str) -> int:
        """Return the last step of a metric when the run was continued; -1 where it has no point."""
        if name not in self._last_steps:
            history = self._client.get_metric_history(self._run_id, name)
            self._last_steps[name] = max((point.step for point in history), default=-1)
        return self._last_steps[name]

    def image(self, name: str, step: int, image: np.ndarray) -> None:
        self._client.log_image(self._run_id, image, artifact_file=f"{_plain_name(name)}-{step}.png")

    def close(self, finished: bool) -> None:
        self._client.set_terminated(self._run_id, "FINISHED" if finished else "KILLED")


class WandbLogger(RunLogger):
    """Run of Weights & Biases in the project `ssdlite` (or WANDB_PROJECT).

    Without a key it is kept offline, in the run's folder; `wandb sync` uploads it. The run's id is in wandb.json,
    so that a training that is resumed goes on with it. W&B takes nothing back: steps that it has already are not
    logged again. Offline it does not know them, and each part of the run is a folder of its own with the same id.
    """

    name = "wandb"
    package = "wandb"
    extra = "wandb"

    def __init__(self, run_dir: Path, first_step: int | None) -> None:
        import wandb

        self._wandb = wandb
        file = run_dir / "wandb.json"
        run_id = None
        if first_step is not None and file.exists():
            run_id = json.loads(file.read_text(encoding="utf-8"))["run_id"]
        mode: Any = os.environ.get("WANDB_MODE")
        if not mode:
            has_key = wandb.login(prompt=False, verify=False)
            mode = "online" if has_key else "offline"
            if not has_key:
                logger.info("Weights & Biases has no key, so the run is kept offline in %s.", run_dir / "wandb")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or "ssdlite",
            name=run_dir.name,
            id=run_id,
            dir=str(run_dir),
            mode=mode,
            resume="allow",
            settings=wandb.Settings(silent=True, console="off"),
        )
        write_text(file, json.dumps({"run_id": self._run.id}) + "\n")

    def config(self, options: Options, figures: Sequence[str]) -> None:
        self._run.config.update(dict(options), allow_val_change=True)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        if step >= self._run.step:
            self._run.log(dict(values), step=step)

    def image(self, name: str, step: int, image: np.ndarray) -> None:
        if step >= self._run.step:
            self._run.log({name: self._wandb.Image(image)}, step=step)

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


LOGGERS: tuple[type[RunLogger], ...] = (TensorBoardLogger, MlflowLogger, WandbLogger)
"""Loggers that run.loggers can name."""


def _plain_name(name: str) -> str:
    """Return `name` as MLflow takes it: of few characters, 250 at most, without empty or dotted parts."""
    parts = re.sub(r"[^\w\-. /]", "_", name).split("/")
    return "/".join(part if part.strip(".") else "_" for part in parts)[:250]


def require_loggers(names: Sequence[str]) -> list[type[RunLogger]]:
    """Return the loggers of these names.

    Raises ConfigError for a name that is none or is there twice, and where a package is not installed.
    """
    known = {one.name: one for one in LOGGERS}
    chosen = []
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"loggers are {', '.join(known)}."
            raise ConfigError(f"run.loggers: there is no logger '{name}'; {hint}")
        one = known[name]
        if one in chosen:
            raise ConfigError(f"run.loggers names {name} twice; leave one out.")
        if importlib.util.find_spec(one.package) is None:
            command = f"'ssdlite[{one.extra}]'" if one.extra else one.package
            raise ConfigError(f"run.loggers={name} needs a package that is not installed: pip install {command}.")
        chosen.append(one)
    return chosen
