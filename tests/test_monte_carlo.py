"""Realised costs: a plain loop on the same draws, expected costs, moments, independence."""

import dataclasses
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from brute_force import FIELDS, random_moments

from memoa_jax.analysis import expected_costs
from memoa_jax.draws import Stream, normals, seed_words, uniforms
from memoa_jax.game import FeatureMoments, GameCost, InitialLaw
from memoa_jax.monte_carlo import _sample, sample_game, symmetric_root
from memoa_jax.nash_step import FeedbackGains
from memoa_jax.types import Agents

COST = GameCost(1.0, 0.8, 0.3, 0.4, 0.1)
LAWS = ["gaussian", "bounded"]
T, D, P = 3, 2, 3


def random_game(seed=0, horizon=T, d=D, p=P):
    """Cost, moments and targets of a game, and gains that are no equilibrium's."""
    rng = np.random.default_rng(seed)
    moments = FeatureMoments(*random_moments(rng, horizon, d, p))
    shapes = ((horizon, p, d), (horizon, p, d), (horizon, p))
    gains = FeedbackGains(*(0.4 * rng.normal(size=shape) for shape in shapes))
    return (COST, moments, rng.normal(size=(horizon, d))), gains, rng.normal(size=(6, d))


def drawn(law, key, population, stream, step, count):
    """Return [N, count] draws of mean 0 and variance 1."""
    crowd = Agents(jnp.arange(population, dtype=jnp.uint32), seed_words(key))
    if law == "gaussian":
        return np.asarray(normals(crowd, stream, step, count, jnp.float64)).T
    return np.asarray(uniforms(crowd, stream, step, count, jnp.float64)).T * np.sqrt(12)


def plain_root(covariance):
    values, vectors = np.linalg.eigh(covariance)
    assert values.min() > 1e-6
    return vectors @ np.diag(np.sqrt(values)) @ vectors.T


def plain_loop(game, gains, states, center, key, law, information):
    """Play the game agent by agent in numpy; return costs, mean fields, final states."""
    cost, moments, targets = game
    y, rolled, costs = states.copy(), center, np.zeros(len(states))
    path = [y.mean(0)]
    for t, target in enumerate(targets):
        m, (horizon, d, p) = moments.mean[t], moments.mean.shape
        second = moments.second[t].transpose(0, 2, 1, 3).reshape(d * p, d * p)
        root = plain_root(second - np.outer(m, m))
        noise = drawn(law, key, len(y), Stream.GAME_FEATURES, t, d * p)
        known = path[-1] if information == "feedback" else rolled
        rolled = rolled - m @ ((gains.own[t] + gains.mean[t]) @ rolled + gains.offset[t])
        controls = []
        for i in range(len(y)):
            control = -(gains.own[t] @ y[i] + gains.mean[t] @ known + gains.offset[t])
            y[i] += (m + (root @ noise[i]).reshape(d, p)) @ control
            controls.append(control)
        path.append(y.mean(0))
        for i, control in enumerate(controls):
            costs[i] += np.exp(-cost.forgetting * (horizon - 1 - t)) * (
                cost.tracking * np.sum((y[i] - target) ** 2)
                + cost.consensus * np.sum((y[i] - path[-1]) ** 2)
                + cost.ensemble * np.sum((path[-1] - target) ** 2)
                + cost.effort * np.sum(control**2)
            )
    return costs, np.array(path), y


@pytest.mark.parametrize(
    ("given", "information", "law"),
    [  # Any two together; all three: slow.
        pytest.param(given, information, law, marks=[pytest.mark.slow] * ((i + j + k) % 2))
        for i, given in enumerate(("states", "law"))
        for j, information in enumerate(("feedback", "offline"))
        for k, law in enumerate(LAWS)
    ],
)
def test_a_plain_loop_on_the_same_draws(law, information, given):
    game, gains, rows = random_game()
    key, population = jax.random.key(5), 42
    if given == "states":
        states = rows
        first, center = np.tile(rows, (7, 1)), rows.mean(0)
    else:
        states = InitialLaw(rows[0], np.array([[0.5, 0.2], [0.2, 0.3]]))
        noise = drawn(law, key, population, Stream.GAME_STATES, 0, D)
        first, center = rows[0] + noise @ plain_root(states.covariance), rows[0]
    expected = plain_loop(game, gains, first, center, key, law, information)
    # One block, exactly and with room to spare; several, with padding and without.
    for block in (42, 10**6, 9, 14) if given == "states" else (9,):
        sample = sample_game(
            *game, population, gains, states, key=key, information=information, features=law,
            block=block,
        )  # fmt: skip
        for value, answer in zip(
            (sample.costs, sample.mean_field, sample.states), expected, strict=True
        ):
            np.testing.assert_allclose(value, answer, rtol=1e-12, atol=1e-13)
    costs = expected[0]
    assert sample.worst_agent == np.argmax(costs)
    np.testing.assert_allclose(sample.worst_cost, costs.max(), rtol=1e-12)
    np.testing.assert_allclose(sample.mean_cost, costs.mean(), rtol=1e-12)


