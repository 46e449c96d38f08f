"""The hindsight game of agents that all differ: each goes by its own features, and pays its own.

As `memoa_jax.hindsight`, but no agent knows the others' features, not even on average: it answers
a mean path with what its own realised features let it do, and the path is the one that their
answers have for a mean. `memoa_jax.responses` holds the mathematics.
"""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

import jax.numpy as jnp
from jax import lax

from memoa_jax.arguments import one_of
from memoa_jax.arithmetic import computed_once
from memoa_jax.cost_spread import CostSpread, check_own_costs, differing, most_agents, own_costs
from memoa_jax.forecast import FORECAST_COST, ForecastGame, GameName, forecast_game
from memoa_jax.game import GameCost
from memoa_jax.groups import by_agent, check_costs, several
from memoa_jax.hindsight import check_steps
from memoa_jax.linalg import applied, stacked_product
from memoa_jax.memory import Window
from memoa_jax.responses import (
    Answers,
    answers,
    definite,
    discounts_of,
    gram,
    kernels,
    mean_path,
    needs,
    paths,
    pulls,
)
from memoa_jax.types import (
    Action,
    Array,
    Dimensions,
    Observation,
    Population,
    Scalar,
    Sight,
    Status,
    Survey,
    record,
    static,
)
from memoa_jax.window_ridge import Greedy, greedy_control, make_greedy


def heterogeneous(
    cost: GameCost | None = None,
    horizon: int = 3,
    window: int | tuple[int, ...] = 3,
    sync_every: int | Array = 1,
    spread: CostSpread | None = None,
    game: GameName = "hindsight",
    greedy_effort: Scalar | tuple[Scalar, ...] | None = None,
    ridge: Scalar = 0.1,
    discount: Scalar = 0.999,
    groups: int | None = None,
) -> HeterogeneousGame | ForecastGame:
    """Make the heterogeneous policy: the mean-field equilibrium of agents that all differ.

    As `decentralized` (which see), but nobody goes by average features: every agent answers the
    mean path with what its *own* realised features of the last T steps let it do, and pays costs
    of its own; the path is the one of which those answers have the mean. In the hindsight game

        beta^i_s = -Z' (P G + effort^i I)^{-1} (P Y^i_s + s^i_s),     G = Z Z', Z = Z^i_s
        (I - mean_i U^i) mbar = mean_i v^i,     Y^i = U^i mbar + v^i

    with P and s of each agent's own backward recursion (`memoa_jax.responses`). Exact in the
    limit of many agents, and off by O(1/N) before it; O(T^2 d^3 + d^2 p) per agent and game, and
    one T d x T d solve. Nothing is told but the mean path, which the replay then
    takes to the letter: there is no choice of information, and none of staleness. In the forecast
    game agents use their own features in any case, so only their costs are new.

    Axes: N agents, T horizon, d outputs, p features.

    Args:
      cost: see `decentralized`. `tracking`, `consensus` and `effort` are numbers, or [N] with one
        for every agent of the run; `ensemble` plays no part.
      horizon: T, steps per game; static.
      window: of the greedy steps; static.
      sync_every: steps between games, >= 1; may be traced.
      spread: by what random factors agents' costs differ beside; None: by none.
      game: "hindsight" or "forecast"; static.
      greedy_effort: effort of the greedy steps; default each agent's own in the game.
      ridge: of the forecast's regression, > 0.
      discount: of the forecast's regression, per step, in (0, 1].
      groups: K, where groups of agents differ (see `simulate`): costs (but `forgetting`),
        `window` and `greedy_effort` may then be K numbers each; static.

    Raises:
      ValueError: if an argument is outside what is allowed, or a run has more agents than costs.

    Source: Huang, Yang (arXiv 2107.09168) for the limit; the reduction to d x d is own
      derivation, tested in tests/test_heterogeneous.py.

    Example:
      >>> heterogeneous(spread=CostSpread(effort=0.5)).spread.effort
      0.5
    """
    one_of("heterogeneous", "game", game, get_args(GameName))
    forecast = game == "forecast"
    cost = (FORECAST_COST if forecast else GameCost()) if cost is None else cost
    if groups is None:
        check_own_costs("heterogeneous", cost)
    else:
        cost, groups = check_costs("heterogeneous", cost, groups)
    if forecast:
        made = forecast_game("heterogeneous", None, ridge, discount, 0, finite=False)
        return dataclasses.replace(made, cost=cost, spread=spread, groups=groups)
    check_steps("heterogeneous", horizon, sync_every)
    if several(cost.forgetting):
        raise ValueError(
            f"heterogeneous: cost.forgetting = {cost.forgetting}: allowed is one number, the same "
            "for all groups"
        )
    return HeterogeneousGame(
        cost=cost,
        spread=spread,
        local=make_greedy("heterogeneous", GameCost(), window, groups),
        greedy_effort=greedy_effort,
        sync_every=sync_every,
        horizon=horizon,
        groups=groups,
    )


