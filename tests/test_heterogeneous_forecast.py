"""The forecast game of agents whose costs differ, against its definition."""

import jax
import numpy as np
import pytest

from memoa_jax.cost_spread import CostSpread
from memoa_jax.draws import Stream, normals, seed_words
from memoa_jax.encoders import given_features
from memoa_jax.forecast import ForecastGame
from memoa_jax.game import GameCost
from memoa_jax.heterogeneity import heterogeneous
from memoa_jax.mixture import ridge_mixture
from memoa_jax.policies import FORECAST_COST, decentralized
from memoa_jax.recording import Record
from memoa_jax.series import make_series
from memoa_jax.simulate import simulate
from memoa_jax.types import Agents

KEY, N, P = jax.random.key(5), 4, 3


def lived(policy, features, y):
    return simulate(
        make_series(y, y, "toy"),
        given_features(features),
        policy,
        ridge_mixture(),
        num_agents=N,
        key=KEY,
        dtype="float64",
        record=Record(agents=tuple(range(N)), fields=("prediction",)),
    ).recorded["prediction"]


def best_answers(q, c, gamma, Z, wishes, *, finite):
    """Iterate best answers of all agents to the others' moves until nothing moves, [N, d].

    An agent that counts itself minimises its cost as a function of its own control, the others'
    moves given; in the limit it takes the mean for given.
    """
    moves = np.zeros((N, Z.shape[1]))
    for _ in range(20_000):
        before = moves.copy()
        for i in range(N):
            others = (moves.sum(0) - moves[i]) / N if finite else moves.mean(0)
            share = 1 - 1 / N if finite else 1.0  # of its own move that is apart from the mean
            # |Z b - s|^2 q + |share Z b - others|^2 c + gamma |b|^2
            gram = Z[i].T @ Z[i]
            right = Z[i].T @ (q[i] * wishes[i] + c[i] * share * others)
            system = (q[i] + c[i] * share**2) * gram + gamma[i] * np.eye(P)
            moves[i] = Z[i] @ np.linalg.solve(system, right)
        if np.abs(moves - before).max() < 1e-14:
            return moves
    raise AssertionError("best answers do not settle")


@pytest.mark.parametrize(("d", "finite"), [(1, True), (2, True), (2, False)])
def test_predictions_are_where_best_answers_settle(d, finite):
    rng = np.random.default_rng(d)
    n = 7
    y = np.cumsum(0.3 * rng.normal(size=(n, d)), axis=0)
    Z = rng.normal(size=(n, N, d, P))
    q, c, gamma = (rng.uniform(0.3, 2, N) for _ in range(3))
    cost, ridge, discount = GameCost(q, c, 0.0, gamma), 0.2, 0.9
    if finite:
        policy = ForecastGame(cost, ridge, discount, 0, True)
    else:
        policy = heterogeneous(cost, game="forecast", ridge=ridge, discount=discount)
    found = lived(policy, Z, y)
    for t in range(n - 1):
        wishes = np.zeros((N, d))
        for i in range(N):
            gram, right = ridge * np.eye(P), np.zeros(P)
            for s in range(t):
                weight = discount ** (t - 1 - s)
                gram += weight * Z[s, i].T @ Z[s, i]
                right += weight * Z[s, i].T @ (y[s + 1] - y[s])
            wishes[i] = Z[t, i] @ np.linalg.solve(gram, right)
        moves = best_answers(q, c, gamma, Z[t], wishes, finite=finite)
        np.testing.assert_allclose(found[t + 1], y[t] + moves, rtol=1e-9, atol=1e-11)


def test_costs_that_do_not_differ_are_the_homogeneous_game():
    rng = np.random.default_rng(0)
    y, Z = np.cumsum(rng.normal(size=(8, 1)), axis=0), rng.normal(size=(8, N, 1, P))
    ours = lived(heterogeneous(game="forecast"), Z, y)
    np.testing.assert_array_equal(ours, lived(decentralized(game="forecast"), Z, y))


def test_drawn_costs_are_those_given_one_by_one():
    rng = np.random.default_rng(1)
    y, Z = np.cumsum(rng.normal(size=(8, 2)), axis=0), rng.normal(size=(8, N, 2, P))
    crowd = Agents(np.arange(N, dtype=np.uint32), seed_words(KEY))
    z = [np.asarray(normals(crowd, Stream.COSTS, k, 1, np.float64))[0] for k in range(3)]
    given = GameCost(
        FORECAST_COST.tracking * np.exp(0.2 * z[0]),
        FORECAST_COST.consensus * np.exp(0.3 * z[1]),
        0.0,
        FORECAST_COST.effort * np.exp(0.4 * z[2]),
    )
    drawn = heterogeneous(game="forecast", spread=CostSpread(0.2, 0.3, 0.4))
    found = lived(drawn, Z, y)
    np.testing.assert_allclose(found, lived(heterogeneous(given, game="forecast"), Z, y), 1e-10)
    assert np.abs(lived(heterogeneous(game="forecast"), Z, y) - found).max() > 1e-6
