"""Verb `ssdlite check-data`: all problems of a data set at once, and a cleaned copy of its annotations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from ssdlite.build.data import find_sources
from ssdlite.commands.arguments import DATA_SET, config_of, require_effect
from ssdlite.commands.console import console, tracker
from ssdlite.data.formats.problems import SEVERITIES, Problem
from ssdlite.errors import ConfigError, DataError
from ssdlite.io import require_writable, write_text
from ssdlite.validate.check import CheckReport, check_splits, quick_check
from ssdlite.validate.problems import by_severity, count_errors, summarise
from ssdlite.validate.repair import CHANGES_FILE, BoxForm, require_new, train_command, write_fixed

NUM_SHOWN = 20  # problems printed in full


STYLES: dict[str, str] = {"error": "red", "warning": "yellow", "note": "dim"}


def run_check_data(
    path: Path | None,
    overrides: Mapping[str, Any],
    *,
    json_path: Path | None,
    fixed_dir: Path | None,
    box_form: str | None = None,
) -> None:
    """Check a config's data or a folder; see `ssdlite check-data --help`. Raises DataError if there are errors."""
    require_effect(overrides, DATA_SET, on="the check of a data set")
    config = config_of(path, overrides).data
    if json_path:
        require_writable(json_path)
    form = _as_box_form(box_form)
    if form and not fixed_dir:
        raise ConfigError("--boxes has no effect without --fix; name a folder for the converted copy.")
    if fixed_dir:
        require_new(fixed_dir)
    sources = find_sources(config)
    if sources.description:
        console.print(sources.description)
    report = check_splits(
        sources.train or [],
        sources.val or [],
        config.class_names,
        ignore_unknown=config.ignore_unknown,
        track=tracker("Reading images"),
    )
    _print_report(report)
    if json_path:
        write_text(json_path, json.dumps(_as_document(report), indent=2, ensure_ascii=False) + "\n")
        console.print(f"Wrote {json_path}")
    if fixed_dir:
        num_left = _write_copy(report, fixed_dir, config.class_names, form, ignore_unknown=config.ignore_unknown)
        if num_left:
            raise DataError(
                f"{num_left} error{'s' * (num_left > 1)} left in the cleaned copy; correct them by hand."
            )
    elif num_errors := count_errors(report.problems):
        raise DataError(
            f"{num_errors} error{'s' * (num_errors > 1)} in the data, which training refuses; correct them, or let "
            "--fix DIR write a cleaned copy."
        )


def _as_box_form(text: str | None) -> BoxForm | None:
    """Return a form of boxes. Raises ConfigError for what is none."""
    match text:
        case None | "xyxy" | "xywh":
            return text
    raise ConfigError(f"--boxes is xyxy or xywh, not '{text}'.")


def _write_copy(
    report: CheckReport,
    directory: Path,
    class_names: Sequence[str] | None,
    box_form: BoxForm | None,
    *,
    ignore_unknown: bool,
) -> int:
    """Write a cleaned copy, say what changed, and return the number of errors that are left."""
    copy = write_fixed(report, directory, box_form)
    changes = ", ".join(f"{count} {_numbered(what, count)}" for what, count in copy.changes.items())
    console.print(
        f"Wrote a cleaned copy of the annotations to {directory}: {changes or 'nothing had to be changed'}."
    )
    for name, other in report.spellings.items():
        console.print(f"  the class '{name}' is now '{other}'")
    console.print(f"  each change is in {directory / CHANGES_FILE}", soft_wrap=True)
    console.print(train_command(copy, directory), soft_wrap=True)
    left = quick_check(copy.train, copy.val, class_names, ignore_unknown=ignore_unknown)
    for problem in left:
        if problem.severity == "error":
            console.print(f"still to be corrected: {problem}", style="red")
    return count_errors(left)


def _numbered(what: str, count: int) -> str:
    """`what` in the singular where `count` is 1: its first noun is a plural."""
    noun, _, rest = what.partition(" ")
    singular = {"boxes": "box", "class": "class"}.get(noun, noun.removesuffix("s"))
    return f"{singular} {rest.replace('names', 'name', 1)}" if count == 1 else what


def _print_report(report: CheckReport) -> None:
    speed = report.num_images / max(report.image_seconds, 1e-9)
    console.print(
        f"{report.num_images} images with {report.num_objects} objects of {len(report.class_names)} classes; "
        f"read in {report.image_seconds:.1f} s ({speed:.0f} images/s)"
    )
    for name, split in report.splits.items():
        classes = ", ".join(f"{name} {count}" for name, count in split.objects_by_class.items())
        console.print(
            f"  {name}: {split.num_images} images, {split.num_objects} objects ({classes})", highlight=False
        )
    rows = summarise(report.problems)
    if not rows:
        console.print("No problems were found.")
        return
    table = Table(box=None, padding=(0, 2))
    for name in ("kind", "severity", "count", "first"):
        table.add_column(name, justify="right" if name == "count" else "left", overflow="fold")
    for row in rows:
        first = f"{row.first.file.name}: {row.first.item}" if row.first.item else row.first.file.name
        table.add_row(row.kind, row.severity, str(row.num), first, style=STYLES[row.severity])
    console.print(table)
    shown = by_severity(report.problems)[:NUM_SHOWN]
    for problem in shown:
        console.print(f"{problem.severity} {problem.kind}: {problem}", style=STYLES[problem.severity])
    if (more := len(report.problems) - len(shown)) > 0:
        console.print(f"and {more} more; --json FILE has them all")
    counts = {severity: sum(row.num for row in rows if row.severity == severity) for severity in SEVERITIES}
    console.print(", ".join(f"{count} {severity}{'s' * (count != 1)}" for severity, count in counts.items()))


def _as_document(report: CheckReport) -> dict[str, Any]:
    return {
        "images": report.num_images,
        "objects": report.num_objects,
        "classes": report.class_names,
        "splits": {
            name: {"images": split.num_images, "objects": split.num_objects, "classes": split.objects_by_class}
            for name, split in report.splits.items()
        },
        "summary": {row.kind: {"severity": row.severity, "count": row.num} for row in summarise(report.problems)},
        "findings": [_as_row(problem) for problem in by_severity(report.problems)],
    }


def _as_row(problem: Problem) -> dict[str, str]:
    return {
        "kind": problem.kind,
        "severity": problem.severity,
        "file": str(problem.file),
        "item": problem.item,
        "text": problem.text,
    }
