"""The server: weights on the agents fitted online, from population sums only.

The published rule is a ridge regression on the last step with a sum constraint. Written in
deviations from the population's mean, the constraint solves itself:

    w_i = eta/N + (U_i - ubar)' (kappa I + sum_j (U_j - ubar)(U_j - ubar)')^{-1} (y - eta ubar)

so weights and output cost O(N d^2), need one d x d solve and only sums over agents, and no
large number is ever subtracted from another (kappa is small beside N |U|^2: the textbook form
loses all of float32 at 10^6 agents). Weights are thus a tilt r of d numbers applied to the
deviations; a `discount` fits that tilt to more steps than the last.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from memoa_jax.arguments import number
from memoa_jax.linalg import einsum, matmul, solve_spd, symmetrise
from memoa_jax.spread import Spread
from memoa_jax.types import (
    Array,
    Dimensions,
    Mixture,
    Observation,
    Population,
    Scalar,
    Sight,
    real_dtype,
    record,
)


@record
class RidgeFit:
    """What the weights are made of, besides the agents' deviations.

    `response` [d] is the tilt r; `system` [d, d] and `moment` [d] are the discounted normal
    equations that it solves.
    """

    response: Array
    system: Array
    moment: Array

    @classmethod
    def empty(cls, outputs: int, dtype: Any) -> RidgeFit:
        """Return the fit to nothing: no tilt."""
        return cls(
            response=jnp.zeros((outputs,), dtype),
            system=jnp.zeros((outputs, outputs), dtype),
            moment=jnp.zeros((outputs,), dtype),
        )


@record
class RidgeState:
    """The weights, since the last time the target was seen.

    `deviation` [d, N] is U_i - ubar of the predictions they were fitted to, zero for agents that
    made none.
    """

    deviation: Array
    fit: RidgeFit


@record
class RidgeMixture:
    """See `ridge_mixture`."""

    kappa: Scalar
    eta: Scalar
    discount: Scalar = 0.0

    def init(self, dimensions: Dimensions, num_agents: int, dtype: Any) -> RidgeState:
        """Return uniform weights eta/N."""
        return RidgeState(
            deviation=jnp.zeros((dimensions.outputs, num_agents), dtype),
            fit=RidgeFit.empty(dimensions.outputs, dtype),
        )

    @property
    def survey(self) -> RidgeSurvey:
        """How a block's predictions enter the server's output when blocks are run one by one."""
        return RidgeSurvey(self)

    def mix(
        self, state: RidgeState, observation: Observation, next_prediction: Array
    ) -> tuple[RidgeState, Array]:
        """Fit the weights to the predictions for y_t, apply them to those for y_{t+1}."""
        voters, population, target = observation.voters, observation.population, observation.target
        # Deviations are taken from y_t, which is near, before they are taken from the mean:
        # a second pass over the agents then costs no accuracy.
        error = observation.prediction - target[:, None]
        mean_error = voters.mean(error)
        deviation = voters.only_present(error - mean_error[:, None])
        spread = symmetrise(voters.products(deviation, deviation))
        fitted = RidgeState(deviation, _fit(self, state.fit, spread, target, target + mean_error))
        state = jax.tree.map(lambda new, old: jnp.where(observation.known, new, old), fitted, state)
        ahead = next_prediction - target[:, None]
        eta = jnp.asarray(self.eta, target.dtype)
        tilted = population.total(_tilt(state, population)[None] * ahead)
        return state, eta * (target + population.mean(ahead)) + tilted

    def weights(self, state: RidgeState, population: Population) -> Array:
        """Return the block's weights w [N]; over the population they sum to eta."""
        share = jnp.asarray(self.eta, state.deviation.dtype) / population.size
        return population.only_present(share + _tilt(state, population))


def _tilt(state: RidgeState, population: Population) -> Array:
    """Return w_i - eta/N, [N]; it sums to zero over the agents that are present."""
    tilt = jnp.sum(state.deviation * state.fit.response[:, None], axis=0)
    if population.present is None:
        return tilt  # deviations sum to zero by construction
    # Where fitters have left, the nearest weights (in |w|) that still sum to eta.
    return tilt - population.mean(tilt)


