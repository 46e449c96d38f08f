"""One small system per agent, unrolled and by the library, against numpy; odd sizes included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from memoa_jax.arithmetic import apart, computed_once
from memoa_jax.linalg import (
    applied,
    bilinear_in_one_loop,
    is_singular,
    matmul,
    smallest_pivot,
    solve_in_one_loop,
    solve_lanes,
    solve_positive_lanes,
    solve_spd,
)
from memoa_jax.regression import NormalEquations


def spd(p, count, seed=0):
    root = np.random.default_rng(seed).normal(size=(p, p + 2, count))
    return np.einsum("arn,brn->abn", root, root)


def ridge(rows, right, weights, strength):
    """Enter rows [R, p, N] one by one, each with its weight, and fit."""
    equations = NormalEquations.empty(rows.shape[1], rows.shape[2], rows.dtype)
    for row, explained, weight in zip(rows, right, weights, strict=True):
        equations = equations.add(row[None], explained[None], weight)
    return equations.solve(strength)


@pytest.mark.parametrize("p", [1, 2, 3, 8, 16, 17, 20])
@pytest.mark.parametrize("shared", [0.3, None])
def test_solutions_equal_numpy_on_both_sides_of_the_switch(p, shared):
    count = 7
    gram, moment = spd(p, count), np.random.default_rng(1).normal(size=(p, count))
    strength = np.linspace(0.1, 2, count) if shared is None else shared
    rows = tuple(jnp.asarray(gram[a, : a + 1]) for a in range(p))
    equations = NormalEquations(rows, jnp.asarray(moment))
    solution = equations.solve(jnp.asarray(strength))
    product = np.einsum("abn,bn->an", gram, moment)
    np.testing.assert_allclose(equations.multiply(jnp.asarray(moment)), product, rtol=1e-9)
    np.testing.assert_allclose(equations.trace(), np.einsum("aan->n", gram), rtol=1e-12)
    for i, each in enumerate(np.broadcast_to(strength, count)):
        expected = np.linalg.solve(gram[..., i] + each * np.eye(p), moment[:, i])
        np.testing.assert_allclose(solution[:, i], expected, rtol=1e-9, atol=1e-12)


def equations_of(gram, moment):
    rows = tuple(jnp.asarray(gram[a, : a + 1]) for a in range(len(moment)))
    return NormalEquations(rows, jnp.asarray(moment))


@pytest.mark.parametrize(("d", "p"), [(1, 1), (1, 3), (1, 8), (1, 16), (1, 17), (2, 3)])
@pytest.mark.parametrize("shared", [0.3, None])
def test_what_a_regression_says_of_features(d, p, shared):
    """Without its solution being written down, where that is one loop; against numpy."""
    count, rng = 33, np.random.default_rng(3)
    gram, moment, features = spd(p, count), rng.normal(size=(p, count)), rng.normal(size=(d, p, 33))
    strength = np.linspace(0.1, 2, count) if shared is None else shared
    change = np.eye(p) + np.tril(np.ones((p, p)), -1)
    penalty = change @ change.T
    expected, slanted = np.zeros((d + 1, count)), np.zeros((d, count))
    for i, each in enumerate(np.broadcast_to(strength, count)):
        solution = np.linalg.solve(gram[..., i] + each * np.eye(p), moment[:, i])
        expected[:, i] = *(features[..., i] @ solution), solution @ solution
        solution = np.linalg.solve(gram[..., i] + each * penalty, moment[:, i])
        slanted[:, i] = features[..., i] @ solution

    @jax.jit
    def run(equations, strength, features):
        fixed = tuple(map(tuple, penalty.tolist()))
        return (
            equations.fit(strength, features),
            equations.predict(strength, features),
            equations.predict(strength, features, fixed),
        )

    equations = equations_of(gram, moment)
    (move, effort), said, said_slanted = run(equations, jnp.asarray(strength), features)
    np.testing.assert_allclose([*move, effort], expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(said, expected[:d], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(said_slanted, slanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("d", [1, 2])
def test_gradients_and_maps_of_what_a_regression_says(d):
    p, count, rng = 3, 4, np.random.default_rng(4)
    equations = equations_of(spd(p, count), rng.normal(size=(p, count)))
    features = jnp.asarray(rng.normal(size=(d, p, count)))
    for said in (NormalEquations.fit, NormalEquations.predict):
        check_grads(jax.jit(said), (equations, jnp.asarray(0.4), features), order=2)
    strengths = jnp.array([0.4, 2.0])
    several = jax.vmap(lambda ridge: equations.fit(ridge, features))(strengths)
    each = [equations.fit(ridge, features) for ridge in strengths]
    for mapped, one in zip(several, zip(*each, strict=True), strict=True):
        np.testing.assert_allclose(mapped, np.stack(one), rtol=1e-12)


def test_what_stands_apart_is_computed_all_the_same():
    found = jax.jit(lambda x, y: apart(lambda x, y: {"sum": x + y}, x, y)["sum"] * y)(2.0, 3.0)
    assert float(found) == 15.0
    assert float(jax.grad(lambda x: apart(jnp.square, x))(3.0)) == 6.0
    assert jax.vmap(lambda x: apart(jnp.square, x))(jnp.arange(3.0)).tolist() == [0.0, 1.0, 4.0]


@pytest.mark.parametrize(("p", "count"), [(3, 16385), (3, 100001), (8, 16385), (17, 16385)])
def test_ridge_of_every_agent_of_a_large_odd_population(p, count):
    rng = np.random.default_rng(2)
    rows, right = rng.normal(size=(4, p, count)), rng.normal(size=(4, count))
    weights = np.array([1.0, 0.0, 0.5, 2.0])
    single = [jnp.asarray(x, jnp.float32) for x in (rows, right, weights, 0.7)]
    fitted = jax.jit(ridge)(*single)
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
    def score(strength):
        return jnp.sum(jnp.sin(ridge(rows, right, jnp.ones(4), strength)))

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


def test_what_is_computed_once_is_what_it_was():
    values = jnp.array([0.0, -0.0, 1e-30, 3.0, jnp.inf, -jnp.inf, jnp.nan], jnp.float32)
    kept = np.asarray(jax.jit(computed_once)(values))
    assert kept.tobytes()[:-4] == np.asarray(values).tobytes()[:-4]
    assert np.isnan(kept[-1])
    assert jax.grad(computed_once)(2.0) == 1.0
    assert jax.jit(jax.vmap(computed_once))(values[:4]).tolist() == values[:4].tolist()


def test_controls_are_applied_and_small_systems_need_no_library():
    rng = np.random.default_rng(6)
    z, b = rng.normal(size=(2, 3, 5)), rng.normal(size=(3, 5))
    np.testing.assert_allclose(
        applied(jnp.asarray(z), jnp.asarray(b)), np.einsum("dpn,pn->dn", z, b)
    )
    assert solve_spd(jnp.array([[4.0]]), jnp.array([2.0])).tolist() == [0.5]
    assert solve_spd(jnp.array([[4.0]]), jnp.array([[2.0, 8.0]])).tolist() == [[0.5, 2.0]]
    assert np.isnan(solve_spd(jnp.array([[-4.0]]), jnp.array([2.0]))).all()
    matrix = spd(3, 4)
    lanes = [[jnp.asarray(matrix[a, b]) for b in range(a + 1)] for a in range(3)]
    minors = [np.linalg.det(np.moveaxis(matrix[:a, :a], -1, 0)) for a in (1, 2, 3)]
    pivots = np.stack([minors[0], minors[1] / minors[0], minors[2] / minors[1]])
    np.testing.assert_allclose(smallest_pivot(lanes), pivots.min(axis=0), rtol=1e-9)


@pytest.mark.parametrize("solve", [solve_positive_lanes, solve_in_one_loop])
def test_rounding_below_zero_leaves_a_finite_solution(solve):
    """A rank-one Gram of large features, whose ridge float32 cannot see."""
    rng = np.random.default_rng(1)
    features = jnp.asarray(1e4 * rng.normal(size=(6, 4001)), jnp.float32)
    lanes = [[features[a] * features[b] for b in range(a + 1)] for a in range(6)]
    lanes = [
        [x + (1e-3 if a == b else 0) for b, x in enumerate(row)] for a, row in enumerate(lanes)
    ]
    response = jnp.float32(3.0)
    solution = solve(lanes, [f * response for f in features])
    fitted = sum(x * f for x, f in zip(solution, features, strict=True))
    assert np.isfinite(np.stack(solution)).all()
    np.testing.assert_allclose(fitted, 3.0, rtol=1e-2)
    said = bilinear_in_one_loop(list(features), lanes, [f * response for f in features])
    np.testing.assert_allclose(said, 3.0, rtol=1e-2)
