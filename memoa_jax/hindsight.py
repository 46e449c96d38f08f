"""The hindsight game: at every step the last T steps, whose targets are known, are played over.

In three moves. `settle`, one for the whole population: solve the game for its gains. `replay`,
each agent's own: live through the window again with those gains. Between them stand sums over
all agents only: the moments of the features, and with feedback the mean field of the replay.
Among groups that differ all of these are one per group (`memoa_jax.group_games`): the mean field
is then [K d], that of each group in turn.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from memoa_jax.arguments import whole
from memoa_jax.game import FeatureMoments, GameCost
from memoa_jax.group_games import (
    controls_by_group,
    mean_field_of,
    observed,
    rolled_by_group,
    share_of,
    solve,
    spreads_by_group,
    start_of,
)
from memoa_jax.information import Information
from memoa_jax.memory import History, Reflected, Window
from memoa_jax.nash import FeedbackGains
from memoa_jax.reflection import reflect
from memoa_jax.spread import Spread
from memoa_jax.types import (
    Action,
    Array,
    Dimensions,
    Observation,
    Population,
    Sight,
    Survey,
    Tree,
    record,
    static,
)
from memoa_jax.window_ridge import Greedy, greedy_action, moving


def check_steps(owner: str, horizon: int, sync_every: int | Array) -> None:
    """Refuse what no game over a window of steps could be played with; `owner` is who says so.

    Raises:
      ValueError: if a number of steps is not a whole number >= 1.
    """
    whole(owner, "horizon", horizon)
    if not isinstance(sync_every, jax.Array):
        whole(owner, "sync_every", sync_every)


@record
class GameState:
    """A game policy's memory: the block's own window, and the population's history."""

    window: Window
    history: History


@record
class Plan:
    """What a game comes to, the same for all agents: whether it is played, and with what gains.

    `start` [d] is where everybody starts, `gains` are those of `solve_nash` ([T, ...]), `mean`
    [T, d, p] are the mean features of the steps played over; of groups [T, K, ...].
    """

    played: Array
    start: Array
    gains: FeedbackGains
    mean: Array
    status: Array


@record
class HindsightGame:
    """See `decentralized` and `centralized`; `finite` says whether 1/N enters the game.

    `groups` is the number of groups that the game tells apart (None: it has one kind of agent).
    """

    cost: GameCost
    local: Greedy
    sync_every: Array | int
    horizon: int = static()
    information: Information = static()
    staleness: int = static()
    finite: bool = static()
    groups: int | None = static(default=None)

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
            history=History.empty(self.length, dimensions, dtype, self.groups),
        )

    def act(self, state: GameState, observation: Observation) -> tuple[GameState, Action]:
        """Play the game on the known last steps when it is time to; be greedy otherwise."""
        window, step = state.window.advance(observation), observation.step
        history, path = state.history, None
        if observation.told is None:
            begun = observed(observation.features, observation.population, self.groups)
            history, plan = settle(self, history, begun, observation.sight)
        else:
            plan, *paths = observation.told
            path = paths[0] if paths else None
        local = self.local.of_agents(observation.population, observation.features.dtype)
        action = lax.cond(
            plan.played,
            lambda: moving(
                replay(self, plan, window, step, observation.population, path),
                observation.features,
            ),
            lambda: greedy_action(local, window, observation),
        )
        return GameState(window.onto(action.base), history), action


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
    slots = _slots(policy, sight.step, policy.length)
    played = (
        (sight.step >= policy.horizon)
        & (sight.step % policy.sync_every == 0)
        & jnp.all(history.targets_known[slots])
        & history.origins_known[slots[0]]
    )
    start = history.origins[slots[0]]
    lived = jax.tree.map(lambda ring: ring[slots], history.features)
    moments = lived.moments

    @jax.jit  # traced once for its shapes and its branch
    def solved() -> tuple[FeedbackGains, Array]:
        gains, status = solve(
            policy.cost,
            moments,
            history.targets[slots],
            start,
            sight,
            groups=policy.groups,
            finite=policy.finite,
            information=policy.information,
        )
        # The game is the same in any basis of features, and its gains are of the features' own.
        return FeedbackGains(
            own=reflect(gains.own, lived.householder[..., None], -2),
            mean=reflect(gains.mean, lived.householder[..., None], -2),
            offset=reflect(gains.offset, lived.householder),
        ), status

    def nothing() -> tuple[FeedbackGains, Array]:
        shapes = jax.eval_shape(solved)
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    gains, status = lax.cond(played, solved, nothing)
    mean = reflect(moments.mean, lived.householder[..., None, :])
    return history, Plan(played=played, start=start, gains=gains, mean=mean, status=status)


