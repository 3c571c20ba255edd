"""Progress bars and tables of the commands."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.table import Table

if TYPE_CHECKING:  # which is NumPy and pycocotools
    from ssdlite.evaluation.evaluate import Evaluation


Item = TypeVar("Item")


console = Console(highlight=False, soft_wrap=True, markup=False)


MAX_CLASS_ROWS = 100


class _ConsoleHandler(logging.Handler):
    """Lines above the progress bars, in full however narrow the screen; warnings say so."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        style = "yellow" if record.levelno >= logging.WARNING else None
        console.print(prefix + record.getMessage(), style=style, soft_wrap=True, markup=False)


def show_log(level: int = logging.INFO) -> None:
    """Send the package's log to the screen."""
    logger = logging.getLogger("ssdlite")
    logger.handlers[:] = [_ConsoleHandler()]
    logger.setLevel(level)
    logger.propagate = False


def progress_bars() -> Bars:
    """Progress bars with time spent and time left."""
    return Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


def tracker(description: str, progress_bars: Bars | None = None) -> Callable[[Iterable[Item]], Iterable[Item]]:
    """A wrapper of an iterable with a length that shows how far it is."""

    def track(items: Iterable[Item]) -> Iterator[Item]:
        with _running(progress_bars) as shown:
            task = shown.add_task(description, total=len(items))  # type: ignore[arg-type]
            for item in items:
                yield item
                shown.advance(task)
            shown.remove_task(task)

    return track


@contextmanager
def _running(shared: Bars | None) -> Iterator[Bars]:
    if shared is not None:
        yield shared
    else:
        with progress_bars() as own:
            yield own


def print_evaluation(evaluation: Evaluation, title: str) -> None:
    """The 12 COCO figures, VOC's two, and a row a class."""
    figures = evaluation.to_dict()
    summary = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2))
    names = [*figures["coco"], *figures["voc"]]
    values = {**figures["coco"], **figures["voc"]}
    for start in range(0, len(names), 3):
        row = names[start : start + 3]
        summary.add_row(*(cell for name in row for cell in (name, _figure(values[name]))))
    console.print(summary)
    classes = Table(box=None, padding=(0, 2))
    classes.add_column("class")
    for name in ("objects", "AP", "AP50", "VOC07_AP50", "VOC12_AP50"):
        classes.add_column(name, justify="right")
    rows = [(name, row) for name, row in figures["per_class"].items() if row["objects"]]
    for name, row in rows[:MAX_CLASS_ROWS]:
        classes.add_row(
            name, str(row["objects"]), *(_figure(value) for key, value in row.items() if key != "objects")
        )
    console.print(classes)
    if len(rows) > MAX_CLASS_ROWS:
        console.print(f"and {len(rows) - MAX_CLASS_ROWS} more classes; --json has them all.")


def _figure(value: Any) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"
