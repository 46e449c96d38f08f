"""The tables of the policies that play a game, and of the greedy one that they begin with.

Read through `memoa_jax.config`, where the family of policies is put together.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from memoa_jax.config_values import (
    Count,
    Label,
    NonNegative,
    Number,
    Positive,
    Share,
    Table,
    Whole,
)

GameName = Literal["hindsight", "forecast"]
Apart = Literal["own", "pooled"]
"""Whether a policy tells groups of agents apart (where there are some, it does), or pools them."""


class Cost(Table):
    """What an agent pays (`memoa_jax.GameCost`)."""

    tracking: Number = 1.0
    consensus: Number = 1.0
    ensemble: Number = 0.0
    effort: Positive = 0.1
    forgetting: NonNegative = 0.0


class GreedyCost(Table):
    """What counts for an agent that ignores the others; `tracking` for the forecaster only."""

    tracking: Number = 1.0
    effort: Positive
    forgetting: NonNegative = 0.0


_FORECAST_COST = {"consensus": 10.0, "effort": 1e-3}


def _fill_cost(raw: Any, **defaults: float) -> Any:
    """Return a raw policy whose cost has defaults of its own; it may be wrong in any way."""
    cost = raw.get("cost", {}) if isinstance(raw, dict) else None
    return {**raw, "cost": {**defaults, **cost}} if isinstance(cost, dict) else raw


def _forecasts(raw: Any) -> bool:
    return isinstance(raw, dict) and raw.get("game") == "forecast"


class Greedy(Table):
    """each agent alone: ridge fit of its last residuals over a window"""

    kind: Literal["greedy"]
    name: Label = "greedy"
    cost: GreedyCost = GreedyCost(effort=10.0)
    window: Count = 3
    game: GameName = "hindsight"
    ridge: Positive = 0.1
    discount: Share = 0.999
    groups: Apart | None = None

    @model_validator(mode="before")
    @classmethod
    def _default_cost(cls, raw: Any) -> Any:
        """Fill in the library's default effort, which is another one for the forecaster."""
        return _fill_cost(raw, effort=_FORECAST_COST["effort"] if _forecasts(raw) else 10.0)


class Game(Table):
    """The keys that both game policies share.

    `ridge` and `discount` belong to the forecast game, which needs no horizon and plays at
    every step; `horizon` to `greedy_effort` belong to the hindsight game.
    """

    cost: Cost = Cost()
    game: GameName = "hindsight"
    horizon: Count = 3
    window: Count = 3
    sync_every: Count = 1
    information: Literal["feedback", "offline"] = "feedback"
    greedy_effort: Positive | None = None
    staleness: Whole = 0
    ridge: Positive = 0.1
    discount: Share = 0.999
    groups: Apart | None = None

    @model_validator(mode="before")
    @classmethod
    def _default_cost(cls, raw: Any) -> Any:
        """Fill in the library's default cost, which is another one for the forecast game."""
        return _fill_cost(raw, **_FORECAST_COST) if _forecasts(raw) else raw


class Decentralized(Game):
    """closed-form mean-field Nash policy: own state and the mean field only"""

    kind: Literal["decentralized"]
    name: Label = "decentralized"


class Centralized(Game):
    """exact Nash policy of the finite population"""

    kind: Literal["centralized"]
    name: Label = "centralized"


class Spread(Table):
    """How far apart agents' costs are: standard deviations of the logarithms of their factors."""

    tracking: NonNegative | None = None
    consensus: NonNegative | None = None
    effort: NonNegative | None = None


class Heterogeneous(Table):
    """mean-field Nash policy of agents that all differ: own features, own costs"""

    kind: Literal["heterogeneous"]
    name: Label = "heterogeneous"
    cost: Cost = Cost()
    spread: Spread | None = None
    game: GameName = "hindsight"
    horizon: Count = 3
    window: Count = 3
    sync_every: Count = 1
    greedy_effort: Positive | None = None
    ridge: Positive = 0.1
    discount: Share = 0.999
    groups: Apart | None = None
    features: Literal["realised", "moments"] = "realised"
    memory: Share = 0.99

    @model_validator(mode="before")
    @classmethod
    def _default_cost(cls, raw: Any) -> Any:
        """Fill in the library's default cost, which is another one for the forecast game."""
        return _fill_cost(raw, **_FORECAST_COST) if _forecasts(raw) else raw
