"""Who takes part: the masks themselves, and that an absent agent counts nowhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memoa_jax.draws import seed_words
from memoa_jax.encoders import echo_state, given_features
from memoa_jax.game import GameCost
from memoa_jax.mixture import ridge_mixture
from memoa_jax.participation import bernoulli, given_participation, late_joiners, markov
from memoa_jax.policies import centralized, decentralized, greedy
from memoa_jax.recording import Record
from memoa_jax.series import logistic, make_series
from memoa_jax.simulate import simulate
from memoa_jax.types import Agents

N, POINTS, D, P = 6, 14, 2, 3


def crowd(count):
    return Agents(jnp.arange(count, dtype=jnp.uint32), seed_words(jax.random.key(3)))


def masks(participation, count, points=60):
    agents = crowd(count)

    def step(state, t):
        return participation.present(state, agents, t)

    return np.asarray(jax.lax.scan(step, participation.init(agents, points), jnp.arange(points))[1])


def test_bernoulli_is_independent_of_agent_and_step():
    drawn = masks(bernoulli(0.7), 5000)
    assert abs(drawn.mean() - 0.7) < 5 * np.sqrt(0.21 / drawn.size)
    by_step, by_agent = drawn.mean(1), drawn.mean(0)
    assert by_step.std() == pytest.approx(np.sqrt(0.21 / 5000), rel=0.4)
    assert by_agent.std() == pytest.approx(np.sqrt(0.21 / 60), rel=0.1)
    assert masks(bernoulli(1.0), 100).all()


def test_markov_runs_have_their_lengths_and_start_stationary():
    drawn = masks(markov(leave=0.1, join=0.3), 5000)
    assert np.abs(drawn.mean(1) - 0.75).max() < 5 * np.sqrt(0.1875 / 5000)
    before, after = drawn[:-1], drawn[1:]
    assert (~after[before]).mean() == pytest.approx(0.1, abs=0.005)
    assert after[~before].mean() == pytest.approx(0.3, abs=0.01)


def test_late_joiners_come_once_and_stay():
    drawn = masks(late_joiners(10, 19), 4000)
    assert not drawn[:10].any()
    assert drawn[19:].all()
    assert (np.diff(drawn.astype(int), axis=0) >= 0).all()
    joining = np.diff(drawn.sum(1))[9:19]
    assert joining.min() > 300
    assert joining.max() < 500


@pytest.mark.parametrize(
    "participation", [bernoulli(0.5), markov(0.2, 0.2), late_joiners(0, 9)], ids=type
)
def test_draws_do_not_depend_on_the_population(participation):
    np.testing.assert_array_equal(masks(participation, 50)[:, :7], masks(participation, 7))


def life(policy, mask, mixture=None, **options):
    rng = np.random.default_rng(0)
    y = np.cumsum(rng.normal(size=(POINTS, D)), axis=0)
    features = rng.normal(size=(POINTS, N, D, P))
    result = simulate(
        make_series(y, y, "made"),
        given_features(features),
        policy,
        ridge_mixture() if mixture is None else mixture,
        num_agents=N,
        key=jax.random.key(0),
        dtype="float64",
        record=Record(agents=tuple(range(N))),
        participation=None if mask is None else given_participation(mask),
        **options,
    )
    return y, features, result


def random_mask(seed=1):
    mask = np.random.default_rng(seed).random((POINTS, N)) < 0.6
    mask[5] = False  # a step at which nobody is there
    mask[:, 5] = False  # an agent that never comes
    return mask


@pytest.mark.parametrize("finite", [True, False])
def test_forecast_game_of_those_present(finite):
    """A plain loop: rows of absent agents are not learnt from, sums are over those present."""
    mask = random_mask()
    q, c, gamma, ridge, discount = 0.8, 2.0, 0.05, 0.2, 0.95
    make = centralized if finite else decentralized
    policy = make(GameCost(q, c, 0.0, gamma), game="forecast", ridge=ridge, discount=discount)
    y, Z, result = life(policy, mask)
    got = np.asarray(result.recorded["prediction"])
    cost, taken = np.zeros(N), np.zeros(N)
    for t in range(POINTS - 1):
        here = np.flatnonzero(mask[t])
        L, a = np.zeros((N, D, D)), np.zeros((N, D))
        pull = c * (1 - 1 / len(here)) if finite and len(here) else c
        for i in here:
            gram, right = ridge * np.eye(P), np.zeros(P)
            for s in np.flatnonzero(mask[:t, i]):
                weight = discount ** (t - 1 - s)
                gram += weight * Z[s, i].T @ Z[s, i]
                right += weight * Z[s, i].T @ (y[s + 1] - y[s])
            now = Z[t, i]
            L[i] = now @ np.linalg.solve((q + pull) * now.T @ now + gamma * np.eye(P), now.T)
            a[i] = q * L[i] @ now @ np.linalg.solve(gram, right)
        if not len(here):
            np.testing.assert_allclose(result.mean_field[t + 1], y[t], rtol=1e-12)
            np.testing.assert_allclose(result.server[t + 1], y[t], rtol=1e-12)
            continue
        v = np.linalg.solve(np.eye(D) - pull * L[here].mean(0), a[here].mean(0))
        ahead = y[t] + a + pull * L @ v
        np.testing.assert_allclose(got[t + 1, here], ahead[here], rtol=1e-9)
        np.testing.assert_allclose(result.mean_field[t + 1], ahead[here].mean(0), rtol=1e-9)
        cost[here] += ((ahead[here] - y[t + 1]) ** 2).sum(1)
        taken[here] += 1
    np.testing.assert_allclose(result.agent_costs, cost, rtol=1e-9)
    rmse = np.sqrt(cost[:5] / taken[:5] / D)
    summary = result.summary
    np.testing.assert_allclose(summary.mean_agent_rmse, rmse.mean(), rtol=1e-9)
    np.testing.assert_allclose(summary.worst_agent_rmse, rmse.max(), rtol=1e-9)
    np.testing.assert_allclose(summary.best_agent_rmse, rmse.min(), rtol=1e-9)
    assert summary.worst_agent == rmse.argmax()
    np.testing.assert_allclose(summary.mean_agent_cost, cost[:5].mean(), rtol=1e-9)
    assert np.all(np.isfinite(result.server))


POLICIES = {
    "greedy": greedy(GameCost(effort=5.0), window=2),
    "decentralized": decentralized(GameCost(effort=1.0), horizon=3),
    "offline": decentralized(GameCost(effort=1.0), horizon=3, information="offline"),
    "late": decentralized(GameCost(effort=1.0), horizon=3, staleness=1),
    "forecast": centralized(game="forecast"),
}


every_policy = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in ("offline", "late") else name
        for name in POLICIES
    ],
)


@every_policy
def test_with_everybody_present_nothing_changes(name):
    _, _, alone = life(POLICIES[name], None, best_readout=True)
    _, _, masked = life(POLICIES[name], np.ones((POINTS, N)), best_readout=True)
    for field in ("server", "mean_field", "agent_costs"):
        np.testing.assert_allclose(getattr(masked, field), getattr(alone, field), rtol=1e-12)
    for a, b in zip(jax.tree.leaves(masked.summary), jax.tree.leaves(alone.summary), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@every_policy
def test_an_agent_that_never_comes_might_as_well_not_exist(name):
    """Six agents of which the last is always absent, against five."""
    mask = np.ones((POINTS, N), bool)
    mask[:, 5] = False
    y, features, masked = life(POLICIES[name], mask, best_readout=True)
    few = simulate(
        make_series(y, y, "made"),
        given_features(features[:, :5]),
        POLICIES[name],
        ridge_mixture(),
        num_agents=5,
        key=jax.random.key(0),
        dtype="float64",
        best_readout=True,
    )
    np.testing.assert_allclose(masked.server, few.server, rtol=1e-10)
    np.testing.assert_allclose(masked.mean_field, few.mean_field, rtol=1e-10)
    np.testing.assert_allclose(masked.agent_costs[:5], few.agent_costs, rtol=1e-10)
    assert masked.agent_costs[5] == 0
    for a, b in zip(jax.tree.leaves(masked.summary), jax.tree.leaves(few.summary), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)


def test_participation_runs_over_blocks_of_time_and_sweeps():
    """Chunks change nothing, a probability can be mapped over, and no one sees the future."""

    def run(probability, chunk=None, changed=False):
        data = logistic(20)
        if changed:
            later = np.array(data.targets)
            later[12:] = 9.0
            data = make_series(data.inputs, later, "changed")
        return simulate(
            data,
            echo_state(3),
            decentralized(game="forecast"),
            ridge_mixture(),
            num_agents=9,
            key=jax.random.key(1),
            dtype="float64",
            chunk=chunk,
            participation=bernoulli(probability),
        ).server

    whole = run(0.5)
    np.testing.assert_array_equal(run(0.5, chunk=7), whole)
    np.testing.assert_array_equal(run(0.5, changed=True)[:13], whole[:13])
    sweep = jax.vmap(run)(jnp.array([0.3, 0.5]))
    np.testing.assert_allclose(sweep[1], whole, rtol=1e-12)
    assert np.abs(sweep[0] - whole).max() > 1e-3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bernoulli(0.0), r"bernoulli: probability = 0\.0: .*in \(0, 1\]"),
        (lambda: markov(0.0, 0.5), r"markov: leave = 0\.0"),
        (lambda: markov(0.5, 1.5), r"markov: join = 1\.5"),
        (lambda: late_joiners(-1, 5), "late_joiners: first = -1"),
        (lambda: late_joiners(5, 4), "late_joiners: last = 4.*>= first = 5"),
        (lambda: given_participation(np.ones(3)), r"mask has shape \(3,\): allowed is \[n, N\]"),
        (lambda: given_participation(np.full((2, 2), 0.5)), "allowed is True and False"),
        (lambda: life(greedy(), np.ones((3, N))), "mask has 3 rows.*14 points"),
        (lambda: life(greedy(), np.ones((POINTS, 2))), "mask has 2 agents.*6"),
    ],
)
def test_wrong_arguments_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()