@record
class Seen:
    """The last T + 1 targets, a ring over time, and whether each was observed."""

    targets: Array
    known: Array

    @classmethod
    def nothing(cls, horizon: int, outputs: int, dtype: Any) -> Seen:
        """Return a ring in which nothing was seen."""
        return cls(jnp.zeros((horizon + 1, outputs), dtype), jnp.zeros((horizon + 1,), bool))

    def see(self, sight: Sight) -> Seen:
        """Enter y_t."""
        slot = sight.step % self.known.shape[0]
        return Seen(self.targets.at[slot].set(sight.target), self.known.at[slot].set(sight.known))

    def order(self, step: Array) -> Array:
        """Return where the steps t-T .. t stand in rings of this length, [T + 1], oldest first."""
        return (step + 1 + jnp.arange(self.known.shape[0])) % self.known.shape[0]


@record
class HeterogeneousState:
    """A policy's memory: the window of the greedy steps, what was seen, and Grams of features.

    `grams` [T + 1, d, d, N] is a ring over time, as `seen`.
    """

    window: Window
    seen: Seen
    grams: Array


@record
class HeterogeneousGame:
    """See `heterogeneous`."""

    cost: GameCost
    spread: CostSpread | None
    local: Greedy
    greedy_effort: Scalar | tuple[Scalar, ...] | None
    sync_every: Array | int
    horizon: int = static()
    groups: int | None = static(default=None)

    @property
    def surveys(self) -> tuple[Survey, ...]:
        """What must be known of all agents: their mean path."""
        return (PathSurvey(self),)

    @property
    def most_agents(self) -> int | None:
        """How many agents a run may have; None: any number."""
        return most_agents(self.cost) if self.groups is None else None

    def init(self, dimensions: Dimensions, num_agents: int, dtype: Any) -> HeterogeneousState:
        """Return empty memories."""
        d = dimensions.outputs
        return HeterogeneousState(
            window=Window.empty(self.local.window, dimensions, num_agents, dtype),
            seen=Seen.nothing(self.horizon, d, dtype),
            grams=jnp.zeros((self.horizon + 1, d, d, num_agents), dtype),
        )

    def act(
        self, state: HeterogeneousState, observation: Observation
    ) -> tuple[HeterogeneousState, Action]:
        """Play the game on the known last steps when it is time to; be greedy otherwise."""
        window, step = state.window.complete(observation), observation.step
        latest, seen = state.window.pending_features, state.seen.see(observation.sight)
        base = observation.prediction
        cost = own_costs(self.cost, self.spread, observation, self.groups)

        def play() -> Action:
            return replay(self, cost, seen, state.grams, latest, observation)

        def alone() -> Action:
            effort, everyone = self.greedy_effort, observation.population
            effort = cost.effort if effort is None else by_agent(effort, everyone, base.dtype)
            local = self.local.of_agents(everyone, base.dtype)
            local = dataclasses.replace(local, cost=dataclasses.replace(cost, effort=effort))
            control = greedy_control(local, window, step)
            return Action(base=base, control=control, status=jnp.int32(Status.OK))

        action = lax.cond(is_played(self, seen, step), play, alone)
        # The slot of a step that no game needs any more.
        grams = state.grams.at[step % (self.horizon + 1)].set(gram(observation.features))
        window = window.begin(observation.features, action.base)
        return HeterogeneousState(window, seen, grams), action


def is_played(policy: HeterogeneousGame, seen: Seen, step: Array) -> Array:
    """Tell whether the last T steps are played over now: it is time to, and all y are known."""
    due = (step >= policy.horizon) & (step % policy.sync_every == 0)
    return due & jnp.all(seen.known)


def replay(
    policy: HeterogeneousGame,
    cost: GameCost,
    seen: Seen,
    grams: Array,
    latest: Array,
    observation: Observation,
) -> Action:
    """Let every agent live through the window again, its own way: the equilibrium path.

    Everything is reckoned from where all start, y_{t-T}.

    Args:
      policy: the game.
      cost: what the block's agents pay.
      seen: y_{t-T} .. y_t.
      grams: the ring of Z Z', up to step t-1.
      latest: [d, p, N], the features of step t-1.
      observation: of step t.
    """
    order, population = seen.order(observation.step), observation.population
    start, targets = _from_start(seen, order)
    found = answers(cost, grams, order[:-1])
    if observation.told is None:
        averages = _averages(policy, found, cost, population)
        path, singular = meet_path(policy.cost, averages, targets)
    else:
        ((path, singular),) = observation.told
    pull = pulls(cost, discounts_of(cost, policy.horizon), targets, path)
    everyone = jnp.zeros_like(latest[:, 0])
    states = everyone
    if policy.horizon > 1:
        wanted = needs(found, pull)
        earlier = Answers(*(leaf[:-1] for leaf in (found.keep, found.reach, found.price)))
        states = paths(earlier, wanted, everyone)[-1]
    control = computed_once(_last_control(cost, found, pull[-1], states, latest))
    indefinite = _indefinite(cost, grams, order[:-1], population)
    status = jnp.where(indefinite, Status.INDEFINITE, 0) | jnp.where(singular, Status.SINGULAR, 0)
    return Action(
        base=start[:, None] + (states + applied(latest, control)),
        control=control,
        status=status.astype(jnp.int32),
    )


