"""The game's data: `GameCost` (what agents pay), `FeatureMoments`, `InitialLaw`.

The second half serves every solver: it checks shapes once, at trace time, and brings costs,
moments and targets to one dtype, so that a new number never recompiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from memoa_jax.linalg import einsum, matmul
from memoa_jax.types import Array, Scalar, real_dtype, record

_FIELDS = ("tracking", "consensus", "ensemble", "effort", "forgetting")


@record
class GameCost:
    """Weights of an agent's cost. With delta_t = exp(-forgetting (T-1-t)), agent i pays

        J^i = E sum_t delta_t [ tracking  |Y^i_{t+1} - y_{t+1}|^2
                              + consensus |Y^i_{t+1} - Ybar_{t+1}|^2
                              + ensemble  |Ybar_{t+1} - y_{t+1}|^2
                              + effort    |beta^i_t|^2 ]

    Leaves are numbers (or arrays under vmap), in squared target units; for K types or groups of
    agents also K numbers each, an array or a tuple. `effort` is per squared
    control and must be positive, `forgetting` is a rate per step. Consensus may be negative as
    long as the second-order condition holds (reported by the solvers). With only `ensemble`
    positive an agent moves the mean by O(1/N): effort must then scale like 1/N.

    Raises:
      ValueError: if a field given as a Python number is not finite, or effort is not positive
        (an integer 0 is let pass here, being a vmap axis, and refused by the solvers).

    Source: arXiv 2605.05492 for the problem; the family of costs is own derivation.

    Example:
      >>> GameCost(consensus=0.5).effort
      0.1
    """

    tracking: Scalar = 1.0
    consensus: Scalar = 1.0
    ensemble: Scalar = 0.0
    effort: Scalar = 0.1
    forgetting: Scalar = 0.0

    def __post_init__(self) -> None:
        for name in _FIELDS:
            for value in _each(getattr(self, name)):
                # Leaves may be tracers or placeholders here; only plain numbers are judged.
                if isinstance(value, int | float) and not abs(value) < float("inf"):
                    raise ValueError(f"GameCost.{name} = {value!r}: allowed is a finite number")
        for value in _each(self.effort):
            # GameCost(..., effort=0) is also how vmap is told to map over effort (in_axes).
            if isinstance(value, int | float) and not (
                value > 0 or (value == 0 and isinstance(value, int))
            ):
                raise ValueError(f"GameCost.effort = {value!r}: allowed is a number > 0")


def _each(leaf: Any) -> tuple[Any, ...]:
    return leaf if isinstance(leaf, tuple) else (leaf,)


@record
class FeatureMoments:
    """First and second moments of the features at every step of a game.

        mean[t, a, k] = E Z_ak      second[t, a, b, k, l] = E Z_ak Z_bl

    Axes: ``mean [T, d, p]``, ``second [T, d, d, p, p]``; in feature units. `gram` and
    `covariance` are for the moments of one step, ``[d, p]`` and ``[d, d, p, p]``, which is
    what a scan over the record hands to its body.
    """

    mean: Array
    second: Array

    @classmethod
    def from_samples(cls, features: Array) -> FeatureMoments:
        """Average the realised features of a population; exact, O(T N d^2 p^2).

        Args:
          features: [T, N, d, p], agent i's features at each step.

        Raises:
          ValueError: at trace time, if features has not four axes.

        Example:
          >>> FeatureMoments.from_samples(jnp.ones((4, 10, 1, 2))).second.shape
          (4, 1, 1, 2, 2)
        """
        features = jnp.asarray(features)
        if features.ndim != 4:
            raise ValueError(f"features has shape {features.shape}: allowed is [T, N, d, p]")
        second = einsum("tnak,tnbl->tabkl", features, features) / features.shape[1]
        return cls(mean=jnp.mean(features, axis=1), second=second)

    def gram(self, weight: Array) -> Array:
        """Return E Z'QZ [p, p] of one step for a weight Q [d, d]."""
        return einsum("abkl,ab->kl", self.second, weight)

    def covariance(self, weight: Array) -> Array:
        """Return E Z'QZ - m'Qm [p, p] of one step: what the noise of the features adds."""
        return self.gram(weight) - matmul(self.mean.T, weight, self.mean)


@record
class InitialLaw:
    """What is known of the agents' states before they are drawn: a mean and a covariance.

    Agents' states at t = 0 are independent draws of one law; costs are quadratic, so nothing
    else about the law matters. Where a function takes given `states` it also takes this, and
    then answers for an agent whose state, like everyone's, is yet to be drawn.

    Axes: ``mean [d]`` in target units, ``covariance [d, d]`` in their square, symmetric and
    positive semidefinite. With K types of agents a leading axis K.

    Example:
      >>> InitialLaw(mean=jnp.zeros(2), covariance=0.1 * jnp.eye(2)).mean.shape
      (2,)
    """

    mean: Array
    covariance: Array


def discounts(forgetting: Scalar, horizon: int, dtype: Any = None) -> Array:
    """Return delta_t = exp(-forgetting (T-1-t)) for t = 0..T-1, shape [T], of a float dtype.

    Example:
      >>> discounts(0.0, 3).tolist()
      [1.0, 1.0, 1.0]
    """
    age = jnp.arange(horizon - 1, -1, -1, dtype=real_dtype(forgetting) if dtype is None else dtype)
    return jnp.exp(-jnp.asarray(forgetting, age.dtype) * age)


