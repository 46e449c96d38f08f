import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brute_force import Enumeration, random_moments
from test_nash_types import close, random_game

from memoa_jax.analysis import (
    best_response_costs,
    convergence_rate,
    expected_costs,
    exploitability,
    price_of_anarchy,
)
from memoa_jax.analysis_types import (
    _best_response,
    best_response_costs_types,
    expected_costs_types,
    exploitability_types,
    price_of_anarchy_types,
)
from memoa_jax.game import FeatureMoments, GameCost, InitialLaw
from memoa_jax.information import offline_gains
from memoa_jax.nash import FeedbackGains, solve_team
from memoa_jax.nash_dense import solve_nash_dense
from memoa_jax.nash_types import solve_nash_types, solve_team_types

JUDGES = {
    expected_costs_types: expected_costs,
    best_response_costs_types: best_response_costs,
    exploitability_types: exploitability,
}


def random_gains(rng, types, horizon, d, p):
    own, mean = (types, horizon, p, d), (types, horizon, p, types * d)
    return FeedbackGains(*(0.4 * rng.normal(size=s) for s in (own, mean, own[:3])))


@pytest.mark.parametrize(
    ("information", "population"),
    [
        ("feedback", 7),
        ("offline", None),
        pytest.param("feedback", None, marks=pytest.mark.slow),
        pytest.param("offline", 7, marks=pytest.mark.slow),
    ],
)
def test_one_type_is_the_exchangeable_game(population, information):
    rng = np.random.default_rng(1)
    costs, moments, targets = random_game(1, types=1)
    alone = (
        jax.tree.map(lambda leaf: np.ravel(leaf)[0], costs),
        jax.tree.map(lambda leaf: leaf[0], moments),
        targets,
        population,
    )
    game = (costs, moments, targets, [population])
    gains = random_gains(rng, 1, 4, 2, 2)
    first = jax.tree.map(lambda leaf: leaf[0], gains)
    states = rng.normal(size=(1, 5, 2))
    law = InitialLaw(np.array([[0.3, -0.4]]), np.array([[[1.0, 0.2], [0.2, 0.5]]]))
    one_law = jax.tree.map(lambda leaf: leaf[0], law)
    for judge, single in JUDGES.items():
        for start, one in ((states, states[0]), (law, one_law)):
            found = judge(*game, gains, start, [1.0], information)
            close(found[0], single(*alone, first, one, information), 1e-12)
    close(price_of_anarchy_types(*game, law, [1.0]), price_of_anarchy(*alone, one_law), 1e-12)
    team, one = solve_team_types(*game, [1.0]), solve_team(*alone)
    for typed, exchangeable in zip(
        jax.tree.leaves((team.gains, team.value.spread)),
        jax.tree.leaves((one.gains, one.value.spread)),
        strict=True,
    ):
        close(typed[0], exchangeable, 1e-12)
    for name in ("mean", "mean_linear", "constant"):
        close(getattr(team.value, name), getattr(one.value, name), 1e-12)


