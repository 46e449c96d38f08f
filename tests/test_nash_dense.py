import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brute_force import FIELDS, Enumeration, random_moments

from memoa_jax.game import FeatureMoments, GameCost
from memoa_jax.nash import solve_nash
from memoa_jax.nash_dense import solve_heterogeneous, solve_nash_dense
from memoa_jax.types import Status

CASE = json.loads((pathlib.Path(__file__).parent / "reference/heterogeneous.json").read_text())
COSTS = {
    "tracking": np.array([1.0, 0.7, 1.3]),
    "consensus": np.array([0.5, 1.0, -0.1]),
    "ensemble": np.array([0.3, 0.0, 0.6]),
    "effort": np.array([0.2, 0.4, 0.3]),
    "forgetting": 0.2,
}


def close(actual, expected, relative):
    expected = np.asarray(expected)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=relative * scale + 1e-300)


def test_dense_equilibrium_by_enumeration():
    """Three different agents, expectations by enumeration, deviations by exact differences."""
    rng = np.random.default_rng(0)
    law = Enumeration.random(rng, 3, 2, 2, 2, COSTS, alike=False)
    result = solve_nash_dense(GameCost(**COSTS), FeatureMoments(*law.moments()), law.targets)
    state, offset = np.asarray(result.state), np.asarray(result.offset)

    def policy(t, nodes):
        joint = nodes.reshape(len(nodes), -1)
        return -(np.einsum("ipx,mx->mip", state[:, t], joint) + offset[:, t])

    states = rng.normal(size=(3, 2))
    np.testing.assert_allclose(result.value.costs(states), law.costs(states, policy), rtol=1e-12)
    assert result.status == Status.OK
    for agent in range(3):
        gradient, hessian, here = law.deviation(states, policy, agent)
        assert np.abs(gradient).max() < 1e-12 * here
        assert np.linalg.eigvalsh(hessian).min() > 0


def test_heterogeneous_reference_numbers():
    cost = GameCost(**{name: CASE[name] for name in FIELDS if name in CASE})
    moments = FeatureMoments(np.array(CASE["feature_mean"]), np.array(CASE["feature_second"]))
    game = (moments, np.array(CASE["targets"]), np.array(CASE["initial"]))
    result = solve_heterogeneous(cost, *game)
    for name in ("own", "offset", "mean_field", "expected_paths"):
        close(getattr(result, name), CASE[name], 1e-9)
    np.testing.assert_allclose(result.expected_paths.mean(0), result.mean_field, atol=1e-12)
    assert result.status == Status.OK

    def mean_path(consensus):
        return jnp.sum(solve_heterogeneous(GameCost(consensus=consensus), *game).mean_field)

    both, h = jax.jit(jax.value_and_grad(mean_path)), 1e-5
    central = (both(1.5 + h)[0] - both(1.5 - h)[0]) / (2 * h)
    np.testing.assert_allclose(both(1.5)[1], central, rtol=1e-7)


def test_equal_agents_are_the_mean_field_limit():
    rng = np.random.default_rng(1)
    mean, second = random_moments(rng, 4, 2, 2)
    targets, initial = rng.normal(size=(4, 2)), rng.normal(size=(5, 2))
    cost = GameCost(1.0, 0.8, 0.0, 0.4, 0.1)
    five = FeatureMoments(np.stack([mean] * 5), np.stack([second] * 5))
    result = jax.tree.map(np.asarray, solve_heterogeneous(cost, five, targets, initial))
    limit = solve_nash(cost, FeatureMoments(mean, second), targets, None).gains
    close(result.own, np.stack([limit.own] * 5), 1e-12)
    z = initial.mean(0)
    for t in range(4):
        offset = np.asarray(limit.mean)[t] @ z + np.asarray(limit.offset)[t]
        close(result.offset[:, t], np.stack([offset] * 5), 1e-11)
        z = z - mean[t] @ (np.asarray(limit.own)[t] @ z + offset)
        close(result.mean_field[t], z, 1e-11)


def test_float32_and_trouble():
    rng = np.random.default_rng(2)
    moments = FeatureMoments(*random_moments(rng, 3, 1, 2, (3,)))
    targets, initial = rng.normal(size=(3, 1)), rng.normal(size=(3, 1))
    single = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), (moments, targets))
    start = np.asarray(initial, np.float32)
    dense = solve_nash_dense(GameCost(), *single)
    answer = solve_heterogeneous(GameCost(), *single, start)
    assert dense.state.dtype == dense.value.constant.dtype == jnp.float32
    assert answer.mean_field.dtype == answer.offset.dtype == jnp.float32
    assert dense.status == answer.status == Status.OK
    negative = GameCost(consensus=-60.0)
    assert int(solve_nash_dense(negative, *single).status) & Status.INDEFINITE
    assert int(solve_heterogeneous(negative, *single, start).status) & Status.INDEFINITE


def test_wrong_arguments_are_named():
    rng = np.random.default_rng(3)
    moments = FeatureMoments(*random_moments(rng, 3, 1, 2, (4,)))
    targets = np.ones((3, 1))
    with pytest.raises(ValueError, match=r"initial has shape \(3, 1\).*\(4, 1\)"):
        solve_heterogeneous(GameCost(), moments, targets, np.ones((3, 1)))
    with pytest.raises(ValueError, match=r"GameCost\.effort has shape \(3,\)"):
        solve_nash_dense(GameCost(effort=np.ones(3)), moments, targets)
    alone = jax.tree.map(lambda leaf: leaf[0], moments)
    with pytest.raises(ValueError, match=r"moments\.mean has shape .*\[K, T, d, p\]"):
        solve_nash_dense(GameCost(), alone, targets)
