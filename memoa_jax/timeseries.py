"""The record of a series to predict, its check, and its parts."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike, NDArray

from memoa_jax.arguments import whole
from memoa_jax.tables import LARGEST
from memoa_jax.types import record, static

Values = NDArray[np.float64]


@record
class Series:
    """A series of n points: ``inputs`` [n, k] and ``targets`` [n, d]; row t: x_t and y_t.

    x_t explains y_{t+1}. NaN in a target is a missing value; a row counts as missing if any
    of its outputs is. Rows before `scored_from` are lived through, and count in no figure (row 0
    never does). The constructor takes what it is given; `make_series` judges it.
    """

    inputs: Values
    targets: Values
    name: str = static(default="series")
    scored_from: int = static(default=1)

    @property
    def num_points(self) -> int:
        """Number n of points; a run makes n - 1 steps."""
        return len(self.targets)

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which rows have all their outputs, [n]."""
        return np.logical_not(np.isnan(self.targets).any(axis=1))

    @property
    def scored(self) -> NDArray[np.bool_]:
        """Which rows count in a run's figures, [n]."""
        return self.known & (np.arange(self.num_points) >= max(self.scored_from, 1))


def make_series(inputs: ArrayLike, targets: ArrayLike, name: str = "series") -> Series:
    """Check and copy arrays into a `Series` of n points, k inputs and d outputs.

    Args:
      inputs: [n, k], finite, at most 1e15 in size: fill gaps forward first.
      targets: [n, d], the same or NaN where missing; the first row is known.
      name: what figures and tables call the series.

    Returns:
      A `Series` of float64 copies.

    Raises:
      ValueError: one line with the field, its value and what is allowed.

    Example:
      >>> make_series([[0.0], [1.0]], [[1.0], [float("nan")]], "two points").known.tolist()
      [True, False]
    """
    if not (isinstance(name, str) and name):
        raise ValueError(f"Series.name = {name!r}: allowed is a text that is not empty")
    x, y = _matrix("inputs", inputs), _matrix("targets", targets)
    if len(x) != len(y):
        raise ValueError(f"Series.inputs has {len(x)} rows: allowed is {len(y)}, as targets")
    if len(y) < 2:
        raise ValueError(f"Series.targets has {len(y)} row: allowed is at least 2")
    _refuse("inputs", x, ~np.isfinite(x), "a finite number (fill gaps forward)")
    _refuse("targets", y, np.isinf(y), "a finite number, or NaN where missing")
    for field, values in (("inputs", x), ("targets", y)):
        allowed = f"a number up to {LARGEST:g} in size: rescale the series"
        _refuse(field, values, np.abs(values) > LARGEST, allowed)
    _refuse("targets", y[:1], np.isnan(y[:1]), "a known first target: agents start there")
    return Series(inputs=x, targets=y, name=name)


def part(series: Series, scored_from: int = 1, stop: int | None = None) -> Series:
    """Return the rows before `stop`, of which those from `scored_from` on are scored.

    What was learnt on the rows before is carried into the scored ones; those from `stop` on are
    not there.

    Args:
      series: n points.
      scored_from: 1 .. stop - 1.
      stop: 2 .. n; None is n.

    Raises:
      ValueError: naming the argument and what is allowed; also if no row would be scored.

    Example:
      >>> whole = make_series([[0.0]] * 9, [[1.0]] * 9)
      >>> part(whole, scored_from=5, stop=8).scored.sum()
      np.int64(3)
    """
    stop = series.num_points if stop is None else stop
    whole("part", "stop", stop, 2, series.num_points)
    whole("part", "scored_from", scored_from, 1, stop - 1)
    if not series.known[scored_from:stop].any():  # an error over no rows would read as 0
        rows = f"no row of {scored_from} .. {stop - 1} has all its targets"
        allowed = "rows of which at least one has"
        raise ValueError(f"part: scored_from = {scored_from}: {rows}: allowed is {allowed}")
    return dataclasses.replace(
        series,
        inputs=series.inputs[:stop],
        targets=series.targets[:stop],
        scored_from=scored_from,
    )


def _matrix(field: str, values: ArrayLike) -> Values:
    array = np.asarray(values)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"Series.{field} has dtype {array.dtype}: allowed is real numbers")
    if array.ndim != 2 or array.shape[1] == 0:
        axes = "[n, k]" if field == "inputs" else "[n, d]"
        raise ValueError(f"Series.{field} has shape {array.shape}: allowed is {axes}")
    return np.array(array, dtype=np.float64)


def _refuse(field: str, values: Values, faulty: NDArray[np.bool_], allowed: str) -> None:
    places = np.argwhere(faulty)
    if len(places):
        row, column = map(int, places[0])
        where = f"Series.{field}[{row}, {column}]"
        raise ValueError(f"{where} = {values[row, column]}: allowed is {allowed}")
