import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brute_force import FIELDS, Enumeration, feedback, random_moments

from memoa_jax.analysis import convergence_rate
from memoa_jax.game import FeatureMoments, GameCost
from memoa_jax.nash import _solve_nash, solve_nash, solve_team
from memoa_jax.nash_dense import solve_nash_dense
from memoa_jax.types import Status

CASES = json.loads((pathlib.Path(__file__).parent / "reference/exchangeable.json").read_text())
LETTERS = {
    "A": "own",
    "B": "cross",
    "C": "mean",
    "D": "spread",
    "a": "own_linear",
    "b": "mean_linear",
    "k": "constant",
}
# Most tests share this shape, and with it the compiled programs.
T, D, P = 4, 2, 2
COST = GameCost(1.0, 0.8, 0.3, 0.4, 0.1)


def random_game(seed=0, horizon=T, d=D, p=P):
    rng = np.random.default_rng(seed)
    moments = FeatureMoments(*random_moments(rng, horizon, d, p))
    return moments, rng.normal(size=(horizon, d))


def close(actual, expected, relative):
    """Assert agreement relative to the largest entry."""
    expected = np.asarray(expected)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=relative * scale + 1e-300)


def value_at(value, y, states):
    """Evaluate a NashValue for the agent at y by its definition."""
    v, mean = jax.tree.map(np.asarray, value), states.mean(0)
    alone = y @ v.own @ y + 2 * y @ v.cross @ mean + 2 * v.own_linear @ y
    common = mean @ v.mean @ mean + 2 * v.mean_linear @ mean + v.constant
    return alone + common + np.mean([x @ v.spread @ x for x in states])


def all_finite(tree):
    return all(bool(np.all(np.isfinite(leaf))) for leaf in jax.tree.leaves(tree))


def largest_gap(one, other):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return max(np.abs(np.asarray(a) - np.asarray(b)).max() for a, b in pairs)


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"N={c['population']}")
@pytest.mark.parametrize("solver", [solve_nash, solve_team])
def test_reference_numbers(case, solver):
    cost = GameCost(**{name: case[name] for name in FIELDS})
    moments = FeatureMoments(np.array(case["feature_mean"]), np.array(case["feature_second"]))
    result = solver(cost, moments, np.array(case["targets"]), case["population"])
    expected = case["nash" if solver is solve_nash else "team"]
    for name in ("own", "mean", "offset"):
        close(getattr(result.gains, name), expected[name], 1e-9)
    assert set(expected["value"]) == {k for k, v in LETTERS.items() if hasattr(result.value, v)}
    for letter, numbers in expected["value"].items():
        close(getattr(result.value, LETTERS[letter]), numbers, 1e-9)
    assert result.status == Status.OK


def check_against_dense(population, horizon, d, p):
    moments, targets = random_game(100 * population + 10 * d + p, horizon, d, p)
    result = solve_nash(COST, moments, targets, population)
    repeat = lambda leaf: np.broadcast_to(leaf, (population, *leaf.shape))  # noqa: E731
    joint = solve_nash_dense(COST, jax.tree.map(repeat, moments), targets)
    # Every agent's gain on agent j: the mean's share, and its own gain where j is itself.
    gains = np.array(result.gains.mean)[None, :, :, None] / population
    gains = np.tile(gains, (population, 1, 1, population, 1))
    for i in range(population):
        gains[i, :, :, i] += result.gains.own
    close(joint.state, gains.reshape(joint.state.shape), 1e-10)
    close(joint.offset, repeat(result.gains.offset), 1e-10)
    assert result.status == joint.status == Status.OK
    states = np.random.default_rng(0).normal(size=(population, d))
    value = [value_at(result.value, y, states) for y in states]
    close(joint.value.costs(states), value, 1e-10)


# Shapes recur, here and in the reference, so that the exchangeable solver compiles rarely.
@pytest.mark.parametrize(
    ("population", "horizon", "d", "p"),
    [
        (1, 4, 2, 2),
        (2, 3, 1, 1),
        (3, 5, 3, 2),
        (4, 3, 1, 3),
        (5, 3, 2, 4),
        (6, 4, 2, 2),
        (7, 3, 1, 3),
        (8, 5, 3, 2),
    ],
)
def test_exchangeable_is_the_dense_equilibrium(population, horizon, d, p):
    check_against_dense(population, horizon, d, p)


@pytest.mark.slow
@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("p", [1, 2, 3, 4])
@pytest.mark.parametrize("population", range(1, 9))
def test_exchangeable_is_the_dense_equilibrium_everywhere(population, d, p):
    check_against_dense(population, 4, d, p)


