"""Draws: known answers, JAX's own cipher, moments, independence of population and order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import threefry_2x32

from memoa_jax.draws import (
    Stream,
    _bits,
    _key_of,
    _log,
    _normals,
    _normals_in_pairs,
    _sine,
    normals,
    seed_words,
    threefry2x32,
    uniform_integers,
    uniforms,
)
from memoa_jax.types import Agents


def crowd(count, seed=0, start=0):
    index = jnp.arange(start, start + count, dtype=jnp.uint32)
    return Agents(index, seed_words(jax.random.key(seed)))


@pytest.mark.parametrize(
    ("key", "counter", "answer"),
    [  # the published known answers of the Random123 distribution
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 2, (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_cipher_gives_its_known_answers(key, counter, answer):
    words = threefry2x32(tuple(map(jnp.uint32, key)), tuple(map(jnp.uint32, counter)))
    assert tuple(map(int, words)) == answer


def test_cipher_equals_jax_bit_for_bit():
    rng = np.random.default_rng(0)
    key = rng.integers(0, 2**32, 2, dtype=np.uint32)
    counter = rng.integers(0, 2**32, (2, 1000), dtype=np.uint32)
    ours = threefry2x32(tuple(jnp.asarray(key)), tuple(jnp.asarray(counter)))
    theirs = threefry_2x32(jnp.asarray(key), jnp.asarray(counter.reshape(-1)))
    np.testing.assert_array_equal(np.concatenate(ours), np.asarray(theirs))


def test_short_polynomials_match_numpy():
    angle = np.linspace(-np.pi / 2, np.pi / 2, 100_001)
    sine = _sine(jnp.asarray(angle, jnp.float32))
    exact = angle.astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(sine, np.sin(exact), atol=2e-7)
    words = np.random.default_rng(0).integers(0, 2**31, 100_000)
    near_one = 2**31 - np.arange(1, 2**31, 2**14) % 2**20
    words = np.concatenate([words, near_one, 2 ** np.arange(31), 2 ** np.arange(31) - 1])
    values = ((words + 0.5) * 2.0**-31).astype(np.float32)
    assert values.min() == np.float32(2.0**-32)
    assert values.max() == 1
    found, exact = _log(jnp.asarray(values)), np.log(values.astype(np.float64))
    np.testing.assert_allclose(found, exact, rtol=4e-7)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_normals_have_the_moments_and_tails_of_a_normal(dtype):
    draws = np.asarray(normals(crowd(200_000), Stream.FEATURE_NOISE, 7, 3, dtype))
    assert draws.dtype == dtype
    count = draws.size
    # four standard errors of each sample moment
    for power, mean, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert (
            abs(np.mean(draws.astype(np.float64) ** power) - mean) < 4 * (variance / count) ** 0.5
        )
    correlation = np.corrcoef(draws)
    assert np.abs(correlation - np.eye(3)).max() < 4 / 200_000**0.5
    beyond = np.mean(np.abs(draws) > 4)
    assert abs(beyond - 6.334e-5) < 4 * (6.334e-5 / count) ** 0.5


def test_float32_and_float64_see_the_same_draws():
    single = np.asarray(normals(crowd(10_000), Stream.BIASES, 0, 4, jnp.float32))
    double = np.asarray(normals(crowd(10_000), Stream.BIASES, 0, 4, jnp.float64))
    np.testing.assert_allclose(single, double, atol=3e-6)


def test_a_draw_depends_on_seed_stream_step_and_agent_only():
    def bits(agents, count=4):
        return np.asarray(_bits(_key_of(agents, Stream.BIASES, 3), agents.index, count))

    few, many = bits(crowd(5)), bits(crowd(16_385), count=6)
    np.testing.assert_array_equal(few, many[:, :4, :5])
    np.testing.assert_array_equal(few[..., 2:], bits(crowd(3, start=2)))
    few = np.asarray(normals(crowd(5), Stream.BIASES, 3, 4, jnp.float32))
    many = np.asarray(normals(crowd(16_385), Stream.BIASES, 3, 4, jnp.float32))
    # a vector of logarithms may round differently from a single one
    np.testing.assert_allclose(few, many[:, :5], rtol=1e-5, atol=1e-6)
    for other in (
        normals(crowd(5, seed=1), Stream.BIASES, 3, 4, jnp.float32),
        normals(crowd(5), Stream.INPUT_WEIGHTS, 3, 4, jnp.float32),
        normals(crowd(5), Stream.BIASES, 4, 4, jnp.float32),
    ):
        assert np.abs(np.asarray(other) - few).min() > 0


def test_streams_steps_and_neighbours_are_uncorrelated():
    first = np.asarray(normals(crowd(100_000), Stream.FEATURE_NOISE, 1, 2, jnp.float64))
    later = np.asarray(normals(crowd(100_000), Stream.FEATURE_NOISE, 2, 2, jnp.float64))
    other = np.asarray(normals(crowd(100_000), Stream.VIEW_NOISE, 1, 2, jnp.float64))
    neighbours = np.corrcoef(first[0, 1:], first[0, :-1])[0, 1]
    cross = np.corrcoef(np.concatenate([first, later, other])) - np.eye(6)
    assert max(abs(neighbours), np.abs(cross).max()) < 4.5 / 100_000**0.5


def test_integers_are_uniform():
    counts = np.bincount(uniform_integers(crowd(90_000), Stream.VIEW_DELAY, 9), minlength=9)
    assert counts.size == 9
    chi_square = np.sum((counts - 10_000) ** 2 / 10_000)
    assert chi_square < 26.1  # 0.999 quantile with 8 degrees of freedom


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_uniforms_have_the_moments_and_spread_of_a_uniform(dtype):
    draws = np.asarray(uniforms(crowd(200_000), Stream.GAME_FEATURES, 7, 3, dtype))
    assert draws.dtype == dtype
    assert np.abs(draws).max() <= 0.5
    draws = draws.astype(np.float64)
    # four standard errors of each sample moment
    for power in (1, 2, 3, 4):
        mean = 0.0 if power % 2 else 0.5**power / (power + 1)
        variance = 0.5 ** (2 * power) / (2 * power + 1) - mean**2
        assert abs(np.mean(draws**power) - mean) < 4 * (variance / draws.size) ** 0.5
    assert np.abs(np.corrcoef(draws) - np.eye(3)).max() < 4 / 200_000**0.5
    counts = np.histogram(draws, 100, (-0.5, 0.5))[0]
    chi_square = np.sum((counts - draws.size / 100) ** 2 / (draws.size / 100))
    assert chi_square < 148.2  # 0.999 quantile with 99 degrees of freedom


def test_uniforms_are_the_ciphers_bits():
    agents = crowd(1000)
    key = _key_of(agents, Stream.GAME_STATES, 3)
    bits = np.asarray(_bits(key, agents.index, 4)[0]).view(np.int32)
    draws = np.asarray(uniforms(crowd(1000), Stream.GAME_STATES, 3, 4, jnp.float64))
    np.testing.assert_array_equal(draws * 2.0**32, bits + 0.5)  # exact: every bit is there
    single = np.asarray(uniforms(crowd(1000), Stream.GAME_STATES, 3, 4, jnp.float32))
    np.testing.assert_allclose(single, draws, rtol=0, atol=2.0**-25)
    few = uniforms(crowd(3, start=2), Stream.GAME_STATES, 3, 2, jnp.float64)
    np.testing.assert_array_equal(few, draws[:2, 2:5])


def test_no_two_streams_share_a_number():
    assert len(set(Stream)) == len(Stream.__members__) == 11


@pytest.mark.parametrize(("count", "agents"), [(2, 1), (3, 7), (8, 2032), (5, 16385)])
def test_pairs_are_the_draws_one_by_one(count, agents):
    of_whom = crowd(agents, start=11)
    key = _key_of(of_whom, Stream.FEATURE_NOISE, 9)
    both = [
        jax.jit(functools.partial(draw, count=count))(key, of_whom.index)
        for draw in (_normals_in_pairs, functools.partial(_normals, dtype=jnp.float32))
    ]
    # Compiled as users compile they are the same bits; here each is rounded as its loop is.
    np.testing.assert_allclose(*both, rtol=0, atol=2e-6)
