"""The algebra of one backward step, shared by all solvers of games of exchangeable agents.

Everything is written in an agent's view of the game, x = (Y, Ybar, 1): its own state, the mean
field and a one, so that a quadratic with linear and constant terms is one matrix, and an affine
feedback one row of gains per feature. The records that the solvers return are here too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp

from memoa_jax.game import FeatureMoments, GameCost
from memoa_jax.linalg import (
    einsum,
    is_singular,
    matmul,
    smallest_eigenvalue,
    solve_general,
    solve_spd,
    symmetrise,
)
from memoa_jax.types import Array, Status, record


@record
class FeedbackGains:
    """Affine feedback of an agent's own state and the mean field, one row per step.

        beta^i_t = -(own[t] Y^i_t + mean[t] Ybar_t + offset[t])

    Axes: ``own [T, p, d]``, ``mean [T, p, d]``, ``offset [T, p]``. With K types a leading axis
    K, and ``mean [K, T, p, K d]`` reads the K types' mean fields, stacked.
    """

    own: Array
    mean: Array
    offset: Array


@record
class NashValue:
    """Coefficients of an agent's expected cost to go, a quadratic in the states.

        V = Y'own Y + 2 Y'cross Ybar + Ybar'mean Ybar + mean_j Y^j'spread Y^j
            + 2 own_linear'Y + 2 mean_linear'Ybar + constant            (Y the agent's own state)

    Axes: the four matrices ``[d, d]``, the two vectors ``[d]``. With K types a leading axis K,
    Ybar in R^{K d}, and ``spread [K, K, d, d]``: entry [k, l] is what type k pays for the spread
    of type l, mean_{j in l} Y^j'spread[k, l] Y^j, summed over l.
    """

    own: Array
    cross: Array
    mean: Array
    spread: Array
    own_linear: Array
    mean_linear: Array
    constant: Array


@record
class TeamValue:
    """Coefficients of the population's average expected cost to go.

        V = mean_j Y^j'spread Y^j + Ybar'mean Ybar + 2 mean_linear'Ybar + constant

    Axes: the two matrices ``[d, d]``, the vector ``[d]``.
    """

    spread: Array
    mean: Array
    mean_linear: Array
    constant: Array


_Value = TypeVar("_Value")


@record
class Equilibrium(Generic[_Value]):
    """What a solver returns: gains of every step, the value at t = 0, bits of `Status`."""

    gains: FeedbackGains
    value: _Value
    status: Array


@record
class CostToGo:
    """An agent's expected cost to go as seen from its view x = (Y, Ybar, 1).

        V = x'joint x + mean_j Y^j'spread Y^j
        joint = [[A, B, a], [B', C, b], [a', b', k]],   spread = D      (the blocks of `NashValue`)

    Axes: ``joint [2d+1, 2d+1]``, ``spread [d, d]``.
    """

    joint: Array
    spread: Array

    @classmethod
    def zero(cls, outputs: int, dtype: Any) -> CostToGo:
        """Return the cost to go after the last step."""
        size = 2 * outputs + 1
        return cls(jnp.zeros((size, size), dtype), jnp.zeros((outputs, outputs), dtype))


@record
class Stage:
    """What one backward step is given: moments [d, p], target [d], discount."""

    moments: FeatureMoments
    target: Array
    discount: Array


def own_slope(
    later: CostToGo, moments: FeatureMoments, effort: Array, share: Array
) -> tuple[Array, Array]:
    """Return the slope and the curvature of an agent's cost in its own control.

        d/dbeta (cost)/2 = H2 beta + m'slope (Y, Ybar+, 1)      slope = [E F f]

    with Ybar+ the mean field of the next step before the agent's own move is added.
    """
    m, d = moments.mean, moments.mean.shape[0]
    # An agent's control moves its own state and, by 1/N of that, the mean field.
    slope = later.joint[:d] + share * later.joint[d:-1]
    slope = slope.at[:, :d].add(share * later.spread)
    H2 = moments.gram(slope[:, :d] + share * slope[:, d:-1])
    return slope, symmetrise(H2) + effort * jnp.eye(m.shape[1], dtype=m.dtype)


def average_rows(m: Array, H: Array, slope: Array, *, symmetric: bool) -> tuple[Array, Array]:
    """Solve all agents' linear conditions, which meet in the mean field of the next step.

        H beta^i = -m'(E Y^i + F Ybar+ + f),    Ybar+ = Ybar + m mean_i beta^i,    slope = [E F f]

    Averaged over agents: (I + m H^-1 m'F) Ybar+ = (I - m H^-1 m'E) Ybar - m H^-1 m'f.

    Returns:
      The rows [own mean offset] of gains, and the d x d system that was solved.
    """
    d = m.shape[0]
    eye = jnp.eye(d, dtype=m.dtype)
    solve = solve_spd if symmetric else solve_general
    reaction = solve(H, matmul(m.T, slope))  # beta^i = -reaction (Y^i, Ybar+, 1)
    moves = matmul(m, reaction)
    system = eye + moves[:, d:-1]
    following = solve_general(system, jnp.column_stack([eye - moves[:, :d], -moves[:, -1]]))
    at_mean = matmul(reaction[:, d:-1], following).at[:, -1].add(reaction[:, -1])
    return jnp.column_stack([reaction[:, :d], at_mean]), system


def running_cost(cost: GameCost, average: Array, target: Array) -> Array:
    """Return the running cost, without effort and discount, as a matrix in the view x.

    `average` [d, n] maps the mean-field part of the view (n numbers) to the ensemble's mean.
    """
    d = target.size
    eye, none, y = jnp.eye(d, dtype=target.dtype), jnp.zeros_like(average), target[:, None]
    differences = jnp.stack(
        [
            jnp.hstack([eye, none, -y]),
            jnp.hstack([eye, -average, 0 * y]),
            jnp.hstack([0 * eye, average, -y]),
        ]
    )
    weights = jnp.stack([cost.tracking, cost.consensus, cost.ensemble])
    return einsum("w,wax,way->xy", weights, differences, differences)


def carry_back(
    later: CostToGo,
    moments: FeatureMoments,
    share: Array,
    rows: Array,
    effort: Array,
    average_effort: Array | float = 0.0,
    own: Array | None = None,
) -> CostToGo:
    """Return the cost to go one step earlier, when all agents use `rows` (or one of them `own`).

        Y+    = Y + Z beta,         beta = -own x            x = (Y, Ybar, 1)
        Ybar+ = mean_j (Y^j + Z^j beta^j),   beta^j = -rows x^j for the others

    Exact for any gains and any number 1/share of agents: means move by m, and the independent
    noise of the features adds traces of covariances.

    Args:
      later: the cost to go of step t+1, that step's running cost included.
      moments: of step t.
      share: 1/N.
      rows: [p, 2d+1], everybody's gains [own mean offset].
      effort: price of the agent's own |beta|^2, discounted.
      average_effort: price of mean_j |beta^j|^2, discounted.
      own: [p, 2d+1], the agent's gains where it deviates.
    """
    m, d = moments.mean, moments.mean.shape[0]
    p, P, D = m.shape[1], later.joint, later.spread
    size = P.shape[0]
    identity, features = jnp.eye(size, dtype=P.dtype), jnp.eye(p, dtype=P.dtype)
    take_own, take_mean, take_one = identity[:d], identity[d:-1], identity[-1:]
    at_mean = jnp.concatenate([take_mean, take_mean, take_one])  # x of the average agent
    X = moments.covariance(D + share * P[d:-1, d:-1]) + average_effort * features
    U = moments.covariance(P[:d, :d] + 2 * share * symmetrise(P[:d, d:-1])) + effort * features

    def spread_of(gains: Array) -> tuple[Array, Array]:
        """Return the map x -> E Y+, and the form of E Y+'D Y+ with the noise in Ybar+'C Ybar+."""
        next_own = take_own - matmul(m, gains)
        return next_own, matmul(next_own.T, D, next_own) + matmul(gains.T, X, gains)

    next_own, S = spread_of(rows)
    next_mean = take_mean - matmul(m, rows, at_mean)
    # mean_j x^j'S x^j: the mean's own part, and the spread of the states around it.
    joint = matmul(at_mean.T, S, at_mean).at[d:-1, d:-1].add(-S[:d, :d])
    if own is None:
        own = rows
    else:
        next_own, deviant = spread_of(own)
        next_mean = next_mean + share * matmul(m, rows - own)
        joint = joint + share * (deviant - S)
    move = jnp.concatenate([next_own, next_mean, take_one])
    joint = joint + matmul(move.T, P, move) + matmul(own.T, U, own)
    # Symmetrising joint and spread touches A, C and D; B and its transpose are one number each.
    return CostToGo(symmetrise(joint), symmetrise(S[:d, :d]))


def split_rows(rows: Array, outputs: int) -> FeedbackGains:
    """Split rows of gains [..., p, d + n + 1] into own, mean and offset."""
    return FeedbackGains(rows[..., :outputs], rows[..., outputs:-1], rows[..., -1])


def standard_gains(gains: FeedbackGains, moments: FeatureMoments) -> FeedbackGains:
    """Check gains against the moments of their game, and cast them to its dtype.

    Raises:
      ValueError: at trace time, if a shape does not fit; with K types all have a leading axis K.
    """
    *types, horizon, d, p = moments.mean.shape
    lead, stacked = (*types, horizon, p), d * (types[0] if types else 1)
    shapes = {"own": (*lead, d), "mean": (*lead, stacked), "offset": lead}
    leaves = {name: jnp.asarray(getattr(gains, name), moments.mean.dtype) for name in shapes}
    for name, expected in shapes.items():
        if leaves[name].shape != expected:
            raise ValueError(
                f"gains.{name} has shape {leaves[name].shape}: with moments.mean of shape "
                f"{moments.mean.shape} allowed is {expected}"
            )
    return FeedbackGains(**leaves)


def solver_status(results: Any, curvatures: Sequence[Array], systems: Sequence[Array]) -> Array:
    """Return the bits of `Status` that a solver met, int32; outside differentiation.

    Args:
      results: a pytree whose leaves must be finite.
      curvatures: matrices [..., p, p] that must be positive definite.
      systems: matrices [..., m, m] that were solved.
    """
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(results)]
    indefinite = [jnp.any(smallest_eigenvalue(matrix) <= 0) for matrix in curvatures]
    singular = [jnp.any(is_singular(matrix)) for matrix in systems]
    return sum(
        (
            jnp.any(jnp.stack(flags)).astype(jnp.int32) * int(bit)
            for flags, bit in (
                ([~flag for flag in finite], Status.NON_FINITE),
                (indefinite, Status.INDEFINITE),
                (singular, Status.SINGULAR),
            )
        ),
        jnp.zeros((), jnp.int32),
    )
