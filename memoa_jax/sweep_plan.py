"""From a sweep's config to its runs: points of a grid, random or Sobol, each with every seed.

Nothing here imports JAX: `memoa validate` checks every point.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from memoa_jax.config import Config
from memoa_jax.config_faults import ConfigError, Keys, explain, show
from memoa_jax.config_file import anchor, locate, put
from memoa_jax.config_plugins import PluginTable, takes_whole
from memoa_jax.config_sweep import Axis, Sweep

MOST_RUNS = 20_000
"""Points times seeds."""


@dataclass(frozen=True)
class Run:
    """One run of a sweep: its place, its point's number and values by key, and its config."""

    index: int
    point: int
    values: dict[str, Any]
    config: Config


def plan(sweep: Sweep) -> list[Run]:
    """Return the runs of a sweep in their order: point by point, each with every seed.

    Raises:
      ConfigError: if a point's config is none, naming the axis; if there are too many runs; if
        Sobol points are asked for and SciPy is not installed.
    """
    keys = [axis.key for axis in sweep.sweep.axis]
    points = _points(sweep)
    faults: dict[Any, str] = {}
    configs = []
    for values in points:
        made, found = _configure(sweep, values)
        for axis, text in found:
            # Of an axis that is wrong at every point the first fault says it all.
            faults.setdefault(text if axis is None else axis, text)
        configs.append(made)
    if faults:
        raise ConfigError(list(faults.values()))
    return [
        Run(
            index=number * len(sweep.all_seeds) + place,
            point=number,
            values=dict(zip(keys, values, strict=True)),
            config=made.model_copy(update={"seed": seed}),
        )
        for number, (values, made) in enumerate(zip(points, configs, strict=True))
        for place, seed in enumerate(sweep.all_seeds)
        if made is not None
    ]


def _points(sweep: Sweep) -> list[tuple[Any, ...]]:
    """Return the points, one value per axis each; on a grid the last axis runs fastest."""
    table, seeds = sweep.sweep, len(sweep.all_seeds)
    whole = [_is_whole(sweep, axis) for axis in table.axis]
    count = table.points
    if count is None:
        count = math.prod(_count(axis) for axis in table.axis)
    if count * seeds > MOST_RUNS:
        found = f"{count:,} points with {seeds:,} seeds: {count * seeds:,} runs"
        raise ConfigError([f"sweep: {found}: allowed is up to {MOST_RUNS:,}"])
    if table.method == "grid":
        ticks = [
            axis.values if axis.values is not None else _ticks(index, axis, whole[index])
            for index, axis in enumerate(table.axis)
        ]
        return list(itertools.product(*ticks))
    drawn = _sobol(sweep, count) if table.method == "sobol" else _random(sweep, count)
    return [
        tuple(
            _value(axis, share, isint)
            for axis, share, isint in zip(table.axis, row, whole, strict=True)
        )
        for row in drawn.tolist()
    ]


def _count(axis: Axis) -> int:
    return axis.count or len(axis.values or [None])


def _ticks(index: int, axis: Axis, whole: bool) -> list[Any]:
    """Return the values of a grid's axis from low to high, ends included."""
    last = _count(axis) - 1
    found = [_value(axis, place / last, whole) for place in range(last + 1)]
    if len(set(found)) < len(found):
        place = f"sweep.axis.{index}.count = {axis.count}"
        fault = f"gives a whole number twice; allowed is up to {len(set(found))}, or values"
        raise ConfigError([f"{place}: {fault}"])
    return found


def _value(axis: Axis, share: float, whole: bool) -> Any:
    """Return the value at a share, 0 to 1, of an axis."""
    if axis.values is not None:
        return axis.values[min(int(share * len(axis.values)), len(axis.values) - 1)]
    assert axis.low is not None
    assert axis.high is not None
    if share in (0.0, 1.0):  # the ends as they were written, whatever a logarithm makes of them
        value = float(axis.low if share == 0 else axis.high)
    elif axis.scale == "log":
        value = float(axis.low * (axis.high / axis.low) ** share)
    else:
        value = float(axis.low + share * (axis.high - axis.low))
    return round(value) if whole else value


def _random(sweep: Sweep, count: int) -> NDArray[np.float64]:
    """Return independent uniform numbers [points, axes]."""
    return np.random.default_rng(sweep.seed).random((count, len(sweep.sweep.axis)))


def _sobol(sweep: Sweep, count: int) -> NDArray[np.float64]:
    """Return the first points of a scrambled Sobol sequence [points, axes]."""
    try:
        from scipy.stats import qmc
    except ImportError as error:
        fault = "sweep.method = \"sobol\": SciPy is not installed: pip install 'memoa-jax[sweep]'"
        raise ConfigError([fault]) from error
    sequence = qmc.Sobol(len(sweep.sweep.axis), scramble=True, seed=sweep.seed)
    # A sequence is balanced at powers of two, and warns of any other number.
    return np.asarray(sequence.random_base2(math.ceil(math.log2(count)))[:count])


def _is_whole(sweep: Sweep, axis: Axis) -> bool:
    """Tell whether an axis has whole ends and a key that takes no other numbers."""
    if type(axis.low) is not int or type(axis.high) is not int:
        return False
    raw = sweep.written
    try:
        *places, argument = put(raw, axis.key, float(axis.low))
        Config.model_validate(raw)
    except ValueError:  # of which a fault of the schema is one
        return True
    table: Any = sweep
    for key in places:
        table = table[key] if isinstance(key, int) else getattr(table, key, None)
    return isinstance(table, PluginTable) and takes_whole(table, str(argument))


def _configure(
    sweep: Sweep, values: Sequence[Any]
) -> tuple[Config | None, list[tuple[int | None, str]]]:
    """Return a point's config; or None and its faults, each with the axis to blame."""
    raw = sweep.written
    places: list[Keys] = []
    for index, (axis, value) in enumerate(zip(sweep.sweep.axis, values, strict=True)):
        said = f"sweep.axis.{index}.key = {show(axis.key)}"
        try:
            place = put(raw, axis.key, value)
        except ValueError as error:
            return None, [(index, f"{said}: {str(error).replace('KEY=VALUE with ', '')}")]
        for other, before in enumerate(places):
            if _within(place, before):
                return None, [(index, f"{said}: changes what axis {other} changes")]
        places.append(place)
    anchor(raw, Path.cwd())
    locate(raw, Path.cwd())
    try:
        made, error_found = Config.model_validate(raw), None
    except ValidationError as error:
        made, error_found = None, error
    faults = list(_blamed(sweep, places, values, explain(raw, error_found)))
    return (None if faults else made), faults


def _blamed(
    sweep: Sweep, places: Sequence[Keys], values: Sequence[Any], faults: list[tuple[Keys, str]]
) -> Iterator[tuple[int | None, str]]:
    """Yield faults with the last axis that set what is wrong, or none and the whole point."""
    for keys, text in faults:
        axes = [index for index, place in enumerate(places) if _within(place, keys)]
        if axes:
            yield axes[-1], f"sweep.axis.{axes[-1]}: {text}"
        else:
            named = zip((axis.key for axis in sweep.sweep.axis), values, strict=True)
            point = ", ".join(f"{key} = {show(value)}" for key, value in named)
            yield None, f"sweep, at {point}: {text}"


def _within(one: Keys, other: Keys) -> bool:
    """Tell whether one of two places holds the other; map stops at the shorter."""
    return all(map(operator.eq, one, other))
