import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brute_force import FIELDS, random_moments

from memoa_jax.analysis import convergence_rate
from memoa_jax.game import FeatureMoments, GameCost
from memoa_jax.nash import solve_nash
from memoa_jax.nash_dense import solve_heterogeneous, solve_nash_dense
from memoa_jax.nash_types import _solve_types, solve_nash_types
from memoa_jax.types import Status

CASES = json.loads((pathlib.Path(__file__).parent / "reference/types.json").read_text())
LETTERS = {
    "A": "own",
    "B": "cross",
    "C": "mean",
    "D": "spread",
    "a": "own_linear",
    "b": "mean_linear",
    "k": "constant",
}
K, T, D, P = 2, 4, 2, 2


def random_game(seed, types=K, horizon=T, d=D, p=P):
    rng = np.random.default_rng(seed)
    costs = GameCost(
        tracking=1.0,
        consensus=rng.uniform(0.2, 1.5, types),
        ensemble=rng.uniform(0.0, 0.5, types),
        effort=rng.uniform(0.2, 0.6, types),
        forgetting=rng.uniform(0.0, 0.3, types),
    )
    moments = FeatureMoments(*random_moments(rng, horizon, d, p, (types,)))
    return costs, moments, rng.normal(size=(horizon, d))


def close(actual, expected, relative):
    expected = np.asarray(expected)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=relative * scale + 1e-300)


def numpy_of(tree):
    return jax.tree.map(np.asarray, tree)


def joint_gains(gains, types, counts):
    """Gains on the joint state [N, T, p, N d] of agents that are sorted by type."""
    owner = np.repeat(np.arange(types), counts)
    p, d = gains.own.shape[2:]
    blocks = gains.mean.reshape(types, -1, p, types, d) / np.asarray(counts)[:, None]
    joint = blocks[owner][:, :, :, owner]
    for i, k in enumerate(owner):
        joint[i, :, :, i] += gains.own[k]
    return joint.reshape(len(owner), -1, p, len(owner) * d), gains.offset[owner]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"counts={c['counts']}")
def test_reference_numbers(case):
    costs = GameCost(**{name: np.array(case[name]) for name in FIELDS})
    moments = FeatureMoments(np.array(case["feature_mean"]), np.array(case["feature_second"]))
    result = solve_nash_types(costs, moments, np.array(case["targets"]), case["counts"])
    for name in ("own", "mean", "offset"):
        close(getattr(result.gains, name), case[name], 1e-9)
    for letter, numbers in case["value"].items():
        close(getattr(result.value, LETTERS[letter]), numbers, 1e-9)
    assert result.status == Status.OK
    if set(case["counts"]) == {1}:
        state, offset = joint_gains(numpy_of(result.gains), len(case["counts"]), case["counts"])
        dense = solve_nash_dense(costs, moments, np.array(case["targets"]))
        close(dense.state, state, 1e-11)
        close(dense.offset, offset, 1e-11)


@pytest.mark.parametrize(
    ("counts", "d", "p"),
    [
        ((1, 1, 1), 1, 3),
        ((2, 3), 2, 2),
        pytest.param((2, 1, 2), 3, 1, marks=pytest.mark.slow),
    ],
)
def test_types_are_the_dense_equilibrium(counts, d, p):
    """Any group sizes, with costs, forgetting and features that differ by type."""
    types = len(counts)
    costs, moments, targets = random_game(d, types, T, d, p)
    repeat = lambda leaf: np.repeat(np.broadcast_to(leaf, (types,)), counts)  # noqa: E731
    every = lambda leaf: np.repeat(leaf, counts, axis=0)  # noqa: E731
    dense = solve_nash_dense(jax.tree.map(repeat, costs), jax.tree.map(every, moments), targets)
    result = numpy_of(solve_nash_types(costs, moments, targets, counts))
    state, offset = joint_gains(result.gains, types, counts)
    close(dense.state, state, 1e-10)
    close(dense.offset, offset, 1e-10)
    # V by its definition, for one agent of each type.
    owner = np.repeat(np.arange(types), counts)
    states = np.random.default_rng(0).normal(size=(len(owner), d))
    means = np.concatenate([states[owner == k].mean(0) for k in range(types)])
    values, v = np.asarray(dense.value.costs(states)), result.value
    for i, (k, y) in enumerate(zip(owner, states, strict=True)):
        value = y @ v.own[k] @ y + 2 * y @ v.cross[k] @ means + means @ v.mean[k] @ means
        value += 2 * v.own_linear[k] @ y + 2 * v.mean_linear[k] @ means + v.constant[k]
        for other in range(types):
            group = states[owner == other]
            value += np.mean([x @ v.spread[k, other] @ x for x in group])
        np.testing.assert_allclose(value, values[i], rtol=1e-10)


@pytest.mark.parametrize("population", [7, None])
def test_one_type_is_the_exchangeable_game(population):
    costs, moments, targets = random_game(1, types=1)
    first = jax.tree.map(lambda leaf: np.ravel(leaf)[0], costs)
    weights = None if population else [1.0]
    types = solve_nash_types(costs, moments, targets, [population], weights)
    alone = solve_nash(first, jax.tree.map(lambda m: m[0], moments), targets, population)
    for name in ("own", "mean", "offset"):
        close(getattr(types.gains, name)[0], getattr(alone.gains, name), 1e-12)
    for name in LETTERS.values():
        actual = np.asarray(getattr(types.value, name)).reshape(getattr(alone.value, name).shape)
        close(actual, getattr(alone.value, name), 1e-12)