def drawn_features(law, population, seed=0):
    """Return moments and every agent's features [N, d, p], read off the moves they make."""
    (cost, moments, targets), _, _ = random_game(1, horizon=1)
    none = np.zeros((P, 1, P, D))

    def columns(gains):  # a control of one in a single feature moves an agent by that column
        start, key = np.zeros((1, D)), jax.random.key(seed)
        game = (cost, moments, targets, population, gains, start)
        return sample_game(*game, key=key, features=law).states

    each = jax.vmap(columns)(FeedbackGains(none, none, -np.eye(P)[:, None]))
    return moments, np.moveaxis(np.asarray(each), 0, -1)


def assert_mean(samples, mean, errors):
    """Check averages over the first axis to so many standard errors."""
    error = samples.std(0) / np.sqrt(len(samples))
    assert np.all(np.abs(samples.mean(0) - mean) < errors * error + 1e-12)


@pytest.mark.parametrize("law", LAWS)
def test_features_have_the_given_moments(law):
    moments, z = drawn_features(law, 40_000)
    assert_mean(z, moments.mean[0], 5)
    products = np.einsum("nak,nbl->nabkl", z, z)
    assert_mean(products, moments.second[0], 5)
    flat = (z - moments.mean[0]).reshape(len(z), -1)
    second = moments.second[0].transpose(0, 2, 1, 3).reshape(D * P, D * P)
    mean = moments.mean[0].reshape(-1)
    root = plain_root(second - np.outer(mean, mean))
    reach = np.abs(flat).max(0) / (np.sqrt(3) * np.abs(root).sum(1))
    assert np.all(reach < 1) == (law == "bounded")
    # The law itself, not only its moments: uniforms fill their interval evenly.
    noise = flat @ np.linalg.inv(root)
    fourth = 1.8 if law == "bounded" else 3.0
    assert_mean(noise**4, fourth, 5)
    # Agents and their neighbours are strangers.
    assert_mean(noise[1:] * noise[:-1], 0.0, 5)


@pytest.mark.parametrize("law", LAWS)
def test_states_are_drawn_of_the_given_law(law):
    game, gains, rows = random_game(2, horizon=1)
    still = jax.tree.map(np.zeros_like, gains)
    mean, covariance = rows[0], np.array([[0.5, 0.2], [0.2, 0.3]])
    arguments = (*game, 40_000, still, InitialLaw(mean, covariance))
    sample = sample_game(*arguments, key=jax.random.key(1), features=law)
    states = np.asarray(sample.states)
    assert_mean(states, mean, 5)
    apart = states - mean
    assert_mean(apart[:, :, None] * apart[:, None, :], covariance, 5)
    reach = np.abs(apart).max(0) / (np.sqrt(3) * np.abs(plain_root(covariance)).sum(1))
    assert np.all(reach < 1) == (law == "bounded")
    np.testing.assert_allclose(sample.mean_field, [states.mean(0)] * 2, rtol=1e-12)
    # A state tells nothing of the features that follow.
    moments, z = drawn_features(law, 40_000, seed=1)
    noise = (z - moments.mean[0]).reshape(-1, 1, D * P)
    assert_mean(apart[:, :, None] * noise, 0.0, 5)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("information", ["feedback", "offline"])
