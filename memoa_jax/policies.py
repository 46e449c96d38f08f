"""Policies: greedy, decentralized, centralized, affine. Assembly: the mathematics is in `nash`.

A policy decides at step t from its memory (`memoa_jax.memory`), which holds completed steps
only: nothing in this file can know y_{t+1}. Agents are the last axis throughout.
"""

from __future__ import annotations

from typing import Any, get_args

import jax
import jax.numpy as jnp

from memoa_jax.affine_feedback import Affine, Matrix, Vector
from memoa_jax.arguments import one_of, whole
from memoa_jax.forecast import FORECAST_COST, ForecastGame, GameName, forecast_game
from memoa_jax.game import FeatureMoments, GameCost
from memoa_jax.groups import check_costs
from memoa_jax.heterogeneity import heterogeneous as heterogeneous
from memoa_jax.hindsight import HindsightGame, check_steps
from memoa_jax.information import Information
from memoa_jax.nash import solve_nash
from memoa_jax.types import Array, Scalar, real_dtype
from memoa_jax.window_ridge import Greedy, make_greedy


def greedy(
    cost: GameCost | None = None,
    window: int | tuple[int, ...] = 3,
    game: GameName = "hindsight",
    ridge: Scalar = 0.1,
    discount: Scalar = 0.999,
    groups: int | None = None,
) -> Greedy | ForecastGame:
    """Make the greedy baseline: each agent fits its own recent residuals and looks no further.

        beta^i_t = argmin_b sum_{s=max(t-W,0)}^{t-1} e^{-forgetting (t-1-s)}
                       |y_{s+1} - Y^i_s - Z^i_s b|^2 + effort |b|^2,     Y^i_{t+1} = Y^i_t + Z^i_t b

    Exact; O(W d p^2 + p^3) per agent and step. It ignores the other agents: consensus and
    ensemble play no part. It integrates a delayed residual, so it can run away, and a run says
    so when agents do. With constant features of Gram G over the window the loop's gain is
    G / (G + effort): window 1 is always stable, window 2 needs effort > 0.21 G, longer windows
    more. Features without bound (`random_features` on large inputs) make G large, and features
    that change sign between steps (`echo_state`) can upset even window 1.

    With ``game = "forecast"`` it is instead the greedy forecaster, which cannot run away: the
    forecast game of `memoa_jax.forecast` without coupling.

    Args:
      cost: of which effort (> 0, per squared control) and forgetting (per step) are used;
        default effort 10 (for the forecaster: tracking and effort, of `FORECAST_COST`).
      window: W, steps fitted; static. Or a tuple, one for each of the groups: if they differ, no
        window slides, and every step costs O(d p^2) times the longest.
      game: "hindsight" for the window ridge above, or "forecast"; static.
      ridge: of the forecast's regression, > 0.
      discount: of the forecast's regression, per step, in (0, 1].
      groups: K, where groups of agents differ (see `simulate`): the cost's fields may then be K
        numbers each; static.

    Raises:
      ValueError: if an argument is outside what is allowed.

    Source: arXiv 2505.00216 (the local agents of the predecessor).

    Example:
      >>> greedy(GameCost(effort=5.0), window=2).cost.effort
      5.0
    """
    one_of("greedy", "game", game, get_args(GameName))
    if game == "forecast":
        cost = FORECAST_COST if cost is None else cost
        alone = GameCost(cost.tracking, 0.0, 0.0, cost.effort, cost.forgetting)
        return forecast_game(
            "greedy", alone, ridge, discount, 0, finite=False, coupled=False, groups=groups
        )
    return make_greedy("greedy", GameCost(effort=10.0) if cost is None else cost, window, groups)


