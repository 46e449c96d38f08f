"""Gradients of a run block by block, in memory that does not grow with the population."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from memoa_jax.choices import Measure, Mode
from memoa_jax.groups import Groups
from memoa_jax.simulate import prepare
from memoa_jax.stream import Stream
from memoa_jax.stream_forward import Forward
from memoa_jax.stream_objective import Chain, Made
from memoa_jax.stream_reverse import Reverse
from memoa_jax.timeseries import Series
from memoa_jax.tuning import chosen_mode
from memoa_jax.types import Array


def stream_gradient(
    series: Series,
    made: Made,
    start: Mapping[str, float],
    measure: Measure,
    temperature: float = 0.0,
    *,
    num_agents: int,
    key: Array,
    dtype: str = "float32",
    block: int | None = None,
    groups: Groups | None = None,
    mode: Mode = "auto",
) -> Callable[[Mapping[str, Any]], tuple[float, dict[str, float]]]:
    """Return the function that gives a stream's `tuning.objective_of` and its gradient.

    Exact. Forward mode costs about one more stream per parameter, in memory O(block) times one
    more than parameters; reverse mode a handful of streams, in memory O(sqrt(n) block). Compiled
    once, whatever the parameters. Where several agents share the maximum, the derivative is that
    of the first.

    Args:
      series: n points; its scored rows count.
      made: encoder, policy and mixture of parameters.
      start: the m parameters by name, at values that they may have.
      measure: see `tuning.objective_of`.
      temperature: of the smooth maximum.
      num_agents: N.
      key: the run's.
      dtype: of the run.
      block: agents per block.
      groups: numbers of agents, where there are groups of them.
      mode: see `tuning.value_and_gradient`.

    Raises:
      ValueError: as `simulate` with ``schedule = "stream"``.

    Example:
      >>> import jax
      >>> from memoa_jax import GameCost, greedy, random_features, ridge_mixture, series
      >>> made = lambda p: (random_features(2), greedy(GameCost(effort=p["e"])), ridge_mixture())
      >>> how = {"num_agents": 5, "key": jax.random.key(0)}
      >>> follow = stream_gradient(series.periodic(8), made, {"e": 2.0}, "server_rmse", **how)
      >>> value, gradient = follow({"e": 3.0})
      >>> value > 0, sorted(gradient)
      (True, ['e'])
    """
    how: dict[str, Any] = {"num_agents": num_agents, "key": key, "dtype": dtype, "block": block}
    how["groups"] = groups
    stream = prepare(series, *made(start), schedule="stream", keep_costs=True, **how)
    assert isinstance(stream, Stream)
    chain = Chain(stream, made, tuple(start), measure, temperature)
    run = (Reverse if chosen_mode(len(start), mode) == "reverse" else Forward)(chain)

    def follow(parameters: Mapping[str, Any]) -> tuple[float, dict[str, float]]:
        value, slopes = run(np.asarray([float(parameters[name]) for name in start]))
        return value, {name: float(slope) for name, slope in zip(start, slopes, strict=True)}

    return follow