def test_costs_average_to_expected_costs(law, information):
    game, gains, rows = random_game(3)
    gains = dataclasses.replace(gains, mean=2 * gains.mean)
    arguments = (*game, 5, gains, rows[:5])

    def play(key):
        return sample_game(*arguments, key=key, information=information, features=law)

    sample = jax.vmap(play)(jax.random.split(jax.random.key(2), 20_000))
    assert sample.worst_agent.shape == sample.mean_cost.shape == (20_000,)
    costs = np.asarray(sample.costs)
    expected = np.asarray(expected_costs(*arguments, information))
    assert_mean(costs, expected, 4)
    assert_mean(costs.mean(1), expected.mean(), 4)
    # The test can fail: the error is small beside what the pattern of information changes.
    other = "offline" if information == "feedback" else "feedback"
    apart = np.abs(expected - np.asarray(expected_costs(*arguments, other)))
    assert np.max(apart / (costs.std(0) / np.sqrt(len(costs)))) > 4


@pytest.mark.parametrize("information", ["feedback", "offline"])
def test_costs_average_to_expected_costs_of_a_law_of_states(information):
    game, gains, rows = random_game(4)
    states = InitialLaw(rows[0], np.array([[0.5, 0.2], [0.2, 0.3]]))
    arguments = (*game, 5, gains, states)
    costs = jax.vmap(lambda key: sample_game(*arguments, key=key, information=information).costs)(
        jax.random.split(jax.random.key(3), 20_000)
    )
    assert_mean(np.asarray(costs), np.asarray(expected_costs(*arguments, information)), 4)


@pytest.mark.parametrize("law", LAWS)
def test_known_features_leave_nothing_to_chance(law):
    game, gains, rows = random_game(5)
    z = np.asarray(game[1].mean)
    moments = FeatureMoments(z, np.einsum("tak,tbl->tabkl", z, z))
    arguments = (game[0], moments, game[2], 12, gains, rows)
    # One ulp of a second moment is far less than its root: rounding must not become noise.
    costs = [sample_game(*arguments, key=jax.random.key(k), features=law).costs for k in (0, 1)]
    np.testing.assert_allclose(*costs, rtol=1e-14)
    np.testing.assert_allclose(costs[0][:6], expected_costs(*arguments), rtol=1e-12)
    np.testing.assert_allclose(costs[0][6:], costs[0][:6], rtol=1e-14)
    # Nor where what is known is not all: one output's features known, the other's drawn.
    some = np.array(game[1].second)
    some[:, 0] = moments.second[:, 0]
    some[:, :, 0] = moments.second[:, :, 0]
    moments = FeatureMoments(z, some)
    free = dataclasses.replace(gains, own=gains.own * [1, 0], mean=gains.mean * [1, 0])
    states = [
        sample_game(*game[:1], moments, game[2], 12, free, rows, key=jax.random.key(k)).states
        for k in (0, 1)
    ]
    np.testing.assert_allclose(states[0][:, 0], states[1][:, 0], rtol=1e-13)
    assert np.abs(states[0][:, 1] - states[1][:, 1]).min() > 1e-3


