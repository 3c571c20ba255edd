"""Order, counts and summaries of problems, for a table, a log and the exit code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ssdlite.data.formats.problems import KINDS, REPAIRS, SEVERITIES, Problem, Severity

SAID_BY_READERS = {"box-degenerate", "box-inverted", "box-outside", "class-left-out", *REPAIRS}
"""Kinds that reading a split warns of by itself."""


class KindSummary(NamedTuple):
    """The problems of one kind."""

    kind: str
    severity: Severity
    num: int
    first: Problem


def count_errors(problems: Iterable[Problem]) -> int:
    """Return how many problems training would refuse."""
    return sum(problem.severity == "error" for problem in problems)


def by_severity(problems: Iterable[Problem]) -> list[Problem]:
    """Return the gravest first, then the kind that there is most of; of one kind as they were found.

    Boxes of another form come before all, because everything else that is said of the boxes follows from it.
    """
    problems = list(problems)
    counts = Counter(problem.kind for problem in problems)
    places = {kind: place for place, kind in enumerate(KINDS)}

    def rank(problem: Problem) -> tuple[int, bool, int, int]:
        kind = problem.kind
        return SEVERITIES.index(problem.severity), not kind.startswith("boxes-look"), -counts[kind], places[kind]

    return sorted(problems, key=rank)


def summarise(problems: Sequence[Problem]) -> list[KindSummary]:
    """Return one row a kind, the gravest first."""
    rows: dict[str, KindSummary] = {}
    for problem in by_severity(problems):
        old = rows.get(problem.kind)
        first, count = (old.first, old.num) if old else (problem, 0)
        rows[problem.kind] = KindSummary(problem.kind, problem.severity, count + 1, first)
    return list(rows.values())


def summary_lines(problems: Sequence[Problem]) -> list[str]:
    """Return a line for each kind of error and warning, with its first example: what `train` shows."""
    return [
        f"{row.num} x {row.kind}: {row.first}" + (", and so on" if row.num > 1 else "")
        for row in summarise(problems)
        if row.severity != "note"
    ]
