"""Equilibria of exchangeable agents: exact Nash at any N, the mean-field limit, the team optimum.

Two backward Riccati recursions, `solve_nash` and `solve_team`. Each step adds the running cost
to the cost to go, solves for the gains, and carries the cost to go back under them; the algebra
of a step is in `nash_step`. Agents of several types are in `nash_types`, the game on the joint
state of all agents (the reference that does not scale) and different agents in the limit in
`nash_dense`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from memoa_jax.game import (
    FeatureMoments,
    GameCost,
    discounts,
    inverse_population,
    standard_game,
)
from memoa_jax.linalg import matmul, symmetrise
from memoa_jax.nash_step import (
    CostToGo,
    Equilibrium,
    FeedbackGains,
    NashValue,
    Stage,
    TeamValue,
    average_rows,
    carry_back,
    own_slope,
    running_cost,
    solver_status,
    split_rows,
)
from memoa_jax.types import Array, Scalar

__all__ = [
    "Equilibrium",
    "FeedbackGains",
    "NashValue",
    "TeamValue",
    "solve_nash",
    "solve_team",
]


def solve_nash(
    cost: GameCost,
    moments: FeatureMoments,
    targets: Array,
    population: int | Scalar | None,
) -> Equilibrium[NashValue]:
    """Solve the Nash equilibrium of N exchangeable agents, or of the mean-field limit.

    Every agent knows all states and minimises its own cost, the others' strategies fixed. Exact
    for every N: the equilibrium of the coupled Riccati equations on R^{N d}, reduced by symmetry
    to an agent's own state and the mean field. O(T (d^2 p^2 + p^3 + d^3)), independent of N.

        Y^i_{t+1} = Y^i_t + Z^i_t beta^i_t,    Ybar = mean of Y^i over the population
        J^i = E sum_t delta_t [ tracking  |Y^i_{t+1} - y_{t+1}|^2
                              + consensus |Y^i_{t+1} - Ybar_{t+1}|^2
                              + ensemble  |Ybar_{t+1} - y_{t+1}|^2 + effort |beta^i_t|^2 ]
        beta^i_t = -(own_t Y^i_t + mean_t Ybar_t + offset_t),   delta_t = exp(-forgetting (T-1-t))

    Axes: N agents, T horizon, d outputs, p features.

    Args:
      cost: what an agent pays. Leaves are scalars in squared target units; `effort` > 0, per
        squared control.
      moments: mean [T, d, p] and second [T, d, d, p, p] of the features, common to all agents.
      targets: [T, d], in the series' own units; row t is y_{t+1}.
      population: number of agents; None for the mean-field limit. Enters as a traced 1/N (None
        is 0): a new value recompiles nothing.

    Returns:
      Equilibrium: `gains` (own [T, p, d], mean [T, p, d], offset [T, p]), `value` (a `NashValue`
      at t = 0) and `status`.

    Raises:
      ValueError: at trace time, if a shape does not fit, effort is a number not above 0, or
        population a number below 1.

    Status:
      INDEFINITE if the second-order condition fails at some step: the numbers are then no
      equilibrium (and NaN if d = 1 and a Cholesky factor does not exist). SINGULAR if a linear
      system has no usable solution. NON_FINITE if a result is not finite.

    Source: arXiv 2605.05492 for the problem; Arabneydi, Aghdam, Malhame (arXiv 1912.03931) for
      the exact finite-population reduction, Huang, Yang (arXiv 2107.09168) for the limit. The
      recursion with random features is own derivation, tested in tests/test_nash.py against the
      joint game of `solve_nash_dense` and against enumeration.

    Example:
      >>> moments = FeatureMoments.from_samples(jnp.ones((3, 10, 1, 1)))
      >>> gains = solve_nash(GameCost(), moments, jnp.ones((3, 1)), 10).gains
      >>> gains.own.shape, gains.offset.shape
      ((3, 1, 1), (3, 1))
    """
    cost, moments, targets = standard_game(cost, moments, targets)
    equilibrium: Equilibrium[NashValue] = _solve_nash(
        cost, moments, targets, inverse_population(population, targets.dtype)
    )
    return equilibrium


@jax.jit
def _solve_nash(
    cost: GameCost, moments: FeatureMoments, targets: Array, share: Array
) -> Equilibrium[NashValue]:
    horizon, d = targets.shape
    average = jnp.eye(d, dtype=targets.dtype)

    def step(later: CostToGo, stage: Stage) -> tuple[CostToGo, Any]:
        arrival = stage.discount * running_cost(cost, average, stage.target)
        later = CostToGo(later.joint + arrival, later.spread)
        effort = stage.discount * cost.effort
        rows, checks = _nash_rows(later, stage.moments, effort, share)
        return carry_back(later, stage.moments, share, rows, effort), (rows, checks)

    stages = Stage(moments, targets, discounts(cost.forgetting, horizon, targets.dtype))
    first, (rows, (curvature, systems)) = lax.scan(
        step, CostToGo.zero(d, targets.dtype), stages, reverse=True
    )
    joint = first.joint
    value = NashValue(
        own=joint[:d, :d],
        cross=joint[:d, d:-1],
        mean=joint[d:-1, d:-1],
        spread=first.spread,
        own_linear=joint[:d, -1],
        mean_linear=joint[d:-1, -1],
        constant=joint[-1, -1],
    )
    gains = split_rows(rows, d)
    return Equilibrium(gains, value, solver_status((gains, value), [curvature], systems))


def _nash_rows(
    later: CostToGo, moments: FeatureMoments, effort: Array, share: Array
) -> tuple[Array, tuple[Array, list[Array]]]:
    """Solve one step for the rows of gains [p, 2d+1]: every agent's first-order condition.

        H beta^i = -m'(E Y^i + F Ybar+ + f)
        E = A + (B' + D)/N,   F = B + C/N,   f = a + b/N,   H = H2 - m'F m/N

    H2, the Hessian of an agent's cost in its own control, must be positive definite for a
    minimum; it is returned beside the systems solved.
    """
    m, d = moments.mean, moments.mean.shape[0]
    slope, H2 = own_slope(later, moments, effort, share)  # slope = [E F f]
    H = H2 - share * matmul(m.T, slope[:, d:-1], m)
    # B, and with it F and H, is symmetric only for one output or in the limit 1/N = 0.
    rows, system = average_rows(m, H, slope, symmetric=d == 1)
    return rows, (H2, [H, system])


def solve_team(
    cost: GameCost,
    moments: FeatureMoments,
    targets: Array,
    population: int | Scalar | None,
) -> Equilibrium[TeamValue]:
    """Solve the team optimum: the strategies that minimise the population's average cost.

    Exact for every N, O(T (d^2 p^2 + p^3 + d^3)), independent of N. For exchangeable agents with
    equal initial law it is also the minimax: no strategies leave the weakest agent better off.
    With ``ensemble = 0`` its limit is the mean-field equilibrium itself.

        minimise  mean_i J^i,    J^i as in `solve_nash`
        beta^i_t = -(own_t Y^i_t + mean_t Ybar_t + offset_t)

    Axes: N agents, T horizon, d outputs, p features.

    Args:
      cost: what an agent pays. Leaves are scalars in squared target units; `effort` > 0, per
        squared control.
      moments: mean [T, d, p] and second [T, d, d, p, p] of the features, common to all agents.
      targets: [T, d], in the series' own units; row t is y_{t+1}.
      population: number of agents; None for the limit. Enters as a traced 1/N (None is 0): a
        new value recompiles nothing.

    Returns:
      Equilibrium: `gains` (own [T, p, d], mean [T, p, d], offset [T, p]), `value` (a `TeamValue`
      at t = 0: the average cost) and `status`.

    Raises:
      ValueError: at trace time, if a shape does not fit, effort is a number not above 0, or
        population a number below 1.

    Status:
      INDEFINITE if the average cost has no minimum at some step; the gains are then NaN or no
      optimum. SINGULAR if a linear system has no usable solution. NON_FINITE if a result is not
      finite.

    Source: Arabneydi, Aghdam, Malhame (arXiv 1912.03931) for the reduction of a team; the
      recursion with random features is own derivation, tested in tests/test_nash.py.

    Example:
      >>> moments = FeatureMoments.from_samples(jnp.ones((3, 10, 1, 1)))
      >>> team = solve_team(GameCost(), moments, jnp.ones((3, 1)), None).gains
      >>> nash = solve_nash(GameCost(), moments, jnp.ones((3, 1)), None).gains
      >>> bool(jnp.allclose(team.mean, nash.mean, atol=1e-6))
      True
    """
    cost, moments, targets = standard_game(cost, moments, targets)
    optimum: Equilibrium[TeamValue] = _solve_team(
        cost, moments, targets, inverse_population(population, targets.dtype)
    )
    return optimum


@jax.jit
def _solve_team(
    cost: GameCost, moments: FeatureMoments, targets: Array, share: Array
) -> Equilibrium[TeamValue]:
    horizon, d = targets.shape

    def step(later: CostToGo, stage: Stage) -> tuple[CostToGo, Any]:
        arrival = jax.tree.map(lambda x: stage.discount * x, _team_cost(cost, stage.target))
        later = jax.tree.map(jnp.add, later, arrival)
        effort = stage.discount * cost.effort
        rows, checks = _team_rows(later, stage.moments, effort, share)
        free = jnp.zeros_like(effort)
        return carry_back(later, stage.moments, share, rows, free, effort), (rows, checks)

    stages = Stage(moments, targets, discounts(cost.forgetting, horizon, targets.dtype))
    first, (rows, (curvatures, systems)) = lax.scan(
        step, CostToGo.zero(d, targets.dtype), stages, reverse=True
    )
    value = TeamValue(
        spread=first.spread,
        mean=first.joint[d:-1, d:-1],
        mean_linear=first.joint[d:-1, -1],
        constant=first.joint[-1, -1],
    )
    gains = split_rows(rows, d)
    return Equilibrium(gains, value, solver_status((gains, value), curvatures, systems))


def _team_cost(cost: GameCost, target: Array) -> CostToGo:
    """Return the average running cost; mean_j |Y^j - Ybar|^2 = mean_j |Y^j|^2 - |Ybar|^2."""
    d = target.size
    eye, pull = jnp.eye(d, dtype=target.dtype), cost.tracking + cost.ensemble
    joint = jnp.zeros((2 * d + 1, 2 * d + 1), target.dtype)
    joint = joint.at[d:-1, d:-1].set((cost.ensemble - cost.consensus) * eye)
    joint = joint.at[d:-1, -1].set(-pull * target).at[-1, d:-1].set(-pull * target)
    joint = joint.at[-1, -1].set(pull * matmul(target, target))
    return CostToGo(joint, (cost.tracking + cost.consensus) * eye)


def _team_rows(
    later: CostToGo, moments: FeatureMoments, effort: Array, share: Array
) -> tuple[Array, tuple[list[Array], list[Array]]]:
    """Solve one step of the team for the rows of gains [p, 2d+1].

        H beta^i = -m'(D Y^i + C Ybar+ + b),    H = m'D m + cov(D + C/N) + effort I

    H is the Hessian for deviations from the mean, H + m'C m that of the mean: both are
    symmetric, and both must be positive definite. Returned beside the systems solved.
    """
    m, d = moments.mean, moments.mean.shape[0]
    C = later.joint[d:-1, d:-1]
    slope = later.joint[d:-1].at[:, :d].add(later.spread)  # [D C b]
    H = moments.gram(later.spread) + share * moments.covariance(C)
    H = symmetrise(H) + effort * jnp.eye(m.shape[1], dtype=m.dtype)
    rows, system = average_rows(m, H, slope, symmetric=True)
    return rows, ([H, H + matmul(m.T, C, m)], [H, system])
