"""Servers with a regret guarantee: the classical rules of prediction with expert advice.

All keep weights on the simplex and share one skeleton, `ExpertMixture`. A round is one target
y_t that was seen; agent i's loss in it is

    loss_i = |y_t - U_i|^2              (gradient = False)
    loss_i = 2 (output - y_t)' U_i      (gradient = True: its regret bounds that of the squared
                                         error of the output against any fixed mixture)

and its excess is r_i = sum_j w_j loss_j - loss_i. A `Rule` turns the excesses seen so far into
weights. An agent that is absent has r_i = 0, and weights are renormalised over those present
(the reduction of sleeping experts); a prediction that is no number, or whose square the dtype
cannot hold, counts as absence. O(N d) per step. The rules without a rate count in units of the
largest |r| seen so far: in float32, too, they take losses of any size.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from memoa_jax.arguments import number
from memoa_jax.types import Array, Dimensions, Observation, Population, Scalar, Tree, record, static


class Rule(Protocol):
    """Turns excesses into weights. Data (a pytree) plus three pure functions."""

    def init(self, num_agents: int, dtype: Any) -> Tree:
        """Return the memory before the first round (equal weights)."""
        ...

    def weigh(self, memory: Tree, awake: Population) -> Array:
        """Return weights [N] >= 0 up to a common factor; those of absent agents are ignored."""
        ...

    def learn(self, memory: Tree, weights: Array, excess: Array, awake: Population) -> Tree:
        """Return the memory after a round played with `weights` [N]; `excess` is r [N]."""
        ...


@record
class ExpertState:
    """The rule's memory, and whose latest prediction is a usable number ([N] bool)."""

    memory: Tree
    usable: Array


@record
class ExpertMixture:
    """A mixture on the simplex; made by the functions at the end of this module."""

    rule: Rule
    gradient: bool = static(default=True)

    def init(self, dimensions: Dimensions, num_agents: int, dtype: Any) -> ExpertState:
        """Return equal weights."""
        return ExpertState(self.rule.init(num_agents, dtype), jnp.ones((num_agents,), bool))

    def mix(
        self, state: ExpertState, observation: Observation, next_prediction: Array
    ) -> tuple[ExpertState, Array]:
        """Learn from the predictions for y_t, weigh those for y_{t+1}."""
        target = observation.target
        error = observation.prediction - target[:, None]
        awake = _awake(observation.voters, state.usable & _moderate(error))
        error = awake.only_present(error)
        weights = _simplex(self.rule.weigh(state.memory, awake), awake)
        miss = awake.total(weights[None] * error)  # of the output made for y_t
        if self.gradient:
            mixed, loss = 2 * jnp.sum(miss**2), 2 * jnp.sum(miss[:, None] * error, axis=0)
        else:
            loss = jnp.sum(error**2, axis=0)
            mixed = awake.total(weights * loss)
        excess = awake.only_present(_difference(mixed, loss))
        learned = self.rule.learn(state.memory, weights, excess, awake)
        # At step 0 everybody predicts y_0 exactly: that is no round, nor is one without agents.
        round_played = observation.known & (observation.step > 0) & (awake.total(weights) > 0)
        memory = jax.tree.map(lambda a, b: jnp.where(round_played, a, b), learned, state.memory)
        # Centred on y_t: the sum is then one of small numbers.
        ahead = next_prediction - target[:, None]
        state = ExpertState(memory, usable=_moderate(ahead))
        weights = self.weights(state, observation.population)
        sound = jnp.where(state.usable[None], ahead, 0.0)
        return state, target + observation.population.total(weights[None] * sound)

    def weights(self, state: ExpertState, population: Population) -> Array:
        """Return the block's weights w [N] >= 0; over the agents present they sum to 1."""
        awake = _awake(population, state.usable)
        return _simplex(self.rule.weigh(state.memory, awake), awake)


def _moderate(deviation: Array) -> Array:
    """Tell, [N], whose squared deviation can be summed up in this dtype; false for NaN."""
    ceiling = 1e-10 * float(np.finfo(deviation.dtype).max)
    return jnp.sum(deviation**2, axis=0) < ceiling


def _difference(mixed: Array, loss: Array) -> Array:
    """Return mixed - loss, 0 where that is rounding: rules without units would learn from it."""
    rounding = 32 * float(np.finfo(loss.dtype).eps) * (jnp.abs(mixed) + jnp.abs(loss))
    return jnp.where(jnp.abs(mixed - loss) > rounding, mixed - loss, 0.0)


