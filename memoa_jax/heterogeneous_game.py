"""The hindsight game of agents that all differ: each goes by its own features, and pays its own.

As `memoa_jax.hindsight`, but no agent knows the others' features, not even on average: it answers
a mean path with what its own features let it do, the realised ones or what they are on average,
and the path is the one that their answers have for a mean. `memoa_jax.responses` and
`memoa_jax.own_moments` hold the mathematics.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
from jax import lax

from memoa_jax.arithmetic import computed_once
from memoa_jax.cost_spread import CostSpread, differing, most_agents, own_costs
from memoa_jax.game import GameCost
from memoa_jax.groups import by_agent
from memoa_jax.linalg import applied, stacked_product
from memoa_jax.memory import Seen, Window
from memoa_jax.own_moments import OwnMoments, average_answers, definite_on_average, lived
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
from memoa_jax.window_ridge import Greedy, greedy_action, moving

Features = Literal["realised", "moments"]
"""What agents go by in a game: their features of its very steps, or averages over their past."""


@record
class HeterogeneousState:
    """A policy's memory: its last steps, what was seen, and what agents know of their features.

    `own` are the Grams of the realised ones, [T + 1, d, d, N], a ring over time as `seen`; or their
    moments.
    """

    window: Window
    seen: Seen
    own: Array | OwnMoments


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
    features: Features = static(default="realised")
    memory: Scalar | None = None

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
        # Who goes by averages has to live through the game's steps to know where it ends.
        length = self.local.window if self.memory is None else max(self.horizon, self.local.window)
        return HeterogeneousState(
            window=Window.empty(length, dimensions, num_agents, dtype),
            seen=Seen.nothing(self.horizon, dimensions.outputs, dtype),
            own=nothing_known(self, dimensions, num_agents, dtype),
        )

    def act(
        self, state: HeterogeneousState, observation: Observation
    ) -> tuple[HeterogeneousState, Action]:
        """Play the game on the known last steps when it is time to; be greedy otherwise."""
        window, step = state.window.advance(observation), observation.step
        latest = computed_once(window.features[(step - 1) % window.slots])
        seen = state.seen.see(observation.sight)
        base = observation.prediction
        cost = own_costs(self.cost, self.spread, observation, self.groups)
        own = remembered(self, state.own, latest, observation)

        def play() -> Action:
            if isinstance(own, OwnMoments):
                action = live_on_average(self, cost, seen, own, window, observation)
            else:
                action = replay(self, cost, seen, own, latest, observation)
            return moving(action, observation.features)

        def alone() -> Action:
            effort, everyone = self.greedy_effort, observation.population
            effort = cost.effort if effort is None else by_agent(effort, everyone, base.dtype)
            local = self.local.of_agents(everyone, base.dtype)
            local = dataclasses.replace(local, cost=dataclasses.replace(cost, effort=effort))
            return greedy_action(local, window, observation)

        action = lax.cond(is_played(self, seen, step), play, alone)
        own = noted(self, own, observation)
        return HeterogeneousState(window.onto(action.base), seen, own), action


def nothing_known(
    policy: HeterogeneousGame, dimensions: Dimensions, num_agents: int, dtype: Any
) -> Array | OwnMoments:
    """Return what agents know of their own features before step 0."""
    if policy.memory is not None:
        return OwnMoments.nothing(dimensions, num_agents, dtype)
    d = dimensions.outputs
    return jnp.zeros((policy.horizon + 1, d, d, num_agents), dtype)


def remembered(
    policy: HeterogeneousGame, own: Array | OwnMoments, latest: Array, observation: Observation
) -> Array | OwnMoments:
    """Enter step t-1, of features `latest` [d, p, N], into averages before they are gone by.

    Entered at its end, the step would make XLA copy what the game reads at every step.
    """
    if not isinstance(own, OwnMoments):
        return own
    assert policy.memory is not None
    began = (observation.step > 0).astype(latest.dtype)
    there = observation.voters.only_present(jnp.broadcast_to(began, own.weight.shape))
    return own.see(latest, there, policy.memory)


def noted(
    policy: HeterogeneousGame, own: Array | OwnMoments, observation: Observation
) -> Array | OwnMoments:
    """Enter the Grams of step t, where agents go by those."""
    if isinstance(own, OwnMoments):
        return own
    # The slot of a step that no game needs any more.
    return own.at[observation.step % (policy.horizon + 1)].set(gram(observation.features))


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
    start, _ = _from_start(seen, order)
    found = answers(cost, grams, order[:-1])
    pull, singular = _pulls(policy, cost, found, seen, observation)
    everyone = jnp.zeros_like(latest[:, 0])
    states = everyone
    if policy.horizon > 1:
        wanted = needs(found, pull)
        earlier = Answers(*(leaf[:-1] for leaf in (found.keep, found.reach, found.price)))
        states = paths(earlier, wanted, everyone)[-1]
    control = computed_once(_last_control(cost, found, pull[-1], states, latest))

    def good() -> Array:
        return definite(answers(cost, grams, order[:-1]), cost, grams, order[:-1])

    indefinite = _indefinite(cost, good, population)
    return Action(
        base=start[:, None] + (states + applied(latest, control)),
        control=control,
        status=_status(indefinite, singular),
    )


def live_on_average(
    policy: HeterogeneousGame,
    cost: GameCost,
    seen: Seen,
    known: OwnMoments,
    window: Window,
    observation: Observation,
) -> Action:
    """Let every agent live through the window again by feedback, knowing its features on average.

    The path that it makes is not the one that it expected, which is what the mean path is of.

    Args:
      policy: the game.
      cost: what the block's agents pay.
      seen: y_{t-T} .. y_t.
      known: what agents know of their features, up to step t-1.
      window: the block's own steps.
      observation: of step t.
    """
    start, _ = _from_start(seen, seen.order(observation.step))
    found, first = average_answers(cost, known, policy.horizon)
    pull, singular = _pulls(policy, cost, found, seen, observation)
    steps = observation.step - policy.horizon + jnp.arange(policy.horizon)
    wanted, order = needs(found, pull), steps % window.slots
    states, control = lived(found, first, wanted, window.features, order)

    indefinite = _indefinite(
        cost, lambda: definite_on_average(found, cost, known), observation.population
    )
    # A control of 0 has a sign that is left to chance.
    control = jnp.where(control == 0, 0.0, control)
    return Action(
        base=start[:, None] + states, control=control, status=_status(indefinite, singular)
    )


def _pulls(
    policy: HeterogeneousGame,
    cost: GameCost,
    found: Answers,
    seen: Seen,
    observation: Observation,
) -> tuple[Array, Array]:
    """Return what pulls at the agents, [T, d, N], and whether the mean path is singular."""
    _, targets = _from_start(seen, seen.order(observation.step))
    if observation.told is None:
        averages = _averages(policy, found, cost, observation.population)
        path, singular = meet_path(policy.cost, averages, targets)
    else:
        ((path, singular),) = observation.told
    return pulls(cost, discounts_of(cost, policy.horizon), targets, path), singular


def _status(indefinite: Array, singular: Array) -> Array:
    status = jnp.where(indefinite, Status.INDEFINITE, 0) | jnp.where(singular, Status.SINGULAR, 0)
    return status.astype(jnp.int32)


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


def _indefinite(cost: GameCost, good: Callable[[], Array], population: Population) -> Array:
    """Tell whether some agent's cost has no minimum; no question unless a price is negative."""
    price = jnp.asarray(cost.tracking + cost.consensus)
    least = -population.largest(-price) if price.ndim else price

    def look() -> Array:
        definite_costs = good()
        bad = jnp.where(definite_costs, 0.0, 1.0).astype(least.dtype)
        return population.largest(bad) > 0

    return lax.cond(least < 0, look, lambda: jnp.zeros((), bool))


