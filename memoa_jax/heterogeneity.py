"""The policy of agents that all differ; `memoa_jax.heterogeneous_game` is its hindsight game."""

from __future__ import annotations

import dataclasses
from typing import get_args

from memoa_jax.arguments import number, one_of
from memoa_jax.cost_spread import CostSpread, check_own_costs
from memoa_jax.forecast import FORECAST_COST, ForecastGame, GameName, forecast_game
from memoa_jax.game import GameCost
from memoa_jax.groups import check_costs, several
from memoa_jax.heterogeneous_game import Features, HeterogeneousGame
from memoa_jax.hindsight import check_steps
from memoa_jax.types import Array, Scalar
from memoa_jax.window_ridge import make_greedy


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
    features: Features = "realised",
    memory: Scalar = 0.99,
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

    With ``features = "moments"`` an agent does not know the features of those steps either, but
    averages over its own past, its steps up to t-1 (`memoa_jax.own_moments`), and plays the game of
    `solve_heterogeneous` by them:

        beta^i_s = -H^{-1} m'(P Y^i_s + s^i_s),     H = E Z'P Z + effort^i I,     m = E Z
        E f(Z) = sum_{s<t} memory^{t-1-s} f(Z^i_s) / sum_{s<t} memory^{t-1-s}

    Its path is then another one than it expected, and the agents' mean than the mean path. A step
    at which an agent was absent is none of its past; an agent plays as if it were always there.
    O(T (d p^3 + d^2 p^2 + d^3) + T^2 d^3) per agent and game; per agent O(d^2 p^2) numbers are
    remembered, p (p + 3) / 2 for one output, and the features of T steps.

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
      features: "realised", what an agent's own were at the very steps of the game, or "moments",
        what they are on average, in the hindsight game only; static.
      memory: of the moments, per step, in (0, 1]; 1 weighs all steps alike. May be traced.

    Raises:
      ValueError: if an argument is outside what is allowed, or a run has more agents than costs.

    Source: Huang, Yang (arXiv 2107.09168) for the limit; the reduction to d x d is own
      derivation, tested in tests/test_heterogeneous.py.

    Example:
      >>> heterogeneous(spread=CostSpread(effort=0.5)).spread.effort
      0.5
    """
    one_of("heterogeneous", "game", game, get_args(GameName))
    one_of("heterogeneous", "features", features, get_args(Features))
    number("heterogeneous", "memory", memory, "in (0, 1]", lambda share: 0 < share <= 1)
    forecast = game == "forecast"
    if forecast and features == "moments":
        raise ValueError(
            "heterogeneous: features = 'moments': allowed is 'realised' with game = 'forecast', "
            "where agents see the features that they forecast with"
        )
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
        features=features,
        memory=memory if features == "moments" else None,
    )
