"""The statements of `memoa verify` that draws decide: realised costs, and the regret in them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from memoa_jax.analysis import expected_costs
from memoa_jax.game import GameCost
from memoa_jax.monte_carlo import Law, sample_game
from memoa_jax.nash import FeedbackGains, solve_nash
from memoa_jax.statement import Game, Statement, random_game, rate_statement
from memoa_jax.types import Array

STANDARD_ERRORS = 4.0
"""How far a Monte Carlo mean may be from its expectation."""
NAMED_AGENTS = 20


def monte_carlo() -> list[Statement]:
    """State that expected costs are the means of realised ones, from ten agents to a million."""
    cost = GameCost(tracking=1.0, consensus=0.8, ensemble=0.3, effort=0.4, forgetting=0.1)
    game, states = random_game(20, cost, horizon=3, outputs=1, features=2)
    gains = solve_nash(*game, None).gains
    found = []
    plan: list[tuple[int, int, Law, Any]] = [
        (10, 20_000, "gaussian", "feedback"),
        (10, 20_000, "bounded", "offline"),
        (1_000, 1_000, "gaussian", "feedback"),
        (10**6, 60, "bounded", "feedback"),
    ]
    for population, repeats, features, information in plan:
        named = states[: min(population, NAMED_AGENTS)]
        costs = _realised(
            (*game, population, gains, named), repeats, features=features, information=information
        )
        exact = expected_costs(*game, population, gains, named, information)
        expected = np.append(np.asarray(exact), float(jnp.mean(exact)))
        error = np.std(costs, axis=0, ddof=1) / np.sqrt(repeats)
        away = np.abs(np.mean(costs, axis=0) - expected) / error
        found.append(
            Statement(
                f"Monte Carlo, N = {population:,}, {information}",
                f"expected costs are means of realised ones: {repeats:,} games, {features} "
                f"features, the mean agent and {len(named)} agents by name",
                f"mean agent {away[-1]:.1f} off, named agents at most {np.max(away[:-1]):.1f}",
                f"<= {STANDARD_ERRORS:g} standard errors",
                bool(np.all(away <= STANDARD_ERRORS)),
                {
                    "agents": population,
                    "games": repeats,
                    "features": features,
                    "information": information,
                    "expected": expected.tolist(),
                    "realised": np.mean(costs, axis=0).tolist(),
                    "standard_error": error.tolist(),
                },
            )
        )
    return found


def _realised(game: Any, repeats: int, **options: Any) -> NDArray[Any]:
    """Return the costs of the first agents and of the mean agent in many games, [repeats, n+1]."""
    named = game[-1].shape[0]

    @jax.jit
    def play(key: Array) -> Array:
        sample = sample_game(*game, key=key, **options)
        return jnp.append(sample.costs[:named], sample.mean_cost)

    keys = jax.random.split(jax.random.key(21), repeats)
    # Games of many agents one after the other, those of few all at once.
    together = max(1, min(repeats, 200_000 // game[3]))
    return np.asarray(jax.lax.map(play, keys, batch_size=together))


def regret() -> list[Statement]:
    """State that realised regret to the centralized policy vanishes as the population grows.

    The under-performer regret: what the agent that paid most paid under the decentralized policy,
    minus what the agent that paid most paid under the centralized one, in games with the same
    draws. Features are bounded, so that the worst of many agents is not a matter of ever longer
    tails.
    """
    cost = GameCost(tracking=1.0, consensus=0.8, ensemble=0.3, effort=0.4, forgetting=0.1)
    game, states = random_game(24, cost, horizon=3, outputs=1, features=2)
    limit = solve_nash(*game, None).gains
    populations = np.array([10, 100, 1_000, 10_000, 100_000])
    regrets, errors = [], []
    for population in populations.tolist():
        repeats = max(40, 400_000 // population)
        nash = solve_nash(*game, population).gains
        ours, theirs = _worst_and_mean(game, population, states[:10], (limit, nash), repeats)
        gap = (ours - theirs) / np.mean(theirs, axis=0)
        regrets.append(np.mean(gap, axis=0))
        errors.append(np.std(gap, axis=0, ddof=1) / np.sqrt(repeats))
    worst, mean = np.transpose(regrets)
    allowed: dict[str, tuple[NDArray[Any], float, tuple[float, float]]] = {
        "worst agent": (worst, 0.2, (10**3, 10**5)),
        "mean agent": (mean, 0.1, (10, 10**5)),
    }
    found = []
    for column, (label, (values, tolerance, fitted)) in enumerate(allowed.items()):
        statement = rate_statement(
            f"regret, {label}",
            f"the {label}'s realised regret to the centralized policy, as a share of its cost, "
            f"vanishes (at N = 100,000 it is {values[-1]:.1e})",
            populations,
            {label: np.abs(values)},
            -1,
            tolerance,
            fitted,
        )
        statement.data["regret"] = values.tolist()
        statement.data["standard_error"] = [float(error[column]) for error in errors]
        found.append(statement)
    return found


def _worst_and_mean(
    game: Game, population: int, states: Array, rivals: tuple[FeedbackGains, ...], repeats: int
) -> list[NDArray[Any]]:
    """Return the worst and the mean agent's cost in many games, [repeats, 2] for every gains."""
    cost, moments, targets = game

    @jax.jit
    def play(gains: FeedbackGains, keys: Array) -> Array:
        def one(key: Array) -> Array:
            sample = sample_game(
                cost, moments, targets, population, gains, states, key=key, features="bounded"
            )
            return jnp.stack([sample.worst_cost, sample.mean_cost])

        return jax.lax.map(one, keys, batch_size=max(1, 20_000 // population))

    keys = jax.random.split(jax.random.key(25), repeats)
    return [np.asarray(play(gains, keys)) for gains in rivals]