@pytest.mark.parametrize(("law", "given"), [("gaussian", "law"), ("bounded", "states")])
def test_an_agents_draws_know_neither_population_nor_block(law, given):
    (_, *game), gains, rows = random_game(6)
    states = rows[:3] if given == "states" else InitialLaw(rows[0], 0.3 * np.eye(D))
    alone = dataclasses.replace(gains, mean=np.zeros_like(gains.mean))
    cost = GameCost(consensus=0.0, ensemble=0.0)
    play = [
        sample_game(cost, *game, n, alone, states, key=jax.random.key(4), features=law, block=block)
        for n, block in ((3, 1), (3, 16384), (30, 30), (30, 7), (999, 100), (999, 16384))
    ]
    for sample in play[:-1]:
        n = len(sample.costs)
        np.testing.assert_allclose(sample.costs, play[-1].costs[:n], rtol=1e-14)
        np.testing.assert_allclose(sample.states, play[-1].states[:n], rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(play[-2].mean_field, play[-1].mean_field, rtol=1e-12, atol=1e-13)
    other = sample_game(cost, *game, 30, alone, states, key=jax.random.key(5), features=law)
    assert np.abs(other.costs - play[2].costs).min() > 1e-6


def test_new_numbers_compile_nothing():
    game, gains, rows = random_game(7)
    sample_game(*game, 12, gains, rows, key=jax.random.key(0))
    before = _sample._cache_size()
    scaled = jax.tree.map(lambda leaf: 1.01 * leaf, (game, gains, rows))
    sample_game(*scaled[0], 12, *scaled[1:], key=jax.random.key(1))
    cost = GameCost(*(jnp.asarray(getattr(COST, name), jnp.float64) for name in FIELDS))
    sample_game(cost, *game[1:], 12, gains, rows, key=jax.random.key(2), block=20)
    assert _sample._cache_size() == before


def test_maps_over_gains_and_cost():
    (cost, *game), gains, rows = random_game(8)
    gains = jax.tree.map(lambda leaf: np.stack([leaf, 0.5 * leaf]), gains)
    costs = jax.tree.map(lambda leaf: np.array([leaf, 2 * leaf]), cost)

    def play(cost, gains):
        return sample_game(cost, *game, 12, gains, rows, key=jax.random.key(0), block=5)

    both = jax.vmap(play)(costs, gains)
    for k in range(2):
        single = play(*jax.tree.map(lambda leaf, k=k: leaf[k], (costs, gains)))
        jax.tree.map(
            lambda many, one, k=k: np.testing.assert_allclose(many[k], one, rtol=1e-12),
            both,
            single,
        )


@pytest.mark.parametrize("information", ["feedback", "offline"])
def test_differentiates(information):
    (cost, moments, targets), gains, rows = random_game(9, horizon=2)
    weights = np.random.default_rng(0).normal(size=12)
    numbers = (
        GameCost(*(np.float64(getattr(cost, name)) for name in FIELDS)),
        moments,
        gains,
        InitialLaw(rows[0], 0.5 * np.eye(D)),  # equal eigenvalues
    )

    @jax.jit
    def total(numbers):
        cost, moments, gains, states = numbers
        sample = sample_game(
            cost, moments, targets, 12, gains, states, key=jax.random.key(0),
            information=information, block=5,
        )  # fmt: skip
        return weights @ sample.costs

    gradient, rng, h = jax.grad(total)(numbers), np.random.default_rng(1), 1e-5
    for part in range(4):
        leaves, tree = jax.tree.flatten(numbers[part])
        moves = [rng.normal(size=np.shape(leaf)) for leaf in leaves]
        if part == 3:
            moves[1] = moves[1] + moves[1].T
        values = []
        for sign in (1, -1):
            moved = list(numbers)
            pairs = zip(leaves, moves, strict=True)
            moved[part] = tree.unflatten([a + sign * h * b for a, b in pairs])
            values.append(total(tuple(moved)))
        slopes = jax.tree.leaves(gradient[part])
        slope = sum(np.sum(np.asarray(a) * b) for a, b in zip(slopes, moves, strict=True))
        assert np.isfinite(slope)
        np.testing.assert_allclose(slope, (values[0] - values[1]) / (2 * h), rtol=1e-6)


def test_root_differentiates_at_equal_and_at_no_eigenvalues():
    one = jnp.array(1.0)
    change = np.array([[0.3, 0.1], [0.1, -0.2]])
    _, slope = jax.jvp(lambda c: symmetric_root(c, one), (4.0 * jnp.eye(2),), (change,))
    np.testing.assert_allclose(slope, change / 4, rtol=1e-13)
    root, slope = jax.jvp(lambda c: symmetric_root(c, one), (jnp.zeros((2, 2)),), (change,))
    assert not np.any(root)
    assert not np.any(slope)


@pytest.mark.parametrize("law", LAWS)
def test_float32_stays_float32(law):
    game, gains, rows = random_game(10)
    exact = sample_game(*game, 12, gains, rows, key=jax.random.key(0), features=law)
    moments, targets, gains, rows = jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float32), (*game[1:], gains, rows)
    )
    single = sample_game(
        COST, moments, targets, 12, gains, rows, key=jax.random.key(0), features=law
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(single)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(single.costs, exact.costs, rtol=1e-4)


def test_raw_and_typed_keys_agree():
    game, gains, rows = random_game(11)
    keys = (jax.random.key(3), jax.random.key_data(jax.random.key(3)))
    costs = [sample_game(*game, 6, gains, rows, key=key).costs for key in keys]
    np.testing.assert_array_equal(*costs)


def test_moments_of_no_law_give_no_number():
    (cost, moments, targets), gains, rows = random_game(12)

    def costs(change, states=rows, step=1):
        second = np.array(moments.second)
        second[step] += change
        game = (cost, FeatureMoments(moments.mean, second), targets, 6, gains, states)
        sample = sample_game(*game, key=jax.random.key(0))
        assert np.all(np.isfinite(sample.mean_field)) == np.all(np.isfinite(sample.costs))
        return np.asarray(sample.costs)

    square = np.einsum("ak,bl->abkl", *[np.eye(D, P)] * 2)
    assert np.all(np.isnan(costs(-10 * square, step=T - 1)))
    # Below no variance, too: a negative multiple of everything.
    assert np.all(np.isnan(costs(-1.01 * moments.second[1])))
    assert np.all(np.isfinite(costs(1e-3 * square)))
    for least, lawful in (
        (0.0, True),
        (-1e-16, True),
        (-1e-9, True),
        (-1e-4, False),
        (-1.0, False),
    ):
        law = InitialLaw(rows[0], np.diag([0.5, least]))
        assert np.all(np.isfinite(costs(0.0, law))) == lawful
        assert np.all(np.isnan(costs(0.0, law))) != lawful


def test_wrong_arguments_are_named():
    game, gains, rows = random_game()
    law = InitialLaw(rows[0], np.eye(D))

    def refused(match, population=6, gains=gains, states=rows, **options):
        with pytest.raises(ValueError, match=match) as failure:
            sample_game(*game, population, gains, states, key=jax.random.key(0), **options)
        assert "\n" not in str(failure.value)

    for population in (0, -1, 2.0, None, True):
        refused("population = .*integer >= 1", population=population)
    for block in (0, 1.5, None):
        refused("block = .*integer >= 1", block=block)
    refused(r"states has shape \(6, 2\).*divides the population of 8", population=8)
    refused(r"states has shape \(6, 1\).*d = 2", states=rows[:, :1])
    refused(r"states has shape \(0, 2\).*n >= 1", states=rows[:0])
    refused(
        r"states\.mean has shape \(1,\).*\(2,\)", states=dataclasses.replace(law, mean=rows[0][:1])
    )
    refused(
        r"states\.covariance has shape \(2,\).*\(2, 2\)",
        states=dataclasses.replace(law, covariance=np.ones(2)),
    )
    refused(
        r"gains\.offset has shape \(2, 3\).*\(3, 3\)",
        gains=dataclasses.replace(gains, offset=gains.offset[1:]),
    )
    refused("information = \"?'?none", information="none")
    refused("features = 'cauchy'.*gaussian, bounded", features="cauchy")


@pytest.mark.slow
@pytest.mark.parametrize("features", LAWS)
def test_a_million_agents(features):
    """In a process of its own, with XLA as users have it."""
    program = f"""
        import resource, time
        import jax, numpy as np
        jax.config.update("jax_enable_x64", True)
        from memoa_jax import FeatureMoments, FeedbackGains, GameCost, expected_costs
        from memoa_jax.monte_carlo import sample_game
        rng = np.random.default_rng(0)
        N, T, d, p = 10**6, 5, 1, 4
        z = rng.normal(size=(50, T, d, p)) + 0.5
        moments = FeatureMoments(z.mean(0), np.einsum("stak,stbl->tabkl", z, z) / 50)
        shapes = ((T, p, d), (T, p, d), (T, p))
        gains = FeedbackGains(*(0.1 * rng.normal(size=shape) for shape in shapes))
        game = (GameCost(), moments, rng.normal(size=(T, d)), N, gains, np.zeros((1, d)))
        for seed in range(2):
            start = time.perf_counter()
            sample = sample_game(*game, key=jax.random.key(seed), features="{features}")
            jax.block_until_ready(sample)
            seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{{seconds / N / T * 1e9:.0f}} ns per agent-step, {{peak:.2f}} GiB")
        expected = float(expected_costs(*game)[0])
        assert abs(float(sample.mean_cost) / expected - 1) < 0.01, (sample.mean_cost, expected)
        last = np.asarray(sample.states).mean()
        assert abs(float(sample.mean_field[-1, 0]) - last) < 1e-12
        assert peak < 2.0, peak
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