def _slots(policy: HindsightGame, step: Array, length: int) -> Array:
    """Return where the steps played over stand in rings of a length, [T], oldest first."""
    return (step - policy.horizon + jnp.arange(policy.horizon)) % length


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
      path: [T, d] or [T, K d], the mean field before every step played over, or None.
    """
    states, told = _live(policy, plan, window, step, population, path)
    last = policy.horizon - 1
    # The last step is written out because its control is wanted.
    control = _controls(policy, plan, states, told, last, population)
    features = window.features[_slots(policy, step, window.slots)[last]]
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
    slots = _slots(policy, step, window.slots)
    realised = path is None and policy.information == "feedback"
    start = start_of(plan.start, policy.groups)
    going = jnp.zeros((policy.horizon, *start.shape), start.dtype).at[0].set(start)
    going = going if path is None else path
    made = jnp.zeros_like(going).at[0].set(share_of(start, population, policy.groups))

    def live(carry: tuple[Array, Array, Array], s: Array) -> tuple[Any, None]:
        states, going, made = carry
        control = _controls(policy, plan, states, going, s, population)
        states = states + jnp.sum(window.features[slots[s]] * control[None], axis=1)
        if realised:  # offline nobody is told
            going = going.at[s + 1].set(mean_field_of(states, population, policy.groups))
        if keep:
            made = made.at[s + 1].set(mean_field_of(states, population, policy.groups))
        return (states, going, made), None

    everyone = jnp.broadcast_to(plan.start[:, None], window.base.shape)
    (states, going, made), _ = lax.scan(
        live, (everyone, going, made), jnp.arange(policy.horizon - 1)
    )
    return states, made if keep else going


def _controls(
    policy: HindsightGame,
    plan: Plan,
    states: Array,
    path: Array,
    s: Array | int,
    population: Population,
) -> Array:
    """Return beta_s = -(own_s Y + mean_s Ybar + offset_s) of every agent, [p, N]."""
    gains = jax.tree.map(lambda leaf: leaf[s], plan.gains)
    mean_field = _known_mean(policy, plan, s, path)
    if policy.groups is not None:
        return controls_by_group(gains, states, mean_field, population)
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
        if policy.groups is not None:
            rolled = rolled_by_group(by, plan.mean[then], mean_field)
            mean_field = jnp.where(told + ahead < s, rolled, mean_field)
            continue
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

    def look(self, state: tuple[()], observation: Observation) -> tuple[tuple[()], Tree]:
        """Return the spread of the block's features; of groups, a tuple of each one's."""
        features, groups = observation.features, self.policy.groups
        flat = features.reshape(-1, features.shape[-1])
        if groups is not None:
            return state, spreads_by_group(flat, observation.population, groups)
        return state, Spread.of(flat, observation.population, reflected=True)

    def begin(self, dimensions: Dimensions, dtype: Any) -> History:
        """Return an empty history."""
        return History.empty(self.policy.length, dimensions, dtype, self.policy.groups)

    def meet(self, common: History, found: Tree, sight: Sight) -> tuple[History, Plan]:
        """Solve the game."""
        d, p = common.pending.moments.mean.shape[-2:]

        def joined(one: Spread, size: Array) -> Reflected:
            second = one.scatter / size + one.mean[:, None] * one.mean[None]
            second = jnp.moveaxis(second.reshape(d, p, d, p), 2, 1)
            # In float64, reflected back when the blocks were joined.
            moments = FeatureMoments(mean=one.mean.reshape(d, p), second=second)
            return Reflected(moments, householder=jnp.zeros_like(moments.mean[0]))

        if sight.sizes is None or self.policy.groups is None:
            return settle(self.policy, common, joined(found, sight.size), sight)
        each = [joined(*pair) for pair in zip(found, sight.sizes, strict=True)]
        begun = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
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
        window, (plan,) = state.advance(observation), observation.told
        start = start_of(plan.start, self.policy.groups)
        steps, outputs = self.policy.horizon, start.shape[0]
        constant = jnp.broadcast_to(start, (steps, outputs))

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
        return window, found

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
