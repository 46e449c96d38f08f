"""The figure of a sweep: the metric against each axis, drawn with matplotlib where it is installed.

Policies differ by marker too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memoa_jax.config_sweep import Axis, Sweep
from memoa_jax.figure_style import COLOURS, MARKERS, FigureError, picture, require, styled
from memoa_jax.files import replace
from memoa_jax.sweep_report import short_names
from memoa_jax.sweep_table import Columns

BINS = 10
"""Of an axis whose values were drawn between two ends."""


def draw_marginals(sweep: Sweep, table: Columns, path: Path) -> None:
    """Draw the metric of every run against each axis, with its median, one panel per axis.

    Args:
      sweep: the config.
      table: the rows that are there.
      path: of the PNG, written whole or not at all.

    Raises:
      FigureError: if matplotlib is not installed, or no row is finite.
    """
    require()
    if not np.isfinite(table[sweep.sweep.metric]).any():
        raise FigureError("no run stayed finite")
    axes = sweep.sweep.axis
    columns = min(3, len(axes))
    rows = -(-len(axes) // columns)
    names = short_names([axis.key for axis in axes])
    with styled(4.2 * rows, 5.2 * columns) as figure:
        for place, (axis, name) in enumerate(zip(axes, names, strict=True)):
            panel = figure.add_subplot(rows, columns, place + 1)
            draw_axis(panel, sweep.sweep.metric, sweep.sweep.method, axis, table)
            panel.set(title=axis.key, xlabel=name, ylabel=sweep.sweep.metric)
            if place == 0:
                panel.legend()
        replace(path, picture(figure))


def draw_axis(panel: Any, measured: str, method: str, axis: Axis, table: Columns) -> None:
    """Draw one axis: a dot per run, a line through the medians, a line for persistence.

    Args:
      panel: axes of matplotlib.
      measured: the metric drawn.
      method: the sweep's.
      axis: of the sweep.
      table: the rows that are there, at least one of them finite.
    """
    places, ticks = _places(axis, table[axis.key])
    metric = table[measured]
    finite = np.isfinite(metric)
    for drawn, label in enumerate(dict.fromkeys(table["policy"].tolist())):
        own = (table["policy"] == label) & finite
        gone = int(((table["policy"] == label) & ~finite).sum())
        colour, marker = COLOURS[drawn % len(COLOURS)], MARKERS[drawn % len(MARKERS)]
        panel.plot(
            places[own],
            metric[own],
            linestyle="none",
            color=colour,
            marker=".",
            markersize=3,
            alpha=0.35,
        )
        if own.any():
            name = f"{label} ({gone:,} runs not finite)" if gone else label
            centres, medians = _medians(method, axis, places[own], metric[own])
            panel.plot(centres, medians, color=colour, marker=marker, markersize=4, label=name)
    if measured.endswith("_rmse"):
        baseline = float(np.median(table["persistence"]))
        panel.axhline(baseline, color="black", linewidth=0.8, linestyle="--", label="persistence")
    if axis.scale == "log":
        panel.set_xscale("log")
    if ticks:
        panel.set_xticks(range(len(ticks)), ticks, fontsize=8)
        panel.set_xlim(-0.5, len(ticks) - 0.5)
    elif table[axis.key].dtype.kind == "i" and len(whole := np.unique(places)) <= BINS:
        panel.set_xticks(whole, [f"{value:.0f}" for value in whole])
        panel.minorticks_off()
    # Runs that went far out would leave no room for the others.
    known = metric[finite]
    if known.min() > 0 and known.max() > 100 * np.median(known):
        panel.set_yscale("log")


def _places(axis: Axis, values: NDArray[Any]) -> tuple[NDArray[Any], list[str]]:
    """Return where values stand on the axis, and names for the places of those that are no numbers.

    Listed numbers stand at their values, anything else side by side.
    """
    if values.dtype.kind in "if":
        return values.astype(float), []
    known = list(dict.fromkeys(values.tolist()))
    return np.array([known.index(value) for value in values.tolist()], float), [
        text if len(text := str(value)) <= 24 else text[:21] + "..." for value in known
    ]


def _medians(
    method: str, axis: Axis, places: NDArray[Any], metric: NDArray[Any]
) -> tuple[list[float], list[float]]:
    """Return the medians by value; by equal bins where values were drawn between two ends."""
    if axis.values is not None or method == "grid":
        bins = places
    else:
        scaled = np.log(places) if axis.scale == "log" else places
        width = (scaled.max() - scaled.min()) / BINS or 1.0
        bins = np.minimum((scaled - scaled.min()) // width, BINS - 1)
    centres, medians = [], []
    for one in np.unique(bins):
        centres.append(float(np.median(places[bins == one])))
        medians.append(float(np.median(metric[bins == one])))
    return centres, medians