def test_equilibrium_by_enumeration():
    rng = np.random.default_rng(3)
    cost = {"tracking": 1.0, "consensus": 0.7, "ensemble": 0.4, "effort": 0.2, "forgetting": 0.3}
    law = Enumeration.random(rng, 3, 2, 2, 2, cost, alike=True)
    moments = FeatureMoments(*(moment[0] for moment in law.moments()))
    gains = solve_nash(GameCost(**cost), moments, law.targets, 3).gains
    policy = feedback(*(np.array(leaf) for leaf in jax.tree.leaves(gains)))
    gradient, hessian, here = law.deviation(rng.normal(size=(3, 2)), policy, agent=1)
    assert np.abs(gradient).max() < 1e-12 * here
    assert np.linalg.eigvalsh(hessian).min() > 0


def test_team_optimum_by_enumeration():
    rng = np.random.default_rng(4)
    cost = {"tracking": 1.0, "consensus": 0.7, "ensemble": 0.4, "effort": 0.2, "forgetting": 0.3}
    law = Enumeration.random(rng, 2, 2, 1, 2, cost, alike=True)
    moments = FeatureMoments(*(moment[0] for moment in law.moments()))
    team = solve_team(GameCost(**cost), moments, law.targets, 2)
    gains = [np.array(leaf) for leaf in jax.tree.leaves(team.gains)]
    states = rng.normal(size=(2, 1))
    best = law.costs(states, feedback(*gains)).mean()
    mean, v = states.mean(0), jax.tree.map(np.asarray, team.value)
    value = np.mean([y @ v.spread @ y for y in states])
    value += mean @ v.mean @ mean + 2 * v.mean_linear @ mean + v.constant
    np.testing.assert_allclose(value, best, rtol=1e-12)
    for _ in range(20):
        other = [leaf + 1e-3 * rng.normal(size=leaf.shape) for leaf in gains]
        assert law.costs(states, feedback(*other)).mean() > best


def test_gains_approach_the_limit_at_rate_one_over_n():
    moments, targets = random_game()
    sizes = [10, 100, 1000, 10**4, 10**5, 10**6]
    limit = solve_nash(COST, moments, targets, None).gains
    exact = [solve_nash(COST, moments, targets, n).gains for n in sizes]
    for name in ("own", "mean", "offset"):
        gaps = [largest_gap(getattr(gains, name), getattr(limit, name)) for gains in exact]
        assert abs(convergence_rate(sizes, gaps) + 1) < 0.05, name


@pytest.mark.parametrize("seed", range(3))
def test_without_ensemble_the_limit_of_the_team_is_the_mean_field_equilibrium(seed):
    moments, targets = random_game(seed)
    cost = GameCost(1.0, 1.5, 0.0, 0.3, 0.1)
    nash, team = (solve(cost, moments, targets, None).gains for solve in (solve_nash, solve_team))
    assert largest_gap(nash, team) < 1e-12
    with_ensemble = GameCost(1.0, 1.5, 0.5, 0.3, 0.1)
    assert largest_gap(solve_nash(with_ensemble, moments, targets, None).gains, nash) < 1e-12
    assert largest_gap(solve_team(with_ensemble, moments, targets, None).gains, nash) > 1e-3


def test_a_single_agent_is_a_team():
    moments, targets = random_game(5)
    nash, team = (solve(COST, moments, targets, 1).gains for solve in (solve_nash, solve_team))
    assert largest_gap(nash.own + nash.mean, team.own + team.mean) < 1e-13
    assert largest_gap(nash.offset, team.offset) < 1e-13


def test_new_numbers_compile_nothing():
    moments, targets = random_game()
    traces = []

    @jax.jit
    def solve(cost, population):
        traces.append(1)
        return solve_nash(cost, moments, targets, population)

    solve_nash(GameCost(), moments, targets, 3)
    before = _solve_nash._cache_size()
    for n, consensus in ((2, 0.1), (5, 2.0), (1000, 1.0)):
        solve_nash(GameCost(consensus=consensus, tracking=1), moments, targets, n)
        solve(GameCost(consensus=consensus), n)
    solve_nash(GameCost(forgetting=jnp.float32(0.5)), moments, targets, None)
    assert _solve_nash._cache_size() == before
    assert len(traces) == 1


