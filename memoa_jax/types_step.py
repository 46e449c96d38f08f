"""The algebra of one backward step of a game of K types, shared by its solvers and its analysis.

As `memoa_jax.nash_step`, with one mean field per type: an agent of type k sees
x = (Y, mbar_1 .. mbar_K, 1). A cost to go is that of one observer: its form `joint` in x, and
what it pays for the spread of each type's states, `spread [K, d, d]`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from memoa_jax.game import FeatureMoments
from memoa_jax.linalg import einsum, matmul, solve_general, solve_spd, symmetrise
from memoa_jax.nash_step import CostToGo
from memoa_jax.types import Array, record


@record
class Crowd:
    """What all agents do in one step: moments [K, ..], 1/N_k [K], rows [K, p, n] of gains.

    `following` [K d, K d + 1] maps the means and a one to the next means.
    """

    moments: FeatureMoments
    shares: Array
    rows: Array
    following: Array

    @classmethod
    def playing(cls, moments: FeatureMoments, shares: Array, rows: Array) -> Crowd:
        """Return the crowd that plays given rows; means move as the average agents do."""
        types, d, _ = moments.mean.shape
        at_means = views_at_means(types, d, rows.dtype)
        moves = einsum("kap,kpx,kxy->kay", moments.mean, rows, at_means)[:, :, d:]
        stay = jnp.eye(types * d, types * d + 1, dtype=rows.dtype)
        return cls(moments, shares, rows, stay - moves.reshape(types * d, types * d + 1))

    def of_type(self, index: Array) -> tuple[FeatureMoments, Array, Array]:
        """Return the moments, the share and the rows of one type."""
        found: tuple[FeatureMoments, Array, Array] = jax.tree.map(
            lambda leaf: leaf[index], (self.moments, self.shares, self.rows)
        )
        return found


def views_at_means(types: int, d: int, dtype: jnp.dtype) -> Array:
    """Return [K, n, n]: x to (mbar_l, means, 1), the view of type l's average agent."""
    identity = jnp.eye(d + types * d + 1, dtype=dtype)
    own_means = identity[d:-1].reshape(types, d, -1)
    return jax.vmap(lambda own: jnp.concatenate([own, identity[d:]]))(own_means)


def own_slope(
    index: Array, later: CostToGo, moments: FeatureMoments, effort: Array, share: Array
) -> tuple[Array, Array, Array]:
    """Return slope and curvature of the cost of an agent of one type in its own control.

        d/dbeta (cost)/2 = H2 beta + m'slope (Y, mbar+, 1)      slope = [E F f]
        E = A + (J'B' + D)/N_k,   F = B + J'C/N_k,   f = a + J'b/N_k

    with mbar+ the next means before the agent's own move is added. J selects the own block of
    the stacked means, D the own entry of the spread.

    Returns:
      slope [d, n], H2 [p, p], and F J [d, d].
    """
    m, d = moments.mean, moments.mean.shape[0]
    start = d + d * index
    slope = later.joint[:d] + share * lax.dynamic_slice_in_dim(later.joint, start, d, axis=0)
    slope = slope.at[:, :d].add(share * later.spread[index])
    F_own = lax.dynamic_slice_in_dim(slope, start, d, axis=1)
    H2 = moments.gram(slope[:, :d] + share * F_own)
    return slope, symmetrise(H2) + effort * jnp.eye(m.shape[1], dtype=m.dtype), F_own


def meet(m: Array, reaction: Array) -> tuple[Array, Array, Array]:
    """Solve for the means that all types' reactions lead to; [m reaction] = [LE LF Lf].

        beta = -reaction_k (Y, mbar+, 1)
        (I + blk(LF)) mbar+ = (I - blkdiag(LE)) mbar - blk(Lf)

    Returns:
      The rows [K, p, n] of gains, the map [K d, K d + 1] of (mbar, 1) to mbar+, the system.
    """
    types, d, _ = m.shape
    eye = jnp.eye(types * d, dtype=m.dtype)
    moves = matmul(m, reaction)
    system = eye + moves[:, :, d:-1].reshape(types * d, types * d)
    right = jnp.column_stack(
        [eye - block_diagonal(moves[:, :, :d]), -moves[:, :, -1].reshape(types * d)]
    )
    following = solve_general(system, right)
    at_means = matmul(reaction[:, :, d:-1], following).at[:, :, -1].add(reaction[:, :, -1])
    return jnp.concatenate([reaction[:, :, :d], at_means], axis=2), following, system