@pytest.mark.parametrize(
    ("counts", "information"),
    [
        ((1, 1, 1), "offline"),
        ((2, 1), "feedback"),
        pytest.param((1, 1, 1), "feedback", marks=pytest.mark.slow),
        pytest.param((2, 1), "offline", marks=pytest.mark.slow),
    ],
)
def test_by_enumeration(counts, information):
    """Any gains, costs and weights that differ by type, against sums over all histories."""
    rng, (horizon, d, p) = np.random.default_rng(8), (2, 2, 1)
    types, owner = len(counts), np.repeat(np.arange(len(counts)), counts)
    by_type = {
        name: rng.uniform(0.2, 1.0, types)
        for name in ("tracking", "consensus", "ensemble", "effort", "forgetting")
    }
    by_type["forgetting"] = np.full(types, 0.3)  # the enumeration has one discount for all
    kinds = Enumeration.random(rng, types, horizon, d, p, {}, alike=False)
    costs = {name: values[owner] for name, values in by_type.items()} | {"forgetting": 0.3}
    law = Enumeration(kinds.atoms[owner], kinds.chances[owner], {}, kinds.targets)
    law.cost = costs
    moments = FeatureMoments(*kinds.moments())
    gains = random_gains(rng, types, horizon, d, p)
    states = rng.normal(size=(3, d))
    groups = [states[owner == k] for k in range(types)]
    game = (GameCost(**by_type), moments, law.targets, counts, gains, groups, None, information)

    def means(nodes):
        return np.concatenate([nodes[:, owner == k].mean(1) for k in range(types)], axis=1)

    rolled = [means(states[None])[0].reshape(types, d)]
    for t in range(horizon):
        z = rolled[t]
        move = np.einsum("kpa,ka->kp", gains.own[:, t], z)
        move += gains.mean[:, t] @ z.reshape(-1) + gains.offset[:, t]
        rolled.append(z - np.einsum("kap,kp->ka", moments.mean[:, t], move))

    def policy(t, nodes):
        seen = means(nodes)
        if information == "offline":
            seen = np.broadcast_to(rolled[t].reshape(-1), seen.shape)
        own = np.einsum("mia,ipa->mip", nodes, gains.own[owner, t])
        return -(
            own + np.einsum("mx,ipx->mip", seen, gains.mean[owner, t]) + gains.offset[owner, t]
        )

    flat = lambda found: np.concatenate([np.asarray(each) for each in found])  # noqa: E731
    np.testing.assert_allclose(flat(expected_costs_types(*game)), law.costs(states, policy), 1e-12)
    least, excess = flat(best_response_costs_types(*game)), flat(exploitability_types(*game))
    for agent in range(3):
        gradient, hessian, here = law.deviation(states, policy, agent)
        gain = gradient @ np.linalg.solve(hessian, gradient) / 2
        np.testing.assert_allclose(excess[agent], gain, rtol=1e-10)
        np.testing.assert_allclose(least[agent], here - gain, rtol=1e-11)


def test_an_agent_per_type_is_the_dense_game():
    costs, moments, targets = random_game(3, types=3)
    game = (costs, moments, targets, (1, 1, 1))
    states = np.random.default_rng(0).normal(size=(3, 1, 2))
    gains = solve_nash_types(*game).gains
    values = solve_nash_dense(costs, moments, targets).value.costs(states[:, 0])
    close(expected_costs_types(*game, gains, states)[:, 0], values, 1e-12)
    close(best_response_costs_types(*game, gains, states)[:, 0], values, 1e-12)
    assert np.max(np.abs(exploitability_types(*game, gains, states))) < 1e-14


def test_alike_types_are_one_population():
    """Seven agents in two groups that differ in nothing, or in one group."""
    rng = np.random.default_rng(4)
    one_cost, targets = GameCost(1.0, 0.8, 0.3, 0.4, 0.1), rng.normal(size=(3, 2))
    moments = FeatureMoments(*random_moments(rng, 3, 2, 2))
    both = jax.tree.map(lambda leaf: np.stack([leaf] * 2), moments)
    counts, states = (3, 4), rng.normal(size=(7, 2))
    groups = [states[:3], states[3:]]
    gains = jax.tree.map(lambda leaf: leaf[0], random_gains(rng, 1, 3, 2, 2))
    typed = FeedbackGains(
        np.stack([gains.own] * 2),
        np.stack([np.concatenate([gains.mean * 3 / 7, gains.mean * 4 / 7], axis=-1)] * 2),
        np.stack([gains.offset] * 2),
    )
    for judge, single in JUDGES.items():
        for information in ("feedback", "offline"):
            expected = single(one_cost, moments, targets, 7, gains, states, information)
            found = judge(one_cost, both, targets, counts, typed, groups, information=information)
            close(np.concatenate(found), expected, 1e-12)
    price = price_of_anarchy_types(one_cost, both, targets, counts, groups)
    close(price, price_of_anarchy(one_cost, moments, targets, 7, states), 1e-12)


