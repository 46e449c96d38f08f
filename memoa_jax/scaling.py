"""Causal standardisation: inputs in the units of what has been seen, never of the future."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from memoa_jax.arguments import one_of
from memoa_jax.series import Series

Inputs = Literal["levels", "moves", "both"]

LEAST_SPREAD = 1e-9
"""A column whose spread is below this share of its size is taken as constant so far."""


def standardise(series: Series, inputs: Inputs = "levels") -> Series:
    """Return the series with every input column in its own running units; targets stay.

    Exact in float64, O(n k). Row t uses rows 0..t only, so a later row changes no earlier one.

        x_t  ->  (x_t - mean_{s<=t} x_s) / sd_{s<=t} x_s        (0 while all rows are equal)

    Axes: n points, k inputs.

    Args:
      series: inputs [n, k], finite.
      inputs: "levels" takes the columns as they are; "moves" their last moves x_t - x_{t-1} (0 at
        t = 0) instead: where the next move is to be told from earlier ones, levels hide them;
        "both" takes both, 2 k columns.

    Returns:
      A Series of the same targets and name; mean and spread are those of all rows so far, without
      forgetting.

    Raises:
      ValueError: if inputs is none of the three.

    Source: Welford (1962) for the running sum of squares.

    Example:
      >>> ramp = Series(np.arange(4.0)[:, None], np.zeros((4, 1)))
      >>> standardise(ramp).inputs.ravel().round(3).tolist()
      [0.0, 1.0, 1.225, 1.342]
    """
    one_of("standardise", "inputs", inputs, get_args(Inputs))
    levels = np.asarray(series.inputs, np.float64)
    moves = np.concatenate([np.zeros_like(levels[:1]), np.diff(levels, axis=0)])
    taken = {"levels": [levels], "moves": [moves], "both": [levels, moves]}[inputs]
    return dataclasses.replace(series, inputs=_running(np.concatenate(taken, axis=1)))


def _running(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return columns [n, k] in the running units of each."""
    count = np.arange(1, len(columns) + 1)[:, None]
    # From the first row, so that a large common offset costs no digits.
    apart = columns - columns[:1]
    mean = np.cumsum(apart, axis=0) / count
    before = np.concatenate([mean[:1], mean[:-1]])
    spread = np.sqrt(np.maximum(np.cumsum((apart - before) * (apart - mean), axis=0), 0.0) / count)
    constant = spread <= LEAST_SPREAD * np.maximum.accumulate(np.abs(columns), axis=0)
    scaled: NDArray[np.float64] = (apart - mean) / np.where(constant, 1.0, spread)
    return np.where(constant, 0.0, scaled)