def test_vmap_over_costs_and_games_is_a_loop():
    games = [random_game(seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *games)
    consensus = np.array([0.2, 1.0, 3.0])
    axes = (GameCost(None, 0, None, None, None), 0, 0, None)
    together = jax.vmap(solve_nash, in_axes=axes)(GameCost(consensus=consensus), *stacked, 7)
    for i, game in enumerate(games):
        alone = solve_nash(GameCost(consensus=consensus[i]), *game, 7)
        row = jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i], together)
        assert largest_gap((row.gains, row.value), (alone.gains, alone.value)) < 1e-12


@pytest.mark.parametrize("solve", [solve_nash, solve_team])
def test_gradients_are_central_differences(solve):
    moments, targets = random_game(6)
    rng = np.random.default_rng(7)
    # NumPy here and below: every eager JAX operation on a new shape is compiled.
    point = jax.tree.map(np.asarray, (COST, moments, targets, 4.0))
    direction = jax.tree.map(lambda leaf: np.asarray(rng.normal(size=leaf.shape)), point)

    def summary(point):
        result = solve(*point)
        leaves = jax.tree.leaves((result.gains, result.value))
        weighed = [np.sin(1.0 + np.arange(x.size)).reshape(x.shape) * x for x in leaves]
        return sum(jnp.sum(x) for x in weighed), result.status

    differentiate = jax.jit(jax.value_and_grad(summary, has_aux=True))

    def along(step):
        return differentiate(jax.tree.map(lambda x, v: x + step * v, point, direction))[0][0]

    (_, status), gradient = differentiate(point)
    pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
    reverse = sum(np.sum(np.asarray(g) * np.asarray(v)) for g, v in pairs)
    h = 1e-5
    np.testing.assert_allclose(reverse, (along(h) - along(-h)) / (2 * h), rtol=1e-7)
    assert status == Status.OK
    assert all_finite(gradient)
    if solve is solve_nash:
        forward = jax.jit(lambda: jax.jvp(lambda x: summary(x)[0], (point,), (direction,))[1])()
        np.testing.assert_allclose(reverse, forward, rtol=1e-11)
        # Trouble is told by the status and leaves gradients as they are.
        broken = jax.tree.map(np.asarray, GameCost(1.0, -40.0, 0.3, 0.4, 0.1))
        (_, status), gradient = differentiate((broken, *point[1:]))
        assert int(status) == Status.INDEFINITE
        assert all_finite(gradient)


@pytest.mark.parametrize("solve", [solve_nash, solve_team])
def test_float32_stays_float32(solve):
    moments, targets = random_game()
    game = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), (moments, targets))
    single, double = solve(COST, *game, 6), solve(COST, moments, targets, 6)
    assert {leaf.dtype for leaf in jax.tree.leaves((single.gains, single.value))} == {
        jnp.dtype("float32")
    }
    assert single.status.dtype == jnp.int32
    for a, b in zip(jax.tree.leaves(single.gains), jax.tree.leaves(double.gains), strict=True):
        close(a, b, 2e-5)


@pytest.mark.parametrize("shape", [(4, 2, 2), (3, 1, 3)])
@pytest.mark.parametrize("solve", [solve_nash, solve_team])
def test_too_negative_a_consensus_is_reported(solve, shape):
    moments, targets = random_game(0, *shape)
    fine = solve(GameCost(consensus=-0.3), moments, targets, 6).status
    broken = solve(GameCost(consensus=-40.0), moments, targets, 6).status
    assert fine == Status.OK
    assert int(broken) & Status.INDEFINITE


def test_singular_and_non_finite_systems_are_reported():
    mean, targets = np.ones((T, D, P)), np.ones((T, D))
    certain = FeatureMoments(mean, np.einsum("tak,tbl->tabkl", mean, mean))
    # Two equal features without noise, and an effort that rounding swallows.
    assert int(solve_nash(GameCost(effort=1e-30), certain, targets, 5).status) & Status.SINGULAR
    moments, targets = random_game()
    targets[1, 0] = np.nan
    assert solve_nash(COST, moments, targets, 5).status == Status.NON_FINITE


def test_wrong_arguments_are_named():
    moments, targets = random_game()
    for solve in (solve_nash, solve_team):
        with pytest.raises(ValueError, match="population = 0"):
            solve(COST, moments, targets, 0)
        with pytest.raises(ValueError, match="targets has shape"):
            solve(COST, moments, targets[1:], 3)
        with pytest.raises(ValueError, match=r"GameCost\.consensus has shape"):
            jax.jit(solve)(GameCost(consensus=jnp.ones(3)), moments, targets, 3)
