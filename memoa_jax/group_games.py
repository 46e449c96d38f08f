"""What the hindsight game asks of a population: of all agents alike, or of K groups that differ.

Among groups there is a mean field per group: `mean_field` is then the vector of all groups' means
[K d], moments are each group's own, and gains have a group's axis behind that of time, [T, K, ...].
With `groups` None everything is one number less deep, and the game that of `solve_nash`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from memoa_jax.game import FeatureMoments, GameCost
from memoa_jax.groups import selected
from memoa_jax.information import Information, offline_gains
from memoa_jax.linalg import einsum, matmul
from memoa_jax.memory import Reflected
from memoa_jax.nash import solve_nash
from memoa_jax.nash_step import FeedbackGains
from memoa_jax.nash_types import solve_nash_types
from memoa_jax.spread import Spread
from memoa_jax.types import Array, Population, Sight


def observed(features: Array, population: Population, groups: int | None) -> Reflected:
    """Return the realised moments of features [d, p, N]; of groups each one's, leaves [K, ...]."""
    if groups is None:
        return Reflected.of(features, population)
    each = [Reflected.of(features, population.of_group(k)) for k in range(groups)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)


def spreads_by_group(values: Array, population: Population, groups: int) -> tuple[Spread, ...]:
    """Return the spread of ``[m, N]`` values over a block's agents of every group."""
    return tuple(Spread.of(values, population.of_group(k), reflected=True) for k in range(groups))


def mean_field_of(states: Array, population: Population, groups: int | None) -> Array:
    """Return the mean of states [d, N]; of groups, each one's in turn, [K d]."""
    if groups is None:
        return population.mean(states)
    return jnp.concatenate([population.of_group(k).mean(states) for k in range(groups)])


def start_of(start: Array, groups: int | None) -> Array:
    """Return the mean field where everybody is at `start` [d]."""
    return start if groups is None else jnp.tile(start, groups)


def share_of(start: Array, population: Population, groups: int | None) -> Array:
    """Return the part of the mean field `start` that a block's own agents make, who are there."""
    if groups is None:
        return start * population.counted / population.size
    each = [population.of_group(k) for k in range(groups)]
    shares = jnp.stack([one.counted / one.size for one in each])
    return start * jnp.repeat(shares, start.shape[0] // groups)


def solve(
    cost: GameCost,
    moments: FeatureMoments,
    targets: Array,
    start: Array,
    sight: Sight,
    *,
    groups: int | None,
    finite: bool,
    information: Information,
) -> tuple[FeedbackGains, Array]:
    """Solve a game for its gains: `solve_nash`, or among groups `solve_nash_types`.

    Args:
      cost: weights, scalars or [K].
      moments: of the features, [T, ...] or [T, K, ...].
      targets: [T, d].
      start: [d], where everybody starts.
      sight: tells the population's size, and the groups'.
      groups: how many the game tells apart.
      finite: whether the sizes enter the game; else it is the mean-field limit.
      information: offline, agents roll the mean field of all groups themselves.

    Returns:
      The gains, and the solver's status. A group of which nobody is present has no weight in the
      mean of all.
    """
    if groups is None:
        one = solve_nash(cost, moments, targets, sight.size if finite else None)
        gains = one.gains
        if information == "offline":
            gains = offline_gains(moments, gains, start)
        return gains, one.status
    assert sight.sizes is not None
    moments = _swapped(moments)
    weights = sight.sizes / jnp.maximum(jnp.sum(sight.sizes), 1.0)
    counts = jnp.maximum(sight.sizes, 1.0) if finite else [None] * groups
    several = solve_nash_types(cost, moments, targets, counts, weights)
    gains = several.gains
    if information == "offline":
        gains = offline_gains(moments, gains, jnp.broadcast_to(start, (groups, *start.shape)))
    return _swapped(gains), several.status


def _swapped(tree: Any) -> Any:
    """Exchange the axes of time and of groups, the first two."""
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), tree)


def controls_by_group(
    gains: FeedbackGains, states: Array, mean_field: Array, population: Population
) -> Array:
    """Return beta = -(own_k Y + mean_k mbar + offset_k) of every agent in one step, [p, N].

    Args:
      gains: own [K, p, d], mean [K, p, K d], offset [K, p].
      states: [d, N].
      mean_field: [K d], as the agents know it.
      population: tells of which group each agent is.
    """
    assert population.group is not None
    common = matmul(gains.mean, mean_field) + gains.offset
    each = []
    for own, rest in zip(gains.own, common, strict=True):
        control = own[:, 0, None] * states[0][None]
        for a in range(1, states.shape[0]):
            control = control + own[:, a, None] * states[a][None]
        each.append(-(control + rest[:, None]))
    return selected(each, population.group)


def rolled_by_group(gains: FeedbackGains, mean: Array, mean_field: Array) -> Array:
    """Return the means [K d] after a step in which all go by them; features' `mean` [K, d, p]."""
    each = mean_field.reshape(mean.shape[:2])
    control = einsum("kpa,ka->kp", gains.own, each)
    control = control + matmul(gains.mean, mean_field) + gains.offset
    return (each - einsum("kap,kp->ka", mean, control)).reshape(-1)
