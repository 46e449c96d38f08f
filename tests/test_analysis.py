import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brute_force import FIELDS, Enumeration, feedback, random_moments

from memoa_jax.analysis import (
    _best_response,
    best_response_costs,
    convergence_rate,
    expected_costs,
    exploitability,
    price_of_anarchy,
)
from memoa_jax.game import FeatureMoments, GameCost, InitialLaw
from memoa_jax.information import offline_gains
from memoa_jax.nash import FeedbackGains, solve_nash, solve_team

FILE = pathlib.Path(__file__).parent / "reference/exchangeable.json"
CASES = [case for case in json.loads(FILE.read_text()) if "states" in case]
COST = GameCost(1.0, 0.8, 0.3, 0.4, 0.1)
N, T, D, P = 6, 4, 2, 2


def random_game(seed=0):
    rng = np.random.default_rng(seed)
    moments = FeatureMoments(*random_moments(rng, T, D, P))
    return (COST, moments, rng.normal(size=(T, D))), rng.normal(size=(N, D))


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"N={c['population']}")
def test_reference_numbers(case):
    moments = FeatureMoments(np.array(case["feature_mean"]), np.array(case["feature_second"]))
    game = (GameCost(**{name: case[name] for name in FIELDS}), moments, np.array(case["targets"]))
    population, states = case["population"], np.array(case["states"])
    nash = solve_nash(*game, population).gains
    limit = solve_nash(*game, None).gains
    for key, gains, information in (
        ("nash", nash, "feedback"),
        ("decentralized", limit, "feedback"),
        ("offline", limit, "offline"),
    ):
        costs = expected_costs(*game, population, gains, states, information)
        np.testing.assert_allclose(costs, case[f"{key}_cost"], rtol=1e-9)
        excess = exploitability(*game, population, gains, states, information)
        least = best_response_costs(*game, population, gains, states, information)
        # The two ways to it agree to the rounding of a cost, of which it is a small part.
        np.testing.assert_allclose(excess, costs - least, rtol=0, atol=1e-13 * np.max(costs))
        if key == "nash":
            assert np.max(excess) < 1e-12
        else:
            expected = np.array(case[f"{key}_exploitability"])
            np.testing.assert_allclose(excess, expected, rtol=0, atol=1e-9 * expected.max())


@pytest.mark.parametrize("population", [1, 2, 3, 5])
@pytest.mark.parametrize("information", ["feedback", "offline"])
def test_by_enumeration(information, population):
    """Any gains, not an equilibrium's, against sums over all histories."""
    rng = np.random.default_rng(8)
    cost = {"tracking": 1.0, "consensus": 0.7, "ensemble": 0.4, "effort": 0.2, "forgetting": 0.3}
    law = Enumeration.random(rng, population, 2, 2, 2, cost, alike=True)
    moments = FeatureMoments(*(moment[0] for moment in law.moments()))
    own, mean, offset = (0.5 * rng.normal(size=shape) for shape in ((2, 2, 2), (2, 2, 2), (2, 2)))
    states = rng.normal(size=(population, 2))
    game = (GameCost(**cost), moments, law.targets, population)
    game = (*game, FeedbackGains(own, mean, offset), states)
    policy = feedback(own, mean, offset)
    if information == "offline":
        rolled = [states.mean(0)]
        for t in range(2):
            move = (own[t] + mean[t]) @ rolled[t] + offset[t]
            rolled.append(rolled[t] - moments.mean[t] @ move)

        def policy(t, nodes):
            return -(nodes @ own[t].T + mean[t] @ rolled[t] + offset[t])

    costs = law.costs(states, policy)
    np.testing.assert_allclose(expected_costs(*game, information), costs, rtol=1e-12)
    if population > 3:
        return  # the deviations of five agents are too many to enumerate
    least, excess = best_response_costs(*game, information), exploitability(*game, information)
    for agent in range(population):
        gradient, hessian, here = law.deviation(states, policy, agent)
        gain = gradient @ np.linalg.solve(hessian, gradient) / 2
        np.testing.assert_allclose(excess[agent], gain, rtol=1e-10)
        np.testing.assert_allclose(least[agent], here - gain, rtol=1e-11)


