"""Exact evaluation of strategies of K types: `memoa_jax.analysis` for agents that differ by type.

With one agent per type the gains read every agent's state, so these functions also judge any
affine strategies of a small population, alike or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from memoa_jax.game import FeatureMoments, GameCost, InitialLaw, initial_mean, standard_states
from memoa_jax.information import Information, check_information, offline_gains
from memoa_jax.linalg import einsum, matmul
from memoa_jax.nash_step import CostToGo, FeedbackGains, Stage, standard_gains
from memoa_jax.nash_types import solve_nash_types, solve_team_types
from memoa_jax.types import Array, record, static
from memoa_jax.types_game import Counts, TypesGame, Weights, standard_types
from memoa_jax.types_step import Crowd, best_rows, carry_back

TypeStates = Array | InitialLaw | Sequence[Array]
"""States of K types: [K, n, d], a law with a leading axis K, or K arrays [n_k, d]."""


def expected_costs_types(
    costs: GameCost,
    moments: FeatureMoments,
    targets: Array,
    counts: Counts,
    gains: FeedbackGains,
    states: TypeStates,
    weights: Weights = None,
    information: Information = "feedback",
) -> Array | list[Array]:
    """Return each agent's expected cost when all agents of a type use the same gains.

    Exact for any gains and any group sizes: a backward recursion for each type's quadratic cost
    to go. O(T K^2 (p^2 d^2 + K^2 d^3)) for the recursion, independent of the numbers of agents,
    then O(K^2 d^2) per state. With K = 1 it is `expected_costs`.

        J^i = x^i'P_k x^i + sum_l mean_{j in l} Y^j'D_kl Y^j,    x^i = (Y^i, mbar_1 .. mbar_K, 1)

    Axes: K types, n given states per type, T horizon, d outputs, p features.

    Args:
      costs: what agents pay. Leaves are scalars, or [K] with one entry per type, in squared
        target units; `effort` > 0, per squared control.
      moments: mean [K, T, d, p] and second [K, T, d, d, p, p] of each type's features.
      targets: [T, d], in the series' own units; row t is y_{t+1}.
      counts: K numbers of agents; None for a type in its limit. They enter as traced 1/N_k.
      gains: own [K, T, p, d], mean [K, T, p, K d], offset [K, T, p].
      states: predictions at t = 0, in target units: [K, n, d], or K arrays [n_k, d] in a list.
        They are each type's empirical law, so n need not equal N_k. Or an `InitialLaw` of mean
        [K, d] and covariance [K, d, d]: states yet to be drawn.
      weights: [K], the weight of each type's mean in the ensemble's; N_k/N if not given.
        Required if a count is None.
      information: "feedback" or "offline" (see `memoa_jax.information`).

    Returns:
      [K, n], the expected cost of an agent that starts at each of the states; a list of [n_k] for
      a list of states; [K] with an `InitialLaw`.

    Raises:
      ValueError: at trace time, if a shape does not fit, effort is a number not above 0, a count
        is a number below 1, weights are missing, or information is no such pattern.

    Source: own derivation, tested in tests/test_analysis_types.py against enumeration.

    Example:
      >>> moments = FeatureMoments(jnp.ones((2, 3, 1, 1)), 2 * jnp.ones((2, 3, 1, 1, 1, 1)))
      >>> game = (GameCost(), moments, jnp.ones((3, 1)), [2, 5])
      >>> gains = solve_nash_types(*game).gains
      >>> states = [jnp.zeros((2, 1)), jnp.ones((5, 1))]
      >>> [cost.shape for cost in expected_costs_types(*game, gains, states)]
      [(2,), (5,)]
    """
    setting = _setting(costs, moments, targets, counts, gains, states, weights, information)
    found: Array | list[Array] = _costs(setting)
    return found


def best_response_costs_types(
    costs: GameCost,
    moments: FeatureMoments,
    targets: Array,
    counts: Counts,
    gains: FeedbackGains,
    states: TypeStates,
    weights: Weights = None,
    information: Information = "feedback",
) -> Array | list[Array]:
    """Return each agent's least expected cost when all the others keep the given gains.

    Exact; the deviating agent sees the full realised state in both patterns of information.
    The cost is that of `expected_costs_types`, and O(T K p^3).

        J^i* = min over beta^i of J^i(beta^i, gains of the others)

    Axes: K types, n given states per type, T horizon, d outputs, p features.

    Args:
      costs: what agents pay; leaves are scalars or [K], in squared target units.
      moments: mean [K, T, d, p] and second [K, T, d, d, p, p] of each type's features.
      targets: [T, d], in the series' own units; row t is y_{t+1}.
      counts: K numbers of agents, or None for a type in its limit.
      gains: own [K, T, p, d], mean [K, T, p, K d], offset [K, T, p]: what the others play.
      states: as in `expected_costs_types`.
      weights: [K], as in `expected_costs_types`.
      information: "feedback" or "offline": what the others know.

    Returns:
      As `expected_costs_types`; NaN where no best response exists.

    Raises:
      ValueError: as `expected_costs_types`.

    Source: own derivation, tested in tests/test_analysis_types.py against enumeration.

    Example:
      >>> moments = FeatureMoments(jnp.ones((2, 3, 1, 1)), 2 * jnp.ones((2, 3, 1, 1, 1, 1)))
      >>> game, states = (GameCost(), moments, jnp.ones((3, 1)), [2, 5]), jnp.zeros((2, 4, 1))
      >>> best_response_costs_types(*game, solve_nash_types(*game).gains, states).shape
      (2, 4)
    """
    setting = _setting(costs, moments, targets, counts, gains, states, weights, information)
    found: Array | list[Array] = _best_response(setting)[0]
    return found


def exploitability_types(
    costs: GameCost,
    moments: FeatureMoments,
    targets: Array,
    counts: Counts,
    gains: FeedbackGains,
    states: TypeStates,
    weights: Weights = None,
    information: Information = "feedback",
) -> Array | list[Array]:
    """Return what each agent would gain by deviating alone: 0 at a Nash equilibrium.

    Exact, and resolved however small: the deviation's own second-order cost, summed along the
    path of the gains, as in `exploitability`. O(T K^2 (p^2 d^2 + K^2 d^3) + T K p^3).

        J^i - J^i* = E sum_t (beta^i_t - best_t)' H2_t (beta^i_t - best_t)

    Axes: K types, n given states per type, T horizon, d outputs, p features.

    Args:
      costs: what agents pay; leaves are scalars or [K], in squared target units.
      moments: mean [K, T, d, p] and second [K, T, d, d, p, p] of each type's features.
      targets: [T, d], in the series' own units; row t is y_{t+1}.
      counts: K numbers of agents, or None for a type in its limit.
      gains: own [K, T, p, d], mean [K, T, p, K d], offset [K, T, p]: what everybody plays.
      states: as in `expected_costs_types`.
      weights: [K], as in `expected_costs_types`.
      information: "feedback" or "offline": what agents know.

    Returns:
      As `expected_costs_types`; NaN where no best response exists.

    Raises:
      ValueError: as `expected_costs_types`.

    Source: own derivation, tested in tests/test_analysis_types.py against enumeration.

    Example:
      >>> moments = FeatureMoments(jnp.ones((2, 3, 1, 1)), 2 * jnp.ones((2, 3, 1, 1, 1, 1)))
      >>> game, states = (GameCost(), moments, jnp.ones((3, 1)), [2, 5]), jnp.zeros((2, 4, 1))
      >>> bool(exploitability_types(*game, solve_nash_types(*game).gains, states).max() < 1e-9)
      True
    """
    setting = _setting(costs, moments, targets, counts, gains, states, weights, information)
    found: Array | list[Array] = _best_response(setting)[1]
    return found


def price_of_anarchy_types(
    costs: GameCost,
    moments: FeatureMoments,
    targets: Array,
    counts: Counts,
    states: TypeStates,
    weights: Weights = None,
    importance: Weights = None,
) -> Array:
    """Return the average cost of the Nash equilibrium of K types over that of their team optimum.

    Exact, independent of the numbers of agents. At least 1. Types with different costs or
    features pull the equilibrium away from the optimum, so it stays above 1 in the limit too.

        sum_k importance_k mean_{i in k} J^i(Nash)  /  the same of the team

    Axes: K types, n given states per type, T horizon, d outputs, p features.

    Args:
      costs: what agents pay; leaves are scalars or [K], in squared target units.
      moments: mean [K, T, d, p] and second [K, T, d, d, p, p] of each type's features.
      targets: [T, d], in the series' own units; row t is y_{t+1}.
      counts: K numbers of agents, or None for a type in its limit.
      states: as in `expected_costs_types`.
      weights: [K], as in `expected_costs_types`.
      importance: [K], each type's share of the agents (see `solve_team_types`).

    Returns:
      A scalar.

    Raises:
      ValueError: as `expected_costs_types`.

    Source: own derivation, tested in tests/test_analysis_types.py.

    Example:
      >>> moments = FeatureMoments(jnp.ones((2, 3, 1, 1)), 2 * jnp.ones((2, 3, 1, 1, 1, 1)))
      >>> game, states = (GameCost(), moments, jnp.ones((3, 1)), [2, 5]), jnp.zeros((2, 4, 1))
      >>> bool(price_of_anarchy_types(*game, states) >= 1)
      True
    """
    game = (costs, moments, targets, counts)
    nash = solve_nash_types(*game, weights).gains
    team = solve_team_types(*game, weights, importance).gains
    shares = standard_types(*game, weights, importance).importance

    def average(gains: FeedbackGains) -> Array:
        found = expected_costs_types(*game, gains, states, weights)
        if isinstance(found, list):
            by_type = jnp.stack([jnp.mean(each) for each in found])
        else:
            by_type = found if found.ndim == 1 else jnp.mean(found, axis=1)
        return matmul(shares, by_type)

    return average(nash) / average(team)


@record
class _Setting:
    """A checked game of K types, what everybody plays and knows, and the law of the states."""

    game: TypesGame
    gains: FeedbackGains
    states: Any
    offline: bool = static()

    def play(self) -> tuple[Stage, Array]:
        """Return what a backward scan runs over: stages, and rows of gains [T, K, p, n]."""
        gains = self.gains
        if self.offline:
            gains = offline_gains(self.game.moments, gains, _means(self.states))
        rows = jnp.concatenate([gains.own, gains.mean, gains.offset[..., None]], axis=-1)
        return self.game.stages(), jnp.moveaxis(rows, 1, 0)

    def crowd(self, stage: Stage, rows: Array) -> Crowd:
        """Return what everybody does in one step."""
        return Crowd.playing(stage.moments, self.game.shares, rows)


def _setting(
    costs: GameCost,
    moments: FeatureMoments,
    targets: Array,
    counts: Counts,
    gains: FeedbackGains,
    states: TypeStates,
    weights: Weights,
    information: str,
) -> _Setting:
    """Check the arguments and cast them to one dtype."""
    check_information(information)
    also = jax.tree.leaves((gains, states))
    game = standard_types(costs, moments, targets, counts, weights, also=also)
    gains = standard_gains(gains, game.moments)
    dtype, (types, _, d, _) = game.targets.dtype, game.moments.mean.shape
    if isinstance(states, list | tuple):
        if len(states) != types:
            raise ValueError(
                f"states has length {len(states)}: with moments of {types} types allowed is {types}"
            )
        checked: Any = [standard_states(each, d, dtype) for each in states]
    else:
        checked = standard_states(states, d, dtype, (types,))
    return _Setting(game, gains, checked, information == "offline")


def _means(states: Any) -> Array:
    """Return the means [K, d] of the types' states, or of their laws."""
    if isinstance(states, list):
        return jnp.stack([initial_mean(each) for each in states])
    return initial_mean(states)


