"""What a game costs agents that differ, by the policy that they play: exact, at small N.

Every policy is affine in the agents' states, so the game of one agent per type (`analysis_types`)
judges them all by the same recursion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import NDArray

from memoa_jax.analysis_types import expected_costs_types
from memoa_jax.game import FeatureMoments, GameCost
from memoa_jax.information import offline_gains
from memoa_jax.nash import FeedbackGains, solve_nash
from memoa_jax.nash_dense import solve_heterogeneous, solve_nash_dense
from memoa_jax.nash_types import solve_team_types
from memoa_jax.timeseries import Series
from memoa_jax.types import Array
from memoa_jax.unlike import Unlike

POLICIES = ("homogeneous", "homogeneous, offline", "heterogeneous", "nash", "team")
"""What is compared; see `policy_gains`."""
HORIZON, WINDOWS = 3, 10


def policy_gains(
    costs: GameCost, moments: FeatureMoments, targets: Array, start: Array
) -> dict[str, FeedbackGains]:
    """Return the gains of N agents that all differ, under each of `POLICIES`.

    - *homogeneous*: the closed form for average costs and average moments, which is what
      `decentralized` plays; told the realised mean field, or offline.
    - *heterogeneous*: everybody's answer, with its own costs and moments, to the mean path.
    - *nash*: the exact equilibrium on the joint state, for which everybody knows everything.
    - *team*: the least average cost, agreed on by all.

    Exact; O(T (N d)^4) time for the last two.

    Axes: N agents, T horizon, d outputs, p features.

    Args:
      costs: leaves [N].
      moments: mean [N, T, d, p], second [N, T, d, d, p, p].
      targets: [T, d].
      start: [d], where all agents start.

    Returns:
      Gains by name: own [N, T, p, d], mean [N, T, p, N d], offset [N, T, p].
    """
    agents, _, outputs, _ = moments.mean.shape
    average_cost, average = (
        jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), tree) for tree in (costs, moments)
    )
    limit = solve_nash(average_cost, average, targets, None).gains
    blind = offline_gains(average, limit, start)
    starts = jnp.broadcast_to(start, (agents, outputs))
    own = solve_heterogeneous(costs, moments, targets, starts)
    dense = solve_nash_dense(costs, moments, targets)
    team = solve_team_types(costs, moments, targets, [1] * agents).gains

    def alike(gains: FeedbackGains) -> FeedbackGains:
        """Give everybody the same gains, on the own state and the mean of all."""
        mean = jnp.tile(gains.mean / agents, (1, 1, agents))
        found = FeedbackGains(gains.own, mean, gains.offset)
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (agents, *leaf.shape)), found)

    nobody = jnp.zeros((*own.own.shape[:3], agents * outputs), own.own.dtype)
    return {
        "homogeneous": alike(limit),
        "homogeneous, offline": alike(blind),
        "heterogeneous": FeedbackGains(own.own, nobody, own.offset),
        "nash": FeedbackGains(jnp.zeros_like(own.own), dense.state, dense.offset),
        "team": team,
    }


@jax.jit
def expected(
    costs: GameCost, moments: FeatureMoments, targets: Array, starts: Array
) -> dict[str, Array]:
    """Return what every agent pays in expectation, [N], the mean over games, by policy.

    Axes: W games.

    Args:
      costs: leaves [N].
      moments: leaves [W, N, T, ...].
      targets: [W, T, d].
      starts: [W, d].
    """
    agents = moments.mean.shape[1]

    def one(game: tuple[FeatureMoments, Array, Array]) -> dict[str, Array]:
        law, wanted, start = game
        everyone = jnp.broadcast_to(start, (agents, 1, start.shape[0]))

        def judged(gains: FeedbackGains) -> Array:
            each: Any = expected_costs_types(costs, law, wanted, [1] * agents, gains, everyone)
            return each[:, 0]

        gains = policy_gains(costs, law, wanted, start)
        together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *gains.values())
        return dict(zip(gains, jax.vmap(judged)(together), strict=True))

    return jax.tree.map(
        lambda each: jnp.mean(each, axis=0), lax.map(one, (moments, targets, starts))
    )


def windows_of(series: Series, seed: int, horizon: int = HORIZON) -> NDArray[np.int64]:
    """Draw where the games of a study begin, [W]: steps of the series, all with a past."""
    rng = np.random.default_rng([seed, 37])
    last = series.num_points - horizon - 1
    return rng.choice(np.arange(last // 4, last), size=WINDOWS, replace=False)


def play(
    population: Unlike, series: Series, cost: GameCost, begins: Sequence[int] | NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """Let a population play over windows of a series: every agent's expected cost [N], by policy.

    A game is that of the online policy: all start at y_t and live through the next T steps.

    Args:
      population: N agents.
      series: with one output.
      cost: what they pay, but for their own factors.
      begins: the steps at which the windows begin.
    """
    inputs, targets = (np.asarray(x, np.float64) for x in (series.inputs, series.targets))
    law = population.moments(inputs)
    rows = np.asarray(begins)[:, None] + np.arange(HORIZON)

    def cut(leaf: Array) -> Array:
        return jnp.moveaxis(leaf[:, rows], 1, 0)

    moments = FeatureMoments(cut(law.mean), cut(law.second))
    wanted, starts = jnp.asarray(targets[rows + 1]), jnp.asarray(targets[np.asarray(begins)])
    found: Mapping[str, Array] = expected(population.costs(cost), moments, wanted, starts)
    return {name: np.asarray(found[name]) for name in POLICIES}
