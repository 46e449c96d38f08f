"""Figures of `memoa verify`, drawn with matplotlib where it is installed: the extra `plot`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from memoa_jax.figure_style import COLOURS, MARKERS, FigureError, picture, require, styled
from memoa_jax.files import replace


def draw_verification(report: Mapping[str, Any], path: Path) -> None:
    """Draw what `memoa verify` measured, one panel per question; parts not run are left out.

    Args:
      report: as verification.json holds it.
      path: of the PNG, written whole or not at all.

    Raises:
      FigureError: if matplotlib is not installed, or nothing was measured that has a picture.
    """
    require()
    drawn = list(panels(report).values())
    if not drawn:
        raise FigureError("none of the parts that were run has one")
    columns = min(3, len(drawn))
    rows = -(-len(drawn) // columns)
    with styled(4.2 * rows, 5.2 * columns) as figure:
        for place, draw in enumerate(drawn):
            draw(figure.add_subplot(rows, columns, place + 1))
        replace(path, picture(figure))


def panels(report: Mapping[str, Any]) -> dict[str, Callable[[Any], None]]:
    """Return by part what draws the parts that were run on axes; those without a picture are not.

    Args:
      report: as verification.json holds it.
    """
    data: dict[str, Any] = {}
    for one in report["statements"]:
        data.setdefault(one["part"], {})[one["name"]] = one["data"]
    return {
        part: partial(_draw, draw, data[part])
        for part, draw in _PANELS.items()
        if any(data.get(part, {}).values())
    }


def _draw(draw: Callable[[Any, Any], None], found: Any, axes: Any) -> None:
    draw(axes, found)


def _numbers(values: Iterable[float | None]) -> list[float]:
    """Return numbers as matplotlib takes them: what was not finite leaves a gap."""
    return [math.nan if value is None else value for value in values]


def _errors(axes: Any, found: Mapping[str, Any], title: str, ylabel: str) -> None:
    """Draw errors against the number of agents, with a line of each claimed slope."""
    drawn = 0
    for data in found.values():
        for label, errors in data.get("errors", {}).items():
            slope = data["slopes"][label]
            axes.loglog(
                data["populations"],
                _numbers(errors),
                color=COLOURS[drawn],
                marker=MARKERS[drawn],
                markersize=4,
                label=f"{label} (slope {'none' if slope is None else f'{slope:.2f}'})",
            )
            drawn += 1
    axes.set(title=title, xlabel="number of agents N", ylabel=ylabel)
    axes.legend()


def _convergence(axes: Any, found: Mapping[str, Any]) -> None:
    _errors(axes, found, "Centralized to decentralized gains", "largest difference of a gain")


def _exploitability(axes: Any, found: Mapping[str, Any]) -> None:
    title = "What one agent gains by deviating"
    _errors(axes, found, title, "exploitability [cost]")


def _minimax(axes: Any, found: Mapping[str, Any]) -> None:
    title = "Decentralized against the minimax optimum\n(ensemble weight 0)"
    _errors(axes, found, title, "difference of gains; relative excess cost")


def _regret(axes: Any, found: Mapping[str, Any]) -> None:
    title = "Realised regret to the centralized policy"
    _errors(axes, found, title, "|regret| as a share of the cost")


def _anarchy(axes: Any, found: Mapping[str, Any]) -> None:
    data = found["price of anarchy"]
    for drawn, (label, prices) in enumerate(data["price"].items()):
        name = label if label == "limit" else f"N = {label}"
        axes.plot(data["ensemble"], prices, color=COLOURS[drawn], marker=MARKERS[drawn], label=name)
    axes.set_xscale("symlog", linthresh=0.1)
    axes.set(
        title="Price of anarchy",
        xlabel="weight of the ensemble's error",
        ylabel="Nash cost / team cost",
    )
    axes.legend()


def _heterogeneity(axes: Any, found: Mapping[str, Any]) -> None:
    title = "Agents that all differ:\njoint game to limit, and what leaving it gains"
    _errors(axes, found, title, "difference; exploitability [cost]")


def _monte_carlo(axes: Any, found: Mapping[str, Any]) -> None:
    for drawn, data in enumerate(found.values()):
        columns = (_numbers(data[key]) for key in ("realised", "expected", "standard_error"))
        triples = zip(*columns, strict=True)
        away = [(realised - expected) / error for realised, expected, error in triples]
        axes.plot(
            range(len(away) - 1),
            away[:-1],
            linestyle="none",
            color=COLOURS[drawn],
            marker=MARKERS[drawn],
            markersize=4,
            label=f"N = {data['agents']:,}, {data['features']}, {data['information']}",
        )
        axes.plot([-1.5], away[-1:], color=COLOURS[drawn], marker=MARKERS[drawn], markersize=8)
    for bound in (-4, 4):
        axes.axhline(bound, color="black", linewidth=0.8, linestyle="--")
    axes.set(
        title="Realised minus expected cost",
        xlabel="agent (large marker, left: the population's mean)",
        ylabel="standard errors",
        ylim=(-5.5, 7.5),
    )
    axes.legend(fontsize=7, loc="upper right")


def _ratios(axes: Any, found: Mapping[str, Any], title: str) -> None:
    """Draw quantiles of cost ratios as intervals: 5 to 95 %, 25 to 75 %, and the median."""
    lines = [(name.split(", ", 1)[1], data["all"]) for name, data in found.items()]
    for height, (_, data) in enumerate(reversed(lines)):
        # A rival that is beaten by orders of magnitude would leave no room for the others.
        low, quarter, median, upper, high = (
            max(q, 0.02) for q in _numbers(data["quantiles"].values())
        )
        axes.plot([low, high], [height] * 2, color=COLOURS[0], linewidth=1)
        axes.plot([quarter, upper], [height] * 2, color=COLOURS[0], linewidth=5)
        axes.plot([median], [height], color=COLOURS[4], marker="o", markersize=5)
    axes.axvline(1, color="black", linewidth=0.8, linestyle="--")
    axes.set_xscale("log")
    axes.set_xticks(ticks := [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2], [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(lines)), [label for label, _ in reversed(lines)], fontsize=8)
    axes.set(title=title, xlabel="cost of decentralized / cost of rival (left of 1: better)")
    axes.grid(alpha=0.3, axis="x")


def _games(axes: Any, found: Mapping[str, Any]) -> None:
    quantiles = {name: data for name, data in found.items() if "all" in data}
    _ratios(axes, quantiles, "Random games, expected costs\n(5, 25, 50, 75, 95 %)")


def _series(axes: Any, found: Mapping[str, Any]) -> None:
    _ratios(axes, found, "Series, realised errors against greedy\n(5, 25, 50, 75, 95 %)")


_PANELS = {
    "convergence": _convergence,
    "exploitability": _exploitability,
    "minimax": _minimax,
    "anarchy": _anarchy,
    "heterogeneity": _heterogeneity,
    "monte-carlo": _monte_carlo,
    "regret": _regret,
    "games": _games,
    "series": _series,
}
