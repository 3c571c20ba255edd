"""What a run writes while it trains: metrics.jsonl, TensorBoard events, lines on the screen."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from ssdlite.files import write_text


class Logbook:
    """One JSON line and one TensorBoard point for each thing logged. Close it, or use it as a context.

    With `keep_lines` a log that is there already is continued after so many lines, and TensorBoard's before
    `purge_step`; what they have beyond goes.
    """

    def __init__(self, run_dir: Path, purge_step: int | None = None, keep_lines: int | None = None) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        path = run_dir / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        if keep_lines is not None and len(lines) > keep_lines:
            lines = lines[:keep_lines]
            write_text(path, "".join(lines))
        self.num_lines = len(lines)
        self._file = path.open("a", encoding="utf-8")
        self._writer = SummaryWriter(str(run_dir), purge_step=purge_step)

    def __enter__(self) -> Logbook:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def log(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Append `{"kind": kind, "step": step, **values}`; numbers, also nested ones, go to TensorBoard.

        NaN (an undefined figure) is written as null and is no TensorBoard point.
        """
        line = {"kind": kind, "step": step, **_without_nan(values)}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        self.num_lines += 1
        for name, value in _numbers(values):
            self._writer.add_scalar(f"{kind}/{name}", value, step)

    def picture(self, name: str, step: int, image: np.ndarray) -> None:
        """An (H, W, 3) uint8 RGB picture for TensorBoard."""
        self._writer.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        self._file.close()
        self._writer.close()


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
