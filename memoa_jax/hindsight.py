"""The hindsight game: at every step the last T steps, whose targets are known, are played over.

In three moves. `settle`, one for the whole population: solve the game for its gains. `replay`,
each agent's own: live through the window again with those gains. Between them stand sums over
all agents only: the moments of the features, and with feedback the mean field of the replay.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from memoa_jax.game import FeatureMoments, GameCost
from memoa_jax.information import Information, offline_gains
from memoa_jax.memory import History, Reflected, Window
from memoa_jax.nash import FeedbackGains, solve_nash
from memoa_jax.reflection import reflect
from memoa_jax.spread import Spread
from memoa_jax.types import (
    Action,
    Array,
    Dimensions,
    Observation,
    Population,
    Sight,
    Status,
    Survey,
    record,
    static,
)
from memoa_jax.window_ridge import Greedy, greedy_control


@record
class GameState:
    """A game policy's memory: the block's own window, and the population's history."""

    window: Window
    history: History


@record
class Plan:
    """What a game comes to, the same for all agents: whether it is played, and with what gains.

    `start` [d] is where everybody starts, `gains` are those of `solve_nash` ([T, ...]), `mean`
    [T, d, p] are the mean features of the steps played over.
    """

    played: Array
    start: Array
    gains: FeedbackGains
    mean: Array
    status: Array


@record
class HindsightGame:
    """See `decentralized` and `centralized`; `finite` says whether 1/N enters the game."""

    cost: GameCost
    local: Greedy
    sync_every: Array | int
    horizon: int = static()
    information: Information = static()
    staleness: int = static()
    finite: bool = static()

    @property
    def length(self) -> int:
        """Steps to remember: enough for the game and for the greedy steps."""
        return max(self.horizon, self.local.window)

    @property
    def surveys(self) -> tuple[Survey, ...]:
        """What must be known of all agents: the moments; with feedback, the replay's mean."""
        moments = (MomentsSurvey(self),)
        return (*moments, ReplaySurvey(self)) if self.information == "feedback" else moments

    def init(self, dimensions: Dimensions, num_agents: int, dtype: Any) -> GameState:
        """Return empty memories."""
        return GameState(
            window=Window.empty(self.length, dimensions, num_agents, dtype),
            history=History.empty(self.length, dimensions, dtype),
        )

    def act(self, state: GameState, observation: Observation) -> tuple[GameState, Action]:
        """Play the game on the known last steps when it is time to; be greedy otherwise."""
        window, step = state.window.complete(observation), observation.step
        history, path = state.history, None
        if observation.told is None:
            begun = Reflected.of(observation.features, observation.population)
            history, plan = settle(self, history, begun, observation.sight)
        else:
            plan, *paths = observation.told
            path = paths[0] if paths else None
        action = lax.cond(
            plan.played,
            lambda: replay(self, plan, window, step, observation.population, path),
            lambda: Action(
                base=observation.prediction,
                control=greedy_control(self.local, window, step),
                status=jnp.int32(Status.OK),
            ),
        )
        return GameState(window.begin(observation.features, action.base), history), action


def settle(
    policy: HindsightGame, history: History, begun: Reflected, sight: Sight
) -> tuple[History, Plan]:
    """Enter the last step into the history and solve the game when it is to be played.

    Args:
      policy: the game.
      history: of the population, up to the step before.
      begun: the realised moments of the step that begins, over all agents.
      sight: of the step that begins.
    """
    history = history.complete(sight, begun)
    slots = _slots(policy, sight.step)
    played = (
        (sight.step >= policy.horizon)
        & (sight.step % policy.sync_every == 0)
        & jnp.all(history.targets_known[slots])
        & history.origins_known[slots[0]]
    )
    start = history.origins[slots[0]]
    lived = jax.tree.map(lambda ring: ring[slots], history.features)
    moments, back = lived.moments, jax.vmap(lambda rows, by: reflect(rows, by[:, None], 0))

    def solve() -> tuple[FeedbackGains, Array]:
        size = sight.size if policy.finite else None
        equilibrium = solve_nash(policy.cost, moments, history.targets[slots], size)
        gains = equilibrium.gains
        if policy.information == "offline":
            gains = offline_gains(moments, gains, start)
        # The game is the same in any basis of features, and its gains are of the features' own.
        return FeedbackGains(
            own=back(gains.own, lived.householder),
            mean=back(gains.mean, lived.householder),
            offset=reflect(gains.offset, lived.householder),
        ), equilibrium.status

    def nothing() -> tuple[FeedbackGains, Array]:
        shapes = jax.eval_shape(solve)
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    gains, status = lax.cond(played, solve, nothing)
    mean = reflect(moments.mean, lived.householder[:, None])
    return history, Plan(played=played, start=start, gains=gains, mean=mean, status=status)


