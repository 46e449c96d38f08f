"""Games whose agents all differ: the joint game, exact, and its mean-field limit.

`solve_nash_dense` solves the coupled Riccati equations on the joint state R^{N d}. It does not
scale and is meant not to: it shares no formula with the other solvers, and they are tested
against it. `solve_heterogeneous` is the limit of many agents that all differ.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from memoa_jax.game import FeatureMoments, GameCost, discounts, standard_game
from memoa_jax.linalg import einsum, matmul, solve_general, solve_spd, symmetrise
from memoa_jax.nash_step import Stage, solver_status
from memoa_jax.types import Array, record


@record
class DenseValue:
    """Every agent's expected cost to go, a quadratic in the joint state Y = (Y^1 .. Y^N).

        V^i = Y'quadratic[i] Y + 2 linear[i]'Y + constant[i]

    Axes: ``quadratic [N, N d, N d]``, ``linear [N, N d]``, ``constant [N]``.
    """

    quadratic: Array
    linear: Array
    constant: Array

    def costs(self, states: Array) -> Array:
        """Return [N], the value of each agent at the states [N, d]."""
        joint = states.reshape(-1)
        square = einsum("a,iab,b->i", joint, self.quadratic, joint)
        return square + 2 * matmul(self.linear, joint) + self.constant


@record
class DenseEquilibrium:
    """Gains on the joint state, beta^i_t = -(state[i, t] Y_t + offset[i, t]), and their value.

    Axes: ``state [N, T, p, N d]``, ``offset [N, T, p]``; `value` is that at t = 0, `status`
    holds bits of `Status`.
    """

    state: Array
    offset: Array
    value: DenseValue
    status: Array


@record
class HeterogeneousEquilibrium:
    """Gains of N different agents in the limit, and the paths that they lead to.

        beta^i_t = -(own[i, t] Y^i_t + offset[i, t])

    Axes: ``own [N, T, p, d]``, ``offset [N, T, p]``, ``mean_field [T, d]`` and
    ``expected_paths [N, T, d]`` at the times 1..T of the targets; `status` holds bits of
    `Status`.
    """

    own: Array
    offset: Array
    mean_field: Array
    expected_paths: Array
    status: Array


def solve_nash_dense(costs: GameCost, moments: FeatureMoments, targets: Array) -> DenseEquilibrium:
    """Solve the Nash equilibrium of N different agents on their joint state.

    Exact for any costs and features, by definition: the coupled Riccati equations, nothing
    reduced. O(T N (N d)^3 + T (N p)^3) time and O(T N^2 p d) memory: for N up to some tens.

        Y_{t+1} = Y_t + sum_j e_j Z^j_t beta^j_t,      e_j places agent j's block in R^{N d}
        agent i minimises E sum_t delta_t [running cost at Y_{t+1} + effort_i |beta^i_t|^2]
        (E Z'P_ii Z + effort) beta^i + sum_{j != i} m_i'P_ij m_j beta^j = -m_i'(P_i: Y + p_i)

    where P and p belong to agent i's cost to go with its running cost added, and P_ij is a block.

    Axes: N agents, T horizon, d outputs, p features.

    Args:
      costs: what agents pay. Leaves are scalars, or [N] with one entry per agent, in squared
        target units; `effort` > 0, per squared control.
      moments: mean [N, T, d, p] and second [N, T, d, d, p, p] of each agent's features.
      targets: [T, d], in the series' own units; row t is y_{t+1}.

    Returns:
      DenseEquilibrium: `state` [N, T, p, N d], `offset` [N, T, p], `value`, `status`.

    Raises:
      ValueError: at trace time, if a shape does not fit or effort is a number not above 0.

    Status:
      INDEFINITE if the second-order condition of some agent fails at some step: the numbers are
      then no equilibrium. SINGULAR if a linear system has no usable solution. NON_FINITE if a
      result is not finite.

    Source: the textbook linear-quadratic dynamic game, with random input matrices; own
      derivation, tested in tests/test_nash_dense.py against enumeration.

    Example:
      >>> moments = FeatureMoments(jnp.ones((2, 3, 1, 1)), 2 * jnp.ones((2, 3, 1, 1, 1, 1)))
      >>> solve_nash_dense(GameCost(), moments, jnp.ones((3, 1))).state.shape
      (2, 3, 1, 2)
    """
    equilibrium: DenseEquilibrium = _solve_dense(
        *standard_game(costs, moments, targets, per_type=True)
    )
    return equilibrium


@jax.jit
def _solve_dense(costs: GameCost, moments: FeatureMoments, targets: Array) -> DenseEquilibrium:
    n, horizon, d, _ = moments.mean.shape
    dtype = targets.dtype

    def step(later: Array, stage: Stage) -> tuple[Array, Any]:
        # later [N, N d + 1, N d + 1]: each agent's cost to go as a form in (Y, 1).
        arrival = jax.vmap(_running_cost, in_axes=(0, 0, None))(jnp.eye(n), costs, stage.target)
        later = later + stage.discount[:, None, None] * arrival
        effort = stage.discount * costs.effort
        gains, system, curvature = _joint_gains(later, stage.moments, effort)
        earlier = _joint_carry_back(later, stage.moments, effort, gains)
        return earlier, (gains, system, curvature)

    by_step = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), moments)
    delta = jax.vmap(lambda rate: discounts(rate, horizon, dtype), out_axes=1)(costs.forgetting)
    first, (gains, systems, curvatures) = lax.scan(
        step,
        jnp.zeros((n, n * d + 1, n * d + 1), dtype),
        Stage(by_step, targets, delta),
        reverse=True,
    )
    value = DenseValue(first[:, :-1, :-1], first[:, :-1, -1], first[:, -1, -1])
    gains = jnp.moveaxis(gains, 1, 0)
    status = solver_status((gains, value), [curvatures], [systems])
    return DenseEquilibrium(gains[..., :-1], gains[..., -1], value, status)


def _running_cost(agent: Array, cost: GameCost, target: Array) -> Array:
    """Return one agent's running cost, effort and discount apart, as a form in (Y, 1).

    `agent` [N] is the agent's unit vector.
    """
    n, eye = agent.size, jnp.eye(target.size, dtype=target.dtype)
    own = jnp.kron(agent[None, :].astype(target.dtype), eye)
    mean = jnp.kron(jnp.full((1, n), 1 / n, target.dtype), eye)
    to_target = jnp.column_stack([own, -target])
    to_mean = jnp.column_stack([own - mean, jnp.zeros_like(target)])
    of_mean = jnp.column_stack([mean, -target])
    return (
        cost.tracking * matmul(to_target.T, to_target)
        + cost.consensus * matmul(to_mean.T, to_mean)
        + cost.ensemble * matmul(of_mean.T, of_mean)
    )


def _joint_gains(
    later: Array, moments: FeatureMoments, effort: Array
) -> tuple[Array, Array, Array]:
    """Solve one step: the N first-order conditions are one linear system in all N p controls.

    Returns:
      The gains [N, p, N d + 1] on (Y, 1), the system [N p, N p], the curvatures [N, p, p].
    """
    m = moments.mean
    n, d, p = m.shape
    each = jnp.arange(n)
    own_rows = later[:, :-1].reshape(n, n, d, n * d + 1)[each, each]  # agent i's rows of its form
    pulls = einsum("iap,iax->ipx", m, own_rows)
    blocks = own_rows[..., :-1].reshape(n, d, n, d)[each, :, each]  # P_ii
    curvature = jax.vmap(FeatureMoments.gram)(moments, blocks)
    curvature = curvature + einsum("i,pq->ipq", effort, jnp.eye(p, dtype=m.dtype))
    system = einsum("ipja,jaq->ipjq", pulls[..., :-1].reshape(n, p, n, d), m)
    system = system.at[each, :, each].set(curvature).reshape(n * p, n * p)
    gains = solve_general(system, pulls.reshape(n * p, n * d + 1))
    return gains.reshape(n, p, n * d + 1), system, curvature


def _joint_carry_back(later: Array, moments: FeatureMoments, effort: Array, gains: Array) -> Array:
    """Return every agent's cost to go one step earlier, when all agents use `gains`."""
    m = moments.mean
    n, d, _ = m.shape
    size = n * d + 1
    moves = matmul(m, gains).reshape(n * d, size)
    closed_loop = jnp.eye(size, dtype=m.dtype).at[:-1].add(-moves)
    each = jnp.arange(n)
    # blocks[i, j] = P_jj of agent i: what agent j's noise costs agent i.
    blocks = later[:, :-1, :-1].reshape(n, n, d, n, d)[:, each, :, each].swapaxes(0, 1)
    prices = jax.vmap(jax.vmap(FeatureMoments.covariance), in_axes=(None, 0))(moments, blocks)
    noise = einsum("jpx,ijpq,jqy->ixy", gains, prices, gains)
    own = einsum("i,ipx,ipy->ixy", effort, gains, gains)
    return symmetrise(matmul(closed_loop.T, later, closed_loop) + noise + own)


def solve_heterogeneous(
    costs: GameCost, moments: FeatureMoments, targets: Array, initial: Array
) -> HeterogeneousEquilibrium:
    """Solve the mean-field equilibrium of N agents that all differ, by exchanging averages only.

    The limit of many agents, approached at rate 1/N. Each agent answers a mean path with an
    affine feedback of its own state; the path that reproduces itself solves one T d x T d
    system. O(N T^2 d^2 (d + p) + (T d)^3) time, O(N T d (d + p)) memory beside the moments.
    `ensemble` plays no part: in the limit no agent moves the mean.

        backward from P = 0, s = 0:  P1 = P + delta (tracking + consensus) I
                                     s1 = s - delta (tracking y + consensus mean_field_{t+1})
        H = E Z'P1 Z + delta effort I,   own = H^-1 m'P1,   offset = H^-1 m's1
        P = P1 - P1 m own,   s = s1 - P1 m offset
        expected path of agent i = U^i mean_field + v^i,   (I - mean_i U^i) mean_field = mean_i v^i

    Axes: N agents, T horizon, d outputs, p features.

    Args:
      costs: what agents pay. Leaves are scalars, or [N] with one entry per agent, in squared
        target units; `effort` > 0, per squared control.
      moments: mean [N, T, d, p] and second [N, T, d, d, p, p] of each agent's features.
      targets: [T, d], in the series' own units; row t is y_{t+1}.
      initial: [N, d], the agents' states at t = 0, in target units.

    Returns:
      HeterogeneousEquilibrium: `own` [N, T, p, d], `offset` [N, T, p], `mean_field` [T, d],
      `expected_paths` [N, T, d], `status`.

    Raises:
      ValueError: at trace time, if a shape does not fit or effort is a number not above 0.

    Status:
      INDEFINITE if some agent's H is not positive definite; its gains are then NaN. SINGULAR if
      no single mean path reproduces itself. NON_FINITE if a result is not finite.

    Source: Huang, Yang (arXiv 2107.09168) for the limit; the fixed point as one linear system is
      own derivation, tested in tests/test_nash_dense.py.

    Example:
      >>> moments = FeatureMoments(jnp.ones((5, 3, 1, 1)), 2 * jnp.ones((5, 3, 1, 1, 1, 1)))
      >>> game = (GameCost(), moments, jnp.ones((3, 1)), jnp.zeros((5, 1)))
      >>> solve_heterogeneous(*game).mean_field.shape
      (3, 1)
    """
    costs, moments, targets = standard_game(
        costs, moments, targets, per_type=True, also=(jnp.asarray(initial),)
    )
    initial = jnp.asarray(initial, targets.dtype)
    expected = (moments.mean.shape[0], targets.shape[1])
    if initial.shape != expected:
        raise ValueError(
            f"initial has shape {initial.shape}: with moments.mean of shape "
            f"{moments.mean.shape} allowed is [N, d] = {expected}"
        )
    equilibrium: HeterogeneousEquilibrium = _solve_heterogeneous(costs, moments, targets, initial)
    return equilibrium


@record
class _Feedback:
    """One agent's answer to any pull, per step: own gain, H^-1 m', and I - m own."""

    own: Array
    reaction: Array
    keep: Array


@jax.jit
def _solve_heterogeneous(
    costs: GameCost, moments: FeatureMoments, targets: Array, initial: Array
) -> HeterogeneousEquilibrium:
    (horizon, d), dtype = targets.shape, targets.dtype
    delta = jax.vmap(lambda rate: discounts(rate, horizon, dtype))(costs.forgetting)
    feedback, H = jax.vmap(_own_feedback)(costs, moments, delta)

    def answer(pull: Array, start: Array) -> tuple[Array, Array]:
        """Return all agents' offsets and expected paths; linear in (pull, start)."""
        return jax.vmap(_answer)(feedback, moments.mean, delta[:, :, None] * pull, start)

    tracking, consensus = (
        jnp.reshape(leaf, (-1, 1, 1)) for leaf in (costs.tracking, costs.consensus)
    )

    def column(path: Array) -> Array:
        """Return the population's mean answer to a mean path: (mean_i U^i) path."""
        paths = answer(consensus * path[None], jnp.zeros_like(initial))[1]
        return jnp.mean(paths, axis=0).reshape(-1)

    # One column at a time: memory stays that of one pass over the agents.
    basis = jnp.eye(horizon * d, dtype=dtype).reshape(horizon * d, horizon, d)
    system = jnp.eye(horizon * d, dtype=dtype) - lax.map(column, basis).T
    right = jnp.mean(answer(tracking * targets[None], initial)[1], axis=0).reshape(-1)
    mean_field = solve_general(system, right).reshape(horizon, d)
    pull = tracking * targets[None] + consensus * mean_field[None]
    offset, paths = answer(pull, initial)
    results = (feedback.own, offset, mean_field)
    status = solver_status(results, [H], [H, system])
    return HeterogeneousEquilibrium(feedback.own, offset, mean_field, paths, status)


def _own_feedback(cost: GameCost, moments: FeatureMoments, delta: Array) -> tuple[_Feedback, Array]:
    """Solve one agent's Riccati recursion, which no other agent enters; return also its H."""
    _, d, p = moments.mean.shape
    eye = jnp.eye(d, dtype=delta.dtype)

    def step(P: Array, now: tuple[FeatureMoments, Array]) -> tuple[Array, tuple[_Feedback, Array]]:
        stage, discount = now
        m = stage.mean
        P1 = P + discount * (cost.tracking + cost.consensus) * eye
        H = stage.gram(P1) + discount * cost.effort * jnp.eye(p, dtype=delta.dtype)
        reaction = solve_spd(H, m.T)
        own = matmul(reaction, P1)
        keep = eye - matmul(m, own)
        return symmetrise(matmul(P1, keep)), (_Feedback(own, reaction, keep), H)

    _, (feedback, H) = lax.scan(step, jnp.zeros_like(eye), (moments, delta), reverse=True)
    return feedback, H


def _answer(feedback: _Feedback, m: Array, pull: Array, start: Array) -> tuple[Array, Array]:
    """Return one agent's offsets [T, p] and expected path [T, d] for discounted pulls [T, d]."""

    def back(s: Array, now: tuple[_Feedback, Array]) -> tuple[Array, Array]:
        stage, pull_now = now
        s1 = s - pull_now
        # (I - P1 m H^-1 m') s1 is keep' s1, as P1 and H are symmetric.
        return matmul(stage.keep.T, s1), matmul(stage.reaction, s1)

    _, offset = lax.scan(back, jnp.zeros_like(start), (feedback, pull), reverse=True)

    def ahead(y: Array, now: tuple[_Feedback, Array, Array]) -> tuple[Array, Array]:
        stage, m_now, offset_now = now
        y = matmul(stage.keep, y) - matmul(m_now, offset_now)
        return y, y

    return offset, lax.scan(ahead, start, (feedback, m, offset))[1]