def test_equal_types_are_one_population():
    _, moments, targets = random_game(2, types=1)
    twice = jax.tree.map(lambda m: np.repeat(m, 2, axis=0), moments)
    cost = GameCost(1.0, 0.8, 0.3, 0.4, 0.1)
    types = solve_nash_types(cost, twice, targets, [2, 3]).gains
    alone = solve_nash(cost, jax.tree.map(lambda m: m[0], moments), targets, 5).gains
    for k in range(2):
        close(types.own[k], alone.own, 1e-12)
        close(types.offset[k], alone.offset, 1e-12)
        for other, weight in enumerate((0.4, 0.6)):
            block = np.asarray(types.mean[k])[:, :, other * D : (other + 1) * D]
            close(block, weight * np.asarray(alone.mean), 1e-11)


def test_large_groups_approach_the_limit_and_the_heterogeneous_equilibrium():
    costs, moments, targets = random_game(3)
    weights = np.array([0.5, 0.5])
    limit = numpy_of(solve_nash_types(costs, moments, targets, [None, None], weights))
    before = _solve_types._cache_size()
    sizes, gaps = [10, 100, 1000, 10**4, 10**5, 10**6], []
    for n in sizes:
        exact = numpy_of(solve_nash_types(costs, moments, targets, [n, n]).gains)
        pairs = zip(jax.tree.leaves(exact), jax.tree.leaves(limit.gains), strict=True)
        gaps.append(max(np.abs(a - b).max() for a, b in pairs))
    assert abs(convergence_rate(sizes, gaps) + 1) < 0.05
    # One limit type may stand beside a finite one, and nothing of this compiles again.
    mixed = solve_nash_types(costs, moments, targets, [None, 4], weights)
    assert np.abs(mixed.gains.own[0] - limit.gains.own[0]).max() < 1e-12
    assert _solve_types._cache_size() == before

    # The limit is the game of two different agents whose mean field nobody moves.
    initial = np.random.default_rng(0).normal(size=(K, D))
    answer = numpy_of(solve_heterogeneous(costs, moments, targets, initial))
    close(answer.own, limit.gains.own, 1e-12)
    means = initial
    for t in range(T):
        control = [
            -(limit.gains.own[k, t] @ means[k] + limit.gains.mean[k, t] @ means.reshape(-1))
            - limit.gains.offset[k, t]
            for k in range(K)
        ]
        alone = [-(answer.own[k, t] @ means[k] + answer.offset[k, t]) for k in range(K)]
        np.testing.assert_allclose(control, alone, rtol=0, atol=1e-11)
        means = means + np.einsum("kdp,kp->kd", moments.mean[:, t], np.array(control))
        np.testing.assert_allclose(means, answer.expected_paths[:, t], rtol=0, atol=1e-11)


def test_weights_change_the_ensemble_only_through_their_values():
    costs, moments, targets = random_game(4)
    by_size = solve_nash_types(costs, moments, targets, [1, 3])
    given = solve_nash_types(costs, moments, targets, [1, 3], [0.25, 0.75])
    other = solve_nash_types(costs, moments, targets, [1, 3], [0.5, 0.5])
    np.testing.assert_array_equal(by_size.gains.mean, given.gains.mean)
    assert np.abs(by_size.gains.mean - other.gains.mean).max() > 1e-3


def test_differentiates_and_keeps_float32():
    costs, moments, targets = random_game(5)
    costs = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (K,)), costs)

    def summary(consensus, counts):
        cost = GameCost(1.0, consensus, costs.ensemble, costs.effort, 0.1)
        result = solve_nash_types(cost, moments, targets, counts)
        return jnp.sum(result.gains.mean**2) + jnp.sum(result.value.constant)

    differentiate = jax.jit(jax.value_and_grad(summary, argnums=(0, 1)))
    point, counts, h = np.array([0.4, 1.1]), np.array([2.0, 3.0]), 1e-5
    _, (by_consensus, by_counts) = differentiate(point, counts)
    for k, step in enumerate(h * np.eye(K)):
        more, less = (differentiate(point + sign * step, counts)[0] for sign in (1, -1))
        np.testing.assert_allclose(by_consensus[k], (more - less) / (2 * h), rtol=1e-6)
        more, less = (differentiate(point, counts + sign * step)[0] for sign in (1, -1))
        np.testing.assert_allclose(by_counts[k], (more - less) / (2 * h), rtol=1e-5)

    game = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), (moments, targets))
    single = solve_nash_types(costs, *game, [2, 3], [0.4, 0.6])
    double = solve_nash_types(costs, moments, targets, [2, 3])
    dtypes = {leaf.dtype for leaf in jax.tree.leaves((single.gains, single.value))}
    assert dtypes == {jnp.dtype("float32")}
    close(single.gains.mean, double.gains.mean, 2e-5)


def test_trouble_is_reported():
    costs, moments, targets = random_game(6)
    broken = GameCost(consensus=np.array([1.0, -60.0]))
    assert int(solve_nash_types(broken, moments, targets, [2, 3]).status) & Status.INDEFINITE
    targets = np.where(np.arange(T)[:, None] == 1, np.nan, targets)
    assert solve_nash_types(costs, moments, targets, [2, 3]).status == Status.NON_FINITE


def test_wrong_arguments_are_named():
    costs, moments, targets = random_game(7)
    for counts, weights, message in (
        ([2], None, r"counts has length 1.*allowed is 2"),
        ([2, 0], None, r"population = 0"),
        ([2, None], None, r"weights = None with counts = \[2, None\]"),
        ([2, 3], [1.0], r"weights has shape \(1,\).*\(2,\)"),
        (np.float64(3), None, r"counts has shape \(\)"),
        (np.array([2, 0]), None, r"population = .*0"),
    ):
        with pytest.raises(ValueError, match=message):
            solve_nash_types(costs, moments, targets, counts, weights)
