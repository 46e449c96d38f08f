"""The statements of `memoa verify` on agents that all differ: nothing here is sampled.

Six different agents and their copies: the joint game of up to 96 agents, and by types of any
number of them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from memoa_jax.analysis_types import exploitability_types
from memoa_jax.encoders import given_features
from memoa_jax.game import FeatureMoments, GameCost
from memoa_jax.information import offline_gains
from memoa_jax.mixture import uniform_mixture
from memoa_jax.nash import FeedbackGains, solve_nash
from memoa_jax.nash_dense import solve_heterogeneous, solve_nash_dense
from memoa_jax.policies import decentralized, heterogeneous
from memoa_jax.recording import Record
from memoa_jax.responses import solve_heterogeneous_realised
from memoa_jax.series import random_walk
from memoa_jax.simulate import simulate
from memoa_jax.statement import (
    Game,
    Statement,
    bound_statement,
    difference,
    random_game,
    random_moments,
    rate_statement,
)
from memoa_jax.types import Array, Policy

KINDS, HORIZON = 6, 3
COPIES = (1, 2, 4, 8, 16)
"""Of each of the six agents in the joint games."""
MANY = np.array([1, 2, 5]) * 10 ** np.arange(7)[:, None]
"""Of each in the games by types."""


def heterogeneity() -> list[Statement]:
    """State what the limit of agents that all differ is the limit of, and what it reduces to."""
    game, starts = _game()
    limit = solve_heterogeneous(*game, starts)
    sizes = KINDS * np.array(COPIES)
    gaps = [_dense_gaps(game, starts, copies) for copies in COPIES]
    errors = {name: np.array([gap[name] for gap in gaps]) for name in gaps[0]}
    gains = FeedbackGains(limit.own, jnp.zeros((KINDS, *limit.own.shape[1:3], KINDS)), limit.offset)
    counts = np.sort(MANY.ravel())
    left = [_left(game, starts, gains, int(copies)) for copies in counts]
    return [
        rate_statement(
            "heterogeneity, convergence",
            "the equilibrium on the joint state of agents that all differ converges to the one "
            "found from averages only",
            sizes,
            errors,
            -1,
            0.1,
            (6, 96),
        ),
        rate_statement(
            "heterogeneity, exploitability",
            "what one of them gains by leaving it, everybody else rolling the mean path",
            KINDS * counts,
            {"offline": np.array(left)},
            -1,
            0.2,
            (10**3, 10**7),
        ),
        bound_statement(
            "heterogeneity, alike",
            "agents alike in all play the homogeneous policy: gains, and predictions of a run",
            max(_alike_gains(), _alike_run()),
            1e-12,
        ),
        bound_statement(
            "heterogeneity, realised",
            "features that are known, by d x d systems, give what their moments give",
            _realised(),
            1e-11,
        ),
    ]


def _game() -> tuple[Game, Array]:
    """Draw six agents that differ in features, costs and starts; one output."""
    rng = np.random.default_rng(15)
    moments = random_moments(rng, (KINDS, HORIZON, 1, 2))
    costs = GameCost(
        tracking=jnp.asarray(rng.uniform(0.5, 1.5, KINDS)),
        consensus=jnp.asarray(rng.uniform(0.3, 1.5, KINDS)),
        ensemble=0.2,
        effort=jnp.asarray(rng.uniform(0.2, 0.8, KINDS)),
        forgetting=0.1,
    )
    targets, starts = rng.normal(size=(HORIZON, 1)), rng.normal(size=(KINDS, 1))
    return (costs, moments, jnp.asarray(targets)), jnp.asarray(starts)


def _dense_gaps(game: Game, starts: Array, copies: int) -> dict[str, float]:
    """Return how far the joint game of so many copies is from the limit: gains and paths."""
    costs, moments, targets = game
    who = np.tile(np.arange(KINDS), copies)
    everyone = jax.tree.map(lambda leaf: leaf[who], moments)
    each = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (KINDS,))[who], costs)
    dense = solve_nash_dense(each, everyone, targets)
    limit = solve_heterogeneous(costs, moments, targets, starts)
    state, offset = np.asarray(dense.state), np.asarray(dense.offset)
    mean, joint, paths = np.asarray(everyone.mean), np.asarray(starts)[who].ravel(), []
    for t in range(HORIZON):
        control = -(state[:, t] @ joint + offset[:, t])
        joint = joint + np.einsum("iak,ik->ia", mean[:, t], control).ravel()
        paths.append(joint[:KINDS])
    own = np.stack([state[i, :, :, i] for i in range(KINDS)])
    return {
        "own gains": float(np.max(np.abs(own - np.asarray(limit.own)[..., 0]))),
        "expected paths": float(
            np.max(np.abs(np.stack(paths, axis=1) - np.asarray(limit.expected_paths)[..., 0]))
        ),
    }


def _left(game: Game, starts: Array, gains: FeedbackGains, copies: int) -> float:
    """Return what the most tempted agent gains by leaving the limit's policy."""
    found = exploitability_types(*game, [copies] * KINDS, gains, starts[:, None], None, "offline")
    return float(jnp.max(jnp.asarray(found)))


def _alike_gains() -> float:
    """Compare five agents alike with the limit of the homogeneous game, offline."""
    cost = GameCost(tracking=1.0, consensus=0.8, effort=0.4, forgetting=0.1)
    (_, moments, targets), states = random_game(16, cost)
    start = states[:1]
    five = jax.tree.map(lambda leaf: jnp.stack([leaf] * 5), moments)
    found = solve_heterogeneous(cost, five, targets, jnp.repeat(start, 5, axis=0))
    gains = offline_gains(moments, solve_nash(cost, moments, targets, None).gains, start[0])
    expected = jax.tree.map(lambda leaf: jnp.stack([leaf] * 5), (gains.own, gains.offset))
    return difference((found.own, found.offset), expected)


def _alike_run() -> float:
    """Compare the two policies on a series, in a population whose features are alike."""
    rng, series = np.random.default_rng(17), random_walk(20)
    features = np.repeat(rng.normal(size=(21, 1, 1, 4)), 5, axis=1)
    cost = GameCost(consensus=0.7, effort=0.4, forgetting=0.1)

    def predictions(policy: Policy) -> NDArray[np.float64]:
        return np.asarray(
            simulate(
                series,
                given_features(features),
                policy,
                uniform_mixture(),
                num_agents=5,
                key=jax.random.key(0),
                dtype="float64",
                record=Record(agents=(0, 4)),
            ).recorded["prediction"]
        )

    theirs = decentralized(cost, horizon=4, window=2, information="offline")
    return difference(predictions(heterogeneous(cost, horizon=4, window=2)), predictions(theirs))


def _realised() -> float:
    """Compare the two solvers for features that are known, of two outputs."""
    rng = np.random.default_rng(18)
    features = jnp.asarray(rng.normal(size=(4, 4, 2, 3)))
    moments = FeatureMoments(features, jnp.einsum("ntak,ntbl->ntabkl", features, features))
    cost = GameCost(consensus=jnp.asarray(rng.uniform(0.3, 1.5, 4)), effort=0.3, forgetting=0.1)
    rest = jnp.asarray(rng.normal(size=(4, 2))), jnp.asarray(rng.normal(size=(4, 2)))
    found = solve_heterogeneous_realised(cost, features, *rest)
    expected = solve_heterogeneous(cost, moments, *rest)
    names = ("own", "offset", "mean_field", "expected_paths")
    return difference(*([getattr(one, name) for name in names] for one in (found, expected)))