def _fit(
    mixture: RidgeMixture,
    state: RidgeFit,
    spread: Array,
    target: Array,
    mean: Array,
) -> RidgeFit:
    """Return the fit after one more step; its `response` is the best tilt over the past.

    `spread` [d, d] is S, the sum of the deviations' products, and `mean` [d] is ubar.

    Sought is A r = b. Started from the last step's own solution r0 (the published rule, solved
    with S + kappa I and never with S squared), what is left is a correction by the past alone:
    A (r - r0) = discount (b_past - A_past r0), which is zero, exactly, without a past.
    """
    dtype, outputs = target.dtype, target.shape[0]
    kappa, eta, discount = (
        jnp.asarray(value, dtype) for value in (mixture.kappa, mixture.eta, mixture.discount)
    )
    identity = jnp.eye(outputs, dtype=dtype)
    missing = target - eta * mean
    newest = solve_spd(spread + kappa * identity, missing)
    past, past_moment = discount * state.system, discount * state.moment
    system = symmetrise(past + matmul(spread, spread) + kappa * spread)
    moment = past_moment + matmul(spread, missing)
    # Squares of the spread overflow before it does: then the past is dropped, not the step.
    sound = jnp.all(jnp.isfinite(system)) & jnp.all(jnp.isfinite(moment))
    system, moment, surplus = (
        jnp.where(sound, x, 0.0) for x in (system, moment, past_moment - matmul(past, newest))
    )
    # Agents that agree leave A singular there; no weight depends on r there either.
    trace = jnp.trace(system)
    rounding = 8 * outputs * float(np.finfo(dtype).eps)
    ridge = rounding * jnp.where(trace > 0, trace, 1.0)
    correction = solve_spd(system + ridge * identity, surplus)
    # Deviations that are nothing but rounding can even leave it indefinite.
    correction = jnp.where(jnp.all(jnp.isfinite(correction)), correction, 0.0)
    return RidgeFit(response=newest + correction, system=system, moment=moment)


@record
class RidgeSurvey:
    """The ridge server from what blocks of agents come to: means and scatter of predictions.

    A block's state are the errors [d, N] that the weights are fitted to; what it hands over is
    the `Spread` of those errors and of the next predictions, both taken from y_t.
    """

    mixture: RidgeMixture

    def init(self, dimensions: Dimensions, num_agents: int, dtype: Any) -> Array:
        """Return errors of zero: the weights are uniform."""
        return jnp.zeros((dimensions.outputs, num_agents), dtype)

    def look(
        self, state: Array, observation: Observation, next_prediction: Array
    ) -> tuple[Array, Spread]:
        """Return the errors fitted to, and the block's spread."""
        target = observation.target[:, None]
        fitted = jnp.where(observation.known, observation.prediction - target, state)
        values = jnp.concatenate([fitted, next_prediction - target])
        return fitted, Spread.of(values, observation.population)

    def begin(self, dimensions: Dimensions, dtype: Any) -> RidgeFit:
        """Return the fit to nothing."""
        return RidgeFit.empty(dimensions.outputs, dtype)

    def meet(self, common: RidgeFit, found: Spread, sight: Sight) -> tuple[RidgeFit, Array]:
        """Fit the weights and return the server's output for the next step, [d]."""
        target, d = sight.target, sight.target.shape[0]
        spread = symmetrise(found.scatter[:d, :d])
        fit = _fit(self.mixture, common, spread, target, target + found.mean[:d])
        fit = jax.tree.map(lambda new, old: jnp.where(sight.known, new, old), fit, common)
        eta = jnp.asarray(self.mixture.eta, target.dtype)
        tilted = matmul(fit.response, found.scatter[:d, d:])
        return fit, eta * (target + found.mean[d:]) + tilted


def ridge_mixture(kappa: Scalar = 1.0, eta: Scalar = 1.0, discount: Scalar = 0.0) -> RidgeMixture:
    """Make the published server: ridge weights fitted to the last predictions, summing to eta.

        w_t = argmin |y_t - U_t w|^2 + kappa |w|^2   s.t.   sum_i w_i = eta
        output for t+1 = sum_i w_i Y^i_{t+1},            U_t = [Y^1_t .. Y^N_t]

    With a discount above 0 the same weights, w_i = eta/N + (U_i - ubar)' r, take the tilt r that
    would have been best over the whole past, each step judged with its own deviations:

        r = argmin sum_s discount^(t-s) [ |y_s - eta ubar_s - S_s r|^2 + kappa r' S_s r ]
        S_s = sum_i (U_i,s - ubar_s)(U_i,s - ubar_s)'

    Exact; O(N d^2) per step and two d x d solves; a new discount recompiles nothing. When y_t is
    missing the weights stay and nothing is forgotten. Weights are fitted to the agents that
    predicted y_t and applied to those present: one that did not predict has deviation 0, and
    where some have left the weights are moved, all equally, back to the sum eta. In float32,
    directions in which agents differ 10^3 times less than in others follow the last step alone.

    Args:
      kappa: ridge, > 0, in squared target units; may be traced.
      eta: what the weights sum to; may be traced.
      discount: in [0, 1], what a step counts beside the next one; 0 is the published rule, 1
        forgets nothing; may be traced.

    Raises:
      ValueError: if kappa is not positive, discount is not in [0, 1], or a number is not finite.

    Source: arXiv 2505.00216 for the weights; their centred form and the discount are own
    derivation, tested in tests/test_mixture.py.

    Example:
      >>> ridge_mixture(kappa=0.5).eta
      1.0
    """
    number("ridge_mixture", "kappa", kappa, "> 0", lambda value: value > 0)
    number("ridge_mixture", "eta", eta)
    number("ridge_mixture", "discount", discount, "in [0, 1]", lambda value: 0 <= value <= 1)
    return RidgeMixture(kappa=kappa, eta=eta, discount=discount)


