"""Numbers, shares, counts, lists and durations as text for people."""

from __future__ import annotations

import math
from collections.abc import Sequence

UNKNOWN = "–"


SPACE = "\u00a0"  # between a number and its unit, where no line breaks


def figure(value: float | None, digits: int = 3) -> str:
    """Return `value` with a fixed number of digits, such as 0.301; a dash for None and NaN."""
    return UNKNOWN if value is None or math.isnan(value) else f"{value:.{digits}f}"


def percent(share: float | None, digits: int = 0) -> str:
    """Return a share in 0..1 as 30 %; a dash for None and NaN.

    A share above 0 is never rounded to 0 %, and one below 1 never to 100 %: they become < 1 % and > 99 %.
    """
    if share is None or math.isnan(share):
        return UNKNOWN
    least = 10.0**-digits
    if 0 < share < least / 200:
        return f"<{SPACE}{least:.{digits}f}{SPACE}%"
    if 1 - least / 200 < share < 1:
        return f">{SPACE}{100 - least:.{digits}f}{SPACE}%"
    return f"{100 * share:.{digits}f}{SPACE}%"


def count(number: float) -> str:
    """Return a whole number with separators, such as 12,345."""
    return f"{number:,.0f}"


def counted(number: int, what: str, many: str | None = None) -> str:
    """Return a number with its noun, such as '1 image' and '12,345 images'; `many` is an irregular plural."""
    return f"{count(number)}{SPACE}{what if number == 1 else many or what + 's'}"


def of_hundred(share: float) -> str:
    """Return a share in 0..1 as '71 of 100'."""
    return f"{round(100 * share)} of 100"


def named(name: str) -> str:
    """Return a class name in quotation marks."""
    return f"‘{name}’"


def listed(words: Sequence[str], most: int = 5) -> str:
    """Return `words` as 'one, two and three'; of more than `most` the rest is counted: 'one, two and 3 more'."""
    words = list(words)
    if len(words) > most:
        words = [*words[:most], f"{count(len(words) - most)} more"]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""


def duration(seconds: float) -> str:
    """Return a duration such as '2 h 5 min', '6 min 22 s' or '12 s'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}{SPACE}h {minutes}{SPACE}min"
    return f"{minutes}{SPACE}min {rest}{SPACE}s" if minutes else f"{rest}{SPACE}s"
