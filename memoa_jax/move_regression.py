"""Every agent's forecast of the series' next move: a ridge regression on its own features."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from memoa_jax.cached import updated_in_cache
from memoa_jax.linalg import UNROLLED_FEATURES, applied
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
        entry = Entry(
            before=self.features,
            features=features,
            move=tuple(observation.target - self.target),
            counted=counted.astype(features.dtype),
            discount=discount,
            ridge=ridge,
        )
        equations, forecast = _entered(self.contrasts, self.equations, entry)
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
      >>> contrasted_penalty(3).tolist()
      [[1.0, -1.0, -1.0], [-1.0, 2.0, 1.0], [-1.0, 1.0, 2.0]]
    """
    change = np.eye(features)
    change[1:, 0] = -1
    return change @ change.T


class Entry(NamedTuple):
    """A step of the regression: the features whose move is now known, and those of the next."""

    before: Array
    features: Array
    move: tuple[Array, ...]
    counted: Array
    discount: Scalar
    ridge: Scalar


def _enter(equations: NormalEquations, entry: Entry) -> NormalEquations:
    move = jnp.stack(entry.move)
    return equations.add(entry.before, move, entry.counted, entry.discount)


def _fit(contrasts: bool, equations: NormalEquations, entry: Entry) -> Array:
    penalty = contrasted_penalty(len(equations.gram)) if contrasts else None
    return applied(entry.features, equations.solve(entry.ridge, penalty))


def _at_once(
    contrasts: bool, equations: NormalEquations, entry: Entry
) -> tuple[NormalEquations, Array]:
    equations = _enter(equations, entry)
    return equations, _fit(contrasts, equations, entry)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _entered(
    contrasts: bool, equations: NormalEquations, entry: Entry
) -> tuple[NormalEquations, Array]:
    """Enter and fit; on CPU in one pass through the memory of all agents instead of three."""
    if len(equations.gram) > UNROLLED_FEATURES:
        return _at_once(contrasts, equations, entry)
    found: tuple[NormalEquations, Array] = lax.platform_dependent(
        equations,
        entry,
        cpu=functools.partial(updated_in_cache, _enter, functools.partial(_fit, contrasts)),
        default=functools.partial(_at_once, contrasts),
    )
    return found


@_entered.defjvp
def _entered_jvp(
    contrasts: bool, primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Any, Any]:
    found: tuple[Any, Any] = jax.jvp(functools.partial(_at_once, contrasts), primals, tangents)
    return found
