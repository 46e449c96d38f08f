"""Exact evaluation of strategies: expected costs, best responses, exploitability, rates.

Nothing is sampled and no work grows with the number of agents: an agent's expected cost under
affine strategies is a quadratic in its view (Y, Ybar, 1) and the spread of the states, carried
back by `memoa_jax.nash_step.carry_back`, and evaluated at given states or over the law that they
are drawn from. What agents know of the mean field is in `memoa_jax.information`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from memoa_jax.game import (
    FeatureMoments,
    GameCost,
    InitialLaw,
    discounts,
    initial_mean,
    inverse_population,
    standard_game,
    standard_states,
)
from memoa_jax.information import Information, check_information, offline_gains
from memoa_jax.linalg import einsum, matmul, solve_spd
from memoa_jax.nash import FeedbackGains, solve_nash, solve_team
from memoa_jax.nash_step import (
    CostToGo,
    Stage,
    carry_back,
    own_slope,
    running_cost,
    standard_gains,
)
from memoa_jax.types import Array, Scalar, record, static


def expected_costs(
    cost: GameCost,
    moments: FeatureMoments,
    targets: Array,
    population: int | Scalar | None,
    gains: FeedbackGains,
    states: Array | InitialLaw,
    information: Information = "feedback",
) -> Array:
    """Return each agent's expected cost when all agents use the same gains.

    Exact for any gains, equilibrium or not: a backward recursion for the policy's quadratic cost
    to go. O(T (d^2 p^2 + d^3)) for the recursion, independent of N, then O(n d^2).

        J^i = x^i'P x^i + mean_j Y^j'D Y^j,     x^i = (Y^i, Ybar, 1) at t = 0

    Axes: N agents, n given states, T horizon, d outputs, p features.

    Args:
      cost: what an agent pays. Leaves are scalars in squared target units; `effort` > 0, per
        squared control.
      moments: mean [T, d, p] and second [T, d, d, p, p] of the features, common to all agents.
      targets: [T, d], in the series' own units; row t is y_{t+1}.
      population: number of agents; None for the mean-field limit. Enters as a traced 1/N (None
        is 0): a new value recompiles nothing.
      gains: own [T, p, d], mean [T, p, d], offset [T, p].
      states: [n, d], predictions at t = 0, in target units. They are the empirical law of the
        population's states, so n need not equal N. Or an `InitialLaw`: N states yet to be drawn.
      information: "feedback" or "offline" (see `memoa_jax.information`).

    Returns:
      [n], the expected cost of an agent that starts at each of the states; with an `InitialLaw`
      a scalar, the expected cost of every agent before the states are drawn.

    Raises:
      ValueError: at trace time, if a shape does not fit, effort is a number not above 0,
        population a number below 1, or information is no such pattern.

    Source: own derivation, tested in tests/test_analysis.py against enumeration.

    Example:
      >>> moments = FeatureMoments.from_samples(jnp.ones((3, 10, 1, 1)))
      >>> game = (GameCost(), moments, jnp.ones((3, 1)), 10)
      >>> expected_costs(*game, solve_nash(*game).gains, jnp.zeros((10, 1))).shape
      (10,)
    """
    setting = _setting(cost, moments, targets, population, gains, states, information)
    costs: Array = _costs(setting)
    return costs


def best_response_costs(
    cost: GameCost,
    moments: FeatureMoments,
    targets: Array,
    population: int | Scalar | None,
    gains: FeedbackGains,
    states: Array | InitialLaw,
    information: Information = "feedback",
) -> Array:
    """Return each agent's least expected cost when all the others keep the given gains.

    Exact; the deviating agent sees the full realised state in both patterns of information.
    The cost is that of `expected_costs`, and O(T p^3).

        J^i* = min over beta^i of J^i(beta^i, gains of the others)

    Axes: N agents, n given states, T horizon, d outputs, p features.

    Args:
      cost: what an agent pays; scalar leaves, in squared target units.
      moments: mean [T, d, p] and second [T, d, d, p, p] of the features, common to all agents.
      targets: [T, d], in the series' own units; row t is y_{t+1}.
      population: number of agents, or None for the mean-field limit; a traced 1/N.
      gains: own [T, p, d], mean [T, p, d], offset [T, p]: what the others play.
      states: [n, d], predictions at t = 0: the empirical law of the population's states; or an
        `InitialLaw` (see `expected_costs`).
      information: "feedback" or "offline": what the others know.

    Returns:
      [n], or a scalar with an `InitialLaw`; NaN where no best response exists (the cost is
      unbounded below).

    Raises:
      ValueError: as `expected_costs`.

    Source: own derivation, tested in tests/test_analysis.py against enumeration.

    Example:
      >>> moments = FeatureMoments.from_samples(jnp.ones((3, 10, 1, 1)))
      >>> game, states = (GameCost(), moments, jnp.ones((3, 1)), 10), jnp.zeros((10, 1))
      >>> nash = solve_nash(*game).gains
      >>> costs = expected_costs(*game, nash, states)
      >>> bool(jnp.allclose(best_response_costs(*game, nash, states), costs, rtol=1e-4))
      True
    """
    setting = _setting(cost, moments, targets, population, gains, states, information)
    costs: Array = _best_response(setting)[0]
    return costs


def exploitability(
    cost: GameCost,
    moments: FeatureMoments,
    targets: Array,
    population: int | Scalar | None,
    gains: FeedbackGains,
    states: Array | InitialLaw,
    information: Information = "feedback",
) -> Array:
    """Return what each agent would gain by deviating alone: 0 at a Nash equilibrium.

    Exact, and resolved however small: not the difference of two costs, which drowns O(1/N^2) in
    rounding, but the deviation's own second-order cost, summed along the path of the gains.
    O(T (d^2 p^2 + d^3 + p^3)), independent of N, then O(n d^2).

        J^i - J^i* = E sum_t (beta^i_t - best_t)' H2_t (beta^i_t - best_t)

    best_t is the best response in the states that the gains lead to, H2_t the Hessian of its
    cost. The deviating agent sees the full realised state in both patterns.

    Axes: N agents, n given states, T horizon, d outputs, p features.

    Args:
      cost: what an agent pays; scalar leaves, in squared target units.
      moments: mean [T, d, p] and second [T, d, d, p, p] of the features, common to all agents.
      targets: [T, d], in the series' own units; row t is y_{t+1}.
      population: number of agents, or None for the mean-field limit; a traced 1/N.
      gains: own [T, p, d], mean [T, p, d], offset [T, p]: what everybody plays.
      states: [n, d], predictions at t = 0: the empirical law of the population's states; or an
        `InitialLaw` (see `expected_costs`).
      information: "feedback" or "offline" (see `memoa_jax.information`): what agents know.

    Returns:
      [n], or a scalar with an `InitialLaw`, in the units of the cost; NaN where no best response
      exists.

    Raises:
      ValueError: as `expected_costs`.

    Source: own derivation (the performance-difference lemma of a quadratic problem), tested in
      tests/test_analysis.py against enumeration.

    Example:
      >>> moments = FeatureMoments.from_samples(jnp.ones((3, 10, 1, 1)))
      >>> game, states = (GameCost(), moments, jnp.ones((3, 1)), 10), jnp.zeros((10, 1))
      >>> bool(jnp.max(exploitability(*game, solve_nash(*game).gains, states)) < 1e-9)
      True
    """
    setting = _setting(cost, moments, targets, population, gains, states, information)
    excess: Array = _best_response(setting)[1]
    return excess


def price_of_anarchy(
    cost: GameCost,
    moments: FeatureMoments,
    targets: Array,
    population: int | Scalar | None,
    states: Array | InitialLaw,
) -> Array:
    """Return the mean cost of the Nash equilibrium over that of the team optimum.

    Exact, independent of N. At least 1, and 1 in the limit if ``ensemble = 0``.

        mean_i J^i(Nash) / mean_i J^i(team)

    Axes: n given states, T horizon, d outputs, p features.

    Args:
      cost: what an agent pays; scalar leaves.
      moments: mean [T, d, p] and second [T, d, d, p, p] of the features, common to all agents.
      targets: [T, d], in the series' own units; row t is y_{t+1}.
      population: number of agents, or None for the mean-field limit; a traced 1/N.
      states: [n, d], predictions at t = 0: the empirical law of the population's states; or an
        `InitialLaw` (see `expected_costs`).

    Returns:
      A scalar.

    Source: own derivation, tested in tests/test_analysis.py.

    Example:
      >>> moments = FeatureMoments.from_samples(jnp.ones((3, 10, 1, 1)))
      >>> game = (GameCost(), moments, jnp.ones((3, 1)), None)
      >>> round(float(price_of_anarchy(*game, jnp.zeros((5, 1)))), 3)
      1.0
    """
    game = (cost, moments, targets, population)
    solutions = (solve_nash(*game).gains, solve_team(*game).gains)
    nash, team = (jnp.mean(expected_costs(*game, gains, states)) for gains in solutions)
    return nash / team


def convergence_rate(populations: Array, errors: Array) -> Array:
    """Return the slope of log error on log population by least squares: -1 for O(1/N).

    Args:
      populations: [n], numbers of agents, at least two different ones.
      errors: [n], positive.

    Raises:
      ValueError: at trace time, if the two shapes differ or n < 2.

    Example:
      >>> round(float(convergence_rate(jnp.array([10.0, 100.0]), jnp.array([0.5, 0.005]))), 3)
      -2.0
    """
    populations, errors = jnp.asarray(populations, float), jnp.asarray(errors, float)
    if populations.ndim != 1 or populations.shape != errors.shape or populations.size < 2:
        raise ValueError(
            f"populations and errors have shapes {populations.shape} and {errors.shape}: "
            "allowed is twice [n] with n >= 2"
        )
    x = jnp.log(populations) - jnp.mean(jnp.log(populations))
    return jnp.sum(x * jnp.log(errors)) / jnp.sum(x * x)


@record
class _Setting:
    """A checked game, what everybody plays and knows, and the law of the states."""

    cost: GameCost
    moments: FeatureMoments
    targets: Array
    share: Array
    gains: FeedbackGains
    states: Array | InitialLaw
    offline: bool = static()

    def play(self) -> tuple[Stage, Array]:
        """Return what a backward scan runs over: stages, and rows of gains [T, p, 2d+1]."""
        delta = discounts(self.cost.forgetting, self.targets.shape[0], self.targets.dtype)
        gains = self.gains
        if self.offline:
            gains = offline_gains(self.moments, gains, initial_mean(self.states))
        rows = jnp.concatenate([gains.own, gains.mean, gains.offset[..., None]], axis=-1)
        return Stage(self.moments, self.targets, delta), rows


def _setting(
    cost: GameCost,
    moments: FeatureMoments,
    targets: Array,
    population: int | Scalar | None,
    gains: FeedbackGains,
    states: Array | InitialLaw,
    information: str,
) -> _Setting:
    """Check the arguments and cast them to one dtype."""
    check_information(information)
    also = jax.tree.leaves((gains, states))
    cost, moments, targets = standard_game(cost, moments, targets, also=also)
    gains = standard_gains(gains, moments)
    states = standard_states(states, targets.shape[1], targets.dtype)
    share = inverse_population(population, targets.dtype)
    return _Setting(cost, moments, targets, share, gains, states, information == "offline")


def _at_start(first: CostToGo, setting: _Setting) -> Array:
    """Evaluate the cost to go at t = 0 at each of the states, or over their law."""
    states, d = setting.states, setting.targets.shape[1]
    if isinstance(states, InitialLaw):
        # A state has covariance 1/N with the mean field, which has variance 1/N.
        A, B, C = first.joint[:d, :d], first.joint[:d, d:-1], first.joint[d:-1, d:-1]
        weight = A + first.spread + setting.share * (2 * B + C)
        at_mean = jnp.concatenate([states.mean, states.mean, jnp.ones(1, states.mean.dtype)])
        certain = matmul(at_mean, first.joint, at_mean)
        certain = certain + matmul(states.mean, first.spread, states.mean)
        return certain + einsum("ab,ab->", weight, states.covariance)
    mean = jnp.broadcast_to(jnp.mean(states, axis=0), states.shape)
    views = jnp.concatenate([states, mean, jnp.ones_like(states[:, :1])], axis=1)
    spread = jnp.mean(einsum("na,ab,nb->n", states, first.spread, states))
    return einsum("na,ab,nb->n", views, first.joint, views) + spread


def _arrive(setting: _Setting, stage: Stage, later: CostToGo) -> tuple[CostToGo, Array]:
    """Add the running cost paid on arrival at t+1; return also the discounted effort."""
    average = jnp.eye(stage.target.size, dtype=stage.target.dtype)
    arrival = stage.discount * running_cost(setting.cost, average, stage.target)
    return CostToGo(later.joint + arrival, later.spread), stage.discount * setting.cost.effort


@jax.jit
def _costs(setting: _Setting) -> Array:
    def step(later: CostToGo, now: tuple[Stage, Array]) -> tuple[CostToGo, None]:
        stage, rows = now
        later, effort = _arrive(setting, stage, later)
        return carry_back(later, stage.moments, setting.share, rows, effort), None

    last = CostToGo.zero(setting.targets.shape[1], setting.targets.dtype)
    first, _ = lax.scan(step, last, setting.play(), reverse=True)
    return _at_start(first, setting)


def _respond(
    setting: _Setting, later: CostToGo, now: tuple[Stage, Array]
) -> tuple[CostToGo, tuple[Array, Array]]:
    """Carry a deviating agent's optimal cost one step back.

        H2 best = m'(slope on (Y, Ybar+ of the others, 1)),   beta = -best x

    Returns:
      The cost to go, and the step's best response rows [p, 2d+1] with the Hessian H2 [p, p].
    """
    stage, rows = now
    later, effort = _arrive(setting, stage, later)
    m, share = stage.moments.mean, setting.share
    d = m.shape[0]
    slope, H2 = own_slope(later, stage.moments, effort, share)
    # Where the mean field goes when everybody but this agent moves, as a map of its view.
    at_mean = jnp.concatenate([jnp.zeros_like(m.T), rows[:, :d] + rows[:, d:-1], rows[:, -1:]], 1)
    stay = jnp.eye(2 * d + 1, dtype=m.dtype).at[d:-1].add(-matmul(m, at_mean - share * rows))
    best = solve_spd(H2, matmul(m.T, slope, stay))
    return carry_back(later, stage.moments, share, rows, effort, own=best), (best, H2)


@jax.jit
def _best_response(setting: _Setting) -> tuple[Array, Array]:
    """Return the least costs [n], and by how much the costs of the gains exceed them [n]."""

    def step(carry: tuple[CostToGo, CostToGo], now: tuple[Stage, Array]) -> tuple[Any, None]:
        optimal, excess = carry
        stage, rows = now
        optimal, (best, H2) = _respond(setting, optimal, now)
        free = jnp.zeros_like(stage.discount)
        excess = carry_back(excess, stage.moments, setting.share, rows, free)
        regret = matmul((rows - best).T, H2, rows - best)
        return (optimal, CostToGo(excess.joint + regret, excess.spread)), None

    last = CostToGo.zero(setting.targets.shape[1], setting.targets.dtype)
    first, _ = lax.scan(step, (last, last), setting.play(), reverse=True)
    optimal, excess = first
    return _at_start(optimal, setting), _at_start(excess, setting)
