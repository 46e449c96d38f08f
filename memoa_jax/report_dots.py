"""A row of markers for each policy, persistence as a line from top to bottom."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from memoa_jax.figure_style import GREY, logarithmic, look, plain

BASELINE: Mapping[str, Any] = {"color": "black", "linewidth": 1.0, "linestyle": "--"}
"""How persistence is drawn, everywhere."""


def dots(axes: Any, rows: Mapping[str, Sequence[float | None]], names: Sequence[str]) -> list[Any]:
    """Draw a line of markers for each row, what is not finite at the right end; return the legend.

    Args:
      axes: of matplotlib; it becomes logarithmic.
      rows: numbers by label, one for each name; None where not finite.
      names: what the numbers are.
    """
    handles = []
    for place, name in enumerate(names):
        style = {**look(place), "linestyle": "none"}
        # Side by side: equal numbers would hide one another.
        heights = [-row + 0.09 * ((len(names) - 1) / 2 - place) for row in range(len(rows))]
        values = [math.nan if (one := row[place]) is None else one for row in rows.values()]
        handles += axes.plot(values, heights, label=name, **style)
        for height, value in zip(heights, values, strict=True):
            if not math.isfinite(value):
                at = axes.get_yaxis_transform()
                axes.plot([1.0], [height], transform=at, clip_on=False, **{**style, "marker": ">"})
    for row, numbers in enumerate(rows.values()):
        if any(number is None for number in numbers):
            at = axes.get_yaxis_transform()
            said = {"ha": "right", "va": "center", "fontsize": 7}
            axes.text(0.97, -row, "not finite", transform=at, backgroundcolor="white", **said)
    axes.set_yticks([-row for row in range(len(rows))], [plain(label) for label in rows])
    axes.set_ylim(0.6 - len(rows), 0.6)
    logarithmic(axes.xaxis)
    axes.grid(axis="y", visible=False)
    return handles


def beside(axes: Any, plain_ones: Mapping[str, float | None]) -> list[Any]:
    """Draw the baselines as lines from top to bottom; return the legend."""
    lines = [BASELINE, {**BASELINE, "color": GREY, "linestyle": ":"}]
    drawn = [
        axes.axvline(value, label=name.replace("_", " "), **style)
        for (name, value), style in zip(plain_ones.items(), lines, strict=False)
        if value is not None and value > 0
    ]
    logarithmic(axes.xaxis)  # the lines may have made it longer
    return drawn


def listed(labels: Iterable[str]) -> str:
    """Join names into a phrase.

    Example:
      >>> listed(["a", "b", "c"])
      'a, b and c'
    """
    names = list(labels)
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
