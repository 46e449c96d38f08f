"""Equilibria of agents of several types: own features, own costs, own group sizes.

The recursions of `solve_nash` and `solve_team` with one mean field per type; their cost does not
depend on the numbers of agents. The algebra of a step is in `types_step`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from memoa_jax.game import FeatureMoments, GameCost
from memoa_jax.linalg import einsum, matmul, solve_general, solve_spd, symmetrise
from memoa_jax.nash_step import (
    CostToGo,
    Equilibrium,
    NashValue,
    Stage,
    TeamValue,
    solver_status,
    split_rows,
)
from memoa_jax.types import Array
from memoa_jax.types_game import Counts, TypesGame, Weights, standard_types
from memoa_jax.types_step import (
    Crowd,
    block_diagonal,
    carry_back,
    meet,
    own_slope,
    views_at_means,
)


def solve_nash_types(
    costs: GameCost,
    moments: FeatureMoments,
    targets: Array,
    counts: Counts,
    weights: Weights = None,
) -> Equilibrium[NashValue]:
    """Solve the Nash equilibrium of K types of agents, exactly for any group sizes.

    Every agent knows all states and minimises its own cost; agents of one type are exchangeable.
    Exact: with K = 1 it is `solve_nash`, with one agent per type the joint game of
    `solve_nash_dense`. O(T K^2 (K^2 d^2 + p^2 d^2) + T K p^3 + T (K d)^3) time, independent of
    the group sizes.

        agent i of type k:  Y+ = Y + Z^i beta^i,     mbar_l = mean of Y^j over type l
        its running cost:   tracking_k |Y+ - y|^2 + consensus_k |Y+ - S|^2 + ensemble_k |S - y|^2
                            + effort_k |beta|^2,     S = sum_l weights_l mbar+_l
        beta^i_t = -(own_kt Y^i_t + mean_kt (mbar_1 .. mbar_K)_t + offset_kt)

    Axes: K types, T horizon, d outputs, p features.

    Args:
      costs: what agents pay. Leaves are scalars, or [K] with one entry per type, in squared
        target units; `effort` > 0, per squared control.
      moments: mean [K, T, d, p] and second [K, T, d, d, p, p] of each type's features.
      targets: [T, d], in the series' own units; row t is y_{t+1}.
      counts: K numbers of agents; None for a type in its mean-field limit. They enter as traced
        1/N_k: new values recompile nothing.
      weights: [K], the weight of each type's mean in the ensemble's, summing to 1 (or the
        server's weights); N_k/N if not given. Required if a count is None.

    Returns:
      Equilibrium: `gains` (own [K, T, p, d], mean [K, T, p, K d], offset [K, T, p]), `value` (a
      `NashValue` at t = 0 with a leading axis K) and `status`.

    Raises:
      ValueError: at trace time, if a shape does not fit, effort is a number not above 0, a count
        is a number below 1, or weights are missing where a count is None.

    Status:
      INDEFINITE if the second-order condition of some type fails at some step: the numbers are
      then no equilibrium. SINGULAR if a linear system has no usable solution. NON_FINITE if a
      result is not finite.

    Source: Huang, Yang (arXiv 2107.09168) for the large-population limit; the exact finite
      recursion is own derivation, tested in tests/test_nash_types.py.

    Example:
      >>> moments = FeatureMoments(jnp.ones((2, 3, 1, 1)), 2 * jnp.ones((2, 3, 1, 1, 1, 1)))
      >>> costs = GameCost(consensus=jnp.array([0.5, 2.0]))
      >>> solve_nash_types(costs, moments, jnp.ones((3, 1)), [2, 3]).gains.mean.shape
      (2, 3, 1, 2)
    """
    game = standard_types(costs, moments, targets, counts, weights)
    equilibrium: Equilibrium[NashValue] = _solve_types(game)
    return equilibrium


@jax.jit
def _solve_types(game: TypesGame) -> Equilibrium[NashValue]:
    costs, (types, _, d, _) = game.costs, game.moments.mean.shape

    def step(later: CostToGo, stage: Stage) -> tuple[CostToGo, Any]:
        # Everything of a stage but the target has a leading axis K, and so has the cost to go:
        # joint [K, n, n] over (Y, means, 1), spread [K, K, d, d].
        later = CostToGo(later.joint + game.arrivals(stage), later.spread)
        effort = stage.discount * costs.effort
        reaction, curvature, systems = jax.vmap(_react)(
            jnp.arange(types), later, stage.moments, effort, game.shares
        )
        rows, following, system = meet(stage.moments.mean, reaction)
        crowd = Crowd(stage.moments, game.shares, rows, following)
        each = jax.vmap(carry_back, in_axes=(0, 0, None, 0))
        return each(jnp.arange(types), later, crowd, effort), (rows, curvature, systems, system)

    first, (rows, curvatures, systems, system) = lax.scan(
        step, game.zero(), game.stages(), reverse=True
    )
    joint = first.joint
    value = NashValue(
        own=joint[:, :d, :d],
        cross=joint[:, :d, d:-1],
        mean=joint[:, d:-1, d:-1],
        spread=first.spread,
        own_linear=joint[:, :d, -1],
        mean_linear=joint[:, d:-1, -1],
        constant=joint[:, -1, -1],
    )
    gains = split_rows(jnp.moveaxis(rows, 1, 0), d)
    status = solver_status((gains, value), [curvatures], [systems, system])
    return Equilibrium(gains, value, status)


def _react(
    index: Array, later: CostToGo, moments: FeatureMoments, effort: Array, share: Array
) -> tuple[Array, Array, Array]:
    """Solve the condition of one type's agents for their control, given the next means.

        H beta = -m'(E Y + F mbar+ + f),    H = H2 - m'F J m/N_k

    Returns:
      The reaction [p, n]: beta = -reaction (Y, mbar+, 1); H2 and H.
    """
    m, d = moments.mean, moments.mean.shape[0]
    slope, H2, F_own = own_slope(index, later, moments, effort, share)
    H = H2 - share * matmul(m.T, F_own, m)
    # As in the exchangeable game, H is symmetric for one output only.
    solve = solve_spd if d == 1 else solve_general
    return solve(H, matmul(m.T, slope)), H2, H


def solve_team_types(
    costs: GameCost,
    moments: FeatureMoments,
    targets: Array,
    counts: Counts,
    weights: Weights = None,
    importance: Weights = None,
) -> Equilibrium[TeamValue]:
    """Solve the team optimum of K types: the strategies that minimise the average cost.

    Exact for any group sizes; with K = 1 it is `solve_team`. O(T K (K^2 d^2 + p^2 d^2 + p^3) +
    T (K d)^3) time, independent of the group sizes. With several types it favours no one type,
    so it is not the minimax.

        minimise  sum_k importance_k mean_{i in k} J^i,    J^i as in `solve_nash_types`
        beta^i_t = -(own_kt Y^i_t + mean_kt (mbar_1 .. mbar_K)_t + offset_kt)

    Axes: K types, T horizon, d outputs, p features.

    Args:
      costs: what agents pay. Leaves are scalars, or [K] with one entry per type, in squared
        target units; `effort` > 0, per squared control.
      moments: mean [K, T, d, p] and second [K, T, d, d, p, p] of each type's features.
      targets: [T, d], in the series' own units; row t is y_{t+1}.
      counts: K numbers of agents; None for a type in its limit. They enter as traced 1/N_k.
      weights: [K], as in `solve_nash_types`: the weight of each type's mean in the ensemble's.
      importance: [K], positive, summing to 1: each type's share of the agents. N_k/N if not
        given, or `weights` where a count is None.

    Returns:
      Equilibrium: `gains` (own [K, T, p, d], mean [K, T, p, K d], offset [K, T, p]), `value` (a
      `TeamValue` at t = 0: the average cost, with spread [K, d, d], mean [K d, K d] and
      mean_linear [K d]) and `status`.

    Raises:
      ValueError: as `solve_nash_types`, or if importance has another shape than [K].

    Status:
      INDEFINITE if the average cost has no minimum at some step; the gains are then NaN or no
      optimum. SINGULAR if a linear system has no usable solution. NON_FINITE if a result is not
      finite.

    Source: own derivation, tested in tests/test_nash_types.py against `solve_team` and against
      the optimum of the joint state.

    Example:
      >>> moments = FeatureMoments(jnp.ones((2, 3, 1, 1)), 2 * jnp.ones((2, 3, 1, 1, 1, 1)))
      >>> costs = GameCost(consensus=jnp.array([0.5, 2.0]))
      >>> solve_team_types(costs, moments, jnp.ones((3, 1)), [2, 3]).gains.mean.shape
      (2, 3, 1, 2)
    """
    game = standard_types(costs, moments, targets, counts, weights, importance)
    optimum: Equilibrium[TeamValue] = _solve_team_types(game)
    return optimum


@jax.jit
def _solve_team_types(game: TypesGame) -> Equilibrium[TeamValue]:
    d = game.targets.shape[1]

    def step(later: CostToGo, stage: Stage) -> tuple[CostToGo, Any]:
        # One observer, who has no state of its own: the first d rows of joint stay zero.
        later = jax.tree.map(jnp.add, later, _team_cost(game, stage))
        effort = stage.discount * game.importance * game.costs.effort
        reaction, curvatures, H = _team_react(later, stage.moments, effort, game.shares)
        rows, following, system = meet(stage.moments.mean, reaction)
        crowd = Crowd(stage.moments, game.shares, rows, following)
        nobody, free = jnp.zeros((), int), jnp.zeros_like(effort[0])
        now = carry_back(nobody, later, crowd, free, average_efforts=effort)
        return now, (rows, curvatures, [H, system])

    nothing = jax.tree.map(lambda leaf: leaf[0], game.zero())
    first, (rows, curvatures, systems) = lax.scan(step, nothing, game.stages(), reverse=True)
    value = TeamValue(
        spread=first.spread,
        mean=first.joint[d:-1, d:-1],
        mean_linear=first.joint[d:-1, -1],
        constant=first.joint[-1, -1],
    )
    gains = split_rows(jnp.moveaxis(rows, 1, 0), d)
    return Equilibrium(gains, value, solver_status((gains, value), curvatures, systems))


def _team_cost(game: TypesGame, stage: Stage) -> CostToGo:
    """Return the average running cost; an average over a type is at its mean, plus its spread."""
    types, _, d, _ = game.moments.mean.shape
    paid = game.importance[:, None, None] * game.arrivals(stage)
    at_means = views_at_means(types, d, paid.dtype)
    joint = einsum("kax,kab,kby->xy", at_means, paid, at_means)
    spread = paid[:, :d, :d]
    return CostToGo(joint.at[d:-1, d:-1].add(-block_diagonal(spread)), spread)


def _team_react(
    later: CostToGo, moments: FeatureMoments, efforts: Array, shares: Array
) -> tuple[Array, list[Array], Array]:
    """Solve the team's condition for the control of every type, given the next means.

        H_k beta = -m'(D_k Y + J_k'C mbar+ + J_k'b),   H_k = m'D_k m + U_k

    U_k = cov_k(D_k + C_kk/N_k) + effort. H_k is the Hessian for deviations from a type's mean,
    blkdiag(H) + blkdiag(m)'C blkdiag(m) that of the means: both are symmetric, and both must be
    positive definite.

    Returns:
      The reactions [K, p, n], the two Hessians, and H [K, p, p].
    """
    m, D = moments.mean, later.spread
    types, d, p = m.shape
    each = jnp.arange(types)
    C = later.joint[d:-1, d:-1].reshape(types, d, types, d)
    noise = D + shares[:, None, None] * C[each, :, each]
    U = jax.vmap(FeatureMoments.covariance)(moments, noise)
    H = symmetrise(einsum("kap,kab,kbq->kpq", m, D, m) + U)
    H = H + einsum("k,pq->kpq", efforts, jnp.eye(p, dtype=m.dtype))
    slope = later.joint[d:-1].reshape(types, d, -1).at[:, :, :d].add(D)
    reaction = jax.vmap(solve_spd)(H, matmul(jnp.swapaxes(m, 1, 2), slope))
    of_means = einsum("kap,kalb,lbq->kplq", m, C, m).reshape(types * p, types * p)
    return reaction, [H, of_means + block_diagonal(H)], H
