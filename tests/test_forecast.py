"""The forecast game: reference numbers, best responses, the limit, gaps."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memoa_jax.encoders import given_features
from memoa_jax.forecast import play
from memoa_jax.game import GameCost
from memoa_jax.mixture import ridge_mixture
from memoa_jax.policies import centralized, decentralized, greedy
from memoa_jax.recording import Record
from memoa_jax.series import make_series
from memoa_jax.simulate import simulate
from memoa_jax.types import Population

REFERENCE = json.loads((pathlib.Path(__file__).parent / "reference/forecast_game.json").read_text())


def predictions(case, policy, y=None):
    y = np.array(case["series"]) if y is None else y
    features = np.array(case["features"])
    count = features.shape[1]
    result = simulate(
        make_series(np.nan_to_num(y), y, "reference"),
        given_features(features),
        policy,
        ridge_mixture(),
        num_agents=count,
        key=jax.random.key(0),
        dtype="float64",
        record=Record(agents=tuple(range(count))),
    )
    return np.asarray(result.recorded["prediction"])


def cost_of(case):
    return GameCost(case["tracking"], case["consensus"], 0.0, case["effort"])


@pytest.mark.parametrize("case", REFERENCE, ids=lambda c: str(c["consensus"]))
@pytest.mark.parametrize("make", [centralized, decentralized])
def test_reference_numbers(make, case):
    policy = make(cost_of(case), game="forecast", ridge=case["ridge"], discount=case["discount"])
    expected = np.array(case[make.__name__])
    assert np.abs(predictions(case, policy) - expected).max() <= 1e-9 * np.abs(expected).max()


def test_greedy_is_the_game_without_coupling():
    case = REFERENCE[1]
    options = {"game": "forecast", "ridge": case["ridge"], "discount": case["discount"]}
    alone = decentralized(GameCost(0.8, 0.0, 0.0, 0.01), **options)
    np.testing.assert_array_equal(
        predictions(case, greedy(cost_of(case), **options)), predictions(case, alone)
    )


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("d", [1, 2, 3])
def test_no_agent_gains_by_deviating(d, count):
    """Every agent's cost is stationary and convex in its own control, at the exact game."""
    rng = np.random.default_rng(d)
    cost = GameCost(0.8, 2.0, 0.0, 0.3)
    Z, s = rng.normal(size=(d, 4, count)), rng.normal(size=(d, count))
    population = Population(jnp.asarray(float(count)))
    control = np.asarray(play(cost, jnp.asarray(Z), jnp.asarray(s), population, True))

    def agent_cost(i, b):
        changed = control.copy()
        changed[:, i] = b
        moves = np.einsum("apn,pn->an", Z, changed)
        gap, spread = moves[:, i] - s[:, i], moves[:, i] - moves.mean(axis=1)
        return 0.8 * gap @ gap + 2.0 * spread @ spread + 0.3 * b @ b

    for i in range(count):
        at = agent_cost(i, control[:, i])
        for _ in range(10):
            step = 1e-4 * rng.normal(size=4)
            up, down = (agent_cost(i, control[:, i] + sign * step) for sign in (1, -1))
            assert abs(up - down) < 1e-11
            assert min(up, down) > at


def test_a_missing_row_teaches_nothing_and_predictions_start_from_the_last_known():
    case = REFERENCE[0]
    y = np.array(case["series"])
    y[4] = np.nan
    features = np.array(case["features"])
    n, count, _, p = features.shape
    policy = greedy(cost_of(case), game="forecast", ridge=0.2, discount=0.95)
    got = predictions(case, policy, y)
    for t in range(n - 1):
        last = y[t] if np.isfinite(y[t]).all() else y[t - 1]
        for i in range(count):
            gram, right = 0.2 * np.eye(p), np.zeros(p)
            for s in range(t):
                move = y[s + 1] - y[s]
                if np.isfinite(move).all():
                    gram += 0.95 ** (t - 1 - s) * features[s, i].T @ features[s, i]
                    right += 0.95 ** (t - 1 - s) * features[s, i].T @ move
            Z = features[t, i]
            forecast = Z @ np.linalg.solve(gram, right)
            gram = case["tracking"] * Z.T @ Z + case["effort"] * np.eye(p)
            move = Z @ np.linalg.solve(gram, case["tracking"] * Z.T @ forecast)
            np.testing.assert_allclose(got[t + 1, i], last + move, rtol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"game": "chess"}, "game = 'chess': allowed is one of hindsight, forecast"),
        ({"game": "forecast", "ridge": 0.0}, "ridge = 0.0"),
        ({"game": "forecast", "discount": 1.5}, "discount = 1.5"),
        ({"horizon": 0}, "horizon = 0"),
        ({"sync_every": 0}, "sync_every = 0"),
        ({"information": "gossip"}, "information = 'gossip'"),
        ({"window": True}, "window = True"),
    ],
)
def test_wrong_arguments_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        decentralized(**options)
