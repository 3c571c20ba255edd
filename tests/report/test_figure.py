"""Charts that belong to their page: its colours and fonts, and nothing that reaches beyond them."""

import re
import xml.etree.ElementTree as ET

from matplotlib import rcParams

from ssdlite.report.figure import BLUE, INK, VARIABLES, Key, draw, shortened

HOSTILE = '<script>alert("x")</script> --> $\\frac{ $ &amp; "'


def test_colours_are_the_variables_of_the_page():
    chart = draw("one", "One", lambda axes: axes.plot([0, 1], [0, 1], color=BLUE))
    assert "stroke: var(--c1)" in chart.svg and "fill: var(--soft)" in chart.svg
    assert not any(color in chart.svg for color in VARIABLES)
    assert Key("a", INK).variable == "ink"


def test_names_stay_text():
    chart = draw("one", HOSTILE, lambda axes: axes.set_xlabel(HOSTILE))
    root = ET.fromstring(chart.svg)
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert HOSTILE in texts and root.get("aria-label") == HOSTILE
    assert not any(element.tag.endswith("script") for element in root.iter())


def test_nothing_reaches_beyond_the_chart():
    svgs = [draw(name, "One", lambda axes: axes.plot([0, 1], [0, 1], "o")).svg for name in ("one", "two")]
    ids = [re.findall(r'\bid="([^"]*)"', svg) for svg in svgs]
    assert not set(ids[0]) & set(ids[1])
    for svg, own in zip(svgs, ids, strict=True):
        assert set(re.findall(r'href="#([^"]*)"', svg)) <= set(own)
        assert "<style" not in svg and "font-family" not in svg and "<?xml" not in svg
        assert "http" not in svg.replace('xmlns:xlink="http://www.w3.org/1999/xlink"', "").replace(
            'xmlns="http://www.w3.org/2000/svg"', ""
        )


def test_the_same_drawing_twice_is_the_same_text():
    assert len({draw("one", "One", lambda axes: axes.plot([0, 1], "o")).svg for _ in range(2)}) == 1


def test_nobody_elses_settings_change():
    before = dict(rcParams)
    draw("one", "One", lambda axes: axes.plot([0, 1]))
    assert dict(rcParams) == before


def test_letters_of_any_writing_are_the_browsers_affair(recwarn):
    chart = draw("one", "One", lambda axes: axes.set_title("安全帽 Жук"))
    assert "安全帽 Жук" in chart.svg and not list(recwarn)


def test_long_names_are_cut():
    assert shortened("cat") == "cat"
    assert shortened("x" * 30, 10) == "x" * 9 + "…"
    assert "\n" not in shortened("two\nlines")
