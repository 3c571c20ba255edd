"""Charts by matplotlib as SVG that belongs to its page: its fonts, and its colours in light, dark and print.

Text stays text, and colours leave as the page's CSS variables, so that one drawing serves every theme.
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
"""Colours that nothing else has -> the CSS variable that each becomes."""


WIDTH, HEIGHT = 4.4, 2.75  # inches: text of 9 points is read on a telephone, where a chart is as wide as the page


SMALL = (3.5, 2.5)  # of charts that stand three in a row


LEFT, BOTTOM = 0.62, 0.52  # inches, for numbers and what they are


RIGHT, TOP = 0.2, 0.1  # inches, for half of the last number


LONGEST_NAME = 22  # characters of a class name


_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a class may be called "$"
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
    """A line of a chart's legend, which the page sets as text."""

    name: str
    color: str  # one of `VARIABLES`
    dashed: bool = False

    @property
    def variable(self) -> str:
        return VARIABLES[self.color]


class Chart(NamedTuple):
    """A drawing and what is written around it."""

    title: str
    svg: Markup
    keys: tuple[Key, ...] = ()
    note: str = ""  # how to read it, beneath


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
    """Return what `plot` does to the axes, as a chart. `name` is distinct on its page; lengths are in inches.

    Room for what stands at the axes is given, not measured: that takes matplotlib longer than drawing the rest.
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
        unsaid = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(file, format="svg", transparent=True, metadata=unsaid)
    return Chart(title, _for_page(file.getvalue(), title), keys, note)


def room_for(names: Iterable[str], points: float = 8.5) -> float:
    """Inches that the longest of `names` takes, in a font as wide as any."""
    return 0.12 + 0.62 * points / 72 * max((len(name) for name in names), default=0)


def shortened(name: str, longest: int = LONGEST_NAME) -> str:
    """Return a class name that is short enough to leave room for the chart."""
    name = one_line(name)
    return name if len(name) <= longest else name[: longest - 1] + "…"


@contextmanager
def _styled(name: str) -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        # The browser has the letters that matplotlib's own font lacks, and it sets the text.
        warnings.filterwarnings("ignore", message=r".*Glyph .* missing from")
        yield


def _for_page(svg: str, title: str) -> Markup:
    """The `<svg>` element without what would reach beyond it: style sheets, ids, sizes, fonts."""
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