def _from_start(seen: Seen, order: Array) -> tuple[Array, Array]:
    """Return y_{t-T} [d], and how far from it y_{t-T+1} .. y_t are, [T, d]."""
    targets = seen.targets[order]
    return targets[0], targets[1:] - targets[:1]


def _last_control(
    cost: GameCost, found: Answers, pull: Array, states: Array, latest: Array
) -> Array:
    """Return beta = -Z'(P G + effort I)^{-1} (P Y - pull) of the last step, [p, N]."""
    # After it nothing is to come: P = (tracking + consensus) I, and the discount is 1.
    price = jnp.reshape(cost.tracking + cost.consensus, (1, -1))
    wanted = (pull - price * states) / jnp.reshape(cost.effort, (1, -1))
    wanted = stacked_product(jnp.swapaxes(found.keep[-1], 0, 1), wanted[:, None])[:, 0]
    control = latest[0] * wanted[0][None]
    for a in range(1, latest.shape[0]):
        control = control + latest[a] * wanted[a][None]
    # Who was absent has features of 0, and a control of 0 whose sign would be left to chance.
    return jnp.where(control == 0, 0.0, control)


def _averages(
    policy: HeterogeneousGame, found: Answers, cost: GameCost, population: Population
) -> list[Array]:
    """Return the mean kernels: one, or those weighed with consensus and with tracking."""
    if not differing(policy.cost, policy.spread, "tracking", "consensus"):
        return kernels(found, population, None)
    pair = (jnp.broadcast_to(w, found.keep.shape[-1:]) for w in (cost.consensus, cost.tracking))
    return kernels(found, population, *pair)


def meet_path(cost: GameCost, averages: list[Array], targets: Array) -> tuple[Array, Array]:
    """Solve for the path on which all answers meet; see `responses.mean_path`."""
    dtype = targets.dtype
    if len(averages) == 1:
        weights = (jnp.asarray(cost.consensus, dtype), jnp.asarray(cost.tracking, dtype))
        averages = [weight * averages[0] for weight in weights]
    forgetting = GameCost(forgetting=jnp.asarray(cost.forgetting, dtype))
    pulled, tracked = averages
    return mean_path(pulled, tracked, discounts_of(forgetting, targets.shape[0]), targets)


def _indefinite(cost: GameCost, grams: Array, order: Array, population: Population) -> Array:
    """Tell whether some agent's cost has no minimum; no question unless a price is negative."""
    price = jnp.asarray(cost.tracking + cost.consensus)
    least = -population.largest(-price) if price.ndim else price

    def look() -> Array:
        good = definite(answers(cost, grams, order), cost, grams, order)
        return population.largest(jnp.where(good, 0.0, 1.0).astype(grams.dtype)) > 0

    return lax.cond(least < 0, look, lambda: jnp.zeros((), bool))


@record
class PathState:
    """What the survey's blocks remember: what was seen, and the Grams of their features."""

    seen: Seen
    grams: Array


@record
class PathSurvey:
    """Asks how the mean path would answer to itself, and answers with the one that reproduces."""

    policy: HeterogeneousGame

    def init(self, dimensions: Dimensions, num_agents: int, dtype: Any) -> PathState:
        """Return empty memories."""
        horizon, d = self.policy.horizon, dimensions.outputs
        return PathState(
            Seen.nothing(horizon, d, dtype), jnp.zeros((horizon + 1, d, d, num_agents), dtype)
        )

    def look(self, state: PathState, observation: Observation) -> tuple[PathState, list[Array]]:
        """Return the block's share of the mean kernels."""
        policy, step, grams = self.policy, observation.step, state.grams
        seen = state.seen.see(observation.sight)
        dtype = grams.dtype

        def ask() -> list[Array]:
            cost = own_costs(policy.cost, policy.spread, observation, policy.groups)
            found = answers(cost, grams, seen.order(step)[:-1])
            return _averages(policy, found, cost, observation.population)

        several = differing(policy.cost, policy.spread, "tracking", "consensus")
        steps, d = policy.horizon, grams.shape[1]
        nothing = [jnp.zeros((steps, d, steps, d), dtype)] * (1 + several)
        averages = lax.cond(is_played(policy, seen, step), ask, lambda: nothing)
        grams = grams.at[step % (steps + 1)].set(gram(observation.features))
        return PathState(seen, grams), averages

    def begin(self, dimensions: Dimensions, dtype: Any) -> Seen:
        """Return a ring in which nothing was seen."""
        return Seen.nothing(self.policy.horizon, dimensions.outputs, dtype)

    def meet(
        self, common: Seen, found: list[Array], sight: Sight
    ) -> tuple[Seen, tuple[Array, Array]]:
        """Solve for the mean path, reckoned from where all start, [T, d]."""
        seen = common.see(sight)
        _, targets = _from_start(seen, seen.order(sight.step))
        return seen, meet_path(self.policy.cost, found, targets)
