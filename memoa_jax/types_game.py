"""A game of K types, checked: what its solvers and its analysis run their recursions over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from memoa_jax.game import (
    FeatureMoments,
    GameCost,
    discounts,
    inverse_population,
    standard_game,
)
from memoa_jax.nash_step import CostToGo, Stage, running_cost
from memoa_jax.types import Array, Scalar, record

Counts = Sequence[int | Scalar | None] | Array
"""Numbers of agents, one per type; None for a type in its mean-field limit."""
Weights = Sequence[float] | Array | None


@record
class TypesGame:
    """What K types play: every leaf of one dtype, and with a leading axis K but the targets.

    `shares` is 1/N_k, `weights` that of each type's mean in the ensemble's, `importance` each
    type's share of the agents.
    """

    costs: GameCost
    moments: FeatureMoments
    targets: Array
    shares: Array
    weights: Array
    importance: Array

    def stages(self) -> Stage:
        """Return what a backward scan runs over: time first, then types; discounts [T, K]."""
        horizon, dtype = self.targets.shape[0], self.targets.dtype
        by_step = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), self.moments)
        delta = jax.vmap(lambda rate: discounts(rate, horizon, dtype), out_axes=1)
        return Stage(by_step, self.targets, delta(self.costs.forgetting))

    def zero(self) -> CostToGo:
        """Return every type's cost to go after the last step: joint [K, n, n], [K, K, d, d]."""
        types, _, d, _ = self.moments.mean.shape
        size, dtype = d + types * d + 1, self.targets.dtype
        return CostToGo(
            jnp.zeros((types, size, size), dtype), jnp.zeros((types, types, d, d), dtype)
        )

    def arrivals(self, stage: Stage) -> Array:
        """Return what each type pays on arrival at t+1, discounted, as forms [K, n, n]."""
        d = self.targets.shape[1]
        # From the stacked means to the ensemble's.
        average = jnp.kron(self.weights[None, :], jnp.eye(d, dtype=self.targets.dtype))
        paid = jax.vmap(running_cost, in_axes=(0, None, None))(self.costs, average, stage.target)
        return stage.discount[:, None, None] * paid


def standard_types(
    costs: GameCost,
    moments: FeatureMoments,
    targets: Array,
    counts: Counts,
    weights: Weights = None,
    importance: Weights = None,
    also: Sequence[Any] = (),
) -> TypesGame:
    """Check a game of K types and cast its numbers to one dtype (see `standard_game`).

    Args:
      costs: leaves are scalars or [K].
      moments: mean [K, T, d, p] and second [K, T, d, d, p, p].
      targets: [T, d].
      counts: K numbers of agents, or None for a type in its limit.
      weights: [K]; N_k/N if not given. Required if a count is None.
      importance: [K]; N_k/N if not given, and `weights` where a count is None.
      also: further arrays that have a say in the dtype.

    Raises:
      ValueError: at trace time, if a shape does not fit, effort is a number not above 0, a count
        is a number below 1, or weights are missing where a count is None.
    """
    costs, moments, targets = standard_game(costs, moments, targets, per_type=True, also=also)
    types, dtype = moments.mean.shape[0], targets.dtype
    sizes = _sizes(counts, types)
    if any(size is None for size in sizes):
        if weights is None:
            raise ValueError(
                f"weights = None with counts = {counts!r}: allowed only if every count is a "
                "number; give the weight of each type's mean, shape [K]"
            )
        fractions = jnp.asarray(weights, dtype)
    else:
        numbers = jnp.stack([jnp.asarray(size, dtype) for size in sizes])
        fractions = numbers / jnp.sum(numbers)
    weights = fractions if weights is None else jnp.asarray(weights, dtype)
    importance = fractions if importance is None else jnp.asarray(importance, dtype)
    for name, leaf in (("weights", weights), ("importance", importance)):
        if leaf.shape != (types,):
            raise ValueError(f"{name} has shape {leaf.shape}: allowed is [K] = ({types},)")
    shares = jnp.stack([inverse_population(size, dtype) for size in sizes])
    return TypesGame(costs, moments, targets, shares, weights, importance)


def _sizes(counts: Counts, types: int) -> list[Any]:
    """Split counts into one number (or None) per type."""
    if isinstance(counts, list | tuple):
        sizes = list(counts)
    else:
        array: Any = counts
        if jnp.ndim(array) != 1:
            raise ValueError(f"counts has shape {jnp.shape(array)}: allowed is [K] = ({types},)")
        # list() leaves a NumPy array's numbers on the host, where they can be judged.
        sizes = list(array)
    if len(sizes) != types:
        raise ValueError(
            f"counts has length {len(sizes)}: with moments of {types} types allowed is {types}"
        )
    return sizes
