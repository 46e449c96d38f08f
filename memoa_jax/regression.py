"""One ridge regression per agent, on the agent's own features: its normal equations.

Agents are the last axis. The Gram matrix is kept as the rows of its lower triangle, an array
each: every update and every step of the elimination is then plain arithmetic over agents, and
nothing computed is ever packed into a larger array (on CPU, XLA packs 10 to 100 times slower
than it computes).
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from memoa_jax.arithmetic import added, apart
from memoa_jax.cached import in_cache
from memoa_jax.linalg import (
    UNROLLED_FEATURES,
    applied,
    bilinear_in_one_loop,
    solve_in_one_loop,
    solve_library,
    solve_positive_lanes,
)
from memoa_jax.types import Array, Scalar, record

Penalty = tuple[tuple[float, ...], ...]
"""A matrix [p, p], known when a run is compiled."""


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
        penalty = plain(p) if penalty is None else penalty
        if p <= UNROLLED_FEATURES:
            eliminate = functools.partial(_eliminate, penalty=penalty)
            # Its gradient solves a second system, instead of going through the elimination.
            solution: Array = lax.custom_linear_solve(
                lambda x: self._penalised(ridge, penalty).multiply(x),
                self.moment,
                solve=lambda _, right: lax.platform_dependent(
                    self.gram,
                    ridge,
                    right,
                    cpu=functools.partial(in_cache, eliminate),
                    default=eliminate,
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

    def predict(self, ridge: Scalar, features: Array, penalty: Penalty | None = None) -> Array:
        """Return Z x, [d, N], of the solution x = `solve(ridge, penalty)`; the same up to rounding.

        Args:
          ridge: as in `solve`.
          features: Z [d, p, N].
          penalty: as in `solve`.

        Example:
          >>> one = NormalEquations((jnp.ones((1, 2)),), jnp.ones((1, 2)))
          >>> one.predict(3.0, jnp.full((1, 1, 2), 8.0)).tolist()
          [[2.0, 2.0]]
        """
        penalty = plain(len(self.gram)) if penalty is None else penalty
        return _predicted(penalty, self, jnp.asarray(ridge, features.dtype), features)

    def fit(self, ridge: Scalar, features: Array) -> tuple[Array, Array]:
        """Return Z x, [d, N], and |x|^2, [N], of x = `solve(ridge)`; the same up to rounding.

        Args:
          ridge: as in `solve`.
          features: Z [d, p, N].

        Example:
          >>> one = NormalEquations((jnp.ones((1, 2)),), jnp.ones((1, 2)))
          >>> [found.tolist() for found in one.fit(3.0, jnp.full((1, 1, 2), 8.0))]
          [[[2.0, 2.0]], [0.0625, 0.0625]]
        """
        return _fitted(self, jnp.asarray(ridge, features.dtype), features)

    def _penalised(self, ridge: Array, penalty: Penalty) -> NormalEquations:
        """Return the equations with ridge P added to the Gram matrix."""
        strength = jnp.broadcast_to(ridge, self.moment.shape[-1:])[None]
        return NormalEquations(
            tuple(
                row + jnp.asarray(penalty[a][: a + 1], ridge.dtype)[:, None] * strength
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


def plain(features: int) -> Penalty:
    """Return the penalty of a plain ridge."""
    return tuple(tuple(float(a == b) for b in range(features)) for a in range(features))


# Within a larger program: it is long, and asked for in several places, but traced once.
@functools.partial(jax.jit, static_argnames="penalty")
def _eliminate(gram: tuple[Array, ...], ridge: Array, right: Array, *, penalty: Penalty) -> Array:
    """Solve for all agents at once, [p, N]."""
    return jnp.stack(solve_positive_lanes(_lanes(gram, ridge, penalty), list(right)))


def _lanes(gram: tuple[Array, ...], ridge: Array, penalty: Penalty) -> list[list[Array]]:
    """Return the lower triangle of gram + ridge P, a vector over agents for every entry."""
    return [
        [row[b] + ridge * penalty[a][b] if penalty[a][b] else row[b] for b in range(a + 1)]
        for a, row in enumerate(gram)
    ]


# What a regression says of features, without its solution being written down. For one output it
# is one loop over agents on CPU, in a third (`predict`) to a half (`fit`) of the time of `solve`; a
# gradient goes through `solve`.


def _in_one_loop(equations: NormalEquations, features: Array) -> bool:
    return len(equations.gram) <= UNROLLED_FEATURES and features.shape[0] == 1


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _predicted(
    penalty: Penalty, equations: NormalEquations, ridge: Array, features: Array
) -> Array:
    by_solving = functools.partial(_predicted_by_solving, penalty)
    if not _in_one_loop(equations, features):
        return by_solving(equations, ridge, features)

    def loop(equations: NormalEquations, ridge: Array, features: Array) -> Array:
        matrix = _lanes(equations.gram, ridge, penalty)
        return bilinear_in_one_loop(list(features[0]), matrix, list(equations.moment))[None]

    found: Array = lax.platform_dependent(
        equations, ridge, features, cpu=functools.partial(apart, loop), default=by_solving
    )
    return found


@_predicted.defjvp
def _predicted_jvp(
    penalty: Penalty, primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Any, Any]:
    by_solving = functools.partial(_predicted_by_solving, penalty)
    found: tuple[Any, Any] = jax.jvp(by_solving, primals, tangents)
    return found


def _predicted_by_solving(
    penalty: Penalty, equations: NormalEquations, ridge: Array, features: Array
) -> Array:
    return applied(features, equations.solve(ridge, penalty))


@jax.custom_jvp
def _fitted(equations: NormalEquations, ridge: Array, features: Array) -> tuple[Array, Array]:
    if not _in_one_loop(equations, features):
        return _fitted_by_solving(equations, ridge, features)

    def loop(equations: NormalEquations, ridge: Array, features: Array) -> Array:
        matrix = _lanes(equations.gram, ridge, plain(len(equations.gram)))
        solution = solve_in_one_loop(matrix, list(equations.moment))
        move = added([z * x for z, x in zip(features[0], solution, strict=True)])
        # One loop writes one array: two results are the two parts of one number.
        return lax.complex(move, added([x * x for x in solution]))

    def in_one_loop(*operands: Any) -> tuple[Array, Array]:
        found = apart(loop, *operands)
        return lax.real(found)[None], lax.imag(found)

    found: tuple[Array, Array] = lax.platform_dependent(
        equations, ridge, features, cpu=in_one_loop, default=_fitted_by_solving
    )
    return found


@_fitted.defjvp
def _fitted_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    found: tuple[Any, Any] = jax.jvp(_fitted_by_solving, primals, tangents)
    return found


def _fitted_by_solving(
    equations: NormalEquations, ridge: Array, features: Array
) -> tuple[Array, Array]:
    solution = equations.solve(ridge)
    return applied(features, solution), jnp.sum(solution**2, axis=0)
