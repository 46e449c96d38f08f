"""Encoders: closed-form moments against quadrature and draws, the noise, the views."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memoa_jax.draws import seed_words
from memoa_jax.encoders import (
    echo_state,
    given_features,
    random_feature_moments,
    random_features,
    views,
)
from memoa_jax.types import Agents, Dimensions


def encode(encoder, x, count=4, d=2, seed=0):
    crowd = Agents(jnp.arange(count, dtype=jnp.uint32), seed_words(jax.random.key(seed)))
    dimensions = Dimensions(len(x), x.shape[1], d, encoder.features)
    parameters = encoder.parameters(crowd, dimensions, jnp.float64)
    state = encoder.init(parameters, crowd, dimensions, jnp.float64)
    rows = []
    for step, inputs in enumerate(x):
        state, features = encoder.encode(parameters, state, crowd, jnp.asarray(inputs), step)
        rows.append(features)
    return np.stack(rows), parameters


@pytest.mark.parametrize("noise", [0.01, 0.4, 3.0])
def test_random_feature_moments_equal_quadrature(noise):
    u = np.array([[0.3, -1.2, 0.0], [0.1, 2.0, -0.4]])
    moments = random_feature_moments(jnp.asarray(u), noise)
    w = np.linspace(-9, 9, 400_001)
    density = np.exp(-(w**2) / 2) / np.sqrt(2 * np.pi) * (w[1] - w[0])
    Z = np.maximum(u[:, :, None] + noise * w, 0)
    mean = Z @ density
    np.testing.assert_allclose(moments.mean, mean, rtol=1e-8, atol=1e-9)
    second = np.einsum("ak,bl->abkl", mean, mean)
    for k in range(3):  # only the draws of one column are shared
        second[:, :, k, k] = np.einsum("aw,bw,w->ab", Z[:, k], Z[:, k], density)
    np.testing.assert_allclose(moments.second, second, rtol=1e-8, atol=1e-9)


def test_moments_without_noise_and_their_gradient():
    u = jnp.array([[0.3, -1.2]])
    sharp = random_feature_moments(u, 0.0)
    np.testing.assert_array_equal(sharp.mean, [[0.3, 0.0]])
    np.testing.assert_allclose(sharp.second[0, 0], np.outer([0.3, 0], [0.3, 0]))
    near = random_feature_moments(u, 1e-6)
    np.testing.assert_allclose(near.second, sharp.second, atol=1e-6)
    for noise in (0.0, 0.3):
        slope = jax.grad(lambda s: jnp.sum(random_feature_moments(u, s).second))(noise)
        assert np.isfinite(slope)


def test_simulated_agents_have_the_closed_form_moments():
    """20,000 steps of one input: each agent's empirical moments within 5 standard errors."""
    x = np.tile([[0.4, -0.7, 0.2]], (20_000, 1))
    encoder = random_features(3, 0.5)
    crowd = Agents(jnp.arange(2, dtype=jnp.uint32), seed_words(jax.random.key(4)))
    dimensions = Dimensions(len(x), 3, 2, 3)
    parameters = encoder.parameters(crowd, dimensions, jnp.float64)
    steps = jnp.arange(len(x))
    Z = np.asarray(
        jax.vmap(lambda t: encoder.encode(parameters, (), crowd, jnp.asarray(x[0]), t)[1])(steps)
    )
    for i in range(2):
        u = np.asarray(parameters.inputs)[:, :, i] @ x[0]
        u = u[:, None] + np.asarray(parameters.biases)[:, :, i]
        moments = random_feature_moments(jnp.asarray(u), 0.5)
        products = np.einsum("tak,tbl->tabkl", Z[..., i], Z[..., i])
        for sample, exact in ((Z[..., i], moments.mean), (products, moments.second)):
            error = np.abs(sample.mean(axis=0) - exact)
            assert (error <= 5 * sample.std(axis=0) / len(x) ** 0.5 + 1e-12).all()


@pytest.mark.parametrize("activation", ["tanh", "hard_sigmoid"])
def test_echo_state_remembers(activation):
    x = np.random.default_rng(0).normal(size=(4, 3))
    other = x.copy()
    other[0] += 1
    one, _ = encode(echo_state(3, 0.0, activation), x)
    two, _ = encode(echo_state(3, 0.0, activation), other)
    assert np.abs(one[3] - two[3]).max() > 0
    plain, _ = encode(random_features(3, 0.0), x)
    moved, _ = encode(random_features(3, 0.0), other)
    np.testing.assert_array_equal(plain[1:], moved[1:])


def test_views_delay_shift_and_leave_the_rest():
    x = np.arange(18.0).reshape(6, 3)
    plain, _ = encode(random_features(3, 0.0), x, count=40)
    late, parameters = encode(views(random_features(3, 0.0), max_delay=2), x, count=40)
    delay = np.asarray(parameters.delay)
    assert set(delay) == {0, 1, 2}
    for t in range(6):
        seen = np.maximum(t - delay, 0)
        np.testing.assert_allclose(late[t], plain[seen, :, :, np.arange(40)].transpose(1, 2, 0))
    same, _ = encode(views(random_features(3, 0.0)), x, count=40)
    np.testing.assert_array_equal(same, plain)
    shifted, _ = encode(views(random_features(3, 0.0), offset=0.5), x, count=40)
    assert np.abs(shifted - plain).max() > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: random_features(0), "features = 0: allowed is an integer >= 1"),
        (lambda: random_features(2.5), "features = 2.5"),
        (lambda: random_features(3, -1.0), "noise = -1.0"),
        (lambda: random_features(3, float("nan")), "noise = nan"),
        (lambda: echo_state(3, 0.1, "sin"), "activation = 'sin': allowed is one of"),
        (lambda: given_features(np.ones((2, 3))), r"shape \(2, 3\): allowed is \[n, N, d, p\]"),
        (lambda: given_features(np.full((2, 1, 1, 1), np.inf)), "NaN or infinity"),
        (lambda: views(random_features(), -1), "max_delay = -1"),
        (lambda: views(random_features(), 0, -0.1), "offset = -0.1"),
    ],
)
def test_wrong_arguments_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()