def _at_start(first: CostToGo, setting: _Setting) -> Array | list[Array]:
    """Evaluate the costs to go at t = 0 at each of the states, or over their law."""
    states, shares = setting.states, setting.game.shares
    means = _means(states)
    if isinstance(states, InitialLaw):
        return _over_law(first, states, shares)

    def of_type(joint: Array, spread: Array, own: Array, seconds: Array) -> Array:
        common = jnp.append(means.reshape(-1), jnp.ones((), joint.dtype))
        views = jnp.concatenate(
            [own, jnp.broadcast_to(common, (own.shape[0], common.size))], axis=1
        )
        scattered = einsum("lab,lab->", spread, seconds)
        return einsum("na,ab,nb->n", views, joint, views) + scattered

    if isinstance(states, list):
        seconds = jnp.stack([matmul(each.T, each) / each.shape[0] for each in states])
        return [
            of_type(first.joint[k], first.spread[k], each, seconds) for k, each in enumerate(states)
        ]
    seconds = einsum("kna,knb->kab", states, states) / states.shape[1]
    return jax.vmap(of_type, in_axes=(0, 0, 0, None))(first.joint, first.spread, states, seconds)


def _over_law(first: CostToGo, law: InitialLaw, shares: Array) -> Array:
    """Average the costs to go [K] over states that are drawn independently in each type."""
    types, d = law.mean.shape
    each = jnp.arange(types)
    A, joint = first.joint[:, :d, :d], first.joint
    B = joint[:, :d, d:-1].reshape(types, d, types, d)[each, :, each]  # with its own type's mean
    C = joint[:, d:-1, d:-1].reshape(types, types, d, types, d)[:, each, :, each]  # [l, k, d, d]
    at_means = jnp.concatenate(
        [
            law.mean,
            jnp.broadcast_to(law.mean.reshape(-1), (types, types * d)),
            jnp.ones((types, 1), law.mean.dtype),
        ],
        axis=1,
    )
    certain = einsum("kx,kxy,ky->k", at_means, joint, at_means)
    certain = certain + einsum("la,klab,lb->k", law.mean, first.spread, law.mean)
    own = einsum("kab,kab->k", A + 2 * shares[:, None, None] * B, law.covariance)
    others = jnp.swapaxes(first.spread, 0, 1) + shares[:, None, None, None] * C
    return certain + own + einsum("lkab,lab->k", others, law.covariance)


