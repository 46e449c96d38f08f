"""The numbers that the figures of a run's report are drawn from; NumPy, float64."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
BLOCKS = 60
"""Points of a curve over the whole run: a mean over as many equal stretches of rows."""
BARS = 48
"""Bars of a histogram at most."""
WINDOW = 120
"""Rows that are drawn one by one."""
_UNITS = {"co2": ("20 ppm", "20 ppm, from 315 ppm"), "sunspots": ("100 spots", "100 spots")}
"""Of the series that the package carries: one unit of a difference, and of a value."""


def units(config: str) -> tuple[str, str]:
    r"""Return what to write behind a difference of targets, and behind a target.

    Args:
      config: a resolved config's text.

    Example:
      >>> units('[series]\nkind = "logistic"')
      ('units of the series', 'units of the series')
    """
    kind = tomllib.loads(config)["series"]["kind"]
    return _UNITS.get(kind, ("units of the series",) * 2)


def scored(config: str, targets: Values) -> NDArray[np.bool_]:
    """Return which rows count in the figures of a run, [n]: known, and not before `scored_from`."""
    first = max(int(tomllib.loads(config)["series"].get("scored_from", 1)), 1)
    return np.isfinite(targets).all(axis=1) & (np.arange(len(targets)) >= first)


def stretches(values: Values, counted: NDArray[np.bool_]) -> tuple[Values, Values]:
    """Return the middle row of each stretch of rows, and the mean of the values that count in it.

    NaN where none counts, or one that counts is not finite: a mean would hide it.

    Args:
      values: [m], of the first m rows.
      counted: [n], which rows count.

    Example:
      >>> rows, means = stretches(np.array([1.0, 3.0]), np.array([True, True]))
      >>> rows.tolist(), means.tolist()
      ([0.0, 1.0], [1.0, 3.0])
    """
    points = len(counted)
    bounds = np.linspace(0, points, min(BLOCKS, points) + 1).round().astype(int)
    rows, means = [], []
    for first, stop in itertools.pairwise(bounds):
        own = values[first:stop]
        own = own[counted[first:stop][: len(own)]]
        rows.append((first + stop - 1) / 2)
        good = own.size > 0 and bool(np.isfinite(own).all())
        means.append(float(own.mean()) if good else np.nan)
    return np.array(rows), np.array(means)


def squared(predictions: Any, targets: Values) -> Values:
    """Return the squared error of each row, a mean over outputs, [m]; NaN where not known."""
    own = np.asarray(predictions, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.mean((own - targets[: len(own)]) ** 2, axis=1))


def spread(quantiles: Any, levels: Any) -> Values:
    """Return how wide the band from 5 to 95 % is at each row, a mean over outputs, [m]."""
    low, high = (int(np.argmin(np.abs(np.asarray(levels) - level))) for level in (0.05, 0.95))
    own = np.asarray(quantiles, np.float64)
    return np.asarray(np.mean(own[:, high] - own[:, low], axis=1))


def bars(edges: Any, counts: Any, most: int = BARS) -> tuple[Values, NDArray[np.int64]]:
    """Return a histogram with neighbouring bins joined until there are few enough.

    Example:
      >>> bars([1.0, 2.0, 4.0, 8.0], [5, 1, 2], most=2)
      (array([1., 4., 8.]), array([6, 2]))
    """
    edges, counts = np.asarray(edges, np.float64), np.asarray(counts, np.int64)
    joined = -(-len(counts) // most)
    if joined <= 1:
        return edges, counts
    starts = np.arange(0, len(counts), joined)
    return np.append(edges[starts], edges[-1]), np.add.reduceat(counts, starts)


def window(steps: Mapping[str, int], points: int) -> tuple[int, int]:
    """Return the first row and the end of those drawn one by one: the last that all policies have.

    Args:
      steps: rows of each policy.
      points: n.
    """
    stop = min([points, *steps.values()])
    return max(stop - WINDOW, 0), stop
