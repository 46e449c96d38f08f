"""The forecast game: every agent forecasts the next move and plays one step on its forecast.

Where the hindsight game replays the last known moves, this game is about the one that matters.
One step, exact for any number of agents, and coupled through two sums only.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp

from memoa_jax.arguments import number, whole
from memoa_jax.arithmetic import added
from memoa_jax.cost_spread import CostSpread, differing, most_agents, own_costs
from memoa_jax.game import GameCost
from memoa_jax.groups import check_costs
from memoa_jax.linalg import (
    is_singular,
    smallest_pivot,
    solve_general,
    solve_lanes,
)
from memoa_jax.move_regression import Forecasts
from memoa_jax.types import (
    Action,
    Array,
    Dimensions,
    Observation,
    Scalar,
    Sight,
    Status,
    Survey,
    record,
    static,
)

GameName = Literal["hindsight", "forecast"]
FORECAST_COST = GameCost(consensus=10.0, effort=1e-3)
"""The forecast game's default cost; chosen, with its regression's ridge and discount, on seasonal,
random-walk, step and logistic series that no published figure of this project is about."""


@record
class ForecastState:
    """A forecast game's memory: the block's regressions, and mean moves not yet heard of.

    `moves` [staleness, d] are the latest mean moves, oldest first (empty without staleness).
    """

    forecasts: Forecasts
    moves: Array


@record
class ForecastGame:
    """The forecast game's policy; made by ``game = "forecast"`` of the policies.

    With `groups` that differ, the weights of the cost may be one number per group; with none, one
    per agent of the whole population.
    """

    cost: GameCost
    ridge: Scalar
    discount: Scalar
    staleness: int = static()
    finite: bool = static()
    coupled: bool = static(default=True)
    groups: int | None = static(default=None)
    spread: CostSpread | None = None

    @property
    def most_agents(self) -> int | None:
        """How many agents a run may have; None: any number."""
        return most_agents(self.cost) if self.groups is None else None

    @property
    def own_pulls(self) -> bool:
        """Whether agents differ in how strongly they are pulled to the mean."""
        return differing(self.cost, self.spread, "consensus")

    def game(self, observation: Observation) -> OneStep:
        """Return the one-step game of a block's agents, each with its own weights."""
        dtype, population = observation.features.dtype, observation.population
        cost = own_costs(self.cost, self.spread, observation, self.groups)
        return OneStep.of(cost, population.size if self.finite else None, dtype)

    @property
    def surveys(self) -> tuple[Survey, ...]:
        """The mean move; nothing for agents that play alone."""
        return (MoveSurvey(self),) if self.coupled else ()

    def init(self, dimensions: Dimensions, num_agents: int, dtype: Any) -> ForecastState:
        """Return forecasts that know nothing."""
        forecasts = Forecasts.empty(dimensions, num_agents, dtype)
        unheard = jnp.zeros((self.staleness, dimensions.outputs), dtype)
        return ForecastState(forecasts, unheard)

    def act(self, state: ForecastState, observation: Observation) -> tuple[ForecastState, Action]:
        """Forecast the move, then play the one-step game on all forecasts."""
        forecasts, forecast = state.forecasts.next(observation, self.discount, self.ridge)
        z, population, moves = observation.features, observation.population, state.moves
        game = self.game(observation)
        responses, wishes, pivots = respond(game, z, forecast)
        if not self.coupled:
            move, singular = jnp.zeros_like(observation.target), jnp.zeros((), bool)
        elif observation.told is None:
            found = population.mean(game.pulled(responses)), population.mean(wishes)
            moves, (move, singular) = heard(game.common(), moves, *found)
        else:
            ((move, singular),) = observation.told
        control, own_move, effort = play(game, z, forecast, move)
        base = jnp.broadcast_to(observation.target[:, None], observation.prediction.shape)
        indefinite = ~(population.largest(-pivots) < 0)
        status = jnp.where(indefinite, Status.INDEFINITE, 0) | jnp.where(
            singular, Status.SINGULAR, 0
        )
        action = Action(base, control, status.astype(jnp.int32), own_move, effort)
        return ForecastState(forecasts, moves), action