@record
class UniformMixture:
    """See `uniform_mixture`; the state is a one per agent."""

    def init(self, dimensions: Dimensions, num_agents: int, dtype: Any) -> Array:
        """Return equal weights, times N."""
        return jnp.ones((num_agents,), dtype)

    def mix(
        self, state: Array, observation: Observation, next_prediction: Array
    ) -> tuple[Array, Array]:
        """Average the predictions."""
        target = observation.target
        return state, target + observation.population.mean(next_prediction - target[:, None])

    @property
    def survey(self) -> UniformSurvey:
        """How a block's predictions enter the server's output when blocks are run one by one."""
        return UniformSurvey()

    def weights(self, state: Array, population: Population) -> Array:
        """Return 1/N for those present."""
        return population.only_present(state / population.size)


@record
class UniformSurvey:
    """The mean from what blocks of agents come to."""

    def init(self, dimensions: Dimensions, num_agents: int, dtype: Any) -> tuple[()]:
        """Return nothing."""
        return ()

    def look(
        self, state: tuple[()], observation: Observation, next_prediction: Array
    ) -> tuple[tuple[()], Array]:
        """Return the block's share of the mean, taken from y_t."""
        return state, observation.population.mean(next_prediction - observation.target[:, None])

    def begin(self, dimensions: Dimensions, dtype: Any) -> tuple[()]:
        """Return nothing."""
        return ()

    def meet(self, common: tuple[()], found: Array, sight: Sight) -> tuple[tuple[()], Array]:
        """Return the mean."""
        return common, sight.target + found


def uniform_mixture() -> UniformMixture:
    """Make the server that learns nothing: the mean of the agents present, diverged or not.

    Example:
      >>> uniform_mixture().weights(jnp.ones(4), Population(jnp.asarray(4.0))).tolist()
      [0.25, 0.25, 0.25, 0.25]
    """
    return UniformMixture()


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


def play(
    mixture: Mixture, predictions: Array, targets: Array, present: Array | None = None
) -> tuple[Array, Array]:
    """Let a mixture weigh given predictions online, one round after the other.

    Exact; one compiled scan. Round t's weights are made before y_t is read: changing row t of
    targets or of what comes later changes nothing up to row t.

    Args:
      mixture: any server.
      predictions: [T, N, d]; row t predicts row t of targets.
      targets: [T, d]; NaN where missing.
      present: [T, N] bool, who predicts; None: everybody.

    Returns:
      Outputs [T, d] and the weights [T, N] that they were made with.

    Raises:
      ValueError: at trace time, if shapes do not fit.

    Example:
      >>> play(uniform_mixture(), np.array([[[1.0], [3.0]]]), np.zeros((1, 1)))[0].tolist()
      [[2.0]]
    """
    dtype = real_dtype(predictions)
    predictions, targets = jnp.asarray(predictions, dtype), jnp.asarray(targets, dtype)
    check_shapes(predictions.shape, {"targets": targets.shape}, present)
    present = None if present is None else jnp.asarray(present, bool)
    return _play(mixture, jnp.moveaxis(predictions, 1, 2), targets, present)


@jax.jit
def _play(
    mixture: Mixture, predictions: Array, targets: Array, present: Array | None
) -> tuple[Array, Array]:
    """Return `play`'s results; predictions are [T, d, N]."""
    rounds, outputs, count = predictions.shape
    dtype = predictions.dtype
    everyone = Population(size=jnp.asarray(count, dtype))
    known = jnp.all(jnp.isfinite(targets), axis=1)

    def one_round(carry: Any, row: Any) -> Any:
        state, target, seen, prediction, voted = carry
        step, ahead, next_target, next_seen, here = row
        observation = Observation(
            step=step,
            target=target,
            known=seen,
            prediction=prediction,
            features=jnp.zeros((outputs, 0, count), dtype),
            population=everyone.among(here),
            voters=everyone.among(voted),
        )
        state, output = mixture.mix(state, observation, ahead)
        weights = mixture.weights(state, observation.population)
        target = jnp.where(next_seen, next_target, target)
        return (state, target, next_seen, ahead, here), (output, weights)

    start = (
        mixture.init(Dimensions(rounds, 0, outputs, 0), count, dtype),
        jnp.zeros((outputs,), dtype),
        jnp.zeros((), bool),  # nothing was seen before the first round
        jnp.zeros((outputs, count), dtype),
        None if present is None else present[0],
    )
    steps = jnp.arange(rounds, dtype=jnp.int32)
    rows = (steps, predictions, jnp.where(known[:, None], targets, 0.0), known, present)
    played: tuple[Array, Array] = jax.lax.scan(one_round, start, rows)[1]
    return played


def check_shapes(shape: tuple[int, ...], rows: dict[str, tuple[int, ...]], agents: Any) -> None:
    """Refuse shapes that do not fit predictions [T, N, d]: rows are [T, d], agents [T, N]."""
    if len(shape) != 3 or 0 in shape:
        raise ValueError(f"predictions has shape {shape}: allowed is [T, N, d], no axis empty")
    for name, found in rows.items():
        if found != (shape[0], shape[2]):
            raise ValueError(f"{name} has shape {found}: allowed is {(shape[0], shape[2])}")
    if agents is not None and np.shape(agents) != shape[:2]:
        raise ValueError(f"present or weights: shape {np.shape(agents)}: allowed is {shape[:2]}")