@pytest.mark.parametrize("information", ["feedback", "offline"])
def test_a_law_is_the_average_over_the_states_it_draws(information):
    """Two equally likely states: all 2^3 populations of three agents, two of them of one type."""
    rng = np.random.default_rng(5)
    costs, moments, targets = random_game(5)
    gains, atoms = random_gains(rng, 2, 4, 2, 2), rng.normal(size=(2, 2, 2))  # [K, atom, d]
    mean = atoms.mean(1)
    law = InitialLaw(
        mean, np.einsum("ksa,ksb->kab", atoms, atoms) / 2 - mean[:, :, None] * mean[:, None]
    )
    played = gains if information == "feedback" else offline_gains(moments, gains, mean)
    for judge in JUDGES:
        by_agent = []
        for a, b, c in itertools.product(range(2), repeat=3):
            groups = [atoms[0][[a, b]], atoms[1][[c]]]
            by_agent.append(np.concatenate(judge(costs, moments, targets, (2, 1), played, groups)))
        first, second, third = np.mean(by_agent, axis=0)
        found = judge(costs, moments, targets, (2, 1), gains, law, information=information)
        np.testing.assert_allclose(found, [first, third], rtol=1e-12)
        np.testing.assert_allclose(first, second, rtol=1e-12)


def joint_optimum(costs, moments, targets, importance):
    """One planner who controls one agent per type: a plain Riccati recursion on the joint state."""
    types, horizon, d, p = moments.mean.shape
    size, average = types * d, np.kron(np.ones((1, types)) / types, np.eye(d))
    P, p1, gains = np.zeros((size, size)), np.zeros(size), []
    place = np.eye(size).reshape(types, d, size)
    for t in reversed(range(horizon)):
        y = targets[t]
        M = np.zeros((size, types * p))
        H = np.zeros((types * p, types * p))
        efforts = []
        for k in range(types):
            delta = importance[k] * np.exp(-costs.forgetting[k] * (horizon - 1 - t))
            for weight, of, to in (
                (costs.tracking, place[k], y),
                (costs.consensus[k], place[k] - average, 0 * y),
                (costs.ensemble[k], average, y),
            ):
                P = P + delta * weight * of.T @ of
                p1 = p1 - delta * weight * of.T @ to
            efforts.append(delta * costs.effort[k])
            M[k * d : (k + 1) * d, k * p : (k + 1) * p] = moments.mean[k, t]
        H = M.T @ P @ M
        for k in range(types):
            block = P[k * d : (k + 1) * d, k * d : (k + 1) * d]
            s = slice(k * p, (k + 1) * p)
            H[s, s] = np.einsum("abkl,ab->kl", moments.second[k, t], block)
            H[s, s] += efforts[k] * np.eye(p)
        gain, offset = np.linalg.solve(H, M.T @ P), np.linalg.solve(H, M.T @ p1)
        gains.append((gain, offset))
        p1 = p1 - gain.T @ M.T @ p1
        P = P - gain.T @ H @ gain
        P = (P + P.T) / 2
    return gains[::-1]


def test_the_team_of_types_is_the_optimum_on_the_joint_state():
    types = 3
    costs, moments, targets = random_game(6, types=types, horizon=3)
    importance = np.array([0.5, 0.2, 0.3])
    game = (costs, moments, targets, [1] * types)
    team = solve_team_types(*game, importance=importance)
    assert team.status == 0
    for t, (gain, offset) in enumerate(joint_optimum(costs, moments, targets, importance)):
        joint = np.array(team.gains.mean[:, t]).reshape(types * 2, types * 2)
        for k in range(types):
            joint[2 * k : 2 * k + 2, 2 * k : 2 * k + 2] += team.gains.own[k, t]
        close(joint, gain, 1e-12)
        close(team.gains.offset[:, t].reshape(-1), offset, 1e-12)
    # Its value is the average of the agents' expected costs.
    states = np.random.default_rng(1).normal(size=(types, 1, 2))
    average = importance @ np.asarray(expected_costs_types(*game, team.gains, states))[:, 0]
    v, stacked = jax.tree.map(np.asarray, team.value), states.reshape(-1)
    value = np.einsum("kia,kab,kib->", states, v.spread, states)
    value += stacked @ v.mean @ stacked + 2 * v.mean_linear @ stacked + v.constant
    np.testing.assert_allclose(value, average, rtol=1e-12)


