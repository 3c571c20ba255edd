"""Numbers, shares, counts, lists and durations as text."""

import math

import pytest

from ssdlite.report.formatting import count, counted, duration, figure, listed, percent

SPACE = "\u00a0"


@pytest.mark.parametrize(
    ("share", "digits", "text"),
    [
        (0.304, 0, "30 %"),
        (0.0, 0, "0 %"),
        (1.0, 0, "100 %"),
        (0.004, 0, "< 1 %"),
        (0.999, 0, "> 99 %"),
        (0.994, 0, "99 %"),
        (0.0844, 1, "8.4 %"),
        (0.0001, 1, "< 0.1 %"),
        (math.nan, 0, "–"),
        (None, 0, "–"),
    ],
)
def test_a_share_is_never_rounded_to_none_or_all(share, digits, text):
    assert percent(share, digits).replace(SPACE, " ") == text


def test_what_is_undefined_is_a_dash():
    assert figure(math.nan) == figure(None) == "–"
    assert figure(0.30449) == "0.304" and figure(0.5, 2) == "0.50"


def test_counts_and_lists():
    assert count(12345) == "12,345"
    assert counted(1, "image") == f"1{SPACE}image" and counted(2, "image") == f"2{SPACE}images"
    assert counted(0, "class", "classes") == f"0{SPACE}classes"
    assert listed([]) == "" and listed(["a"]) == "a" and listed(["a", "b"]) == "a and b"
    assert listed(list("abcdefg"), 3) == "a, b, c and 4 more"


def test_durations():
    text = [duration(seconds).replace(SPACE, " ") for seconds in (0, 12.4, 382, 7500)]
    assert text == ["0 s", "12 s", "6 min 22 s", "2 h 5 min"]