def _slots(policy: HindsightGame, step: Array) -> Array:
    """Return where the steps played over stand in the rings, [T], oldest first."""
    return (step - policy.horizon + jnp.arange(policy.horizon)) % policy.length


def replay(
    policy: HindsightGame,
    plan: Plan,
    window: Window,
    step: Array,
    population: Population,
    path: Array | None = None,
) -> Action:
    """Let the agents live through the window's steps once more, with the game's gains.

    Every agent starts at the y of the window's first step and applies the gains to its own
    realised features. The mean field it goes by is the realised one, `staleness` steps late and
    rolled forward by the gains since; offline it is rolled from the start. The last state and
    the last control are the action.

    Args:
      policy: the game.
      plan: what it came to.
      window: the block's own steps.
      step: t.
      population: asked for the realised mean field, unless `path` is given.
      path: [T, d], the mean field before every step played over, or None.
    """
    states, told = _live(policy, plan, window, step, population, path)
    last = policy.horizon - 1
    # The last step is written out because its control is wanted.
    control = _controls(policy, plan, states, told, last)
    features = window.features[_slots(policy, step)[last]]
    return Action(
        base=states + jnp.sum(features * control[None], axis=1), control=control, status=plan.status
    )


def mean_path(
    policy: HindsightGame,
    plan: Plan,
    window: Window,
    step: Array,
    population: Population,
    path: Array,
) -> Array:
    """Return the block's share of the mean field that agents make who go by a given one, [T, d].

    Row s is before step s of the game; it depends, affinely, on the rows of `path` before s.
    """
    return _live(policy, plan, window, step, population, path, keep=True)[1]


def _live(
    policy: HindsightGame,
    plan: Plan,
    window: Window,
    step: Array,
    population: Population,
    path: Array | None,
    *,
    keep: bool = False,
) -> tuple[Array, Array]:
    """Play all steps but the last; return the states then, and the path gone by (or made)."""
    slots = _slots(policy, step)
    realised = path is None and policy.information == "feedback"
    start = plan.start
    going = jnp.zeros((policy.horizon, *start.shape), start.dtype).at[0].set(start)
    going = going if path is None else path
    made = jnp.zeros_like(going).at[0].set(start * population.counted / population.size)

    def live(carry: tuple[Array, Array, Array], s: Array) -> tuple[Any, None]:
        states, going, made = carry
        control = _controls(policy, plan, states, going, s)
        states = states + jnp.sum(window.features[slots[s]] * control[None], axis=1)
        if realised:  # offline nobody is told
            going = going.at[s + 1].set(population.mean(states))
        if keep:
            made = made.at[s + 1].set(population.mean(states))
        return (states, going, made), None

    everyone = jnp.broadcast_to(start[:, None], window.pending_base.shape)
    (states, going, made), _ = lax.scan(
        live, (everyone, going, made), jnp.arange(policy.horizon - 1)
    )
    return states, made if keep else going


def _controls(
    policy: HindsightGame, plan: Plan, states: Array, path: Array, s: Array | int
) -> Array:
    """Return beta_s = -(own_s Y + mean_s Ybar + offset_s) of every agent, [p, N]."""
    gains = jax.tree.map(lambda leaf: leaf[s], plan.gains)
    mean_field = _known_mean(policy, plan, s, path)
    common = jnp.sum(gains.mean * mean_field[None], axis=1) + gains.offset
    own = gains.own[:, 0, None] * states[0][None]
    for a in range(1, states.shape[0]):
        own = own + gains.own[:, a, None] * states[a][None]
    return -(own + common[:, None])


