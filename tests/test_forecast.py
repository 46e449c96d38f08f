"""The forecast game: reference numbers, best responses, the limit, gaps."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memoa_jax.encoders import echo_state, given_features
from memoa_jax.forecast import ForecastGame, OneStep, mean_move, play, respond
from memoa_jax.game import GameCost
from memoa_jax.mixture import ridge_mixture
from memoa_jax.policies import centralized, decentralized, greedy
from memoa_jax.recording import Record
from memoa_jax.series import concept_drift, make_series
from memoa_jax.simulate import simulate
from memoa_jax.types import Dimensions, Observation, Population, Status


def played(cost, Z, s, population, finite):
    """The game in one piece."""
    game = OneStep.of(cost, population.size if finite else None, Z.dtype)
    responses, wishes, _ = respond(game, Z, s)
    move, _ = mean_move(game, population.mean(responses), population.mean(wishes))
    return play(game, Z, s, move)[0]


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
    np.testing.assert_allclose(
        predictions(case, greedy(cost_of(case), **options)),
        predictions(case, alone),
        rtol=1e-12,
        atol=1e-13,
    )


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("d", [1, 2, 3])
def test_no_agent_gains_by_deviating(d, count):
    """Every agent's cost is stationary and convex in its own control, at the exact game."""
    rng = np.random.default_rng(d)
    cost = GameCost(0.8, 2.0, 0.0, 0.3)
    Z, s = rng.normal(size=(d, 4, count)), rng.normal(size=(d, count))
    population = Population(jnp.asarray(float(count)))
    control = np.asarray(played(cost, jnp.asarray(Z), jnp.asarray(s), population, True))

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
        ({"staleness": -1}, "staleness = -1"),
        ({"staleness": 1, "information": "offline"}, "staleness = 1: allowed is 0"),
        ({"staleness": 0.5, "game": "forecast"}, "staleness = 0.5"),
    ],
)
def test_wrong_arguments_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        decentralized(**options)


@pytest.mark.parametrize("staleness", [1, 3])
def test_a_late_mean_move_is_the_one_of_so_many_steps_ago(staleness):
    """Against a plain loop that keeps every mean move."""
    case = REFERENCE[1]
    y, features = np.array(case["series"]), np.array(case["features"])
    options = {"game": "forecast", "ridge": case["ridge"], "discount": case["discount"]}
    got = predictions(case, centralized(cost_of(case), staleness=staleness, **options))
    n, count, d, p = features.shape
    q, gamma = case["tracking"], case["effort"]
    pull = case["consensus"] * (1 - 1 / count)
    moves = [np.zeros(d)] * staleness
    for t in range(n - 1):
        L, a = np.zeros((count, d, d)), np.zeros((count, d))
        for i in range(count):
            gram, right = case["ridge"] * np.eye(p), np.zeros(p)
            for s in range(t):
                weight = case["discount"] ** (t - 1 - s)
                gram += weight * features[s, i].T @ features[s, i]
                right += weight * features[s, i].T @ (y[s + 1] - y[s])
            Z = features[t, i]
            L[i] = Z @ np.linalg.solve((q + pull) * Z.T @ Z + gamma * np.eye(p), Z.T)
            a[i] = q * L[i] @ Z @ np.linalg.solve(gram, right)
        moves.append(np.linalg.solve(np.eye(d) - pull * L.mean(0), a.mean(0)))
        known = moves[t]
        np.testing.assert_allclose(got[t + 1], y[t] + a + pull * L @ known, rtol=1e-9)


def test_block_by_block_through_all_time_in_two_passes():
    """What a streaming schedule does: each block alone, but for one sum and one path."""
    data, encoder, count, blocks = concept_drift(16), echo_state(3), 12, 4
    cost, ridge, discount = GameCost(0.9, 2.0, 0.0, 0.05), 0.2, 0.97
    policy = centralized(cost, game="forecast", ridge=ridge, discount=discount)
    record = Record(agents=tuple(range(count)), fields=("prediction", "features"))
    whole = simulate(
        data,
        encoder,
        policy,
        ridge_mixture(),
        num_agents=count,
        key=jax.random.key(3),
        dtype="float64",
        record=record,
    ).recorded
    features = jnp.moveaxis(whole["features"], 1, -1)  # [n, d, p, N]
    n, d, p, _ = features.shape
    game = OneStep.of(cost, jnp.asarray(float(count)), features.dtype)
    targets = jnp.asarray(data.targets)

    def forecasts(z):
        """One block's own forecasts at every step, from its own features alone."""
        alone = ForecastGame(cost, ridge, discount, 0, False)
        state = alone.init(Dimensions(n, 1, d, p), z.shape[-1], z.dtype).forecasts
        nobody = Population(jnp.ones(()))

        @jax.jit
        def step(state, t, target, now):
            seen = Observation(
                step=t,
                target=target,
                known=jnp.asarray(True),
                prediction=jnp.zeros((d, z.shape[-1])),
                features=now,
                population=nobody,
                voters=nobody,
            )
            return state.next(seen, discount, ridge)

        found = []
        for t in range(n):
            state, forecast = step(state, jnp.int32(t), targets[t], z[t])
            found.append(forecast)
        return found

    cuts = np.split(np.arange(count), blocks)
    sums = [[jnp.zeros((d, d)), jnp.zeros(d)] for _ in range(n)]
    for block in cuts:  # the first pass: only sums leave a block
        for t, forecast in enumerate(forecasts(features[..., block])):
            responses, wishes, _ = respond(game, features[t][..., block], forecast)
            sums[t][0] += responses.sum(-1)
            sums[t][1] += wishes.sum(-1)
    path = [mean_move(game, L / count, a / count)[0] for L, a in sums]
    for block in cuts:  # the second pass: only the path of mean moves enters
        z = features[..., block]
        for t, forecast in enumerate(forecasts(z)[:-1]):
            control = play(game, z[t], forecast, path[t])[0]
            ahead = targets[t][:, None] + jnp.sum(z[t] * control[None], axis=1)
            expected = whole["prediction"][t + 1, block].T
            np.testing.assert_allclose(ahead, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("consensus", "bit"), [(-5.0, Status.INDEFINITE), (1.0, Status.OK), (np.nan, None)]
)
def test_trouble_is_told_in_the_status(consensus, bit):
    case = REFERENCE[0]
    y, features = np.array(case["series"]), np.array(case["features"])
    cost = GameCost(1.0, jnp.asarray(consensus), 0.0, 0.01)
    result = simulate(
        make_series(y, y, "reference"),
        given_features(features),
        decentralized(cost, game="forecast"),
        ridge_mixture(),
        num_agents=features.shape[1],
        key=jax.random.key(0),
        dtype="float64",
    )
    status = Status(int(result.status))
    if bit is None:
        assert Status.NON_FINITE in status
    else:
        assert status == bit or (bit and bit in status)


def test_defaults_of_the_forecast_game():
    from memoa_jax.policies import FORECAST_COST

    assert decentralized(game="forecast").cost == FORECAST_COST
    assert greedy(game="forecast").cost.effort == FORECAST_COST.effort
    assert greedy(game="forecast").cost.consensus == 0
    assert decentralized().cost == GameCost()
