"""The forecast game: every agent forecasts the next move and plays one step on its forecast.

Where the hindsight game replays the last known moves, this game is about the one that matters.
One step, exact for any number of agents, and coupled through two sums only.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from memoa_jax.game import GameCost
from memoa_jax.linalg import regularised_solve, solve_general, solve_lanes
from memoa_jax.types import (
    Action,
    Array,
    Dimensions,
    Observation,
    Population,
    Scalar,
    Status,
    record,
    static,
)


@record
class Forecasts:
    """Every agent's regression of the series' moves on its own features, forgotten slowly.

        gram   = sum_{s<t} discount^{t-1-s} Z_s'Z_s               [p, p, N]
        moment = sum_{s<t} discount^{t-1-s} Z_s'(y_{s+1} - y_s)   [p, N]

    The step in progress waits in `features` [d, p, N]; `target` [d] is the last observed value
    and `known` whether it was the last row's.
    """

    gram: Array
    moment: Array
    features: Array
    target: Array
    known: Array

    def complete(self, observation: Observation, discount: Scalar) -> Forecasts:
        """Enter the step in progress, whose move has now been observed, and begin the new one."""
        z = self.features
        # A move is known when both of its ends are; the others still age.
        counted = observation.known & self.known & (observation.step > 0)
        weight = counted.astype(z.dtype)
        fade = jnp.asarray(discount, z.dtype)
        move = observation.target - self.target
        return Forecasts(
            gram=fade * self.gram + weight * jnp.sum(z[:, :, None] * z[:, None], axis=0),
            moment=fade * self.moment + weight * jnp.sum(z * move[:, None, None], axis=0),
            features=observation.features,
            target=observation.target,
            known=observation.known,
        )


@record
class ForecastGame:
    """The forecast game's policy; made by ``game = "forecast"`` of the three policies."""

    cost: GameCost
    ridge: Scalar
    discount: Scalar
    finite: bool = static()

    def init(self, dimensions: Dimensions, num_agents: int, dtype: Any) -> Forecasts:
        """Return forecasts that know nothing."""
        d, p = dimensions.outputs, dimensions.features
        return Forecasts(
            gram=jnp.zeros((p, p, num_agents), dtype),
            moment=jnp.zeros((p, num_agents), dtype),
            features=jnp.zeros((d, p, num_agents), dtype),
            target=jnp.zeros((d,), dtype),
            known=jnp.zeros((), bool),
        )

    def act(self, state: Forecasts, observation: Observation) -> tuple[Forecasts, Action]:
        """Forecast the move, then play the one-step game on all forecasts."""
        state = state.complete(observation, self.discount)
        z = observation.features
        readout = regularised_solve(state.gram, state.moment, jnp.asarray(self.ridge, z.dtype))
        forecast = jnp.sum(z * readout[None], axis=1)
        control = play(self.cost, z, forecast, observation.population, self.finite)
        base = jnp.broadcast_to(observation.target[:, None], observation.prediction.shape)
        return state, Action(base=base, control=control, status=jnp.int32(Status.OK))


def play(
    cost: GameCost, features: Array, forecast: Array, population: Population, finite: bool
) -> Array:
    """Return the Nash equilibrium controls of the one-step game on the agents' own forecasts.

        J^i = tracking |m^i - s^i|^2 + consensus |m^i - mbar|^2 + effort |beta^i|^2
        L^i = Z^i ((q + c f) Z^i'Z^i + gamma I)^{-1} Z^i',   f = 1 - 1/N  (1 in the limit)
        v   = (I - c f mean L)^{-1} mean (q L^i s^i),        m^i = L^i (q s^i + c f v)

    Exact for every N; O(d^2 p + d^3) per agent: the p x p inverse is taken as one of d x d.
    Agents need their own features and v, the server two sums of size d x d and d.

    Args:
      cost: `tracking` q, `consensus` c and `effort` gamma > 0 are used.
      features: [d, p, N], realised.
      forecast: [d, N], every agent's own forecast s of the move.
      population: for the sums.
      finite: whether 1/N enters the game; static.

    Returns:
      beta, [p, N].

    Source: own derivation; tested against reference numbers and best responses.
    """
    d, dtype = features.shape[0], features.dtype
    q = jnp.asarray(cost.tracking, dtype)
    share = 1.0 - 1.0 / population.size if finite else 1.0
    pull = jnp.asarray(cost.consensus, dtype) * share
    effort = jnp.asarray(cost.effort, dtype)
    outer = [[jnp.sum(features[a] * features[b], axis=0) for b in range(a + 1)] for a in range(d)]
    system = [
        [(q + pull) * outer[a][b] + (effort if a == b else 0.0) for b in range(a + 1)]
        for a in range(d)
    ]
    # L = Z Z' system^{-1}, column by column; both factors are polynomials in Z Z', so L = L'.
    columns = [
        jnp.stack(solve_lanes(system, [outer[max(a, b)][min(a, b)] for a in range(d)]))
        for b in range(d)
    ]
    response = jnp.stack(columns, axis=1)
    wished = q * forecast
    mean_wish = population.mean(jnp.sum(response * wished[None], axis=1))
    matrix = jnp.eye(d, dtype=dtype) - pull * population.mean(response)
    mean_move = solve_general(matrix, mean_wish)
    target = wished + pull * mean_move[:, None]
    dual = solve_lanes(system, [target[a] for a in range(d)])
    return jnp.sum(features * jnp.stack(dual)[:, None], axis=0)
