"""The server: weights on the agents fitted online, from population sums only.

The published rule is a ridge regression on the last step with a sum constraint. Written in
deviations from the population's mean, the constraint solves itself:

    w_i = eta/N + (U_i - ubar)' (kappa I + sum_j (U_j - ubar)(U_j - ubar)')^{-1} (y - eta ubar)

so weights and output cost O(N d^2), need one d x d solve and only sums over agents, and no
large number is ever subtracted from another (kappa is small beside N |U|^2: the textbook form
loses all of float32 at 10^6 agents).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from memoa_jax.arguments import number
from memoa_jax.linalg import einsum, matmul, solve_spd
from memoa_jax.types import (
    Array,
    Dimensions,
    Observation,
    Population,
    Scalar,
    record,
)


@record
class RidgeState:
    """What the weights are made of, since the last time the target was seen.

    `deviation` [d, N] is U_i - ubar of the predictions they were fitted to; `response` [d] is
    (kappa I + sum)^{-1} (y - eta ubar).
    """

    deviation: Array
    response: Array


@record
class RidgeMixture:
    """See `ridge_mixture`."""

    kappa: Scalar
    eta: Scalar

    def init(self, dimensions: Dimensions, num_agents: int, dtype: Any) -> RidgeState:
        """Return uniform weights eta/N."""
        return RidgeState(
            deviation=jnp.zeros((dimensions.outputs, num_agents), dtype),
            response=jnp.zeros((dimensions.outputs,), dtype),
        )

    def mix(
        self, state: RidgeState, observation: Observation, next_prediction: Array
    ) -> tuple[RidgeState, Array]:
        """Fit the weights to the predictions for y_t, apply them to those for y_{t+1}."""
        population, target = observation.population, observation.target
        # Deviations are taken from y_t, which is near, before they are taken from the mean:
        # a second pass over the agents then costs no accuracy.
        error = observation.prediction - target[:, None]
        mean_error = population.mean(error)
        deviation = error - mean_error[:, None]
        fitted = RidgeState(
            deviation=deviation,
            response=_response(self, deviation, target, target + mean_error, population),
        )
        state = RidgeState(
            deviation=jnp.where(observation.known, fitted.deviation, state.deviation),
            response=jnp.where(observation.known, fitted.response, state.response),
        )
        ahead = next_prediction - target[:, None]
        mean_ahead = population.mean(ahead)
        tilt = jnp.sum(state.deviation * state.response[:, None], axis=0)
        eta = jnp.asarray(self.eta, target.dtype)
        return state, eta * (target + mean_ahead) + population.total(tilt[None] * ahead)

    def weights(self, state: RidgeState, population: Population) -> Array:
        """Return the block's weights w [N]; over the population they sum to eta."""
        share = jnp.asarray(self.eta, state.response.dtype) / population.size
        return share + jnp.sum(state.deviation * state.response[:, None], axis=0)


def _response(
    mixture: RidgeMixture,
    deviation: Array,
    target: Array,
    mean: Array,
    population: Population,
) -> Array:
    """Return (kappa I + sum_i v_i v_i')^{-1} (y - eta ubar), [d]."""
    spread = population.products(deviation, deviation)
    kappa = jnp.asarray(mixture.kappa, target.dtype)
    eta = jnp.asarray(mixture.eta, target.dtype)
    system = spread + kappa * jnp.eye(target.shape[0], dtype=target.dtype)
    return solve_spd(system, target - eta * mean)


def ridge_mixture(kappa: Scalar = 1.0, eta: Scalar = 1.0) -> RidgeMixture:
    """Make the published server: ridge weights fitted to the last predictions, summing to eta.

        w_t = argmin |y_t - U_t w|^2 + kappa |w|^2   s.t.   sum_i w_i = eta
        output for t+1 = sum_i w_i Y^i_{t+1},            U_t = [Y^1_t .. Y^N_t]

    Exact; O(N d^2) per step and one d x d solve. When y_t is missing the weights stay.

    Args:
      kappa: ridge, > 0, in squared target units; may be traced.
      eta: what the weights sum to; may be traced.

    Raises:
      ValueError: if kappa is not positive, or a number is not finite.

    Source: arXiv 2505.00216 for the weights; their centred form is own derivation.

    Example:
      >>> ridge_mixture(kappa=0.5).eta
      1.0
    """
    number("ridge_mixture", "kappa", kappa, "> 0", lambda value: value > 0)
    number("ridge_mixture", "eta", eta)
    return RidgeMixture(kappa=kappa, eta=eta)


def mixture_weights(predictions: Array, target: Array, kappa: Scalar, eta: Scalar) -> Array:
    """Return the ridge weights of N agents on one target, from population sums only.

    Exact, equal to the N x N textbook solve; O(N d^2 + d^3).

        w = argmin |target - predictions' w|^2 + kappa |w|^2   s.t.   sum w = eta

    Args:
      predictions: [N, d], in target units.
      target: [d].
      kappa: ridge, > 0.
      eta: what the weights sum to.

    Returns:
      [N].

    Raises:
      ValueError: at trace time, if the shapes do not fit.

    Source: arXiv 2505.00216; the centred form is own derivation (see the module).

    Example:
      >>> w = mixture_weights(jnp.array([[1.0], [3.0]]), jnp.array([2.0]), 1.0, 1.0)
      >>> w.tolist()
      [0.5, 0.5]
    """
    predictions, target = jnp.asarray(predictions), jnp.asarray(target)
    if predictions.ndim != 2 or target.shape != predictions.shape[1:]:
        raise ValueError(
            f"mixture_weights: predictions {predictions.shape} and target {target.shape}: "
            "allowed is [N, d] and [d]"
        )
    count = predictions.shape[0]
    mean = jnp.mean(predictions, axis=0)
    deviation = predictions - mean[None]
    spread = einsum("ia,ib->ab", deviation, deviation)
    system = spread + kappa * jnp.eye(target.shape[0], dtype=spread.dtype)
    return eta / count + matmul(deviation, solve_spd(system, target - eta * mean))
