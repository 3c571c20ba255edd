"""Charts as inline SVG, drawn by matplotlib, with the fonts and colours of the page in light, dark and print.

Text stays text, and colours become CSS variables of the page, so that one drawing serves every theme.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from markupsafe import Markup, escape

from ssdlite.io import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes


INK, SOFT, LINE = "#0101f1", "#0101f2", "#0101f3"  # text; labels and axes; grid


BLUE, ORANGE, GREEN, PURPLE, RED, TEAL = (f"#0202f{number}" for number in range(1, 7))


SERIES = (BLUE, ORANGE, GREEN, PURPLE, TEAL, RED)


VARIABLES = {
    INK: "ink",
    SOFT: "soft",
    LINE: "line",
    **{color: f"c{number}" for number, color in enumerate(SERIES, start=1)},
}
"""Placeholder colours, which matplotlib uses for nothing else -> the CSS variable that replaces each."""


WIDTH, HEIGHT = 4.4, 2.75  # inches: text of 9 points is readable on a phone, where a chart is as wide as the page


SMALL = (3.5, 2.5)  # inches; for charts of which three share a row


LEFT, BOTTOM = 0.62, 0.52  # margins in inches, for tick labels and axis labels


RIGHT, TOP = 0.2, 0.1  # margins in inches, for half of the last tick label


LONGEST_NAME = 22  # characters of a class name in a chart


_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a class name may contain "$"
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": SOFT,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "axes.unicode_minus": True,
}


class Key(NamedTuple):
    """Entry of a chart's legend, which the page sets as text."""

    name: str
    color: str  # a key of `VARIABLES`
    dashed: bool = False

    @property
    def variable(self) -> str:
        """CSS variable of the colour."""
        return VARIABLES[self.color]


class Chart(NamedTuple):
    """Drawing with its title, legend and note."""

    title: str
    svg: Markup
    keys: tuple[Key, ...] = ()
    note: str = ""  # how to read the chart, below it


def draw(
    name: str,
    title: str,
    plot: Callable[[Axes], None],
    *,
    keys: tuple[Key, ...] = (),
    note: str = "",
    size: tuple[float, float] = (WIDTH, HEIGHT),
    left: float = LEFT,
    bottom: float = BOTTOM,
) -> Chart:
    """Draw a chart by calling `plot(axes)`.

    Args:
        name: unique on the page; ids inside the SVG are derived from it.
        size: (width, height), inches.
        left, bottom: margins for labels, inches. They are given and not measured, because measuring takes
            matplotlib longer than drawing the rest.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with _styled(name):
        figure = Figure(figsize=size)
        FigureCanvasSVG(figure)
        width, height = size
        room = (width - left - RIGHT, height - bottom - TOP)
        plot(figure.add_axes((left / width, bottom / height, room[0] / width, room[1] / height)))
        file = io.StringIO()
        no_metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(file, format="svg", transparent=True, metadata=no_metadata)
    return Chart(title, _for_page(file.getvalue(), title), keys, note)


def room_for(names: Iterable[str], points: float = 8.5) -> float:
    """Return the width in inches of the longest of `names`, for a wide font of `points` points."""
    return 0.12 + 0.62 * points / 72 * max((len(name) for name in names), default=0)


def shortened(name: str, longest: int = LONGEST_NAME) -> str:
    """Return `name` in one line of at most `longest` characters."""
    name = one_line(name)
    return name if len(name) <= longest else name[: longest - 1] + "…"


@contextmanager
def _styled(name: str) -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        # The browser sets the text, and has the glyphs that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message=r".*Glyph .* missing from")
        yield


def _for_page(svg: str, title: str) -> Markup:
    """Return the `<svg>` element without style sheets, ids, sizes and fonts, which would affect the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)
    view = re.search(r"<svg[^>]*?(viewBox=\"[^\"]*\")[^>]*>", svg)
    assert view, "matplotlib's SVG begins with its view box"
    svg = f'<svg {view[1]} role="img" aria-label="{escape(title)}">' + svg[view.end() :]
    svg = re.sub(r"<g id=\"[^\"]*\"", "<g", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r"(fill|stroke): (#[0-9a-f]{6})", _variable, svg)
    return Markup(re.sub(r"(\.\d\d)\d+", r"\1", svg))


def _variable(found: re.Match[str]) -> str:
    name = VARIABLES.get(found[2])
    return f"{found[1]}: var(--{name})" if name else found[0]
