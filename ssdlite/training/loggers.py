"""Means over the steps of a log interval, and the log of a run: metrics.jsonl and its loggers."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssdlite.errors import UserError
from ssdlite.io import one_line, write_text
from ssdlite.structures import Batch, LossTerms
from ssdlite.training.run_loggers import Options, RunLogger, require_loggers

logger = logging.getLogger(__name__)


class Meter:
    """Loss terms, images a second, and the share of time spent waiting for data."""

    def __init__(self) -> None:
        self._restart()

    def timed(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """The batches of `loader`; waiting for them is timed. A dead loader process becomes a UserError."""
        batches = iter(loader)
        while True:
            asked = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                if "DataLoader worker" not in str(error):
                    raise
                raise UserError(
                    f"a loader process died ({error}); if memory ran out, lower data.workers or train.batch_size."
                ) from None
            self._waited += time.perf_counter() - asked
            yield batch

    def count(self, terms: LossTerms, images: int) -> None:
        """Add a step; its loss terms are not looked at before `take`, so that a GPU need not be waited for."""
        self._terms.append(terms)
        self._images += images

    def take(self) -> dict[str, float]:
        """The means since the last call; {} if there was no step."""
        names, rows = self._names(), self._rows()
        if not names:
            return {}
        seconds = time.perf_counter() - self._start
        finite = rows[rows.isfinite().all(dim=1)]  # the others were steps that are left out
        means = dict(zip(names, finite.mean(dim=0).tolist(), strict=True))
        rates = {"images_per_second": self._images / seconds, "waiting_for_data": self._waited / seconds}
        self._restart()
        return {"loss": sum(means.values()), **means, **rates}

    def state_dict(self) -> list[dict[str, float]]:
        """The loss terms that `take` has not had yet; times are not worth keeping."""
        return [dict(zip(self._names(), row, strict=True)) for row in self._rows().tolist()]

    def load_state_dict(self, state: list[dict[str, float]]) -> None:
        self._restored[:] = [dict(terms) for terms in state]
        self._terms.clear()

    def _names(self) -> list[str]:
        return list(next(iter([*self._restored, *self._terms]), {}))

    def _rows(self) -> Tensor:
        """(steps, terms) float32 on the CPU: one copy of what lies on the device, after what was restored."""
        names = self._names()
        rows = torch.tensor([[terms[name] for name in names] for terms in self._restored]).view(
            len(self._restored), len(names)
        )
        if not self._terms:
            return rows
        counted = torch.stack([torch.stack([terms[name] for name in names]) for terms in self._terms])
        return torch.cat([rows, counted.cpu()])

    def _restart(self) -> None:
        self._start = time.perf_counter()
        self._waited, self._images = 0.0, 0
        self._restored: list[dict[str, float]] = []  # numbers, so that it does not matter where they were computed
        self._terms: list[LossTerms] = []


CURVE_THRESHOLDS = np.linspace(0, 1, 127)
"""Scores at which `precision_recall` wants its counts. TensorBoard takes their even spread for granted."""


class Logbook:
    """Log of a run: one JSON line for each thing logged, and what its loggers make of it. Close it, or use it as a
    context.

    What `log` is told is in both. All else goes to the loggers alone, for those who watch.

    With `keep_lines` a log that is there already is continued after so many lines, and those of the loggers before
    `purge_step`; what they have beyond goes, where they can take it back.

    A logger that fails is left out from then on, with a warning. Raises ConfigError for `loggers` that are none,
    and UserError for one that cannot be opened.
    """

    def __init__(
        self,
        run_dir: Path,
        purge_step: int | None = None,
        keep_lines: int | None = None,
        loggers: Sequence[str] = ("tensorboard",),
    ) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        path = run_dir / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        if keep_lines is not None and len(lines) > keep_lines:
            lines = lines[:keep_lines]
            write_text(path, "".join(lines))
        self.num_lines = len(lines)
        self._file = path.open("a", encoding="utf-8")
        self._finished = False
        self._loggers: list[RunLogger] = []
        for make in require_loggers(loggers):
            try:
                self._loggers.append(make(run_dir, purge_step))
            except Exception as error:  # each package has exceptions of its own
                self.close()
                raise UserError(
                    f"run.loggers={make.name} cannot be opened: {one_line(str(error), 300)}; mend that, or leave "
                    "it out of run.loggers."
                ) from error

    def __enter__(self) -> Logbook:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def log(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Append `{"kind": kind, "step": step, **values}`; numbers, also nested ones, go to the loggers.

        NaN (an undefined figure) is written as null and is logged nowhere else.
        """
        line = {"kind": kind, "step": step, **_without_nan(values)}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        self.num_lines += 1
        self.watch(kind, step, values)

    def watch(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Give numbers to the loggers alone; NaN is left out."""
        scalars = {f"{kind}/{name}": value for name, value in _numbers(values)}
        if scalars:
            self._tell(lambda each: each.scalars(step, scalars))

    def picture(self, name: str, step: int, image: np.ndarray) -> None:
        """Give an (H, W, 3) uint8 RGB picture to the loggers."""
        self._tell(lambda each: each.image(name, step, image))

    def histogram(self, name: str, step: int, values: np.ndarray, edges: np.ndarray) -> None:
        """Give the loggers how many of (N,) `values` lie between each two of (E,) `edges`; nothing where none
        is."""
        if len(values):
            self._tell(lambda each: each.histogram(name, step, values, edges))

    def precision_recall(
        self, name: str, step: int, right: np.ndarray, wrong: np.ndarray, num_objects: int
    ) -> None:
        """Give the loggers a curve from the (S,) true and false positives that score at least each of
        CURVE_THRESHOLDS. Needs an object."""
        self._tell(lambda each: each.precision_recall(name, step, right, wrong, num_objects))

    def hyperparameters(self, values: Options, figures: Sequence[str]) -> None:
        """Give the loggers the options of the run, and the names of the figures that tell how good it is."""
        self._tell(lambda each: each.config(values, figures))

    def finish(self) -> None:
        """Note that the run has come to its end."""
        self._finished = True

    def close(self) -> None:
        """Close the file and the loggers."""
        self._file.close()
        self._tell(lambda each: each.close(self._finished))

    def _tell(self, something: Callable[[RunLogger], None]) -> None:
        """Do it with each logger. One that fails is left out from then on: a training does not end for want of a
        server, and metrics.jsonl has all figures."""
        for each in list(self._loggers):
            try:
                something(each)
            except Exception as error:  # each package has exceptions of its own
                self._loggers.remove(each)
                logger.warning(
                    "%s has failed and gets nothing more of this run, whose figures are in metrics.jsonl: %s",
                    each.name,
                    one_line(str(error) or type(error).__name__, 300),
                )


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _numbers(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and math.isfinite(value):
            found.append((prefix + name, float(value)))
    return found
