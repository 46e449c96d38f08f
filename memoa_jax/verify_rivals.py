"""The statements of `memoa verify` on rivals: what a user would do without the method.

Random games, by exact expected costs, against control without foresight and no control; series,
by realised errors, against greedy agents. Reported as they come out, where a rival wins too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from memoa_jax import series
from memoa_jax.analysis import expected_costs
from memoa_jax.encoders import echo_state
from memoa_jax.game import FeatureMoments, GameCost
from memoa_jax.mixture import ridge_mixture
from memoa_jax.nash import FeedbackGains, solve_nash
from memoa_jax.policies import decentralized, greedy
from memoa_jax.simulate import simulate
from memoa_jax.statement import Statement, random_game
from memoa_jax.types import Array, Policy

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
MEASURES = ("mean", "worst agent")


def random_games(count: int = 256, population: int = 100) -> list[Statement]:
    """State how the decentralized policy fares against acting without foresight, or not at all.

    Exact expected costs from given states, in games whose costs, features, targets and states
    are drawn. *Myopic*: each step's own cost alone, no look ahead, no mean field. *Zero*: the
    open-loop control that stays where it is.
    """
    rng = np.random.default_rng(22)
    uniform = rng.uniform
    costs = GameCost(
        tracking=jnp.asarray(uniform(0.2, 2.0, count)),
        consensus=jnp.asarray(uniform(0.0, 4.0, count)),
        ensemble=jnp.asarray(np.where(np.arange(count) % 2, uniform(0.0, 2.0, count), 0.0)),
        effort=jnp.asarray(10 ** uniform(-1.5, 1.0, count)),
        forgetting=jnp.asarray(uniform(0.0, 0.3, count)),
    )
    games = [random_game(int(seed), GameCost(), 5) for seed in rng.integers(2**31, size=count)]
    (_, moments, targets), states = jax.tree.map(lambda *x: jnp.stack(x), *games)

    @jax.jit
    @jax.vmap
    def play(cost: GameCost, moments: FeatureMoments, targets: Array, states: Array) -> Any:
        game = (cost, moments, targets)
        limit = solve_nash(*game, None).gains
        policies = {
            "decentralized": limit,
            "centralized": solve_nash(*game, population).gains,
            "myopic": myopic_gains(*game),
            "zero": jax.tree.map(jnp.zeros_like, limit),
        }
        paid = {k: expected_costs(*game, population, g, states) for k, g in policies.items()}
        return {name: (jnp.mean(each), jnp.max(each)) for name, each in paid.items()}

    paid = jax.tree.map(np.asarray, play(costs, moments, targets, states))
    alone = np.arange(count) % 2 == 0
    found = []
    for rival in ("myopic", "zero"):
        for measure, ours, theirs in zip(MEASURES, paid["decentralized"], paid[rival], strict=True):
            ratio = ours / theirs
            found.append(
                _ratios(
                    f"games, {measure} against {rival}",
                    f"{measure}'s expected cost over that of {rival} control, {count} random games",
                    {"all": ratio, "ensemble 0": ratio[alone], "ensemble > 0": ratio[~alone]},
                    claimed=True,
                )
            )
    largest = max(
        float(np.max((paid["decentralized"][0] / paid[rival][0])[alone]))
        for rival in ("myopic", "zero", "centralized")
    )
    return [
        *found,
        Statement(
            "games, ensemble 0",
            "with ensemble 0 myopic, zero and centralized control have no lower mean cost, but for "
            "order 1/N^2",
            f"largest ratio 1 + {largest - 1:.1e}",
            "<= 1 + 10/N^2 in each",
            largest <= 1 + 10 / population**2,
            {"largest": largest},
        ),
    ]


def _ratios(
    name: str, claim: str, ratios: Mapping[str, NDArray[Any]], *, claimed: bool, beside: str = ""
) -> Statement:
    """State that the median ratio of costs is below 1; report its quantiles and the losses.

    Args:
      name: of the statement.
      claim: its sentence.
      ratios: our cost over the rival's, one entry per game; "all", and parts of it by label.
      claimed: whether the statement may fail, or is only reported.
      beside: further figures, in words.
    """
    whole = ratios["all"]
    low, _, median, _, high = np.quantile(whole, QUANTILES)
    lost = float(np.mean(whole > 1))
    data = {
        label: {
            "games": len(part),
            "quantiles": dict(zip(map(str, QUANTILES), np.quantile(part, QUANTILES), strict=True)),
            "rival_wins": float(np.mean(part > 1)),
        }
        for label, part in ratios.items()
    }
    return Statement(
        name,
        claim + beside,
        f"median {median:.3f} [{low:.3f}, {high:.3f}], rival wins {lost:.0%}",
        "median < 1" if claimed else "reported, not claimed",
        bool(median < 1) if claimed else None,
        data,
    )


def myopic_gains(cost: GameCost, moments: FeatureMoments, targets: Array) -> FeedbackGains:
    """Return the gains of agents that minimise each step's own cost alone.

        beta_t = argmin  tracking E |Y + Z_t beta - y_{t+1}|^2 + effort |beta|^2

    Exact: the one-step game without consensus and ensemble, at every step.
    """
    alone = GameCost(cost.tracking, 0.0, 0.0, cost.effort, 0.0)

    def one_step(stage: FeatureMoments, target: Array) -> FeedbackGains:
        game = (alone, jax.tree.map(lambda leaf: leaf[None], stage), target[None])
        return jax.tree.map(lambda leaf: leaf[0], solve_nash(*game, None).gains)

    return jax.vmap(one_step)(moments, targets)


def online(agents: int = 50, steps: int = 100, series_seeds: int = 6) -> list[Statement]:
    """State how the decentralized policy fares against greedy on series, beside persistence.

    The mean agent's figure is reported only: greedy may win it. The claim is on the weakest.
    """
    coupled, uncoupled = GameCost(consensus=4.0), GameCost(consensus=0.0)
    return [
        *_contest(
            "hindsight",
            {
                "greedy": greedy(GameCost(effort=10.0), window=2),
                "decentralized": decentralized(coupled, greedy_effort=10.0),
                "uncoupled": decentralized(uncoupled, greedy_effort=10.0),
            },
            _all_series(steps, series_seeds),
            agents,
        ),
        *_contest(
            "forecast",
            {
                "greedy": greedy(uncoupled, game="forecast"),
                "decentralized": decentralized(coupled, game="forecast"),
            },
            _all_series(steps, series_seeds),
            agents,
        ),
    ]


def _all_series(steps: int, seeds: int) -> dict[str, list[series.Series]]:
    """Return series of every kind, all of one shape, so that a policy compiles once."""
    every = range(seeds)
    return {
        "periodic": [series.periodic(steps)] * seeds,
        "logistic": [series.logistic(steps)] * seeds,
        "brownian": [series.brownian(steps, seed=seed) for seed in every],
        "random walk": [series.random_walk(steps, seed=seed) for seed in every],
        "step change": [series.step_change(steps, seed=seed) for seed in every],
        "seasonal": [series.seasonal(steps, seed=seed) for seed in every],
        "trend": [series.seasonal(steps, trend=0.02, noise=0.3, seed=seed) for seed in every],
    }


def _contest(
    game: str,
    policies: Mapping[str, Policy],
    kinds: Mapping[str, list[series.Series]],
    agents: int,
) -> list[Statement]:
    """Run policies on the same series and seeds; compare decentralized with greedy."""
    # By policy and kind of series: mean cost, worst cost and persistence's, [3, runs].
    paid = {
        name: {
            kind: np.concatenate(
                [_play(one, policy, agents, seed) for seed, one in enumerate(all_of_kind)], axis=1
            )
            for kind, all_of_kind in kinds.items()
        }
        for name, policy in policies.items()
    }
    found = []
    for which, measure in enumerate(MEASURES):
        ours, theirs = paid["decentralized"], paid["greedy"]
        ratios = {kind: ours[kind][which] / theirs[kind][which] for kind in kinds}
        everything = np.concatenate(list(ratios.values()))
        rivals = {"persistence": {kind: ours[kind][2] for kind in kinds}} | {
            name: {kind: each[kind][which] for kind in kinds}
            for name, each in paid.items()
            if name not in ("greedy", "decentralized")
        }
        medians = {
            name: np.median(np.concatenate([ours[kind][which] / costs[kind] for kind in kinds]))
            for name, costs in rivals.items()
        }
        statement = _ratios(
            f"series, {game}, {measure}",
            f"{measure}'s squared error over greedy's, {len(everything)} runs of {agents} agents",
            {"all": everything, **ratios},
            claimed=measure == "worst agent",
            beside="".join(f"; over {name}'s {value:.2f}" for name, value in medians.items()),
        )
        statement.data["median_to"] = {name: float(value) for name, value in medians.items()}
        found.append(statement)
    return found


def _play(one: series.Series, policy: Policy, agents: int, seed: int) -> NDArray[Any]:
    """Return mean cost, worst cost and persistence's cost for five seeds of agents, [3, 5]."""

    def run(key: Array) -> tuple[Array, Array, Array]:
        summary = simulate(
            one, echo_state(8), policy, ridge_mixture(), num_agents=agents, key=key
        ).summary
        persistence = summary.persistence_rmse**2 * summary.scored_steps
        return summary.mean_agent_cost, summary.worst_agent_cost, persistence

    costs = jax.vmap(run)(jax.random.split(jax.random.key(seed), 5))
    return np.stack([np.asarray(each) for each in costs])