def decentralized(
    cost: GameCost | None = None,
    horizon: int = 3,
    window: int | tuple[int, ...] = 3,
    sync_every: int | Array = 1,
    information: Information = "feedback",
    staleness: int = 0,
    game: GameName = "hindsight",
    greedy_effort: Scalar | tuple[Scalar, ...] | None = None,
    ridge: Scalar = 0.1,
    discount: Scalar = 0.999,
    groups: int | None = None,
) -> HindsightGame | ForecastGame:
    """Make the decentralized policy: the closed-form mean-field equilibrium, agent by agent.

    At every step t >= T with t mod sync_every = 0 the agents play the game of `solve_nash` on
    the last T steps, whose targets are known, with population None (the limit): each needs its
    own state and the mean field only. They start at y_{t-T}, live through the window with the
    equilibrium gains, and carry on from where they end, with the last control. At all other
    steps, and where a target of the window is missing, they are greedy.

        beta^i_s = -(own_s Y^i_s + mean_s Ybar_s + offset_s),     s = t-T..t-1
        Y^i_t <- the replayed value,   Y^i_{t+1} = Y^i_t + Z^i_t beta^i_{t-1}

    Exact for the limit, an O(1/N) approximation of `centralized`; O(T d p) per agent and game,
    besides O(d^2 p^2) for the moments and the solver's cost, independent of N. Read its results
    soberly: most of its gain over greedy is the re-anchoring at y_{t-T}; compare with the same
    game with consensus = ensemble = 0.

    Args:
      cost: the game's cost; `effort` > 0. Default `GameCost()`, for the forecast game
        `FORECAST_COST`.
      horizon: T, steps per game; static.
      window: of the greedy steps; static. One number, or one per group.
      sync_every: steps between games, >= 1; may be traced.
      information: "feedback" (the realised mean field of the replay is broadcast) or "offline"
        (agents roll the mean field that the gains imply); static.
      staleness: steps by which the broadcast mean field comes late, >= 0; agents roll it forward
        by the gains since (in the forecast game they use the mean move of so many steps ago);
        static.
      game: "hindsight", the game above, or "forecast", the one-step game on the agents' own
        forecasts (`memoa_jax.forecast`), played at every step; static.
      greedy_effort: effort of the greedy steps; default the game's.
      ridge: of the forecast's regression, > 0.
      discount: of the forecast's regression, per step, in (0, 1].
      groups: K, where the game is to tell groups of agents apart (see `simulate`), by their
        features and by their cost, whose fields may then be K numbers each: it is that of
        `solve_nash_types`, with weights N_k/N, and with one mean field per group that agents know.
        None takes all agents for one kind. Static.

    Raises:
      ValueError: if an argument is outside what is allowed.

    Source: arXiv 2605.05492; the closed form is own derivation, tested in tests/test_nash.py.

    Example:
      >>> decentralized(GameCost(consensus=2.0), horizon=5).cost.consensus
      2.0
    """
    one_of("decentralized", "game", game, get_args(GameName))
    if game == "forecast":
        return forecast_game(
            "decentralized", cost, ridge, discount, staleness, finite=False, groups=groups
        )
    return _hindsight(
        "decentralized",
        GameCost() if cost is None else cost,
        horizon,
        window,
        sync_every,
        information,
        staleness,
        greedy_effort,
        finite=False,
        groups=groups,
    )


def centralized(
    cost: GameCost | None = None,
    horizon: int = 3,
    window: int | tuple[int, ...] = 3,
    sync_every: int | Array = 1,
    information: Information = "feedback",
    staleness: int = 0,
    game: GameName = "hindsight",
    greedy_effort: Scalar | tuple[Scalar, ...] | None = None,
    ridge: Scalar = 0.1,
    discount: Scalar = 0.999,
    groups: int | None = None,
) -> HindsightGame | ForecastGame:
    """Make the centralized policy: the exact Nash equilibrium for the run's N agents.

    As `decentralized` in every respect but one: the game is solved for the population's size,
    by the reduction that makes its cost independent of N. Exact; same cost.

        gains = solve_nash(cost, moments, targets, population=N).gains

    Args:
      cost: see `decentralized`, as for all other arguments.
      horizon: T, steps per game; static.
      window: of the greedy steps; static. One number, or one per group.
      sync_every: steps between games, >= 1; may be traced.
      information: "feedback" or "offline"; static.
      staleness: steps by which the mean field comes late; static.
      game: "hindsight" or "forecast"; static.
      greedy_effort: effort of the greedy steps; default the game's.
      ridge: of the forecast's regression, > 0.
      discount: of the forecast's regression, per step, in (0, 1].
      groups: K, where groups of agents differ; exact for their sizes N_k. Static.

    Raises:
      ValueError: if an argument is outside what is allowed.

    Source: arXiv 1912.03931 (exact reduction of finite exchangeable populations); own derivation.

    Example:
      >>> centralized().finite
      True
    """
    one_of("centralized", "game", game, get_args(GameName))
    if game == "forecast":
        return forecast_game(
            "centralized", cost, ridge, discount, staleness, finite=True, groups=groups
        )
    return _hindsight(
        "centralized",
        GameCost() if cost is None else cost,
        horizon,
        window,
        sync_every,
        information,
        staleness,
        greedy_effort,
        finite=True,
        groups=groups,
    )


