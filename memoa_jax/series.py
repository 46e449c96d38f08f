"""Series to predict: generators, embedded real data, public data sets, and your own tables.

In every series x_t explains y_{t+1}; row 0 of the targets is where the agents start. Lengths
are in steps: n steps are n + 1 points. Every function here returns a checked `Series` of
float64 NumPy arrays and can be looked up by name in `SERIES_KINDS`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from os import PathLike
from typing import Any

import numpy as np

from memoa_jax import download, tables
from memoa_jax.timeseries import Series as Series
from memoa_jax.timeseries import Values
from memoa_jax.timeseries import make_series as make_series
from memoa_jax.timeseries import part as part

Path = str | PathLike[str]
_BOC_ROWS = {"main": (0, 2001), "validation": (1600, 3601)}
_ETT_ROWS = {"main": (0, 2001), "validation": (3500, 5501)}


def _check_counts(kind: str, most: int | None = None, **counts: int) -> None:
    for field, value in counts.items():
        least = 0 if field == "seed" else 1
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not whole or value < least or (most is not None and value > most):
            allowed = f">= {least}" if most is None else f"{least} .. {most}"
            raise ValueError(f"{kind}.{field} = {value!r}: allowed is a whole number {allowed}")


def _check_numbers(kind: str, least: float = -np.inf, **numbers: float) -> None:
    for field, value in numbers.items():
        if not (np.isfinite(value) and value >= least):
            allowed = "a finite number" + ("" if least == -np.inf else f" >= {least:g}")
            raise ValueError(f"{kind}.{field} = {value!r}: allowed is {allowed}")


def _check_choice(field: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{field} = {value!r}: allowed is {' or '.join(map(repr, choices))}")


def periodic(steps: int = 200) -> Series:
    """Repeat four levels: y_t = r[(t+1) mod 4], x = y. Exact; lag-4 persistence has no error.

    The levels 5, 6, 12, 20 are mapped linearly to [-0.9, 0.9].

    Example:
      >>> periodic(steps=4).targets[:, 0].round(2).tolist()
      [-0.78, -0.06, 0.9, -0.9, -0.78]
    """
    _check_counts("periodic", steps=steps)
    levels = -0.9 + 1.8 * (np.array([5.0, 6.0, 12.0, 20.0]) - 5.0) / 15.0
    return _autonomous(levels[(np.arange(steps + 1) + 1) % 4], "periodic")


def logistic(steps: int = 200) -> Series:
    """Iterate a logistic map whose rate swings through chaos; x = y.

        y_0 = 0.6    y_t = (3.6 + 0.13 f_t) y_{t-1} (1 - y_{t-1})
        f_t = sum over k in 5, 11, 13 of sin(2 pi k t / (steps + 2))

    The swing depends on `steps`: a longer series does not begin with a shorter one.

    Example:
      >>> logistic(steps=2).targets[0].tolist()
      [0.6]
    """
    _check_counts("logistic", steps=steps)
    time = np.arange(steps + 1) / (steps + 2)
    rate = 3.6 + 0.13 * np.sin(2.0 * np.pi * np.outer(time, [5, 11, 13])).sum(axis=1)
    values = np.full(steps + 1, 0.6)
    for t in range(1, steps + 1):
        values[t] = rate[t] * values[t - 1] * (1.0 - values[t - 1])
    return _autonomous(values, "logistic")


def concept_drift(steps: int = 200, *, outputs: str = "both") -> Series:
    """Let the law that maps inputs to targets drift into another one half-way.

    With u_k = 2 pi k / (steps + 1), the inputs are x_t = (u, u, sqrt u) at u_{t+1} and the
    targets y_t = (y1, y2)(u_t), so that y_{t+1} is a function of x_t:

        y1 = mix (u^2 + sin u + u sqrt u + cos(10 u) / 2) + (1 - mix) (2 u - sin sqrt u)
        y2 = mix (u cos u + sqrt u - exp(-u)) + (1 - mix) (cos u sin u + u + cos(10 u) / 4)

    mix falls from 1 (u <= 7 pi / 8) as cos(2 (u - 7 pi / 8)) to 0 (u >= 9 pi / 8).
    `outputs` is "both", d = 2, or "second", y2 alone. More steps sample the path more finely.

    Example:
      >>> concept_drift(outputs="second").targets.shape
      (201, 1)
    """
    _check_counts("concept_drift", steps=steps)
    _check_choice("concept_drift.outputs", outputs, ("both", "second"))
    grid = 2.0 * np.pi * np.arange(steps + 2) / (steps + 1)
    u, after = grid[:-1], grid[1:]
    fading = np.cos(2.0 * (u - 7.0 * np.pi / 8.0))
    mix = np.where(u <= 7.0 * np.pi / 8.0, 1.0, np.where(u <= 9.0 * np.pi / 8.0, fading, 0.0))
    root = np.sqrt(u)
    first = mix * (u**2 + np.sin(u) + u * root + 0.5 * np.cos(10.0 * u))
    first += (1.0 - mix) * (2.0 * u - np.sin(root))
    second = mix * (u * np.cos(u) + root - np.exp(-u))
    second += (1.0 - mix) * (np.cos(u) * np.sin(u) + u + 0.25 * np.cos(10.0 * u))
    targets = np.stack([first, second] if outputs == "both" else [second], axis=1)
    return make_series(np.stack([after, after, np.sqrt(after)], axis=1), targets, "concept_drift")


def brownian(
    steps: int = 200,
    *,
    volatility: float = 0.1,
    drift: float = 0.0,
    outputs: int = 1,
    seed: int = 0,
) -> Series:
    """Sample Brownian motion: y_0 = 0, y_{t+1} = y_t + drift + volatility w_t, w standard normal.

    x = y. Nothing beats persistence when drift = 0; its RMSE then tends to `volatility`. Outputs
    are independent. With the same seed a longer series begins with the shorter one.

    Example:
      >>> brownian(steps=50, outputs=3).inputs.shape
      (51, 3)
    """
    _check_counts("brownian", steps=steps, outputs=outputs, seed=seed)
    _check_numbers("brownian", least=0.0, volatility=volatility)
    _check_numbers("brownian", drift=drift)
    moves = drift + volatility * np.random.default_rng(seed).normal(size=(steps, outputs))
    return _autonomous(_path(moves), "brownian")


def random_walk(steps: int = 200, *, size: float = 0.1, outputs: int = 1, seed: int = 0) -> Series:
    """Toss a fair coin per step and output: y_0 = 0, y_{t+1} = y_t + size or y_t - size; x = y.

    The RMSE of persistence is exactly `size`, and no predictor of the past does better on
    average. With the same seed a longer series begins with the shorter one.

    Example:
      >>> sorted(set(np.diff(random_walk(size=0.5).targets[:, 0]).tolist()))
      [-0.5, 0.5]
    """
    _check_counts("random_walk", steps=steps, outputs=outputs, seed=seed)
    _check_numbers("random_walk", least=0.0, size=size)
    heads = np.random.default_rng(seed).random((steps, outputs)) < 0.5
    return _autonomous(_path(np.where(heads, size, -size)), "random_walk")


def step_change(
    steps: int = 200, *, every: int = 50, jump: float = 1.0, noise: float = 0.05, seed: int = 0
) -> Series:
    """Hold a level, then jump to a new one: y_t = level[t // every] + noise w_t; x = y.

    Levels are uniform on [-jump, jump], w standard normal. With the same seed a longer series
    begins with the shorter one, and `noise` does not change the levels.

    Example:
      >>> len(set(step_change(steps=199, every=50, noise=0.0).targets[:, 0].tolist()))
      4
    """
    _check_counts("step_change", steps=steps, every=every, seed=seed)
    _check_numbers("step_change", least=0.0, jump=jump, noise=noise)
    level_draws, noise_draws = np.random.default_rng(seed).spawn(2)
    levels = level_draws.uniform(-jump, jump, size=steps // every + 1)
    values = levels[np.arange(steps + 1) // every] + noise * noise_draws.normal(size=steps + 1)
    return _autonomous(values, "step_change")


def seasonal(
    steps: int = 200,
    *,
    period: float = 12.0,
    amplitude: float = 1.0,
    trend: float = 0.0,
    noise: float = 0.1,
    seed: int = 0,
) -> Series:
    """Add a wave, a trend and noise: y_t = amplitude sin(2 pi t / period) + trend t + noise w_t.

    x = y, w standard normal, `period` in steps. With the same seed a longer series begins with
    the shorter one.

    Example:
      >>> seasonal(steps=6, period=12, noise=0).targets[3].round(12).tolist()
      [1.0]
    """
    _check_counts("seasonal", steps=steps, seed=seed)
    _check_numbers("seasonal", least=1.0, period=period)
    _check_numbers("seasonal", amplitude=amplitude, trend=trend)
    _check_numbers("seasonal", least=0.0, noise=noise)
    time = np.arange(steps + 1)
    wave = amplitude * np.sin(2.0 * np.pi * time / period) + trend * time
    values = wave + noise * np.random.default_rng(seed).normal(size=steps + 1)
    return _autonomous(values, "seasonal")


def _autonomous(targets: Values, name: str) -> Series:
    """Return the series that explains itself, x = y."""
    columns = targets.reshape(len(targets), -1)
    return make_series(columns, columns, name)


def _path(moves: Values) -> Values:
    return np.concatenate([np.zeros((1, moves.shape[1])), np.cumsum(moves, axis=0)])


def co2(steps: int | None = None, *, lags: Sequence[int] = (0, 1, 52)) -> Series:
    """Return weekly carbon dioxide at Mauna Loa, 1958-2001, with its 59 real gaps.

    2,284 points. One unit is 20 ppm above 315 ppm, so values run from -0.1 to 2.9: constants,
    no look-ahead. Targets of missing weeks are NaN.

    Args:
      steps: the first `steps` steps; None for all 2,283.
      lags: inputs are the last known values so many weeks ago (before the start: the first).

    Source: Keeling and Whorf, 2004, public domain; `memoa_jax/data/PROVENANCE.md`.

    Example:
      >>> int((~co2().known).sum())
      59
    """
    series = _embedded("mauna_loa_co2.csv", "co2", lags, offset=315.0, unit=20.0)
    return _first_steps(series, "co2", steps)


def sunspots(steps: int | None = None, *, lags: Sequence[int] = (0, 1, 11)) -> Series:
    """Return monthly mean sunspot numbers, 1749-2008, with one month that nobody observed.

    3,120 points. One unit is 100 spots: values run from 0 to 2.5. February 1824, in the source an
    interpolation from the month after, is missing; the preliminary 2009 is left out.

    Args:
      steps: the first `steps` steps; None for all 3,119.
      lags: inputs are the last known values so many months ago (before the start: the first).

    Source: National Geophysical Data Center, public domain; `memoa_jax/data/PROVENANCE.md`.

    Example:
      >>> sunspots(steps=99).targets.shape
      (100, 1)
    """
    series = _embedded("sunspots.csv", "sunspots", lags, offset=0.0, unit=100.0)
    return _first_steps(series, "sunspots", steps)


def _embedded(file: str, column: str, lags: Sequence[int], offset: float, unit: float) -> Series:
    """Read a series that the package carries, in fixed units."""
    with resources.as_file(resources.files("memoa_jax") / "data" / file) as path:
        read = tables.load_table(path, targets=[column], lags=lags, missing="mask", before="first")
    inputs, targets = ((values - offset) / unit for values in read)
    return make_series(inputs, targets, column)


def _first_steps(series: Series, kind: str, steps: int | None) -> Series:
    if steps is None:
        return series
    _check_counts(kind, series.num_points - 1, steps=steps)
    head = slice(steps + 1)
    return dataclasses.replace(series, inputs=series.inputs[head], targets=series.targets[head])


def boc(
    path: Path | None = None,
    *,
    window: str = "main",
    steps: int | None = None,
    url: str | None = None,
    cache: Path | None = None,
) -> Series:
    """Return Bank of Canada closing rates: tomorrow's USD from five currencies, lags 0 and 1.

    Targets USD; inputs AUD, EUR, GBP, JPY, USD (k = 10), in Canadian dollars. A lag before the
    file's start is 0. Windows are rows 0..2000 ("main") and 1600..3600 ("validation").

    Args:
      path: a CSV file; None downloads it once (extra ``data``, see `memoa_jax.download`).
      window: "main" or "validation", 2,000 steps each.
      steps: the first `steps` steps of the window; None for all.
      url: another address of the same file.
      cache: the folder to keep the download in.

    Raises:
      TableError, DownloadError, ValueError: one line each.
    """
    _check_choice("boc.window", window, tuple(_BOC_ROWS))
    read = tables.load_table(
        download.fetch(download.BANK_OF_CANADA, url=url, cache=cache) if path is None else path,
        targets=["USD_CLOSE"],
        inputs=["AUD_CLOSE", "EUR_CLOSE", "GBP_CLOSE", "JPY_CLOSE", "USD_CLOSE"],
        lags=(0, 1),
        rows=_BOC_ROWS[window],
    )
    return _first_steps(make_series(*read, f"boc_{window}"), "boc", steps)


def ett(
    path: Path | None = None,
    *,
    window: str = "main",
    steps: int | None = None,
    url: str | None = None,
    cache: Path | None = None,
) -> Series:
    """Return ETTh1: a transformer's oil temperature in an hour from its loads.

    Target OT; inputs HUFL HULL MUFL MULL LUFL LULL at lags 0, 1, 2 and OT at lags 0, 1 (k = 20).
    Inputs and targets are each divided by their maximum in the window, one number each, which
    defines the units (and looks ahead); `steps` does not change them. A lag before the file's
    start is 0. Windows are rows 0..2000 ("main") and 3500..5500 ("validation").

    Args and errors: as `boc`.
    """
    _check_choice("ett.window", window, tuple(_ETT_ROWS))
    loads = ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL")
    read = tables.load_table(
        download.fetch(download.ETT_H1, url=url, cache=cache) if path is None else path,
        targets=["OT"],
        inputs=[*loads, "OT"],
        lags={**dict.fromkeys(loads, (0, 1, 2)), "OT": (0, 1)},
        rows=_ETT_ROWS[window],
        scaling="window_max",
    )
    return _first_steps(make_series(*read, f"ett_{window}"), "ett", steps)


def table(path: Path, *, name: str = "table", **options: Any) -> Series:
    """Return your own CSV or NPZ file as a series; options are the keywords of `load_table`.

    Example:
      >>> table("prices.txt", targets=["close"])
      Traceback (most recent call last):
      memoa_jax.table_files.TableError: prices.txt: file ending '.txt': allowed is '.csv' or '.npz'
    """
    return make_series(*tables.load_table(path, **options), name)


_GENERATORS = (periodic, logistic, concept_drift, brownian, random_walk, step_change, seasonal)
SERIES_KINDS: Mapping[str, Callable[..., Series]] = {
    function.__name__: function for function in (*_GENERATORS, co2, sunspots, boc, ett, table)
}
"""Every series by the name that configs use; arguments are the function's keywords."""