@record
class PathState:
    """What the survey's blocks remember: what was seen, and what is known of their features.

    `pending` [d, p, N] are the features of the last step, where they wait to be averaged.
    """

    seen: Seen
    own: Array | OwnMoments
    pending: Array | None


@record
class PathSurvey:
    """Asks how the mean path would answer to itself, and answers with the one that reproduces."""

    policy: HeterogeneousGame

    def init(self, dimensions: Dimensions, num_agents: int, dtype: Any) -> PathState:
        """Return empty memories."""
        d, p = dimensions.outputs, dimensions.features
        return PathState(
            Seen.nothing(self.policy.horizon, d, dtype),
            nothing_known(self.policy, dimensions, num_agents, dtype),
            None if self.policy.memory is None else jnp.zeros((d, p, num_agents), dtype),
        )

    def look(self, state: PathState, observation: Observation) -> tuple[PathState, list[Array]]:
        """Return the block's share of the mean kernels."""
        policy, step = self.policy, observation.step
        d, _, _ = observation.features.shape
        seen, own, pending = state.seen.see(observation.sight), state.own, state.pending
        if pending is not None:
            own, pending = remembered(policy, own, pending, observation), observation.features

        def ask() -> list[Array]:
            cost = own_costs(policy.cost, policy.spread, observation, policy.groups)
            if isinstance(own, OwnMoments):
                found, _ = average_answers(cost, own, policy.horizon)
            else:
                found = answers(cost, own, seen.order(step)[:-1])
            return _averages(policy, found, cost, observation.population)

        several = differing(policy.cost, policy.spread, "tracking", "consensus")
        shape = (policy.horizon, d, policy.horizon, d)
        nothing = [jnp.zeros(shape, observation.features.dtype)] * (1 + several)
        averages = lax.cond(is_played(policy, seen, step), ask, lambda: nothing)
        return PathState(seen, noted(policy, own, observation), pending), averages

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
