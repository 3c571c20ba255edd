"""Files of a run's folder besides its checkpoints: detections of the best weights, sessions and machines."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ssdlite.errors import CheckpointError, DataError
from ssdlite.evaluation.coco import read_coco_results, to_coco_results
from ssdlite.io import read_text, write_text
from ssdlite.structures import DataSplit, Detections
from ssdlite.training.checkpoint import has_newest

DETECTIONS = "detections.json"  # what best.pt finds in the validation images, as COCO results


SESSIONS = "sessions.jsonl"  # a line where a process began, and one after each validation and at the end


def run_dirs(parent: Path, name: str) -> Iterator[Path]:
    """Yield the folders that a run of this name may have: NAME, NAME-2, NAME-3 and so on."""
    yield parent / name
    for number in itertools.count(2):
        yield parent / f"{name}-{number}"


def latest_run(parent: Path, name: str) -> Path:
    """Return the last folder that is taken. Raises CheckpointError if there is nothing in it to resume."""
    taken = list(itertools.takewhile(Path.exists, run_dirs(parent, name)))
    if not taken or not has_newest(taken[-1]):
        missing = (taken[-1] if taken else parent / name) / "last.pt"
        raise CheckpointError(f"there is nothing to resume: {missing} does not exist.")
    return taken[-1]


def write_detections(run_dir: Path, split: DataSplit, detections: Sequence[Detections]) -> None:
    """Keep what the best weights find in `split`."""
    lines = []
    for record, found in zip(split.records, detections, strict=True):
        own = DataSplit([record], split.class_names, split.category_ids)
        lines += [json.dumps(row) for row in to_coco_results(own, [found])]
    write_text(run_dir / DETECTIONS, f"[{','.join(lines)}]")


def read_detections(run_dir: Path, split: DataSplit) -> list[Detections] | None:
    """Return the detections that `write_detections` kept; None where there is nothing, or it is of other images or
    classes."""
    try:
        return read_coco_results(run_dir / DETECTIONS, split)
    except DataError:
        return None


def log_session(run_dir: Path, step: int, machine: Mapping[str, Any] | None = None) -> None:
    """Note that training stands at `step` now; with `machine`, that a process begins there."""
    line: dict[str, Any] = {"time": datetime.now().astimezone().isoformat(timespec="seconds"), "step": step}
    if machine is not None:
        line["machine"] = dict(machine)
    with (run_dir / SESSIONS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


@dataclass(frozen=True)
class Sessions:
    """Sessions of a run: begin, end and machine of each process that trained it."""

    began: datetime
    ended: datetime  # as far as it was noted
    seconds: float  # of training and validating, without the time between a kill and a resume
    count: int
    machine: Mapping[str, Any]  # of the last


def read_sessions(run_dir: Path) -> Sessions | None:
    """Return the sessions that `log_session` noted; None where there is nothing."""
    spans: list[tuple[datetime, datetime, Mapping[str, Any]]] = []
    for line in _lines(run_dir / SESSIONS):
        time = datetime.fromisoformat(line["time"])
        if "machine" in line:
            spans.append((time, time, line["machine"]))
        elif spans:
            spans[-1] = (spans[-1][0], time, spans[-1][2])
    if not spans:
        return None
    seconds = sum((end - begin).total_seconds() for begin, end, _ in spans)
    return Sessions(spans[0][0], spans[-1][1], seconds, len(spans), spans[-1][2])


def _lines(path: Path) -> list[dict[str, Any]]:
    """The lines that are whole: a kill may cut the last one short."""
    try:
        texts = read_text(path).splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    found = []
    for text in texts:
        try:
            line = json.loads(text)
            datetime.fromisoformat(line["time"])
        except (ValueError, TypeError, KeyError):
            continue
        found.append(line)
    return found
