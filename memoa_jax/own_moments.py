"""What agents that all differ know of their features on average, and how they answer by that.

As `memoa_jax.responses`, for agents to whom their features are chance: all that an agent knows of
them are averages over its own past, the same for every step of a game. Its answer to a mean path
is affine all the same and its kernel symmetric in time, so everything else there serves here. Only
the path that it expects and the one that it then makes are two. Agents are the last axis.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from memoa_jax.arithmetic import added, computed_once
from memoa_jax.cached import in_cache
from memoa_jax.game import GameCost
from memoa_jax.linalg import (
    UNROLLED_FEATURES,
    applied,
    smallest_pivot,
    solve_stacked,
    stacked_product,
)
from memoa_jax.regression import NormalEquations
from memoa_jax.responses import Answers, discounts_of
from memoa_jax.types import Array, Dimensions, Scalar, record

Rows = tuple[Array, ...]
"""Lower triangles of symmetric p x p matrices, one per agent: row k is [k + 1, N]."""


@record
class OwnMoments:
    """Every agent's discounted averages of its own features, over the steps it was there.

        weight = sum_s memory^{age of s}       mean = sum_s memory^{age of s} Z_s / weight
        spread_ab = sum_s memory^{age of s} (Z_s - mean)_a'(Z_s - mean)_b / weight
        E Z_a'Z_b = mean_a'mean_b + spread_ab

    The spread is kept and not E Z'Z: features that hardly vary have a small one, which in float32
    would be lost in the rounding of the large squares. In a game it stands between symmetric
    prices, so of spread_ab the sum with spread_ba is all that is needed, a lower triangle.
    O(d^2 p^2) numbers per agent: p (p + 3) / 2 + 1 for one output.

    `weight` [N]; `mean` [d, p, N]; `spread` has a lower triangle for each pair of outputs b <= a,
    of spread_aa or of spread_ab + spread_ba. Of agents that never were there all is zero.
    """

    weight: Array
    mean: Array
    spread: tuple[Rows, ...]

    @classmethod
    def nothing(cls, dimensions: Dimensions, num_agents: int, dtype: Any) -> OwnMoments:
        """Return the averages of no step."""
        d, p = dimensions.outputs, dimensions.features
        return cls(
            weight=jnp.zeros((num_agents,), dtype),
            mean=jnp.zeros((d, p, num_agents), dtype),
            spread=tuple(
                tuple(jnp.zeros((k + 1, num_agents), dtype) for k in range(p)) for _ in _pairs(d)
            ),
        )

    def see(self, features: Array, present: Array, memory: Scalar) -> OwnMoments:
        """Enter a step of which an agent learns if it is there; older steps age for all.

        Exact; O(d^2 p^2) per agent.

        Args:
          features: [d, p, N].
          present: [N], 1 for those who are there and 0 for the others.
          memory: what a step counts less with every step since, in (0, 1].

        Example:
          >>> one = OwnMoments.nothing(Dimensions(1, 1, 1, 1), 1, jnp.float32)
          >>> for z in (1.0, 3.0):
          ...     one = one.see(jnp.full((1, 1, 1), z), jnp.ones(1), 1.0)
          >>> one.mean.item(), one.spread[0][0].item()
          (2.0, 1.0)
        """
        weight = jnp.asarray(memory, features.dtype) * self.weight + present
        share = present / jnp.where(present > 0, weight, 1.0)
        kept = (1.0 - share)[None]
        off = features - self.mean
        moved = off * share[None, None]
        spread = tuple(
            tuple(kept * (row + _products(moved, off, *pair, k)) for k, row in enumerate(rows))
            for pair, rows in zip(_pairs(features.shape[0]), self.spread, strict=True)
        )
        return OwnMoments(weight, self.mean + moved, spread)


def _pairs(outputs: int) -> list[tuple[int, int]]:
    """Return the pairs of outputs b <= a, in the order in which they are kept."""
    return [(a, b) for a in range(outputs) for b in range(a + 1)]


def _products(left: Array, right: Array, a: int, b: int, k: int) -> Array:
    """Return row k of left_a'right_b, [k + 1, N]; for a != b with the transpose added."""
    row = left[a, k][None] * right[b, : k + 1]
    return row if a == b else row + left[b, k][None] * right[a, : k + 1]


def priced_spread(spread: tuple[Rows, ...], price: Array) -> Rows:
    """Return sum_ab price_ab spread_ab of every agent, for symmetric prices [d, d, N]."""
    pairs = list(zip(_pairs(price.shape[0]), spread, strict=True))
    return tuple(
        added([price[a, b][None] * rows[k] for (a, b), rows in pairs])
        for k in range(len(spread[0]))
    )


def average_answers(cost: GameCost, known: OwnMoments, horizon: int) -> tuple[Answers, Array]:
    """Solve every agent's own Riccati recursion, with features that it knows on average.

    Exact; O(T (d p^3 + d^2 p^2 + d^3)) per agent.

        backward from P = 0:  P <- P + delta_t (tracking + consensus) I
                              U_t     = sum_ab P_ab spread_ab + delta_t effort I
                              first_t = U_t^{-1} mean'
                              keep_t  = (I + mean first_t P)^{-1}
                              reach_t = keep_t mean first_t = mean H_t^{-1} mean'
                              P <- P keep_t,      H_t = E Z'P Z + delta_t effort I

    keep = I - mean H^{-1} mean'P, and H^{-1} mean' = first keep': with H = U + mean'P mean the
    inverse of H is that of U and one of d x d. Where features hardly vary the difference would
    cancel.

    Args:
      cost: of the block's agents, leaves scalars or [N]; `forgetting` a scalar.
      known: what the agents know, the same for all steps of the game.
      horizon: T.

    Returns:
      The answers, and `first` [T, p, d, N]; see `lived`.

    Source: own derivation, tested in tests/test_heterogeneous_moments.py.
    """
    weight = jnp.broadcast_to(cost.tracking + cost.consensus, known.weight.shape)
    effort = jnp.broadcast_to(cost.effort, known.weight.shape)
    operands = (known.mean, known.spread, weight, effort)
    found: tuple[Answers, Array] = _answered(discounts_of(cost, horizon), *operands)
    return found