def forecast_game(
    owner: str,
    cost: GameCost | None,
    ridge: Scalar,
    discount: Scalar,
    staleness: int,
    *,
    finite: bool,
    coupled: bool = True,
    groups: int | None = None,
) -> ForecastGame:
    """Make a policy that plays the forecast game; see `memoa_jax.policies`.

    Raises:
      ValueError: if an argument is outside what is allowed.
    """
    number(owner, "ridge", ridge, "> 0", lambda value: value > 0)
    number(owner, "discount", discount, "in (0, 1]", lambda value: 0 < value <= 1)
    whole(owner, "staleness", staleness, 0)
    cost, groups = check_costs(owner, FORECAST_COST if cost is None else cost, groups)
    return ForecastGame(
        cost=cost,
        ridge=ridge,
        discount=discount,
        staleness=staleness,
        finite=finite,
        coupled=coupled,
        groups=groups,
    )


@record
class MoveSurvey:
    """Asks for the mean response and the mean wish, and answers with the mean move."""

    policy: ForecastGame

    def init(self, dimensions: Dimensions, num_agents: int, dtype: Any) -> Forecasts:
        """Return forecasts that know nothing."""
        return Forecasts.empty(dimensions, num_agents, dtype)

    def look(
        self, state: Forecasts, observation: Observation
    ) -> tuple[Forecasts, tuple[Array, Array]]:
        """Forecast, and average how the block's agents would move."""
        state, forecast = state.next(observation, self.policy.discount, self.policy.ridge)
        population = observation.population
        game = self.policy.game(observation)
        responses, wishes, _ = respond(game, observation.features, forecast)
        return state, (population.mean(game.pulled(responses)), population.mean(wishes))

    def begin(self, dimensions: Dimensions, dtype: Any) -> Array:
        """Return the moves that agents have not heard of yet."""
        return jnp.zeros((self.policy.staleness, dimensions.outputs), dtype)

    def meet(
        self, common: Array, found: tuple[Array, Array], sight: Sight
    ) -> tuple[Array, tuple[Array, Array]]:
        """Solve for the move on which all responses meet."""
        policy, dtype = self.policy, sight.target.dtype
        # What agents pay each for itself has been entered already, by the agents.
        cost = (
            GameCost(consensus=1.0)
            if policy.own_pulls
            else GameCost(consensus=policy.cost.consensus)
        )
        size = sight.size if policy.finite and not policy.own_pulls else None
        return heard(OneStep.of(cost, size, dtype), common, *found)


def heard(
    game: OneStep, moves: Array, mean_response: Array, mean_wish: Array
) -> tuple[Array, tuple[Array, Array]]:
    """Solve for the mean move; return those not yet heard of, and what the agents now hear.

    Args:
      game: the one-step game.
      moves: [staleness, d], on their way to the agents, oldest first.
      mean_response: [d, d].
      mean_wish: [d].

    Returns:
      The moves on their way, and the move that arrives with whether the system was singular.
    """
    move, singular = mean_move(game, mean_response, mean_wish)
    moves = jnp.concatenate([moves, move[None]])
    return moves[1:], (moves[0], singular)


@record
class OneStep:
    """The one-step game in numbers of one dtype: q, c (1 - 1/N) and gamma of `respond`.

    Each is a scalar, or [N] where agents differ.
    """

    tracking: Array
    pull: Array
    effort: Array

    @classmethod
    def of(cls, cost: GameCost, population: Array | None, dtype: Any) -> OneStep:
        """Take the weights of a cost for a population's size; in the limit for None."""
        share = 1.0 if population is None else 1.0 - 1.0 / population
        tracking, consensus, effort = (
            jnp.asarray(weight, dtype) for weight in (cost.tracking, cost.consensus, cost.effort)
        )
        return cls(tracking, consensus * share, effort)

    def pulled(self, responses: Array) -> Array:
        """Return what an average is taken of: L, or c f L where agents' c differ, [d, d, N]."""
        return responses if self.pull.ndim == 0 else responses * self.pull[None, None]

    def common(self) -> OneStep:
        """Return the game of that average, whose pull is a scalar, and 1 where it is entered."""
        if self.pull.ndim == 0:
            return self
        return dataclasses.replace(self, pull=jnp.ones_like(self.pull[0]))


# The game in three steps, so that agents may be taken block by block: the first and the last are
# each agent's own, and between them stand sums over all agents of size d x d and d.


