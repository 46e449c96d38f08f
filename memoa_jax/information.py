"""What agents know of the mean field: its realised value, or only what they can compute.

With *feedback* every agent is told the realised mean field at every step. *Offline* nothing is
told after t = 0: each agent rolls the mean field forward by itself, from its mean at t = 0 (of
the given states, or of the law that they are drawn from).
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from memoa_jax.game import FeatureMoments
from memoa_jax.linalg import einsum, matmul
from memoa_jax.nash_step import FeedbackGains
from memoa_jax.types import Array

Information = Literal["feedback", "offline"]


def check_information(information: str) -> None:
    """Refuse anything but the two patterns.

    Raises:
      ValueError: if information is neither "feedback" nor "offline".
    """
    if information not in ("feedback", "offline"):
        raise ValueError(f'information = {information!r}: allowed is "feedback" or "offline"')


def offline_gains(
    moments: FeatureMoments, gains: FeedbackGains, mean_field: Array
) -> FeedbackGains:
    """Return the gains of agents that roll the mean field forward instead of being told it.

    Exact; O(T d p). The rolled and the realised mean field differ by O(1/sqrt(N)).

        z_0 = mean_field,    z_{t+1} = z_t - m_t ((own_t + mean_t) z_t + offset_t)
        beta^i_t = -(own_t Y^i_t + [mean_t z_t + offset_t])

    Axes: T horizon, d outputs, p features; with K types a leading axis K everywhere, and
    ``gains.mean [K, T, p, K d]`` reads all types' means, which are rolled together.

    Args:
      moments: mean [T, d, p] of the features (the second moments are not used).
      gains: own [T, p, d], mean [T, p, d], offset [T, p].
      mean_field: [d], the mean of all states at t = 0, in target units.

    Returns:
      FeedbackGains with the same `own`, no `mean`, and the bracket as `offset`.

    Source: own derivation, tested in tests/test_analysis.py.

    Example:
      >>> from memoa_jax import GameCost, solve_nash
      >>> moments = FeatureMoments.from_samples(jnp.ones((3, 10, 1, 1)))
      >>> gains = solve_nash(GameCost(), moments, jnp.ones((3, 1)), None).gains
      >>> float(jnp.sum(offline_gains(moments, gains, jnp.zeros(1)).mean))
      0.0
    """
    typed = gains.own.ndim == 4
    arguments = jnp.asarray(moments.mean), gains, jnp.asarray(mean_field)
    if not typed:
        arguments = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], arguments)
    offset = _rolled_offset(*arguments)
    return FeedbackGains(gains.own, jnp.zeros_like(gains.mean), offset if typed else offset[0])


@jax.jit
def _rolled_offset(mean: Array, gains: FeedbackGains, mean_field: Array) -> Array:
    """Return the offsets [K, T, p] of K types that roll their means [K, d]."""

    def roll(z: Array, now: tuple[Array, FeedbackGains]) -> tuple[Array, Array]:
        m, gains_now = now
        offset = matmul(gains_now.mean, z.reshape(-1)) + gains_now.offset
        control = einsum("kpa,ka->kp", gains_now.own, z) + offset
        return z - einsum("kap,kp->ka", m, control), offset

    by_step = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), (mean, gains))
    return jnp.moveaxis(lax.scan(roll, mean_field, by_step)[1], 0, 1)