def _hindsight(
    owner: str,
    cost: GameCost,
    horizon: int,
    window: int | tuple[int, ...],
    sync_every: int | Array,
    information: Information,
    staleness: int,
    greedy_effort: Scalar | tuple[Scalar, ...] | None,
    *,
    finite: bool,
    groups: int | None,
) -> HindsightGame:
    check_steps(owner, horizon, sync_every)
    one_of(owner, "information", information, get_args(Information))
    whole(owner, "staleness", staleness, 0)
    if staleness and information == "offline":
        raise ValueError(
            f"{owner}: staleness = {staleness}: allowed is 0 with information = 'offline', where "
            "no mean field is broadcast at all"
        )
    cost, apart = check_costs(owner, cost, groups)
    effort: Any = cost.effort if greedy_effort is None else greedy_effort
    local = GameCost(effort=effort, forgetting=cost.forgetting)
    steps = make_greedy(owner, local, window, groups)
    return HindsightGame(
        cost=cost,
        local=steps,
        sync_every=sync_every,
        horizon=horizon,
        information=information,
        staleness=staleness,
        finite=finite,
        groups=apart,
    )


def affine(
    own: Matrix | None = None,
    mean: Matrix | None = None,
    target: Matrix | None = None,
    offset: Vector | None = None,
) -> Affine:
    """Make the affine policy: every agent applies the same given gains at every step.

        beta^i_t = -(own Y^i_t + mean Ybar_t + target y_t + offset)
        Y^i_{t+1} = Y^i_t + Z^i_t beta^i_t

    with Ybar_t the mean of Y^i_t over the agents that are present at step t, and y_t the last
    target that was seen. Exact; O(d p) per agent and step, and nothing is remembered or fitted.
    A run is differentiable in its gains: to tune them (`memoa_jax.tuning`, `memoa tune`) is what it
    is for. Nothing keeps it from running away: with one Z for all agents and steps the mean field
    moves by I - Z (own + mean), an agent's distance from it by I - Z own. Gains of zero are the
    edge of that, where the least push adds up over all steps: descend from there by small steps.
    The stream schedule refuses it.

    Axes: d outputs, p features per output.

    Args:
      own: [p, d], gains on the agent's own prediction, in controls per target unit.
      mean: [p, d], gains on the population's mean prediction.
      target: [p, d], gains on the last known target.
      offset: [p], in controls. Of all four None is zero: without any the agents predict y_0 for
        ever.

    Raises:
      ValueError: when a run begins, if a size is not that of its features and outputs.

    Source: own derivation; the form is that of `solve_nash`'s gains, tested in
      tests/test_affine.py against a plain loop.

    Example:
      >>> chase = affine(own=[[0.5]], target=[[-0.5]])  # half way to the last target
      >>> chase.mean is None
      True
    """
    return Affine(own=own, mean=mean, target=target, offset=offset)


def affine_nash(
    cost: GameCost, moments: FeatureMoments, population: int | Scalar | None = None
) -> Affine:
    """Return the affine policy that plays the one-step game towards the last known target.

        own, mean = the gains of solve_nash with T = 1
        target y + offset = its offset for the target y, which is affine in y

    Exact: the equilibrium of that step for the given moments; y_t in place of y_{t+1} is its only
    forecast. d + 1 solves of O(d^2 p^2 + p^3 + d^3), independent of N. It is what tuned gains
    compare with, and a place for them to start. Moments stand for features that are drawn anew at
    every step: an agent that keeps features of its own sign (`echo_state`) can run away. Whether
    the second-order condition holds says the status of `solve_nash`.

    Axes: d outputs, p features.

    Args:
      cost: what an agent pays; `forgetting` plays no part in one step.
      moments: mean [1, d, p] and second [1, d, d, p, p] of the features.
      population: number of agents; None for the mean-field limit.

    Raises:
      ValueError: if the moments are not those of one step, and as `solve_nash`.

    Source: own derivation, tested in tests/test_affine.py against `solve_nash`.

    Example:
      >>> moments = FeatureMoments.from_samples(jnp.ones((1, 10, 1, 1)))
      >>> policy = affine_nash(GameCost(consensus=0.0, effort=1.0), moments)
      >>> policy.own.tolist(), policy.target.tolist()
      ([[0.5]], [[-0.5]])
    """
    shape = jnp.shape(moments.mean)
    if len(shape) != 3 or shape[0] != 1:
        raise ValueError(f"affine_nash: moments.mean has shape {shape}: allowed is [1, d, p]")
    outputs = shape[1]
    dtype = real_dtype(moments.mean, moments.second)
    towards = jnp.concatenate([jnp.zeros((1, outputs), dtype), jnp.eye(outputs, dtype=dtype)])
    gains = jax.vmap(lambda y: solve_nash(cost, moments, y[None], population).gains)(towards)
    offset = gains.offset[0, 0]
    return Affine(
        own=gains.own[0, 0],
        mean=gains.mean[0, 0],
        target=(gains.offset[1:, 0] - offset[None]).T,
        offset=offset,
    )
