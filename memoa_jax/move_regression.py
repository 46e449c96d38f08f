"""Every agent's forecast of the series' next move: a ridge regression on its own features."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from memoa_jax.regression import NormalEquations, Penalty
from memoa_jax.types import Array, Dimensions, Observation, Scalar, record, static


@record
class Forecasts:
    """Every agent's regression of the series' moves on its own features, forgotten slowly.

        gram   = sum_{s<t} discount^{t-1-s} W_s'W_s
        moment = sum_{s<t} discount^{t-1-s} W_s'(y_{s+1} - y_s)

    W = Z; but with `contrasts` W = Z T' (see `contrasted`), the same regression written in the
    features' differences. The step in progress waits in `features` [d, p, N], as W; `target` [d]
    is the last observed value and `known` whether it was the last row's.
    """

    equations: NormalEquations
    features: Array
    target: Array
    known: Array
    contrasts: bool = static(default=False)

    @classmethod
    def empty(cls, dimensions: Dimensions, num_agents: int, dtype: Any) -> Forecasts:
        """Return forecasts that know nothing."""
        d, p = dimensions.outputs, dimensions.features
        return cls(
            equations=NormalEquations.empty(p, num_agents, dtype),
            features=jnp.zeros((d, p, num_agents), dtype),
            target=jnp.zeros((d,), dtype),
            known=jnp.zeros((), bool),
            contrasts=dimensions.shared_input,
        )

    def next(
        self, observation: Observation, discount: Scalar, ridge: Scalar
    ) -> tuple[Forecasts, Array]:
        """Enter the move that was waited for; forecast the next one, s^i = Z^i theta^i, [d, N]."""
        # A move is known when both of its ends are; the others still age.
        counted = observation.known & self.known & (observation.step > 0)
        seen = observation.features
        features = contrasted(seen) if self.contrasts else seen
        move, weight = observation.target - self.target, counted.astype(features.dtype)
        equations = self.equations.add(self.features, move, weight, discount)
        penalty = contrasted_penalty(features.shape[1]) if self.contrasts else None
        forecast = equations.predict(ridge, features, penalty)
        waiting = (features, observation.target, observation.known)
        return Forecasts(equations, *waiting, self.contrasts), forecast


def contrasted(features: Array) -> Array:
    """Return the first feature, and by how much the others exceed it: Z T', [d, p, N].

    Features that one input drives all alike, Z = phi(A x 1' + b + ..), are nearly the same number
    when the input is large, and the sums of their products hold their differences in the last
    digits only. Sums of differences hold them in the first.

    Example:
      >>> contrasted(jnp.array([[[5.0], [6.0], [4.0]]])).ravel().tolist()
      [5.0, 1.0, -1.0]
    """
    others = np.ones((1, features.shape[1], 1))
    others[:, 0] = 0
    return features - jnp.asarray(others, features.dtype) * features[:, :1]


def contrasted_penalty(features: int) -> Penalty:
    """Return T T' of p features: |theta|^2 in terms of the contrasts' weights, theta = T' w.

    Example:
      >>> contrasted_penalty(3)
      ((1.0, -1.0, -1.0), (-1.0, 2.0, 1.0), (-1.0, 1.0, 2.0))
    """
    change = np.eye(features)
    change[1:, 0] = -1
    return tuple(map(tuple, (change @ change.T).tolist()))
