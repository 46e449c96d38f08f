"""Causal standardisation: inputs brought to one scale by what has been seen, never by the future."""

from __future__ import annotations

import numpy as np

from memoa_jax.series import Series

LEAST_SPREAD = 1e-9
"""A column whose spread is below this share of its size is taken as constant so far."""


def standardise(series: Series) -> Series:
    """Return the series with every input column in its own running units; targets stay.

    Exact in float64, O(n k). Row t uses rows 0..t only, so a later row changes no earlier one.

        x_t  ->  (x_t - mean_{s<=t} x_s) / sd_{s<=t} x_s        (0 while all rows are equal)

    Axes: n points, k inputs.

    Args:
      series: inputs [n, k], finite.

    Returns:
      A Series of the same shapes and name; mean and spread are those of all rows so far,
      without forgetting.

    Source: Welford (1962) for the running sum of squares.

    Example:
      >>> ramp = Series(np.arange(4.0)[:, None], np.zeros((4, 1)))
      >>> standardise(ramp).inputs.ravel().round(3).tolist()
      [0.0, 1.0, 1.225, 1.342]
    """
    inputs = np.asarray(series.inputs, np.float64)
    count = np.arange(1, len(inputs) + 1)[:, None]
    # From the first row, so that a large common offset costs no digits.
    apart = inputs - inputs[:1]
    mean = np.cumsum(apart, axis=0) / count
    before = np.concatenate([mean[:1], mean[:-1]])
    spread = np.sqrt(np.maximum(np.cumsum((apart - before) * (apart - mean), axis=0), 0.0) / count)
    constant = spread <= LEAST_SPREAD * np.maximum.accumulate(np.abs(inputs), axis=0)
    scaled = np.where(constant, 0.0, (apart - mean) / np.where(constant, 1.0, spread))
    return Series(scaled, series.targets, series.name)
