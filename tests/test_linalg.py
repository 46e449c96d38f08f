"""One small system per agent, unrolled and by the library, against numpy; odd sizes included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memoa_jax.linalg import is_singular, matmul, regularised_solve, ridge_lanes, solve_lanes


def spd(p, count, seed=0):
    root = np.random.default_rng(seed).normal(size=(p, p + 2, count))
    return np.einsum("arn,brn->abn", root, root)


@pytest.mark.parametrize("p", [1, 2, 3, 8, 16, 17, 20])
@pytest.mark.parametrize("ridge", [0.3, None])
def test_regularised_solve_equals_numpy_on_both_sides_of_the_switch(p, ridge):
    count = 7
    gram, moment = spd(p, count), np.random.default_rng(1).normal(size=(p, count))
    strength = np.linspace(0.1, 2, count) if ridge is None else ridge
    solution = regularised_solve(jnp.asarray(gram), jnp.asarray(moment), jnp.asarray(strength))
    for i, each in enumerate(np.broadcast_to(strength, count)):
        expected = np.linalg.solve(gram[..., i] + each * np.eye(p), moment[:, i])
        np.testing.assert_allclose(solution[:, i], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("p", "count"), [(3, 16385), (3, 100001), (8, 16385), (17, 16385)])
def test_ridge_of_every_agent_of_a_large_odd_population(p, count):
    rng = np.random.default_rng(2)
    rows, right = rng.normal(size=(4, p, count)), rng.normal(size=(4, count))
    weights = np.array([1.0, 0.0, 0.5, 2.0])
    single = [jnp.asarray(x, jnp.float32) for x in (rows, right, weights, 0.7)]
    fitted = jax.jit(ridge_lanes)(*single)
    assert fitted.dtype == jnp.float32
    gram = np.einsum("r,rai,rbi->iab", weights, rows, rows) + 0.7 * np.eye(p)
    moment = np.einsum("r,rai,ri->ia", weights, rows, right)
    expected = np.linalg.solve(gram, moment[..., None])[..., 0].T
    assert np.abs(fitted - expected).max() < 2e-4 * np.abs(expected).max()


@pytest.mark.parametrize("p", [3, 17])
def test_gradients_of_a_ridge_are_central_differences(p):
    rng = np.random.default_rng(3)
    rows, right = jnp.asarray(rng.normal(size=(4, p, 5))), jnp.asarray(rng.normal(size=(4, 5)))

    @jax.jit
    def score(ridge):
        return jnp.sum(jnp.sin(ridge_lanes(rows, right, jnp.ones(4), ridge)))

    slope = (score(0.5 + 1e-6) - score(0.5 - 1e-6)) / 2e-6
    np.testing.assert_allclose(jax.grad(score)(0.5), slope, rtol=1e-7)
    np.testing.assert_allclose(jax.jacfwd(score)(0.5), slope, rtol=1e-7)


def test_lanes_solve_what_they_are_given():
    matrix, right = spd(4, 3), np.random.default_rng(4).normal(size=(4, 3))
    lanes = [[jnp.asarray(matrix[a, b]) for b in range(a + 1)] for a in range(4)]
    solution = np.stack(solve_lanes(lanes, list(jnp.asarray(right))))
    np.testing.assert_allclose(np.einsum("abn,bn->an", matrix, solution), right, rtol=1e-9)


def test_singular_matrices_are_told_and_products_are_exact():
    assert bool(is_singular(jnp.array([[1.0, 2.0], [2.0, 4.0]])))
    assert not bool(is_singular(jnp.array([[1e-200, 0.0], [0.0, 1e200]])))
    a = np.random.default_rng(5).normal(size=(3, 3))
    np.testing.assert_allclose(matmul(jnp.asarray(a), jnp.asarray(a), jnp.asarray(a)), a @ a @ a)
