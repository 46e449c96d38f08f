"""A run with every operation watched: the first that makes a NaN or an infinity is named."""

from __future__ import annotations

import re
from typing import Any

import jax
from jax.experimental import checkify

from memoa_jax.simulate import Result, simulate


def watched(arguments: tuple[Any, ...], options: dict[str, Any]) -> tuple[Result, str | None]:
    """Return the result of `simulate`, and which operation first made a number that is none.

    Several times as slow, and in one compiled program from beginning to end (`checkify`).

    Args:
      arguments: the positional ones of `simulate`.
      options: the others; of a resident run on one device.

    Raises:
      ValueError: if it is another run.

    Example:
      >>> from memoa_jax import greedy, random_features, ridge_mixture, series
      >>> parts = (series.periodic(8), random_features(2), greedy(), ridge_mixture())
      >>> watched(parts, {"num_agents": 3, "key": jax.random.key(0)})[1] is None
      True
    """
    if options.get("schedule", "resident") != "resident" or options.get("mesh") is not None:
        raise ValueError('--debug: allowed is run.schedule = "resident" without run.devices')
    key = options["key"]
    # Costs are counted on the host, out of reach of a transformation.
    without = ("key", "keeper", "count_costs")
    others = {name: value for name, value in options.items() if name not in without}

    def run(key: Any) -> Result:
        return simulate(*arguments, key=key, **others)

    errors = checkify.float_checks | checkify.index_checks
    error, result = jax.jit(checkify.checkify(run, errors=errors))(key)
    return result, _told(error)


def _told(error: checkify.Error) -> str | None:
    """Tell of the operation that checkify caught, and of the line of this package it stands in."""
    told = error.get()
    if told is None:
        return None
    what = told.split("\n", 1)[0].split(" at ")[0].rstrip(".")
    frames = str(getattr(error.get_exception(), "traceback_info", ""))
    ours = re.search(r"memoa_jax[/\\](\w+\.py:\d+)", frames)
    return f"{what}, at {ours[1]}" if ours else what
