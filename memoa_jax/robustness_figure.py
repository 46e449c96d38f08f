"""The figure of `memoa robustness`: what being told apart is worth, as agents differ more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from memoa_jax.figure_style import FigureError, legend, logarithmic, look, picture, styled
from memoa_jax.robustness_table import FIGURES, RUNS, ratios

_GAMES = ("homogeneous", "heterogeneous", "team")
_MARGIN = 1.02
"""Room above and below what is all but constant."""


def figure_of(report: Mapping[str, Any]) -> bytes:
    """Draw the study as PNG: a column per kind; mean and worst agent, in games and online.

    Lines are means over seeds; in the games, bands reach from the least to the largest seed.

    Raises:
      FigureError: if matplotlib is not installed, or there is nothing to draw.
    """
    kinds = list(dict.fromkeys(cell["kind"] for cell in report["cells"]))
    if not kinds:
        raise FigureError("no kind of difference was run")
    with styled(8.6, 2.5 * max(len(kinds), 2) + 0.7) as figure:
        axes = figure.subplots(4, len(kinds), squeeze=False, sharex="col", sharey="row")
        for column, kind in enumerate(kinds):
            cells = [cell for cell in report["cells"] if cell["kind"] == kind]
            for row, key in enumerate(("mean", "worst")):
                handles = _games(axes[row][column], cells, key)
            for row, key in enumerate(FIGURES, start=2):
                online = _runs(axes[row][column], cells, key, report["persistence"])
            axes[0][column].set_title(kind)
            axes[-1][column].set_xlabel("level of difference")
        for row, words in enumerate(_ROWS):
            axes[row][0].set_ylabel(words)
        # What both parts have in common has one look.
        seen = {handle.get_label(): handle for handle in (*handles, *online)}
        legend(figure, list(seen.values()), columns=2 + len(kinds))
        return picture(figure)


_ROWS = (
    "mean agent's cost / Nash\n(exact games)",
    "worst agent's cost / Nash\n(exact games)",
    "mean agent's RMSE\n(online)",
    "worst agent's RMSE\n(online)",
)
_PLACES = {name: place for place, name in enumerate((*RUNS, "team"))}


def _games(axes: Any, cells: Sequence[Mapping[str, Any]], key: str) -> list[Any]:
    handles = [
        _line(axes, cells, name, [ratios(one, name, key) for one in cells], banded=True)
        for name in _GAMES
    ]
    axes.axhline(1, color="black", linewidth=0.8, linestyle="--")
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 1 / _MARGIN), max(high, _MARGIN))
    logarithmic(axes.yaxis)
    return handles


def _runs(axes: Any, cells: Sequence[Mapping[str, Any]], key: str, persistence: float) -> list[Any]:
    handles = [_line(axes, cells, name, [one["runs"][name][key] for one in cells]) for name in RUNS]
    black = {"color": "black", "linewidth": 0.8, "linestyle": ":"}
    handles.append(axes.axhline(persistence, **black, label="persistence"))
    logarithmic(axes.yaxis)
    return handles


def _line(
    axes: Any,
    cells: Sequence[Mapping[str, Any]],
    name: str,
    values: Sequence[Sequence[float | None]],
    *,
    banded: bool = False,
) -> Any:
    levels = [one["level"] for one in cells]
    plain = [[math.nan if value is None else value for value in seeds] for seeds in values]
    means = [sum(seeds) / len(seeds) for seeds in plain]
    drawn = look(_PLACES[name])
    if banded:
        ends = list(map(min, plain)), list(map(max, plain))
        axes.fill_between(levels, *ends, color=drawn["color"], alpha=0.15, lw=0)
    return axes.plot(levels, means, **drawn, label=name)[0]