def test_the_solvers_values_are_expected_costs():
    game, states = random_game()
    mean = states.mean(0)
    for population in (5, None):
        nash = solve_nash(*game, population)
        v = jax.tree.map(np.asarray, nash.value)
        common = mean @ v.mean @ mean + 2 * v.mean_linear @ mean + v.constant
        common += np.mean([y @ v.spread @ y for y in states])
        values = [y @ v.own @ y + 2 * y @ v.cross @ mean + 2 * v.own_linear @ y for y in states]
        costs = expected_costs(*game, population, nash.gains, states)
        np.testing.assert_allclose(costs, np.array(values) + common, rtol=1e-12)
        team = solve_team(*game, population)
        v = jax.tree.map(np.asarray, team.value)
        value = mean @ v.mean @ mean + 2 * v.mean_linear @ mean + v.constant
        value += np.mean([y @ v.spread @ y for y in states])
        costs = expected_costs(*game, population, team.gains, states)
        np.testing.assert_allclose(np.mean(costs), value, rtol=1e-12)


@pytest.mark.parametrize(("information", "rate"), [("feedback", -2), ("offline", -1)])
def test_the_limit_policy_is_exploitable_at_its_rate(information, rate):
    game, states = random_game(1)
    limit = solve_nash(*game, None).gains
    sizes = [1000, 10**4, 10**5, 10**6]
    worst = [np.max(exploitability(*game, n, limit, states, information)) for n in sizes]
    assert abs(convergence_rate(sizes, worst) - rate) < 0.05
    # The limit itself is an equilibrium of the limit game, in both patterns.
    at_limit = exploitability(*game, None, limit, states, information)
    assert np.abs(at_limit).max() < 1e-16


@pytest.mark.parametrize("population", [1, 2, 1000, None])
def test_no_one_gains_at_the_equilibrium(population):
    game, states = random_game(2)
    gains = solve_nash(*game, population).gains
    excess = np.asarray(exploitability(*game, population, gains, states))
    assert np.all(excess >= 0)
    assert excess.max() < 1e-12


def test_states_are_a_law_so_copies_of_them_change_nothing():
    game, states = random_game(3)
    gains = solve_nash(*game, 12).gains
    costs = expected_costs(*game, 12, gains, states)
    twice = expected_costs(*game, 12, gains, np.concatenate([states, states]))
    np.testing.assert_allclose(twice, np.concatenate([costs, costs]), rtol=1e-13)


def test_offline_is_the_feedback_of_a_rolled_mean():
    game, states = random_game(4)
    gains = solve_nash(*game, None).gains
    rolled = offline_gains(game[1], gains, states.mean(0))
    assert np.all(np.asarray(rolled.mean) == 0)
    costs = expected_costs(*game, 9, gains, states, "offline")
    np.testing.assert_allclose(expected_costs(*game, 9, rolled, states), costs, rtol=1e-13)
    # Without a population's noise, knowing the mean and rolling it are the same.
    limit = [expected_costs(*game, None, gains, states, kind) for kind in ("feedback", "offline")]
    np.testing.assert_allclose(*limit, rtol=1e-12)


def test_price_of_anarchy():
    (_, *game), states = random_game(5)
    for cost in (GameCost(ensemble=0.0), GameCost(ensemble=1.0)):
        price = [float(price_of_anarchy(cost, *game, n, states)) for n in (3, None)]
        assert price[0] > 1
        if cost.ensemble == 0:
            np.testing.assert_allclose(price[1], 1.0, rtol=1e-12)
        else:
            assert price[1] > 1 + 1e-3


def test_new_numbers_compile_nothing():
    game, states = random_game(6)
    gains = solve_nash(*game, 3).gains
    exploitability(*game, 3, gains, states)
    before = _best_response._cache_size()
    for n, consensus in ((4, 0.3), (10**6, 2.0), (None, 1.0)):
        exploitability(GameCost(consensus=consensus), *game[1:], n, gains, states)
    assert _best_response._cache_size() == before