def _awake(population: Population, usable: Array) -> Population:
    """Return those present whose prediction can be used."""
    return population.among(population.only_present(usable, False))


def _simplex(weights: Array, awake: Population) -> Array:
    """Return the weights of those awake, divided by their sum; all zero where nobody is."""
    weights = awake.only_present(weights)
    total = awake.total(weights)
    return weights / jnp.where(total > 0, total, 1.0)


def _top(values: Array, awake: Population) -> Array:
    """Return the largest value of those awake, 0 where nobody is."""
    top = awake.largest(values)
    return jnp.where(jnp.isfinite(top), top, 0.0)


def _softmax(values: Array, awake: Population, rate: Scalar = 1.0) -> Array:
    """Return exp(rate values) over its largest value: the heaviest agent awake has weight 1."""
    # Subtract, then multiply: contracted the other way round, the difference need not be 0.
    behind = awake.only_present(values - lax.stop_gradient(_top(values, awake)))
    return jnp.exp(jnp.asarray(rate, values.dtype) * behind)


def _log_count(memory: Array, population: Population) -> Array:
    """Return ln N, N counting every agent that there is, present or not (at least 2)."""
    everyone = dataclasses.replace(population, present=None)
    return jnp.log(jnp.maximum(everyone.total(jnp.ones_like(memory)), 2.0))


@record
class Ledger:
    """What happened, in units of the largest |r| so far, which is `span`.

    `regret` [N]; `spread`, of which rates are made: a sum of r^2 [N], or a mixability gap [].
    """

    regret: Array
    spread: Array
    span: Array

    @classmethod
    def empty(cls, num_agents: int, dtype: Any, spread: tuple[int, ...]) -> Ledger:
        """Return the ledger of no rounds."""
        return cls(*[jnp.zeros(shape, dtype) for shape in ((num_agents,), spread, ())])

    def relative(self, excess: Array, awake: Population) -> tuple[Array, Array, Array]:
        """Return the new span, r in its units, and the old span in its units."""
        span = jnp.maximum(self.span, _top(jnp.abs(excess), awake))
        unit = jnp.where(span > 0, span, 1.0)
        return span, excess / unit, self.span / unit

    def enter(self, excess: Array, awake: Population, rate: Array | float = 0.0) -> Ledger:
        """Add c - rate c^2 and c^2, c being r clipped to the span known before the round."""
        span, ratio, rescale = self.relative(excess, awake)
        # In units of the old span, c is just what r is in units of the new one.
        return Ledger(
            regret=(self.regret + ratio - rate * ratio**2) * rescale,
            spread=(self.spread + ratio**2) * rescale**2,
            span=span,
        )


@record
class Hedge:
    """See `exponential_weights`. Memory: the regret R_i against each agent."""

    rate: Scalar

    def init(self, num_agents: int, dtype: Any) -> Array:
        """Return no regret."""
        return jnp.zeros((num_agents,), dtype)

    def weigh(self, memory: Array, awake: Population) -> Array:
        """Return exp(rate R_i)."""
        return _softmax(memory, awake, self.rate)

    def learn(self, memory: Array, weights: Array, excess: Array, awake: Population) -> Array:
        """Add the round's excess."""
        del weights, awake
        return memory + excess


@record
class AdaptiveHedge:
    """See `exponential_weights` with rate None. Memory: regrets and the mixability gap."""

    def init(self, num_agents: int, dtype: Any) -> Ledger:
        """Return no regret and no gap: an infinite rate."""
        return Ledger.empty(num_agents, dtype, ())

    def weigh(self, memory: Ledger, awake: Population) -> Array:
        """Return exp(ln N R_i / gap); while the gap is 0, equal weights on the leaders."""
        return _gibbs(memory.regret, memory.spread / _log_count(memory.regret, awake), awake)

    def learn(self, memory: Ledger, weights: Array, excess: Array, awake: Population) -> Ledger:
        """Add the excess, and to the gap (1/rate) ln sum_i w_i exp(rate r_i)."""
        span, ratio, rescale = memory.relative(excess, awake)
        regret, gap = memory.regret * rescale, memory.spread * rescale
        heat = gap / _log_count(regret, awake)  # 1/rate, 0 for an infinite rate
        # Moderate exponents need no difference of large numbers.
        mild = awake.largest(jnp.abs(ratio)) < heat
        exponent = jnp.clip(ratio / jnp.where(heat > 0, heat, 1.0), -1.0, 1.0)
        small = heat * jnp.log1p(awake.total(weights * jnp.expm1(exponent)))
        # Any exponents, and weights that have underflowed: from the regrets themselves.
        large = _free(regret + ratio, heat, awake) - _free(regret, heat, awake)
        widened = jnp.maximum(jnp.where(mild, small, large), 0.0)
        return Ledger(regret=regret + ratio, spread=gap + widened, span=span)