def _arrive(setting: _Setting, later: CostToGo, stage: Stage) -> tuple[CostToGo, Array]:
    """Add the running costs paid on arrival at t+1; return also the discounted efforts [K]."""
    joint = later.joint + setting.game.arrivals(stage)
    return CostToGo(joint, later.spread), stage.discount * setting.game.costs.effort


@jax.jit
def _costs(setting: _Setting) -> Array | list[Array]:
    each = jnp.arange(setting.game.shares.size)

    def step(later: CostToGo, now: tuple[Stage, Array]) -> tuple[CostToGo, None]:
        stage, rows = now
        later, effort = _arrive(setting, later, stage)
        back = jax.vmap(carry_back, in_axes=(0, 0, None, 0))
        return back(each, later, setting.crowd(stage, rows), effort), None

    first, _ = lax.scan(step, setting.game.zero(), setting.play(), reverse=True)
    return _at_start(first, setting)


@jax.jit
def _best_response(setting: _Setting) -> tuple[Any, Any]:
    """Return the least costs, and by how much the costs of the gains exceed them."""

    def of_type(
        index: Array, optimal: CostToGo, excess: CostToGo, crowd: Crowd, effort: Array
    ) -> tuple[CostToGo, CostToGo]:
        best, H2 = best_rows(index, optimal, crowd, effort)
        optimal = carry_back(index, optimal, crowd, effort, own=best)
        excess = carry_back(index, excess, crowd, jnp.zeros_like(effort))
        gap = crowd.rows[index] - best
        return optimal, CostToGo(excess.joint + matmul(gap.T, H2, gap), excess.spread)

    def step(carry: tuple[CostToGo, CostToGo], now: tuple[Stage, Array]) -> tuple[Any, None]:
        optimal, excess = carry
        stage, rows = now
        optimal, effort = _arrive(setting, optimal, stage)
        each, crowd = jnp.arange(effort.size), setting.crowd(stage, rows)
        back = jax.vmap(of_type, in_axes=(0, 0, 0, None, 0))
        return back(each, optimal, excess, crowd, effort), None

    zero = setting.game.zero()
    first, _ = lax.scan(step, (zero, zero), setting.play(), reverse=True)
    optimal, excess = first
    return _at_start(optimal, setting), _at_start(excess, setting)