def test_the_team_of_types_in_the_limit():
    costs, moments, targets = random_game(7)
    share = [0.25, 0.75]
    limit = solve_team_types(costs, moments, targets, [None, None], share)
    sizes = np.array([10, 10**2, 10**3])
    errors = []
    for n in sizes:
        finite = solve_team_types(costs, moments, targets, [n, 3 * n])
        gaps = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), finite.gains, limit.gains)
        errors.append(max(jax.tree.leaves(gaps)))
    assert abs(convergence_rate(sizes, np.array(errors)) + 1) < 0.05
    law = InitialLaw(np.zeros((2, 2)), np.stack([np.eye(2)] * 2))
    assert price_of_anarchy_types(costs, moments, targets, [10, 30], law) > 1
    assert price_of_anarchy_types(costs, moments, targets, [None] * 2, law, share) > 1


def test_the_limit_policy_is_exploitable_at_its_rate():
    costs, moments, targets = random_game(2)
    states = np.random.default_rng(2).normal(size=(2, 4, 2))
    weights, sizes = [0.25, 0.75], np.array([10**3, 10**4, 10**5])
    limit = solve_nash_types(costs, moments, targets, [None, None], weights).gains
    for information, rate in (("feedback", -2), ("offline", -1)):
        worst = [
            np.max(
                exploitability_types(
                    costs, moments, targets, [n, 3 * n], limit, states, weights, information
                )
            )
            for n in sizes
        ]
        assert abs(convergence_rate(sizes, np.array(worst)) - rate) < 0.05


def test_vmap_grad_and_no_recompilation():
    costs, moments, targets = random_game(8)
    states = np.random.default_rng(3).normal(size=(2, 3, 2))
    gains = solve_nash_types(costs, moments, targets, [None, None], [0.5, 0.5]).gains

    def worst(consensus, size):
        cost = GameCost(1.0, consensus, costs.ensemble, costs.effort, costs.forgetting)
        found = exploitability_types(
            cost, moments, targets, [size, size], gains, states, information="offline"
        )
        return jnp.max(found)

    point = np.array([0.7, 5.0])
    both = jax.jit(jax.value_and_grad(worst, argnums=(0, 1)))
    _, gradient = both(*point)
    for slope, step in zip(gradient, 1e-5 * np.eye(2), strict=True):
        more, less = (both(*(point + sign * step))[0] for sign in (1, -1))
        np.testing.assert_allclose(slope, (more - less) / 2e-5, rtol=1e-6)
    sweep = np.array([0.3, 0.7, 1.1])
    mapped = jax.vmap(worst, in_axes=(0, None))(sweep, 5.0)
    worst(0.3, 5.0)
    before = _best_response._cache_size()
    np.testing.assert_allclose(mapped, [worst(c, 5.0) for c in sweep], rtol=1e-12)
    assert _best_response._cache_size() == before


def test_wrong_arguments_are_named():
    costs, moments, targets = random_game(9)
    gains = random_gains(np.random.default_rng(0), 2, 4, 2, 2)
    game, states = (costs, moments, targets, [2, 3]), np.zeros((2, 3, 2))
    bad = FeedbackGains(gains.own, gains.own, gains.offset)
    with pytest.raises(ValueError, match=r"gains\.mean has shape \(2, 4, 2, 2\).*\(2, 4, 2, 4\)"):
        expected_costs_types(*game, bad, states)
    with pytest.raises(ValueError, match=r"states has shape \(3, 2\).*\[K, n, d\] with d = 2"):
        expected_costs_types(*game, gains, states[0])
    with pytest.raises(ValueError, match=r"states has length 1.*allowed is 2"):
        exploitability_types(*game, gains, [states[0]])
    with pytest.raises(ValueError, match=r"states\.covariance has shape \(2, 2\)"):
        expected_costs_types(*game, gains, InitialLaw(np.zeros((2, 2)), np.zeros((2, 2))))
    with pytest.raises(ValueError, match=r"importance has shape \(3,\)"):
        solve_team_types(*game, importance=[0.2, 0.3, 0.5])
    with pytest.raises(ValueError, match="information = 'none'"):
        best_response_costs_types(*game, gains, states, information="none")
    with pytest.raises(ValueError, match="weights = None"):
        solve_team_types(costs, moments, targets, [2, None])