def block_diagonal(blocks: Array) -> Array:
    """Place [K, d, d] on the diagonal of [K d, K d]; one scatter, whatever K is."""
    types, d, _ = blocks.shape
    each = jnp.arange(types)
    placed = jnp.zeros((types, d, types, d), blocks.dtype).at[each, :, each].set(blocks)
    return placed.reshape(types * d, types * d)


def best_rows(index: Array, later: CostToGo, crowd: Crowd, effort: Array) -> tuple[Array, Array]:
    """Solve for one agent's best response to the crowd; the rows [p, n] and H2 [p, p].

    H2 best = m'slope (Y, mbar+ of the others, 1)
    """
    moments, share, rows = crowd.of_type(index)
    m, d = moments.mean, moments.mean.shape[0]
    slope, H2, _ = own_slope(index, later, moments, effort, share)
    others = _shared(index, crowd, share * matmul(m, rows))
    stay = jnp.concatenate([jnp.eye(d, others.shape[1], dtype=m.dtype), others])
    return solve_spd(H2, matmul(m.T, slope, stay)), H2


def _shared(index: Array, crowd: Crowd, deviation: Array) -> Array:
    """Return x to (mbar+, 1), when one agent moves its type's mean by `deviation` [d, n] more."""
    d, size = deviation.shape
    still = jnp.zeros((crowd.following.shape[0], d), deviation.dtype)
    means = jnp.concatenate([still, crowd.following], axis=1)
    own = lax.dynamic_slice_in_dim(means, d * index, d, axis=0)
    means = lax.dynamic_update_slice_in_dim(means, own + deviation, d * index, axis=0)
    return jnp.concatenate([means, jnp.eye(size, dtype=means.dtype)[-1:]])


def carry_back(
    index: Array,
    later: CostToGo,
    crowd: Crowd,
    effort: Array,
    average_efforts: Array | None = None,
    own: Array | None = None,
) -> CostToGo:
    """Return an observer's cost to go one step earlier, when all agents play the crowd's rows.

    As `memoa_jax.nash_step.carry_back`; what the observer pays for the spread of each type's
    states, and for the noise that each type brings into its own mean, is summed over types.

    Args:
      index: the observer's type.
      later: its cost to go of step t+1, that step's running cost included.
      crowd: what everybody does at step t.
      effort: price of the observer's own |beta|^2, discounted.
      average_efforts: [K], price of mean_j |beta^j|^2 over each type, discounted; none if None.
      own: [p, n], the observer's gains where it deviates.
    """
    moments, share, rows = crowd.of_type(index)
    (types, d, p), P = crowd.moments.mean.shape, later.joint
    dtype, size = P.dtype, P.shape[0]
    take_own, features = jnp.eye(d, size, dtype=dtype), jnp.eye(p, dtype=dtype)
    prices = jnp.zeros(types, dtype) if average_efforts is None else average_efforts

    def spread_of(other: Array, gains: Array) -> Array:
        """Return what is paid for E Y+'D Y+ of an agent of a type, as a form in its view."""
        theirs, their_share, _ = crowd.of_type(other)
        C = lax.dynamic_slice(P, (d + d * other, d + d * other), (d, d))
        D = later.spread[other]
        X = theirs.covariance(D + their_share * C) + prices[other] * features
        following = take_own - matmul(theirs.mean, gains)
        return matmul(following.T, D, following) + matmul(gains.T, X, gains)

    S = jax.vmap(spread_of)(jnp.arange(types), crowd.rows)
    # mean_j x^j'S x^j over each type: its mean's own part, and the spread of the states around it.
    at_means = views_at_means(types, d, dtype)
    joint = einsum("lax,lab,lby->xy", at_means, S, at_means)
    joint = joint.at[d:-1, d:-1].add(-block_diagonal(S[:, :d, :d]))
    if own is None:
        own, deviation = rows, jnp.zeros((d, size), dtype)
    else:
        deviation = share * matmul(moments.mean, rows - own)
        joint = joint + share * (spread_of(index, own) - S[index])
    B = lax.dynamic_slice(P, (0, d + d * index), (d, d))
    U = moments.covariance(P[:d, :d] + 2 * share * symmetrise(B)) + effort * features
    move = jnp.concatenate([take_own - matmul(moments.mean, own), _shared(index, crowd, deviation)])
    joint = joint + matmul(move.T, P, move) + matmul(own.T, U, own)
    return CostToGo(symmetrise(joint), symmetrise(S[:, :d, :d]))