def _gibbs(regret: Array, heat: Array, awake: Population) -> Array:
    """Return exp(regret / heat) relative to the leader's; at heat 0, 1 for leaders only."""
    behind = awake.only_present(regret - _top(regret, awake))
    hot = heat > 0
    return jnp.where(hot | (behind >= 0), jnp.exp(behind / jnp.where(hot, heat, 1.0)), 0.0)


def _free(regret: Array, heat: Array, awake: Population) -> Array:
    """Return heat ln sum_i exp(regret_i / heat); at heat 0 the largest regret."""
    top = _top(regret, awake)
    total = awake.total(_gibbs(regret, heat, awake))
    return top + heat * jnp.log(jnp.where(total > 0, total, 1.0))


@record
class Bernstein:
    """See `bernstein_aggregation`. Memory: X_i in place of the regrets, and V_i."""

    def init(self, num_agents: int, dtype: Any) -> Ledger:
        """Return no regret."""
        return Ledger.empty(num_agents, dtype, (num_agents,))

    def weigh(self, memory: Ledger, awake: Population) -> Array:
        """Return rate_i exp(rate_i X_i)."""
        rate = self._rate(memory, awake)
        return rate * _softmax(rate * memory.regret, awake)

    def learn(self, memory: Ledger, weights: Array, excess: Array, awake: Population) -> Ledger:
        """Add c - rate c^2 and c^2."""
        del weights
        return memory.enter(excess, awake, self._rate(memory, awake))

    @staticmethod
    def _rate(memory: Ledger, awake: Population) -> Array:
        return lax.rsqrt(memory.spread / _log_count(memory.spread, awake) + 4.0)


@record
class Polynomial:
    """See `polynomial_potentials`. Memory: X_i and V_i."""

    def init(self, num_agents: int, dtype: Any) -> Ledger:
        """Return no regret."""
        return Ledger.empty(num_agents, dtype, (num_agents,))

    def weigh(self, memory: Ledger, awake: Population) -> Array:
        """Return rate_i max(X_i, 0), or equal weights where no X is positive."""
        weights = jnp.maximum(memory.regret, 0.0) / (1.0 + memory.spread)
        return jnp.where(awake.largest(weights) > 0, weights, 1.0)

    def learn(self, memory: Ledger, weights: Array, excess: Array, awake: Population) -> Ledger:
        """Add c and c^2."""
        del weights
        return memory.enter(excess, awake)


@record
class FixedShare:
    """See `fixed_share`. Memory: the weights of all agents, absent ones too, times N."""

    rate: Scalar
    share: Scalar

    def init(self, num_agents: int, dtype: Any) -> Array:
        """Return equal weights."""
        return jnp.ones((num_agents,), dtype)

    def weigh(self, memory: Array, awake: Population) -> Array:
        """Return the weights."""
        del awake
        return memory

    def learn(self, memory: Array, weights: Array, excess: Array, awake: Population) -> Array:
        """Multiply by exp(rate r_i), then share out."""
        del weights
        share = jnp.asarray(self.share, memory.dtype)
        everyone = dataclasses.replace(awake, present=None)
        grown = memory * _softmax(excess, everyone, self.rate)
        mean = everyone.total(grown) / everyone.total(jnp.ones_like(memory))
        return share + (1 - share) * grown / mean


def exponential_weights(rate: Scalar | None = None, gradient: bool = True) -> ExpertMixture:
    """Make exponentially weighted averages (EWA, Hedge), at a fixed or a self-tuned rate.

        w_i = exp(rate R_i) / sum_j exp(rate R_j),     R_i = sum_t r_i,t

    With no rate given it is AdaHedge: rate_t = ln N / gap_{t-1}, where the gap sums what the
    losses were mixed worse than exponentially, (1/rate) ln sum_i w_i exp(rate r_i); equal weights
    on the leaders until the first gap. It needs to know neither the horizon nor the range.

    Theorem: for every agent k, after T rounds, b_t being the range of the losses in round t,

        R_k <= ln N / rate + (rate/8) sum_t b_t^2                            (fixed rate)
        R_k <= 2 sqrt(V ln N) + S (4/3 ln N + 2),   S = max b_t              (self-tuned)

    V = sum_t sum_i w_i r_i^2. A gap summed over those awake only is larger, so that the second
    holds for sleeping agents too.

    Args:
      rate: > 0, per squared target unit; may be traced. None: self-tuned.
      gradient: which losses (see the module).

    Raises:
      ValueError: if rate is not positive.

    Source: Cesa-Bianchi and Lugosi 2006, theorem 2.2 (the range by round: Hoeffding's lemma);
    de Rooij, van Erven, Grunwald and Koolen 2014 (arXiv 1301.0534), section 2.

    Example:
      >>> exponential_weights(rate=0.5).rule.rate
      0.5
    """
    if rate is None:
        return ExpertMixture(AdaptiveHedge(), gradient)
    number("exponential_weights", "rate", rate, "> 0", lambda value: value > 0)
    return ExpertMixture(Hedge(rate), gradient)


