"""Agents that all differ and know their own features on average only: the hindsight policy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import summary_of, write

from memoa_jax import build
from memoa_jax.cli import main
from memoa_jax.config_file import load
from memoa_jax.config_tune import values
from memoa_jax.cost_spread import CostSpread
from memoa_jax.draws import seed_words
from memoa_jax.encoders import echo_state, given_features, random_features
from memoa_jax.game import FeatureMoments, GameCost
from memoa_jax.heterogeneity import heterogeneous
from memoa_jax.mixture import ridge_mixture
from memoa_jax.nash_dense import solve_heterogeneous
from memoa_jax.own_moments import OwnMoments, priced_spread
from memoa_jax.participation import given_participation, markov
from memoa_jax.recording import Record
from memoa_jax.run import policies
from memoa_jax.series import make_series
from memoa_jax.simulate import simulate
from memoa_jax.types import Agents, Dimensions, Observation, Population, Status

KEY = jax.random.key(3)


def costs_of(rng, agents):
    """Draw costs that differ, some consensus negative."""
    return GameCost(
        tracking=rng.uniform(0.5, 2, agents),
        consensus=rng.uniform(-0.2, 2, agents),
        effort=rng.uniform(0.1, 1, agents),
        forgetting=0.15,
    )


def toy(d, n=20, gap=7):
    rng = np.random.default_rng(d)
    targets = np.cumsum(0.3 * rng.normal(size=(n, d)), axis=0)
    if gap is not None:
        targets[gap] = np.nan
    return make_series(rng.normal(size=(n, 2)), targets, "toy")


def lived(series, features, policy, **how):
    agents = features.shape[1]
    return simulate(
        series,
        given_features(features),
        policy,
        ridge_mixture(),
        num_agents=agents,
        key=KEY,
        **{
            "dtype": "float64",
            "record": Record(agents=tuple(range(agents)), fields=("prediction", "control")),
            **how,
        },
    )


def averages(Z, present, memory):
    """Return every agent's own m [N, d, p] and S [N, d, d, p, p] of the steps it was there.

    Z [t, N, d, p], present [t, N].
    """
    steps, agents, d, p = Z.shape
    mean, second = np.zeros((agents, d, p)), np.zeros((agents, d, d, p, p))
    for i in range(agents):
        total = 0.0
        for s in range(steps):
            weight = memory ** (steps - 1 - s) * present[s, i]
            total += weight
            mean[i] += weight * Z[s, i]
            second[i] += weight * np.einsum("ak,bl->abkl", Z[s, i], Z[s, i])
        if total:
            mean[i] /= total
            second[i] /= total
    return mean, second


def game_of(cost, mean, second, T, targets, start, everyone=None):
    """Return the mean path and every agent's gains (own, offset), by plain linear algebra.

    `everyone`: whose answers the mean is of.
    """
    agents, d, p = mean.shape
    everyone = range(agents) if everyone is None else everyone
    delta = np.exp(-cost.forgetting * (T - 1 - np.arange(T)))

    def answer(i, path):
        q, c, gamma = (np.broadcast_to(x, (agents,))[i] for x in (*weights, cost.effort))
        m, P, s, gains = mean[i], np.zeros((d, d)), np.zeros(d), []
        for t in reversed(range(T)):
            P = P + delta[t] * (q + c) * np.eye(d)
            s = s - delta[t] * (q * targets[t] + c * path[t])
            H = np.einsum("ab,abkl->kl", P, second[i]) + delta[t] * gamma * np.eye(p)
            own, offset = np.linalg.solve(H, m.T @ P), np.linalg.solve(H, m.T @ s)
            gains.append((own, offset))
            P, s = P - P @ m @ own, s - P @ m @ offset
        states, y = [], start
        for own, offset in reversed(gains):
            y = y - m @ (own @ y + offset)
            states.append(y)
        return np.array(states), gains[::-1]

    weights = (cost.tracking, cost.consensus)

    def average(path):
        return np.mean([answer(i, path)[0] for i in everyone], axis=0).ravel()

    base = average(np.zeros((T, d)))
    columns = [average(unit.reshape(T, d)) - base for unit in np.eye(T * d)]
    path = np.linalg.solve(np.eye(T * d) - np.array(columns).T, base).reshape(T, d)
    return path, [answer(i, path)[1] for i in range(agents)]


def plain_loop(y, Z, cost, T, window, sync_every, memory, present):
    """Return predictions [n, N, d] and controls [n, N, p], one agent and one step at a time."""
    n, N, d, p = Z.shape
    known = np.isfinite(y).all(axis=1)
    Z = np.where(present[..., None, None], Z, 0.0)
    prediction, base, control = np.zeros((n + 1, N, d)), np.zeros((n, N, d)), np.zeros((n, N, p))
    prediction[0] = y[0]
    for t in range(n):
        base[t] = prediction[t]
        here = np.flatnonzero(present[t])
        if t >= T and t % sync_every == 0 and known[t - T : t + 1].all():
            moments = averages(Z[:t], present[:t], memory)
            targets = y[t - T + 1 : t + 1]
            _, gains = game_of(cost, *moments, T, targets, y[t - T], here)
            for i in range(N):
                state = y[t - T]
                for s, (own, offset) in zip(range(t - T, t), gains[i], strict=True):
                    control[t, i] = -(own @ state + offset)
                    state = state + Z[s, i] @ control[t, i]
                base[t, i] = state
        else:
            for i in range(N):
                gram, right = cost.effort[i] * np.eye(p), np.zeros(p)
                for s in range(max(t - window, 0), t):
                    if known[s + 1]:
                        weight = np.exp(-cost.forgetting * (t - 1 - s))
                        gram += weight * Z[s, i].T @ Z[s, i]
                        right += weight * Z[s, i].T @ (y[s + 1] - base[s, i])
                control[t, i] = np.linalg.solve(gram, right)
        control[t, ~present[t]] = 0.0
        prediction[t + 1] = base[t] + np.einsum("iak,ik->ia", Z[t], control[t])
    return prediction[:n], control


def met(policy, series, Z, step):
    """Return the mean path that the agents are told at a step, from where they start."""
    (survey,), (n, agents, d, p) = policy.surveys, Z.shape
    dimensions = Dimensions(points=n, inputs=1, outputs=d, features=p)
    state = survey.init(dimensions, agents, jnp.float64)
    common = survey.begin(dimensions, jnp.float64)
    everybody, look = Population(jnp.float64(agents)), jax.jit(survey.look)
    crowd = Agents(jnp.arange(agents, dtype=jnp.uint32), seed_words(KEY))
    for t in range(step + 1):
        seen = Observation(
            step=jnp.int32(t),
            target=jnp.asarray(series.targets[t]),
            known=jnp.array(True),
            prediction=jnp.zeros((d, agents)),
            features=jnp.moveaxis(jnp.asarray(Z[t]), 0, -1),
            population=everybody,
            voters=everybody,
            agents=crowd,
        )
        state, found = look(state, seen)
        common, (path, singular) = survey.meet(common, found, seen.sight)
    assert not singular
    return path


@pytest.mark.parametrize(
    ("d", "memory"),
    [
        pytest.param(1, 0.8, marks=pytest.mark.slow),
        (2, 0.95),
        pytest.param(3, 1.0, marks=pytest.mark.slow),
    ],
)
def test_one_game_is_that_of_the_solver_for_the_same_moments(d, memory):
    rng = np.random.default_rng(d)
    T, p, agents, step = 3, 4, 5, 9
    series, Z = toy(d, step + 2, gap=None), rng.normal(size=(step + 2, agents, d, p)) + 0.5
    cost = costs_of(rng, agents)
    policy = heterogeneous(cost, T, 1, step, features="moments", memory=memory)
    mean, second = averages(Z[:step], np.ones((step, agents)), memory)
    moments = FeatureMoments(np.stack([mean] * T, axis=1), np.stack([second] * T, axis=1))
    targets, start = series.targets[step - T + 1 : step + 1], series.targets[step - T]
    found = solve_heterogeneous(cost, moments, targets, np.stack([start] * agents))
    own, offset = np.asarray(found.own), np.asarray(found.offset)
    states = np.stack([start] * agents)
    for s in range(T):
        control = -(np.einsum("ipa,ia->ip", own[:, s], states) + offset[:, s])
        states = states + np.einsum("iap,ip->ia", Z[step - T + s], control)
    result = lived(series, Z, policy)
    assert result.status == Status.OK
    np.testing.assert_allclose(result.recorded["control"][step], control, rtol=1e-9)
    after = states + np.einsum("iap,ip->ia", Z[step], control)
    np.testing.assert_allclose(result.recorded["prediction"][step + 1], after, rtol=1e-9)
    path = start + np.asarray(met(policy, series, Z, step))
    np.testing.assert_allclose(path, found.mean_field, rtol=1e-9)
    # The test's own solver, for what follows.
    np.testing.assert_allclose(game_of(cost, mean, second, T, targets, start)[0], path, rtol=1e-9)


@pytest.mark.parametrize(
    ("d", "T", "window", "sync", "memory", "absent"),
    [
        (1, 3, 2, 1, 0.7, False),
        (2, 2, 3, 2, 0.9, True),
        pytest.param(1, 4, 1, 3, 1.0, True, marks=pytest.mark.slow),
    ],
)
def test_a_run_is_a_plain_loop_over_steps_and_agents(d, T, window, sync, memory, absent):
    rng = np.random.default_rng(d + 10)
    series, Z, cost = toy(d), rng.normal(size=(20, 5, d, 3)) + 0.5, costs_of(rng, 5)
    present = np.ones((20, 5), bool)
    if absent:
        present = rng.uniform(size=(20, 5)) < 0.7
        present[:15, 4] = False  # knows nothing of itself when it comes
    policy = heterogeneous(cost, T, window, sync, features="moments", memory=memory)
    here = {"participation": given_participation(present)} if absent else {}
    result = lived(series, Z, policy, **here)
    expected = plain_loop(series.targets, Z, cost, T, window, sync, memory, present)
    for name, plain in zip(("prediction", "control"), expected, strict=True):
        np.testing.assert_allclose(result.recorded[name], plain, rtol=1e-9, atol=1e-11)
    assert result.status == Status.OK


def test_what_an_agent_knows_are_weighted_averages_of_the_steps_it_was_there():
    rng = np.random.default_rng(1)
    d, p, memory = 3, 2, 0.8
    Z, present = 10 + rng.normal(size=(12, 4, d, p)), rng.uniform(size=(12, 4)) < 0.6
    present[:, 3] = False
    known = OwnMoments.nothing(Dimensions(1, 1, d, p), 4, jnp.float64)
    for t in range(12):
        here = np.where(present[t][:, None, None], Z[t], 0.0)
        known = known.see(jnp.moveaxis(here, 0, -1), jnp.asarray(present[t], float), memory)
    mean, second = averages(Z, present, memory)
    np.testing.assert_allclose(np.moveaxis(known.mean, -1, 0), mean, rtol=1e-13)
    root = rng.normal(size=(d, d, 4))
    price = np.einsum("abn,cbn->acn", root, root)
    spread = second - np.einsum("iak,ibl->iabkl", mean, mean)
    expected = np.einsum("abn,nabkl->nkl", price, spread)
    for k, row in enumerate(priced_spread(known.spread, jnp.asarray(price))):
        np.testing.assert_allclose(np.transpose(row), expected[:, k, : k + 1], atol=1e-11)


@pytest.mark.parametrize("d", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_features_that_never_change_are_known_on_average_as_well(d):
    rng = np.random.default_rng(d)
    Z = np.repeat(rng.normal(size=(1, 5, d, 4)), 20, axis=0)
    games = [
        lived(toy(d), Z, heterogeneous(costs_of(rng, 5), 3, 2, features=features, memory=0.9))
        for rng, features in ((np.random.default_rng(8), name) for name in ("moments", "realised"))
    ]
    for name in ("prediction", "control"):
        found, expected = (np.asarray(game.recorded[name]) for game in games)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def run(policy, agents=40, d=1, dtype="float64", **how):
    encoder = how.pop("encoder", echo_state(3))
    series = how.pop("series", toy(d, 14))
    return simulate(
        series, encoder, policy, ridge_mixture(), num_agents=agents, key=KEY, dtype=dtype, **how
    )


def score(parameters):
    cost = GameCost(consensus=parameters["consensus"], effort=parameters["effort"])
    spread = CostSpread(parameters["spread"], parameters["spread"], parameters["spread"])
    policy = heterogeneous(
        cost, 2, 1, 2, spread=spread, features="moments", memory=parameters["memory"]
    )
    return jnp.sum(run(policy, 8, encoder=echo_state(2)).server ** 2)


BASE = {"effort": 0.4, "consensus": 0.8, "spread": 0.5, "memory": 0.8}


def test_gradients_of_a_run_are_central_differences():
    slopes, value, h = jax.jit(jax.grad(score))(BASE), jax.jit(score), 1e-5
    for name, here in BASE.items():
        ends = [value({**BASE, name: here + side * h}) for side in (1, -1)]
        central = (ends[0] - ends[1]) / (2 * h)
        assert abs(central) > 1e-6
        np.testing.assert_allclose(slopes[name], central, rtol=1e-6)
    assert value._cache_size() == 1


@pytest.mark.slow
def test_memories_map_over_runs():
    memories = jnp.array([0.5, 0.9, 1.0])
    one = jax.jit(lambda memory: score({**BASE, "memory": memory}))
    mapped = jax.vmap(one)(memories)
    np.testing.assert_allclose(mapped, [one(memory) for memory in memories], rtol=1e-12)
    assert len(np.unique(mapped)) == 3


@pytest.mark.parametrize("p", [3, pytest.param(17, marks=pytest.mark.slow)])
def test_a_game_without_a_minimum_is_told(p):
    how = {"agents": 5, "encoder": echo_state(p)}
    bad = heterogeneous(GameCost(consensus=-30.0), features="moments")
    assert run(bad, **how).status & Status.INDEFINITE
    # Negative, and yet a minimum: effort is large enough.
    mild = heterogeneous(GameCost(consensus=-1.01, effort=5.0), features="moments")
    assert run(mild, **how).status == Status.OK


def test_float32_agrees_with_float64_where_features_hardly_vary():
    """64 agents, effort 1e-3 and features near 3 that vary by 1e-3; and a burst."""
    rng = np.random.default_rng(3)
    targets = np.cumsum(0.1 * rng.normal(size=40))
    targets[20:22] *= 100.0
    series = make_series(targets[:, None], targets[:, None], "burst")
    Z = 3 + rng.normal(size=(1, 64, 1, 4)) + 1e-3 * rng.normal(size=(40, 64, 1, 4))
    policy = heterogeneous(GameCost(effort=1e-3), window=1, features="moments")
    costs = [lived(series, Z, policy, dtype=kind).agent_costs for kind in ("float32", "float64")]
    assert np.max(np.abs(costs[0] - costs[1]) / costs[1]) < 1e-4


@pytest.mark.slow
def test_large_blocks_are_solved_some_agents_at_a_time():
    """Past a size the elimination goes block by block; some agents' costs in small populations."""
    policy = heterogeneous(features="moments", spread=CostSpread(effort=0.5))
    how = {"encoder": random_features(4), "participation": markov(0.1, 0.5)}
    whole = run(policy, 40_000, record=Record(agents=(0, 39_999)), **how)
    stream = run(
        policy, 40_000, schedule="stream", block=4096, encoder=random_features(4), keep_costs=True
    )
    alone = run(policy, 40_000, encoder=random_features(4))
    np.testing.assert_allclose(stream.agent_costs, alone.agent_costs, rtol=1e-9)
    assert np.isfinite(whole.recorded["prediction"]).all()


