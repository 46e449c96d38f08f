"""The schema of a sweep: a run's config with a `[sweep]` table, its axes and what they may hold.

Nothing here imports JAX.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    model_validator,
)

from memoa_jax.choices import Metric
from memoa_jax.config import Config, Seeds
from memoa_jax.config_values import Count, Table

FIXED = {
    "name": "a sweep has one",
    "dtype": "a sweep has one",
    "seed": "seeds are an axis of their own, sweep.seeds",
    "seeds": "seeds are an axis of their own, sweep.seeds",
    "policy": "give a key inside, such as policy.greedy.window",
    "run": "give a key inside",
}
"""Keys that no axis takes, and why."""


def _check_end(value: Any) -> Any:
    """Return a number as it was written: whole numbers stay whole."""
    if not _is_number(value):
        raise ValueError("no number")
    return value


End = Annotated[Any, AfterValidator(_check_end), Field(description="a finite number")]


class Axis(Table):
    """One key that a sweep changes: between two ends, or through listed values."""

    key: Annotated[
        str, Field(min_length=1, description="a dotted key, as --set takes it, without a value")
    ]
    low: End | None = None
    high: End | None = None
    scale: Literal["linear", "log"] = "linear"
    count: Annotated[int, Field(ge=2, le=10_000, description="a whole number from 2 to 10000")] | (
        None
    ) = None
    values: (
        Annotated[list[Any], Field(min_length=1, description="a list of one value or more")] | None
    ) = None


class SweepTable(Table):
    """Which points a sweep visits, with which seeds, and what it ranks them by."""

    method: Literal["grid", "random", "sobol"]
    points: (
        Annotated[int, Field(ge=1, le=10_000, description="a whole number from 1 to 10000")] | None
    ) = None
    seeds: Seeds | None = None
    metric: Metric = "server_rmse"
    top: Count = 10
    axis: Annotated[list[Axis], Field(min_length=1, description="one [[sweep.axis]] table or more")]


class Sweep(Config):
    """Many runs of one config: the points of `[sweep]`, each with every seed.

    Its keys are those of `Config`. It keeps no trajectories and fits no read-outs in hindsight.
    """

    sweep: SweepTable
    _written: dict[str, Any] = PrivateAttr(default_factory=dict)

    @model_validator(mode="wrap")
    @classmethod
    def _keep_written(cls, raw: Any, validate: ModelWrapValidatorHandler[Sweep]) -> Sweep:
        """Keep the base config as it was given: defaults may depend on what an axis changes."""
        made = validate(raw)
        made._written = {key: copy.deepcopy(raw[key]) for key in raw if key != "sweep"}
        return made

    @property
    def written(self) -> dict[str, Any]:
        """The base config as it was given, without `[sweep]`; a copy."""
        return copy.deepcopy(self._written)

    @property
    def all_seeds(self) -> list[int]:
        """The seeds, those of the sweep or the one of the config."""
        return self.sweep.seeds or [self.seed]


def between_keys(raw: dict[str, Any]) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield the faults of `[sweep]` that no single key shows, with their places.

    Args:
      raw: the config as read; it may be wrong in any other way too.
    """
    table = raw.get("sweep")
    if not isinstance(table, dict):
        return
    method = table.get("method")
    if method == "grid" and "points" in table:
        fault = "sweep.points: a grid has the points of its axes; allowed is random or sobol"
        yield ("sweep", "points"), fault
    if method in ("random", "sobol") and "points" not in table:
        fault = f'sweep.points: missing; with method = "{method}" allowed is a whole number >= 1'
        yield ("sweep", "points"), fault
    seen: list[str] = []
    axes = table.get("axis")
    for index, axis in enumerate(axes if isinstance(axes, list) else []):
        if not isinstance(axis, dict):
            continue
        for key, fault in _axis_faults(axis, method, seen):
            place = f"sweep.axis.{index}.{key}"
            shown = f" = {json.dumps(axis[key], default=str)}" if key in axis else ""
            yield ("sweep", "axis", index, key), f"{place}{shown}: {fault}"
        seen.append(str(axis.get("key")))


def _axis_faults(axis: dict[str, Any], method: Any, seen: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the faults of one axis: the key to blame and what is wrong."""
    key: Any = axis.get("key")
    low: Any = axis.get("low")
    high: Any = axis.get("high")
    if key in seen:
        yield "key", f"taken by axis {seen.index(str(key))}; give each key one axis"
    if isinstance(key, str) and key in FIXED:
        yield "key", f"allowed is another key: {FIXED[key]}"
    if "values" in axis:
        for other in ("low", "high", "count", "scale"):
            if axis.get(other, "linear") != "linear":  # the scale that a resolved file names
                yield other, "values are given too; allowed is one of them"
        listed = axis["values"] if isinstance(axis["values"], list) else []
        if any(_same(value, before) for i, value in enumerate(listed) for before in listed[:i]):
            yield "values", "a value stands twice; allowed is each once"
        return
    for name in ("low", "high"):
        if name not in axis:
            yield name, "missing; allowed is a finite number, or values instead of low and high"
    least = low if _is_number(low) else None
    if least is not None and _is_number(high) and not high > least:
        yield "high", f"allowed is a number above low, {low}"
    if axis.get("scale") == "log" and least is not None and not least > 0:
        yield "low", 'allowed is a number > 0 with scale = "log"'
    if method == "grid" and "count" not in axis:
        yield "count", "missing; on a grid allowed is a whole number >= 2, or values"
    if method in ("random", "sobol") and "count" in axis:
        yield "count", f'method = "{method}" takes no count; allowed is sweep.points'


def _is_number(value: Any) -> bool:
    # math.isfinite raises on a whole number that no float holds
    return type(value) in (int, float) and bool(abs(value) <= sys.float_info.max)


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(one == other)