def test_differentiates():
    (_, *game), states = random_game(7)

    def worst(consensus, population):
        cost = GameCost(1.0, consensus, 0.3, 0.4, 0.1)
        gains = solve_nash(cost, *game, None).gains
        return jnp.sum(exploitability(cost, *game, population, gains, states, "offline"))

    differentiate = jax.jit(jax.value_and_grad(worst, argnums=(0, 1)))
    h, point = 1e-5, np.array([0.7, 5.0])
    _, gradient = differentiate(*point)
    for slope, step in zip(gradient, h * np.eye(2), strict=True):
        more, less = (differentiate(*(point + sign * step))[0] for sign in (1, -1))
        np.testing.assert_allclose(slope, (more - less) / (2 * h), rtol=1e-6)


@pytest.mark.parametrize(
    ("judge", "information"),
    [
        (expected_costs, "feedback"),
        (exploitability, "offline"),
        *(
            pytest.param(judge, information, marks=pytest.mark.slow)
            for judge, information in (
                (expected_costs, "offline"),
                (best_response_costs, "feedback"),
                (best_response_costs, "offline"),
                (exploitability, "feedback"),
            )
        ),
        (price_of_anarchy, None),
    ],
)
def test_jits_maps_and_differentiates_over_a_law(judge, information):
    """One number of (consensus, N, mean and spread of the states), each way that JAX has."""
    (_, *game), _ = random_game(9)
    gains = solve_nash(COST, *game, None).gains

    def value(point):
        cost = GameCost(1.0, point[0], 0.3, 0.4, 0.1)
        law = InitialLaw(point[2] * jnp.ones(2), point[3] * jnp.array([[1.0, 0.4], [0.4, 0.7]]))
        if judge is price_of_anarchy:
            return judge(cost, *game, point[1], law)
        return judge(cost, *game, point[1], gains, law, information)

    points = np.array([[0.7, 5.0, 0.3, 0.5], [1.5, 9.0, -1.0, 1.2]])
    compiled = jax.jit(value)
    one_by_one = [compiled(point) for point in points]
    np.testing.assert_allclose(jax.vmap(value)(points), one_by_one, rtol=1e-12)
    gradient = jax.jit(jax.grad(value))(points[0])
    for slope, step in zip(gradient, 1e-5 * np.eye(4), strict=True):
        ahead, behind = compiled(points[0] + step), compiled(points[0] - step)
        np.testing.assert_allclose(slope, (ahead - behind) / 2e-5, rtol=1e-5, atol=1e-9)


def test_float32_stays_float32_and_resolves_small_exploitabilities():
    game, states = random_game(8)
    gains = solve_nash(*game, None).gains
    exact = exploitability(*game, 1000, gains, states)
    moments, targets, states, gains = jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float32), (*game[1:], states, gains)
    )
    single = exploitability(COST, moments, targets, 1000, gains, states)
    assert single.dtype == jnp.float32
    # Far below the rounding of a cost in float32; a difference of costs would be noise.
    np.testing.assert_allclose(single, exact, rtol=0.05)


def test_wrong_arguments_are_named():
    game, states = random_game()
    gains = solve_nash(*game, 3).gains
    with pytest.raises(ValueError, match=r'information = "?\'?none.*"feedback" or "offline"'):
        expected_costs(*game, 3, gains, states, "none")
    with pytest.raises(ValueError, match=r"states has shape \(6, 1\).*d = 2"):
        expected_costs(*game, 3, gains, states[:, :1])
    bad = FeedbackGains(gains.own, gains.mean, np.asarray(gains.offset)[1:])
    with pytest.raises(ValueError, match=r"gains\.offset has shape \(3, 2\).*\(4, 2\)"):
        exploitability(*game, 3, bad, states)
    with pytest.raises(ValueError, match="population = 0"):
        best_response_costs(*game, 0, gains, states)
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(3,\)"):
        convergence_rate([1, 2], [1, 2, 3])