def standard_game(
    cost: GameCost,
    moments: FeatureMoments,
    targets: Array,
    *,
    per_type: bool = False,
    also: Sequence[Any] = (),
) -> tuple[GameCost, FeatureMoments, Array]:
    """Check the shapes of a game and cast its numbers to one floating dtype; O(size) copies.

    Axes: T horizon, d outputs, p features, K types of agents (only with `per_type`).

    Args:
      cost: leaves are scalars; with `per_type`, scalars or [K].
      moments: mean [T, d, p], second [T, d, d, p, p]; with `per_type`, a leading axis K.
      targets: [T, d], row t is y_{t+1}.
      per_type: whether cost and moments carry a leading axis, one entry per type of agents.
      also: further arrays that have a say in the dtype.

    Returns:
      The same game; with `per_type`, every leaf of the cost has shape [K].

    Raises:
      ValueError: at trace time, if a shape does not fit or effort is a number not above 0.

    Example:
      >>> moments = FeatureMoments(np.ones((3, 1, 2)), np.ones((3, 1, 1, 2, 2)))
      >>> standard_game(GameCost(), moments, np.ones((3, 1)))[0].effort.shape
      ()
    """
    # Cost leaves have no say: a Python float is a 64-bit number wherever 64 bits are on.
    dtype = real_dtype(moments.mean, moments.second, targets, *also)
    mean, second, targets = (jnp.asarray(x, dtype) for x in (moments.mean, moments.second, targets))
    lead, axes = (1, "[K, T, d, p]") if per_type else (0, "[T, d, p]")
    if mean.ndim != 3 + lead or 0 in mean.shape:
        raise ValueError(f"moments.mean has shape {mean.shape}: allowed is {axes}, no axis empty")
    *types, horizon, d, p = mean.shape
    if second.shape != (expected := (*types, horizon, d, d, p, p)):
        raise ValueError(
            f"moments.second has shape {second.shape}: with moments.mean of shape {mean.shape} "
            f"allowed is {expected}"
        )
    if targets.shape != (horizon, d):
        raise ValueError(
            f"targets has shape {targets.shape}: with moments.mean of shape {mean.shape} "
            f"allowed is [T, d] = {(horizon, d)}"
        )
    weights = {}
    for name in _FIELDS:
        leaf = getattr(cost, name)
        if name == "effort" and isinstance(leaf, int | float) and not leaf > 0:
            raise ValueError(f"GameCost.effort = {leaf!r}: allowed is a number > 0")
        leaf = jnp.asarray(leaf, dtype)
        if leaf.shape not in {(), tuple(types)}:
            raise ValueError(
                f"GameCost.{name} has shape {leaf.shape}: allowed is "
                + (
                    f"a scalar or [K] = {tuple(types)}"
                    if per_type
                    else "a scalar (or use jax.vmap)"
                )
            )
        weights[name] = jnp.broadcast_to(leaf, tuple(types))
    return GameCost(**weights), FeatureMoments(mean, second), targets


def standard_states(states: Any, outputs: int, dtype: Any, types: tuple[int, ...] = ()) -> Any:
    """Check states [n, d], or an `InitialLaw` of mean [d], and cast them to one dtype.

    With `types` = (K,) both have a leading axis K.

    Raises:
      ValueError: at trace time, if a shape does not fit.
    """
    lead = "K, " if types else ""
    if isinstance(states, InitialLaw):
        mean, covariance = (jnp.asarray(x, dtype) for x in (states.mean, states.covariance))
        fits = {"mean": (*types, outputs), "covariance": (*types, outputs, outputs)}
        for (name, expected), leaf in zip(fits.items(), (mean, covariance), strict=True):
            if leaf.shape != expected:
                raise ValueError(f"states.{name} has shape {leaf.shape}: allowed is {expected}")
        return InitialLaw(mean, covariance)
    states = jnp.asarray(states, dtype)
    if states.ndim != 2 + len(types) or states.shape != (*types, states.shape[-2], outputs):
        raise ValueError(
            f"states has shape {states.shape}: allowed is [{lead}n, d] with d = {outputs}, n >= 1, "
            "or an InitialLaw"
        )
    if not states.size:
        raise ValueError(f"states has shape {states.shape}: allowed is n >= 1")
    return states


def initial_mean(states: Array | InitialLaw) -> Array:
    """Return the mean of given states [.., n, d], or of their law: [.., d]."""
    return states.mean if isinstance(states, InitialLaw) else jnp.mean(states, axis=-2)


def inverse_population(population: int | Scalar | None, dtype: Any) -> Array:
    """Return 1/N as a scalar array, 0 for None (the mean-field limit).

    Raises:
      ValueError: at trace time, if population is not a scalar, or is a plain number below 1.

    Example:
      >>> float(inverse_population(4, jnp.float32)), float(inverse_population(None, jnp.float32))
      (0.25, 0.0)
    """
    if population is None:
        return jnp.zeros((), dtype)
    # Only numbers that the host holds are judged: a traced or device value costs a wait.
    if isinstance(population, int | float | np.number) and not population >= 1:
        raise ValueError(f"population = {population!r}: allowed is a number >= 1, or None")
    if jnp.ndim(population) != 0:
        raise ValueError(
            f"population has shape {jnp.shape(population)}: allowed is one number >= 1, or None"
        )
    return 1.0 / jnp.asarray(population, dtype)
