"""Every agent's forecast of the series' next move: a ridge regression on its own features."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from memoa_jax.cached import updated_in_cache
from memoa_jax.linalg import UNROLLED_FEATURES, applied
from memoa_jax.regression import NormalEquations
from memoa_jax.types import Array, Dimensions, Observation, Scalar, record


@record
class Forecasts:
    """Every agent's regression of the series' moves on its own features, forgotten slowly.

        gram   = sum_{s<t} discount^{t-1-s} Z_s'Z_s
        moment = sum_{s<t} discount^{t-1-s} Z_s'(y_{s+1} - y_s)

    The step in progress waits in `features` [d, p, N]; `target` [d] is the last observed value
    and `known` whether it was the last row's.
    """

    equations: NormalEquations
    features: Array
    target: Array
    known: Array

    @classmethod
    def empty(cls, dimensions: Dimensions, num_agents: int, dtype: Any) -> Forecasts:
        """Return forecasts that know nothing."""
        d, p = dimensions.outputs, dimensions.features
        return cls(
            equations=NormalEquations.empty(p, num_agents, dtype),
            features=jnp.zeros((d, p, num_agents), dtype),
            target=jnp.zeros((d,), dtype),
            known=jnp.zeros((), bool),
        )

    def next(
        self, observation: Observation, discount: Scalar, ridge: Scalar
    ) -> tuple[Forecasts, Array]:
        """Enter the move that was waited for; forecast the next one, s^i = Z^i beta^i, [d, N]."""
        # A move is known when both of its ends are; the others still age.
        counted = observation.known & self.known & (observation.step > 0)
        entry = Entry(
            before=self.features,
            features=observation.features,
            move=tuple(observation.target - self.target),
            counted=counted.astype(observation.features.dtype),
            discount=discount,
            ridge=ridge,
        )
        equations, forecast = _entered(self.equations, entry)
        waiting = (observation.features, observation.target, observation.known)
        return Forecasts(equations, *waiting), forecast


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


def _fit(equations: NormalEquations, entry: Entry) -> Array:
    return applied(entry.features, equations.solve(entry.ridge))


def _at_once(equations: NormalEquations, entry: Entry) -> tuple[NormalEquations, Array]:
    equations = _enter(equations, entry)
    return equations, _fit(equations, entry)


@jax.custom_jvp
def _entered(equations: NormalEquations, entry: Entry) -> tuple[NormalEquations, Array]:
    """Enter and fit; on CPU in one pass through the memory of all agents instead of three."""
    if len(equations.gram) > UNROLLED_FEATURES:
        return _at_once(equations, entry)
    found: tuple[NormalEquations, Array] = lax.platform_dependent(
        equations,
        entry,
        cpu=functools.partial(updated_in_cache, _enter, _fit),
        default=_at_once,
    )
    return found


@_entered.defjvp
def _entered_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    found: tuple[Any, Any] = jax.jvp(_at_once, primals, tangents)
    return found
