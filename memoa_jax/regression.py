"""One ridge regression per agent, on the agent's own features: its normal equations.

Agents are the last axis. The Gram matrix is kept as the rows of its lower triangle, an array
each: every update and every step of the elimination is then plain arithmetic over agents, and
nothing computed is ever packed into a larger array (on CPU, XLA packs 10 to 100 times slower
than it computes).
"""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import NDArray

from memoa_jax.arithmetic import added
from memoa_jax.cached import in_cache
from memoa_jax.linalg import UNROLLED_FEATURES, solve_library, solve_positive_lanes
from memoa_jax.types import Array, Scalar, record

Penalty = NDArray[np.floating[Any]]
"""Known when a run is compiled, [p, p]."""


@record
class NormalEquations:
    """Every agent's normal equations: sums of Z'Z and Z'm over steps, each with its weight.

    `gram` holds p arrays, row a being [a + 1, N]; `moment` is [p, N]. `empty` makes them,
    `add` enters a step, `solve` fits.
    """

    gram: tuple[Array, ...]
    moment: Array

    @classmethod
    def empty(cls, features: int, num_agents: int, dtype: Any) -> NormalEquations:
        """Return equations of no step.

        Example:
          >>> NormalEquations.empty(2, 3, jnp.float32).moment.shape
          (2, 3)
        """
        return cls(
            gram=tuple(jnp.zeros((a + 1, num_agents), dtype) for a in range(features)),
            moment=jnp.zeros((features, num_agents), dtype),
        )

    def add(
        self, features: Array, response: Array, weight: Scalar = 1.0, fade: Scalar = 1.0
    ) -> NormalEquations:
        """Enter one step, after fading what was entered before; exact, O(d p^2) per agent.

            gram <- fade gram + weight Z'Z,     moment <- fade moment + weight Z'm

        Args:
          features: Z [d, p, N].
          response: m, what they explain, [d, N]; or [d] where it is the same for all agents.
          weight: of the step; negative takes one out. A scalar, or one per agent [N].
          fade: a scalar, or one per agent [N].

        Example:
          >>> one = NormalEquations.empty(1, 2, jnp.float32)
          >>> one.add(jnp.ones((1, 1, 2)), jnp.array([3.0])).moment.tolist()
          [[3.0, 3.0]]
        """
        weight, fade = jnp.asarray(weight, features.dtype), jnp.asarray(fade, features.dtype)
        weight = jnp.broadcast_to(weight, features.shape[-1:])
        fade = fade[None] if fade.ndim else fade
        response = jnp.broadcast_to(
            response.reshape((-1, 1)) if response.ndim == 1 else response,
            (features.shape[0], features.shape[-1]),
        )
        weighted = features * weight[None, None]
        outputs = range(features.shape[0])
        return NormalEquations(
            gram=tuple(
                fade * row + added([weighted[o, a][None] * features[o, : a + 1] for o in outputs])
                for a, row in enumerate(self.gram)
            ),
            moment=fade * self.moment + added([weighted[o] * response[o][None] for o in outputs]),
        )

    def solve(self, ridge: Scalar, penalty: Penalty | None = None) -> Array:
        """Return (gram + ridge P)^{-1} moment of every agent, [p, N]; exact, O(p^3) per agent.

        Args:
          ridge: > 0, a scalar or one per agent [N].
          penalty: P, positive definite, the same for all agents; the identity for None.

        Example:
          >>> one = NormalEquations((jnp.ones((1, 2)),), jnp.ones((1, 2)))
          >>> one.solve(3.0).tolist()
          [[0.25, 0.25]]
        """
        p = len(self.gram)
        ridge = jnp.asarray(ridge, self.moment.dtype)
        penalty = np.eye(p) if penalty is None else penalty
        if p <= UNROLLED_FEATURES:
            # Its gradient solves a second system, instead of going through the elimination.
            solution: Array = lax.custom_linear_solve(
                lambda x: self._penalised(ridge, penalty).multiply(x),
                self.moment,
                solve=lambda _, right: lax.platform_dependent(
                    self.gram,
                    ridge,
                    right,
                    cpu=functools.partial(in_cache, functools.partial(_eliminate, penalty)),
                    default=functools.partial(_eliminate, penalty),
                ),
                symmetric=True,
            )
            return solution
        gram = self._penalised(ridge, penalty).gram
        rows = [jnp.pad(row, ((0, p - 1 - a), (0, 0))) for a, row in enumerate(gram)]
        lower = jnp.moveaxis(jnp.stack(rows), -1, 0)
        identity = jnp.eye(p, dtype=lower.dtype)[None]
        both = lower + jnp.swapaxes(lower, 1, 2)
        return solve_library(both - lower * identity, self.moment.T).T

    def _penalised(self, ridge: Array, penalty: Penalty) -> NormalEquations:
        """Return the equations with ridge P added to the Gram matrix."""
        strength = jnp.broadcast_to(ridge, self.moment.shape[-1:])[None]
        return NormalEquations(
            tuple(
                row + jnp.asarray(penalty[a, : a + 1], ridge.dtype)[:, None] * strength
                for a, row in enumerate(self.gram)
            ),
            self.moment,
        )

    def multiply(self, readout: Array) -> Array:
        """Return gram x of every agent, [p, N], for x [p, N]."""
        p = len(self.gram)
        return jnp.stack(
            [
                added([self.gram[max(a, b)][min(a, b)] * readout[b] for b in range(p)])
                for a in range(p)
            ]
        )

    def trace(self) -> Array:
        """Return every agent's sum of squared features, [N]."""
        return added([row[a] for a, row in enumerate(self.gram)])


def _eliminate(penalty: Penalty, gram: tuple[Array, ...], ridge: Array, right: Array) -> Array:
    """Solve for all agents at once, [p, N]."""
    matrix = [
        [row[b] + ridge * float(penalty[a, b]) if penalty[a, b] else row[b] for b in range(a + 1)]
        for a, row in enumerate(gram)
    ]
    return jnp.stack(solve_positive_lanes(matrix, list(right)))
