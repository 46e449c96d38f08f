"""Nash equilibrium of agents of several types: own features, own costs, own group sizes.

The recursion of `solve_nash` with one mean field per type: an agent of type k sees
x = (Y, mbar_1 .. mbar_K, 1). Its cost does not depend on the numbers of agents.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from memoa_jax.linalg import einsum, matmul, solve_general, solve_spd, symmetrise
from memoa_jax.nash_step import (
    CostToGo,
    Equilibrium,
    NashValue,
    Stage,
    running_cost,
    solver_status,
    split_rows,
)
from memoa_jax.types import Array, Scalar

Counts = Sequence[int | Scalar | None] | Array


def solve_nash_types(
    costs: GameCost,
    moments: FeatureMoments,
    targets: Array,
    counts: Counts,
    weights: Sequence[float] | Array | None = None,
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
    costs, moments, targets = standard_game(costs, moments, targets, per_type=True)
    types, dtype = moments.mean.shape[0], targets.dtype
    sizes, limits = _sizes(counts, types)
    if weights is None:
        if limits:
            raise ValueError(
                f"weights = None with counts = {counts!r}: allowed only if every count is a "
                "number; give the weight of each type's mean, shape [K]"
            )
        numbers = jnp.stack([jnp.asarray(size, dtype) for size in sizes])
        weights = numbers / jnp.sum(numbers)
    weights = jnp.asarray(weights, dtype)
    if weights.shape != (types,):
        raise ValueError(f"weights has shape {weights.shape}: allowed is [K] = ({types},)")
    shares = jnp.stack([inverse_population(size, dtype) for size in sizes])
    equilibrium: Equilibrium[NashValue] = _solve_types(costs, moments, targets, shares, weights)
    return equilibrium


def _sizes(counts: Counts, types: int) -> tuple[list[Any], bool]:
    """Split counts into one number (or None) per type; tell whether there is a None."""
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
    return sizes, any(size is None for size in sizes)


@jax.jit
def _solve_types(
    costs: GameCost, moments: FeatureMoments, targets: Array, shares: Array, weights: Array
) -> Equilibrium[NashValue]:
    (horizon, d), types, dtype = targets.shape, weights.size, targets.dtype
    average = jnp.kron(weights[None, :], jnp.eye(d, dtype=dtype))  # stacked means -> ensemble's
    size = d + types * d + 1

    def step(later: CostToGo, stage: Stage) -> tuple[CostToGo, Any]:
        # Everything of a stage but the target has a leading axis K, and so has the cost to go:
        # joint [K, n, n] over (Y, means, 1), spread [K, K, d, d].
        arrival = jax.vmap(running_cost, in_axes=(0, None, None))(costs, average, stage.target)
        joint = later.joint + stage.discount[:, None, None] * arrival
        effort = stage.discount * costs.effort
        reaction, curvature, systems = jax.vmap(_react)(
            jnp.arange(types), joint, later.spread, stage.moments, effort, shares
        )
        rows, following, system = _meet(stage.moments.mean, reaction)
        later = CostToGo(joint, later.spread)
        now = _carry_back(later, stage.moments, shares, rows, following, effort)
        return now, (rows, curvature, systems, system)

    last = CostToGo(jnp.zeros((types, size, size), dtype), jnp.zeros((types, types, d, d), dtype))
    by_step = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), moments)
    delta = jax.vmap(lambda rate: discounts(rate, horizon, dtype), out_axes=1)(costs.forgetting)
    first, (rows, curvatures, systems, system) = lax.scan(
        step, last, Stage(by_step, targets, delta), reverse=True
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
    index: Array,
    joint: Array,
    spread: Array,
    moments: FeatureMoments,
    effort: Array,
    share: Array,
) -> tuple[Array, Array, Array]:
    """Solve the condition of one type's agents for their control, given the next means.

        H beta = -m'(E Y + F mbar+ + f)
        E = A + (J'B' + D)/N_k,   F = B + J'C/N_k,   f = a + J'b/N_k,   H = H2 - m'F J m/N_k

    J selects the type's own block of the stacked means, D its own entry of the spread.

    Returns:
      The reaction [p, n]: beta = -reaction (Y, mbar+, 1); H2 and H.
    """
    m, d = moments.mean, moments.mean.shape[0]
    start = d + d * index
    slope = joint[:d] + share * lax.dynamic_slice_in_dim(joint, start, d, axis=0)
    slope = slope.at[:, :d].add(share * spread[index])  # [E F f]
    F_own = lax.dynamic_slice_in_dim(slope, start, d, axis=1)  # F J
    H2 = moments.gram(slope[:, :d] + share * F_own)
    H2 = symmetrise(H2) + effort * jnp.eye(m.shape[1], dtype=m.dtype)
    H = H2 - share * matmul(m.T, F_own, m)
    # As in the exchangeable game, H is symmetric for one output only.
    solve = solve_spd if d == 1 else solve_general
    return solve(H, matmul(m.T, slope)), H2, H


def _meet(m: Array, reaction: Array) -> tuple[Array, Array, Array]:
    """Solve for the means that all types' reactions lead to; [m reaction] = [LE LF Lf].

        (I + blk(LF)) mbar+ = (I - blkdiag(LE)) mbar - blk(Lf)

    Returns:
      The rows [K, p, n] of gains, the map [K d, K d + 1] of (mbar, 1) to mbar+, the system.
    """
    types, d, _ = m.shape
    eye = jnp.eye(types * d, dtype=m.dtype)
    moves = matmul(m, reaction)
    system = eye + moves[:, :, d:-1].reshape(types * d, types * d)
    right = jnp.column_stack(
        [eye - _block_diagonal(moves[:, :, :d]), -moves[:, :, -1].reshape(types * d)]
    )
    following = solve_general(system, right)
    at_means = matmul(reaction[:, :, d:-1], following).at[:, :, -1].add(reaction[:, :, -1])
    return jnp.concatenate([reaction[:, :, :d], at_means], axis=2), following, system


def _block_diagonal(blocks: Array) -> Array:
    """Place [K, d, d] on the diagonal of [K d, K d]; one scatter, whatever K is."""
    types, d, _ = blocks.shape
    each = jnp.arange(types)
    placed = jnp.zeros((types, d, types, d), blocks.dtype).at[each, :, each].set(blocks)
    return placed.reshape(types * d, types * d)


def _carry_back(
    later: CostToGo,
    moments: FeatureMoments,
    shares: Array,
    rows: Array,
    following: Array,
    effort: Array,
) -> CostToGo:
    """Return every type's cost to go one step earlier, when all agents use `rows`.

    As `memoa_jax.nash_step.carry_back`; what type k pays for the spread of type l's states and for
    the noise that type l brings into its own mean is summed over l.
    """
    (types, d, p), P, dtype = moments.mean.shape, later.joint, rows.dtype
    size = P.shape[-1]
    identity = jnp.eye(size, dtype=dtype)
    next_own = identity[None, :d] - matmul(moments.mean, rows)  # [K, d, n]
    next_means = jnp.concatenate([jnp.zeros((types * d, d), dtype), following], axis=1)
    shared = jnp.concatenate([next_means, identity[-1:]])
    # x of an agent of type l at the mean of its type: (mbar_l, means, 1).
    own_means = identity[d:-1].reshape(types, d, size)
    at_means = jax.vmap(lambda own: jnp.concatenate([own, identity[d:]]))(own_means)

    def spread_of(other: Array, P_k: Array, D: Array) -> Array:
        """Return what type k pays for E Y+'D Y+ averaged over another type, as a form in its x."""
        C = lax.dynamic_slice(P_k, (d + d * other, d + d * other), (d, d))
        X = jax.tree.map(lambda leaf: leaf[other], moments).covariance(D + shares[other] * C)
        return matmul(next_own[other].T, D, next_own[other]) + matmul(rows[other].T, X, rows[other])

    def one_type(k: Array, P_k: Array, spread: Array) -> tuple[Array, Array]:
        S = jax.vmap(spread_of, in_axes=(0, None, 0))(jnp.arange(types), P_k, spread)
        B = lax.dynamic_slice(P_k, (0, d + d * k), (d, d))
        weight = P_k[:d, :d] + 2 * shares[k] * symmetrise(B)
        U = jax.tree.map(lambda leaf: leaf[k], moments).covariance(weight)
        U = U + effort[k] * jnp.eye(p, dtype=dtype)
        move = jnp.concatenate([next_own[k], shared])
        joint = matmul(move.T, P_k, move) + matmul(rows[k].T, U, rows[k])
        joint = joint + einsum("lax,lab,lby->xy", at_means, S, at_means)
        joint = joint.at[d:-1, d:-1].add(-_block_diagonal(S[:, :d, :d]))
        return symmetrise(joint), symmetrise(S[:, :d, :d])

    joint, spread = jax.vmap(one_type)(jnp.arange(types), P, later.spread)
    return CostToGo(joint, spread)