def _answered_at_once(
    delta: Array, mean: Array, spread: tuple[Rows, ...], weight: Array, effort: Array
) -> tuple[Answers, Array]:
    """Return what `average_answers` does, for the discounts [T] and every agent's own numbers."""
    d, _, agents = mean.shape
    eye = jnp.broadcast_to(jnp.eye(d, dtype=mean.dtype)[..., None], (d, d, agents))

    def back(P: Array, t: Array) -> tuple[Array, tuple[Answers, Array]]:
        P = P + delta[t] * weight[None, None] * eye
        equations = priced_spread(spread, P)
        columns = [NormalEquations(equations, mean[a]).solve(delta[t] * effort) for a in range(d)]
        first = jnp.stack(columns, axis=1)
        free = stacked_product(mean, first)
        keep = solve_stacked(eye + stacked_product(free, P), eye)
        reach, before = stacked_product(keep, free), stacked_product(P, keep)
        if d > 1:  # symmetric but for rounding
            reach, before = (0.5 * (x + jnp.swapaxes(x, 0, 1)) for x in (reach, before))
        return before, (Answers(keep, reach, P), first)

    steps, nothing = jnp.arange(delta.shape[0]), jnp.zeros_like(eye)
    found: tuple[Answers, Array] = lax.scan(back, nothing, steps, reverse=True)[1]
    return found


@jax.custom_jvp
def _answered(delta: Array, *operands: Any) -> tuple[Answers, Array]:
    """Return `_answered_at_once`, on CPU for some thousand agents after the other."""
    at_once = functools.partial(_answered_at_once, delta)
    found: tuple[Answers, Array] = lax.platform_dependent(
        *operands, cpu=functools.partial(in_cache, at_once), default=at_once
    )
    return found


@_answered.defjvp
def _answered_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    found: tuple[Any, Any] = jax.jvp(_answered_at_once, primals, tangents)
    return found


def lived(
    found: Answers, first: Array, wanted: Array, features: Array, order: Array
) -> tuple[Array, Array]:
    """Let every agent live through the window from zero, by what it sees of its own state.

        beta_s = -H_s^{-1} mean'(P_s Y_s + s_s),     Y_{s+1} = Y_s + Z_s beta_s

    Args:
      found: of `average_answers`, as `first`.
      first: [T, p, d, N].
      wanted: [T, d, N], s of `responses.needs`.
      features: [slots, d, p, N], those that were realised, a ring.
      order: [T], where the steps of the game stand in it, oldest first.

    Returns:
      Where the agents end, [d, N], and their last controls, [p, N].
    """
    last = order.shape[0] - 1

    def lacking(states: Array, t: Array | int) -> Array:
        """Return keep'(P Y + s), [d, 1, N]."""
        lack = stacked_product(found.price[t], states[:, None]) + wanted[t][:, None]
        return stacked_product(jnp.swapaxes(found.keep[t], 0, 1), lack)

    def ahead(states: Array, t: Array) -> tuple[Array, None]:
        # Agents' controls need not be written down before the last.
        moves = stacked_product(features[order[t]], first[t])
        return states - stacked_product(moves, lacking(states, t))[:, 0], None

    states = lax.scan(ahead, jnp.zeros_like(wanted[0]), jnp.arange(last))[0]
    control = computed_once(-stacked_product(first[last], lacking(states, last))[:, 0])
    return states + applied(features[order[last]], control), control


def definite_on_average(found: Answers, cost: GameCost, known: OwnMoments) -> Array:
    """Tell of every agent whether its cost has a minimum: every H_t positive definite, [N]."""
    horizon, (d, p, agents) = found.price.shape[0], known.mean.shape
    found, known = lax.stop_gradient((found, known))
    mean, delta = known.mean, lax.stop_gradient(discounts_of(cost, horizon))

    def look(good: Array, t: Array) -> tuple[Array, None]:
        P = found.price[t]
        effort = jnp.broadcast_to(delta[t] * lax.stop_gradient(cost.effort), (agents,))
        priced = [added([P[a, b][None] * mean[b] for b in range(d)]) for a in range(d)]
        rows = [
            row + added([priced[a][k][None] * mean[a, : k + 1] for a in range(d)])
            for k, row in enumerate(priced_spread(known.spread, P))
        ]
        if p > UNROLLED_FEATURES:  # the library's answer is NaN where it is not definite
            solved = NormalEquations(tuple(rows), mean[0]).solve(effort)
            return good & jnp.all(jnp.isfinite(solved), axis=0), None
        lower = [[row[b] + effort * (a == b) for b in range(a + 1)] for a, row in enumerate(rows)]
        return good & (smallest_pivot(lower) > 0), None

    return lax.scan(look, jnp.ones(agents, bool), jnp.arange(horizon))[0]