def bernstein_aggregation(gradient: bool = True) -> ExpertMixture:
    """Make Bernstein online aggregation (BOA), every agent at its own adaptive rate.

        w_i ~ rate_i exp(rate_i X_i),   X_i += c_i - rate_i c_i^2,   V_i += c_i^2
        rate_i = 1 / sqrt(V_i / ln N + 4 B^2)

    B = max |r| over agents and rounds so far; c = r (B before)/(B now) is r clipped to the range
    known before the round, so that rate |c| <= 1/2 always. No parameter, no known range.

    Theorem: with V_k = sum_t r_k,t^2, L = ln max(N, 2), B_1 the first range above 0,

        R_k <= 2 sqrt(L V_k) + (L + ln(1 + C)) sqrt(V_k / L + 4 B^2) + B
        C = (a (B/B_1 - 1) + (a^2/2) (ln(1 + T/4L) + 2 ln(B/B_1))) / e,   a^2 = 1 + 1/4L

    so an agent that is rarely far from the mixture costs little, and C grows like ln T.

    Source: Wintenberger 2017, with a smooth rate and the clipping of Cutkosky 2019 in place of a
    range doubled on the way; this theorem is own derivation in the manner of Gaillard, Stoltz and
    van Erven 2014 (ML-Prod), tested in tests/test_regret.py.

    Example:
      >>> bernstein_aggregation(gradient=False).gradient
      False
    """
    return ExpertMixture(Bernstein(), gradient)


def polynomial_potentials(gradient: bool = True) -> ExpertMixture:
    """Make ML-Poly: polynomial potentials, every agent at its own adaptive rate.

        w_i ~ max(X_i, 0) / (B^2 + V_i),    X_i += c_i,   V_i += c_i^2

    with B, c and V as in `bernstein_aggregation`; equal weights where no X is positive. No
    parameter, no known range; agents that have lost to the mixture get weight 0 exactly.

    Theorem: with V_k = sum_t r_k,t^2 and B_1 the first range above 0,

        R_k <= sqrt(N (1 + ln(1 + T) + 4 ln(B/B_1)) (B^2 + V_k)) + B

    Source: Gaillard, Stoltz and van Erven 2014 (arXiv 1402.2044), ML-Poly, which is B = B_1 = 1
    known beforehand, without the last B. The unknown range is own derivation.
    """
    return ExpertMixture(Polynomial(), gradient)


def fixed_share(rate: Scalar, share: Scalar, gradient: bool = True) -> ExpertMixture:
    """Make fixed share: exponential weights of which a part is shared out in every round.

        v_i ~ w_i exp(rate r_i),    w_i = share/N + (1 - share) v_i

    Theorem: against every sequence of agents that switches m times in T rounds,

        regret <= ((m+1) ln N - m ln share - (T-m-1) ln(1 - share)) / rate + (rate/8) sum_t b_t^2

    with b_t the range of the losses in round t.

    Args:
      rate: > 0, per squared target unit; may be traced.
      share: in (0, 1), about the number of switches expected per round; may be traced.
      gradient: which losses (see the module).

    Raises:
      ValueError: if rate or share is out of range.

    Source: Herbster and Warmuth 1998, in the form of Cesa-Bianchi and Lugosi 2006, section 5.2
    (the agent itself takes part in the share).

    Example:
      >>> fixed_share(rate=2.0, share=0.01).rule.share
      0.01
    """
    number("fixed_share", "rate", rate, "> 0", lambda value: value > 0)
    number("fixed_share", "share", share, "in (0, 1)", lambda value: 0 < value < 1)
    return ExpertMixture(FixedShare(rate, share), gradient)