def respond(game: OneStep, features: Array, forecast: Array) -> tuple[Array, Array, Array]:
    """Return how every agent would move: its response L to a pull, and its own wish a.

        J^i = tracking |m^i - s^i|^2 + consensus |m^i - mbar|^2 + effort |beta^i|^2
        L^i = Z^i ((q + c f) Z^i'Z^i + gamma I)^{-1} Z^i',   a^i = q L^i s^i,   f = 1 - 1/N

    Exact; O(d^2 p + d^3) per agent: the p x p inverse is taken as one of d x d. q, c and gamma
    may be each agent's own: its condition q Z'(m - s) + c f Z'(m - mbar) + gamma beta = 0 holds
    no other agent's.

    Args:
      game: tracking q, pull c f and effort gamma > 0.
      features: [d, p, N], realised.
      forecast: [d, N], every agent's own forecast s of the move.

    Returns:
      L [d, d, N]; a [d, N]; and [N] the smallest pivot of the agent's second-order condition,
      positive where its cost has a minimum.

    Source: own derivation, tested in tests/test_forecast.py.
    """
    outer, system = _systems(game, features)
    d = features.shape[0]
    # L = Z Z' system^{-1}, column by column; both factors are polynomials in Z Z', so L = L'.
    columns = [
        jnp.stack(solve_lanes(system, [outer[max(a, b)][min(a, b)] for a in range(d)]))
        for b in range(d)
    ]
    response = jnp.stack(columns, axis=1)
    wish = jnp.sum(response * (_row(game.tracking) * forecast)[None], axis=1)
    return response, wish, smallest_pivot(system)


def mean_move(game: OneStep, mean_response: Array, mean_wish: Array) -> tuple[Array, Array]:
    """Return the mean move on which all responses meet, v = (I - c f mean L)^{-1} mean a.

    Where agents' c differ it is v = (I - mean (c f L))^{-1} mean a; see `OneStep.common`.

    Args:
      game: of which the pull c f is used.
      mean_response: [d, d], the average of L over all agents.
      mean_wish: [d], the average of a.

    Returns:
      v [d], and whether the system is singular.
    """
    d = mean_wish.shape[0]
    matrix = jnp.eye(d, dtype=mean_wish.dtype) - game.pull * mean_response
    return solve_general(matrix, mean_wish), is_singular(matrix)


def play(
    game: OneStep, features: Array, forecast: Array, move: Array
) -> tuple[Array, Array, Array]:
    """Return every agent's control, [p, N], its own move, [d, N], and its effort |beta|^2, [N].

        (..) w = q s^i + c f v,   beta^i = Z^i'w,   m^i = Z^i Z^i'w,   |beta^i|^2 = w'm^i

    Args:
      game: as in `respond`.
      features: [d, p, N].
      forecast: [d, N].
      move: [d], the mean move v that the agents know of.
    """
    outer, system = _systems(game, features)
    target = _row(game.tracking) * forecast + _row(game.pull) * move[:, None]
    rows = range(features.shape[0])
    dual = solve_lanes(system, [target[a] for a in rows])
    control = jnp.sum(features * jnp.stack(dual)[:, None], axis=0)
    moves = [added([outer[max(a, b)][min(a, b)] * dual[b] for b in rows]) for a in rows]
    return control, jnp.stack(moves), added([w * m for w, m in zip(dual, moves, strict=True)])


def _row(weight: Array) -> Array:
    """Return a weight as it goes with [d, N]."""
    return weight if weight.ndim == 0 else weight[None]


def _systems(game: OneStep, features: Array) -> tuple[list[list[Array]], list[list[Array]]]:
    """Return the lower triangles of Z Z' and of (q + c f) Z Z' + gamma I, agents in lanes."""
    rows = range(features.shape[0])
    outer = [[_inner(features[a], features[b]) for b in range(a + 1)] for a in rows]
    weight = game.tracking + game.pull
    system = [
        [weight * outer[a][b] + (game.effort if a == b else 0.0) for b in range(a + 1)]
        for a in rows
    ]
    return outer, system


def _inner(left: Array, right: Array) -> Array:
    """Return every agent's inner product of [p, N] and [p, N], [N]."""
    return added([left[m] * right[m] for m in range(left.shape[0])])
