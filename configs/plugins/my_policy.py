"""A policy of one's own: read-outs that learn by normalised gradient steps and lean on the crowd.

    e^i_t     = (y_t - y_{t-1}) - Z^i_{t-1} theta^i_{t-1}
    theta^i_t = theta^i_{t-1} + rate Z^i_{t-1}' e^i_t / (floor + |Z^i_{t-1}|^2)
    Y^i_{t+1} = y_t + (1 - lean) Z^i_t theta^i_t + lean mean_j Z^j_t theta^j_t

O(d p) per agent and step: no matrix is ever solved. Run it with
`memoa run configs/plugins/my_policy.toml`, or from Python:

    simulate(series, encoder, nlms(rate=0.01), mixture, num_agents=1000, key=key)
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from memoa_jax.types import (
    Action,
    Array,
    Dimensions,
    Observation,
    Scalar,
    Status,
    Tree,
    record,
)


@record
class Memory:
    """What the next step needs: read-outs [p, N], the last features [d, p, N] and target [d]."""

    readout: Array
    features: Array
    target: Array
    known: Array


@record
class Nlms:
    """See `nlms`. Its numbers are data: a sweep over them compiles one program."""

    rate: Scalar
    lean: Scalar
    floor: Scalar

    def init(self, dimensions: Dimensions, num_agents: int, dtype: Any) -> Memory:
        """Return read-outs of zero, and nothing seen."""
        d, p = dimensions.outputs, dimensions.features
        return Memory(
            readout=jnp.zeros((p, num_agents), dtype),
            features=jnp.zeros((d, p, num_agents), dtype),
            target=jnp.zeros(d, dtype),
            known=jnp.asarray(False),
        )

    def act(self, state: Memory, observation: Observation) -> tuple[Tree, Action]:
        """Learn from the last move, forecast the next one, and lean on the mean forecast."""
        move = observation.target - state.target
        error = move[:, None] - _forecast(state.features, state.readout)
        size = self.floor + jnp.sum(state.features**2, axis=(0, 1))
        step = self.rate * jnp.sum(state.features * error[:, None], axis=0) / size[None]
        # A move is known where both of its ends are; before step 0 nothing is.
        readout = state.readout + jnp.where(state.known & observation.known, step, 0.0)
        forecast = _forecast(observation.features, readout)
        crowd = observation.population.mean(forecast)
        base = (observation.target + self.lean * crowd)[:, None]
        action = Action(
            base=jnp.broadcast_to(base, forecast.shape),
            control=(1 - self.lean) * readout,
            status=jnp.int32(Status.OK),
        )
        seen = Memory(readout, observation.features, observation.target, observation.known)
        return seen, action


def _forecast(features: Array, readout: Array) -> Array:
    return jnp.sum(features * readout[None], axis=1)


def nlms(rate: float = 0.01, lean: float = 0.9, floor: float = 1e-3) -> Nlms:
    """Make agents that learn by normalised least mean squares.

    Args:
      rate: of learning, > 0 and below 2, where it becomes unstable.
      lean: share of the mean forecast in an agent's own, 0 to 1.
      floor: > 0, added to the size of the features.

    Raises:
      ValueError: if a number is outside of what is allowed.
    """
    if not 0 < rate < 2:
        raise ValueError(f"rate = {rate}: allowed is a number > 0 and < 2")
    if not 0 <= lean <= 1:
        raise ValueError(f"lean = {lean}: allowed is a number from 0 to 1")
    if not floor > 0:
        raise ValueError(f"floor = {floor}: allowed is a number > 0")
    return Nlms(rate=rate, lean=lean, floor=floor)