def _known_mean(policy: HindsightGame, plan: Plan, s: Array | int, path: Array) -> Array:
    """Roll the last mean field that agents were told of forward to step s, by the gains."""
    told = jnp.maximum(s - policy.staleness, 0)
    mean_field = path[told]
    for ahead in range(min(policy.staleness, policy.horizon - 1)):
        then = jnp.minimum(told + ahead, policy.horizon - 1)
        by = jax.tree.map(lambda leaf, then=then: leaf[then], plan.gains)
        implied = jnp.sum((by.own + by.mean) * mean_field[None], axis=1) + by.offset
        rolled = mean_field - jnp.sum(plan.mean[then] * implied[None], axis=1)
        mean_field = jnp.where(told + ahead < s, rolled, mean_field)
    return mean_field


@record
class MomentsSurvey:
    """Asks for the moments of all agents' features, and answers with the game's `Plan`."""

    policy: HindsightGame

    def init(self, dimensions: Dimensions, num_agents: int, dtype: Any) -> tuple[()]:
        """Return nothing: the features of the step are all it takes."""
        return ()

    def look(self, state: tuple[()], observation: Observation) -> tuple[tuple[()], Spread]:
        """Return the spread of the block's features."""
        features = observation.features
        flat = features.reshape(-1, features.shape[-1])
        return state, Spread.of(flat, observation.population, reflected=True)

    def begin(self, dimensions: Dimensions, dtype: Any) -> History:
        """Return an empty history."""
        return History.empty(self.policy.length, dimensions, dtype)

    def meet(self, common: History, found: Spread, sight: Sight) -> tuple[History, Plan]:
        """Solve the game."""
        d, p = common.pending.moments.mean.shape
        second = found.scatter / sight.size + found.mean[:, None] * found.mean[None]
        moments = FeatureMoments(
            mean=found.mean.reshape(d, p), second=jnp.moveaxis(second.reshape(d, p, d, p), 2, 1)
        )
        # In float64, reflected back when the blocks were joined.
        begun = Reflected(moments, householder=jnp.zeros_like(moments.mean[0]))
        return settle(self.policy, common, begun, sight)


@record
class ReplaySurvey:
    """Asks how the replay's mean field answers to itself, and answers with the fixed point.

    Agents that go by a path m make the mean field F(m). The realised one is m = F(m); F is
    affine and row s of it depends on the rows before s only, so the mean over agents of F at one
    path, and its derivative there, give m row by row, exactly.
    """

    policy: HindsightGame

    def init(self, dimensions: Dimensions, num_agents: int, dtype: Any) -> Window:
        """Return an empty window."""
        return Window.empty(self.policy.length, dimensions, num_agents, dtype)

    def look(self, state: Window, observation: Observation) -> tuple[Window, tuple[Array, Array]]:
        """Return the block's share of F at the constant path, and of its derivative."""
        window, (plan,) = state.complete(observation), observation.told
        steps, outputs = self.policy.horizon, plan.start.shape[0]
        constant = jnp.broadcast_to(plan.start, (steps, outputs))

        def share(path: Array) -> Array:
            return mean_path(
                self.policy, plan, window, observation.step, observation.population, path
            )

        # One direction for each number on the path that something comes after: not for row 0,
        # which is known, nor for the last.
        inner = max(steps - 2, 0) * outputs
        nothing = jnp.zeros((inner, steps, outputs), constant.dtype)

        def slopes() -> Array:
            if not inner:
                return nothing
            unit = jnp.eye(inner, dtype=constant.dtype).reshape(inner, steps - 2, outputs)
            directions = jnp.pad(unit, ((0, 0), (1, 1), (0, 0)))
            return jax.vmap(lambda along: jax.jvp(share, (constant,), (along,))[1])(directions)

        found = lax.cond(
            plan.played,
            lambda: (share(constant), slopes()),
            lambda: (jnp.zeros_like(constant), nothing),
        )
        return window.begin(observation.features, window.pending_base), found

    def begin(self, dimensions: Dimensions, dtype: Any) -> tuple[()]:
        """Return nothing: every game is a world of its own."""
        return ()

    def meet(
        self, common: tuple[()], found: tuple[Array, Array], sight: Sight
    ) -> tuple[tuple[()], Array]:
        """Follow the mean field from row to row, [T, d]."""
        base, slopes = found
        steps, outputs = base.shape
        start = base[0]
        path = jnp.broadcast_to(start, base.shape)
        for s in range(1, steps):
            moved = (path[1:s] - start[None]).reshape(-1)
            by = slopes[: (s - 1) * outputs, s]
            path = path.at[s].set(base[s] + jnp.sum(by * moved[:, None], axis=0))
        return common, path
