"""How every figure looks: one palette, one frame, one way to the file; matplotlib is the extra.

Colours are Okabe and Ito's, which colour-blind readers tell apart; curves differ by marker and
line, too. Black is what was observed, and the baselines.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")
GREY = "#767676"
DPI = 150
WIDTH = 5.0
"""Inches; little, so that its letters can be read on the width of a telephone."""

_STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.alpha": 0.25,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 5,
}


class FigureError(Exception):
    """Why a figure could not be drawn, in one line."""


@dataclass(frozen=True)
class Picture:
    """A drawn figure, and what is said of it.

    `name` is that of its file (report-NAME.png), `alt` says what is on it to those who do not
    see it, `caption` how it was made and is to be read.
    """

    name: str
    title: str
    alt: str
    caption: str
    png: bytes


def require() -> None:
    """Refuse to draw without matplotlib.

    Raises:
      FigureError: if it is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise FigureError("matplotlib is not installed: pip install 'memoa-jax[plot]'") from error


@contextmanager
def styled(height: float, width: float = WIDTH) -> Iterator[Any]:
    """Give a figure to draw on, in the house's style whatever the user's own is.

    Raises:
      FigureError: if matplotlib is not installed.
    """
    require()
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(), warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; the page spells it out.
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield Figure(figsize=(width, height), layout="constrained")


def picture(figure: Any) -> bytes:
    """Return a figure as PNG."""
    found = io.BytesIO()
    figure.savefig(found, format="png", dpi=DPI)
    return found.getvalue()


def plain(text: str) -> str:
    """Return a text that matplotlib takes as it stands, without its formulas between dollars."""
    return text.replace("$", r"\$")


def look(place: int) -> dict[str, Any]:
    """Return colour, marker and line of the curve in this place; black is left out."""
    count = len(COLOURS) - 1
    return {
        "color": COLOURS[place % count],
        "marker": MARKERS[place % len(MARKERS)],
        "linestyle": LINES[place // count % len(LINES)],
    }


def curve(place: int) -> dict[str, Any]:
    """Return the look of a line with too many points for markers."""
    return {**look(place), "marker": "", "linestyle": LINES[place % len(LINES)]}


def logarithmic(axis: Any) -> None:
    """Make an axis of matplotlib logarithmic, with plain numbers also within a single decade."""
    from matplotlib.ticker import (
        FuncFormatter,
        LogFormatterSciNotation,
        LogLocator,
        MaxNLocator,
        NullFormatter,
    )

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    low, high = sorted(axis.get_view_interval())
    decades = math.log10(high / low) if low > 0 else math.inf
    if decades < 2.5:
        axis.set_major_locator(
            MaxNLocator(4) if decades < 0.4 else LogLocator(subs=(1.0, 2.0, 5.0))
        )
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        axis.set_major_locator(LogLocator())
        axis.set_major_formatter(LogFormatterSciNotation())
    axis.set_minor_formatter(NullFormatter())


def legend(figure: Any, handles: Sequence[Any], columns: int = 3) -> None:
    """Put the legend below the panels, where it hides nothing."""
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)