# In configs.

CONFIG = """
name = "own"
agents = 6
[series]
kind = "logistic"
steps = 12
[encoder]
kind = "random_features"
features = 2
[[policy]]
kind = "heterogeneous"
horizon = 2
features = "moments"
memory = 0.9
"""


@pytest.mark.usefixtures("here")
def test_a_table_is_the_library_s_policy_and_its_twin_knows_as_much():
    config = load(write(CONFIG))
    (table,) = config.policy
    assert build.policy(table) == heterogeneous(horizon=2, features="moments", memory=0.9)
    assert values(config, table)["policy.memory"] == 0.9
    twin = build.policy(policies(config)["uncoupled"])
    assert (twin.features, twin.memory, twin.cost.consensus) == ("moments", 0.9, 0.0)
    swept = build.policy(table, {"policy.memory": 0.5})
    assert jax.tree.structure(swept) == jax.tree.structure(build.policy(table))


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ("memory = 0.0", "memory = 0.0: allowed is a number > 0 and <= 1"),
        ("memory = 1.5", "memory = 1.5: allowed is a number > 0 and <= 1"),
        ('memory = "long"', 'memory = "long": allowed is a number > 0 and <= 1'),
        ('features = "moment"', 'features = "moment": allowed is realised, moments; did you mean'),
        (
            'features = "moments"\ngame = "forecast"',
            'features = "moments": allowed is "realised" with game = "forecast"',
        ),
    ],
)
def test_a_wrong_value_is_one_line(keys, fault, capsys):
    plain = CONFIG.replace('features = "moments"\nmemory = 0.9\n', "")
    assert main(["run", str(write(plain + keys + "\n"))]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"policy.0.{fault}" in line


@pytest.mark.usefixtures("here")
def test_a_run_of_the_command_line(capsys):
    assert main(["run", str(write(CONFIG)), "--out", "out"]) == 0
    found = summary_of("out")["policies"]
    assert list(found) == ["heterogeneous", "uncoupled"]
    assert all(0 < one["worst_agent_rmse"] < 10 for one in found.values())
    capsys.readouterr()


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r"features = 'mean': allowed is one of realised, mom"):
        heterogeneous(features="mean")
    with pytest.raises(ValueError, match=r"memory = 0.0: allowed is a finite number in \(0, 1\]"):
        heterogeneous(features="moments", memory=0.0)
    with pytest.raises(ValueError, match=r"features = 'moments': allowed is 'realised' with game"):
        heterogeneous(features="moments", game="forecast")
