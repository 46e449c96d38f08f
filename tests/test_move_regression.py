"""Regressions on features that a large input drives all alike, in float32 against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memoa_jax.encoder_groups import grouped
from memoa_jax.encoders import echo_state, given_features, random_features, views
from memoa_jax.linalg import bilinear_in_one_loop, solve_in_one_loop, solve_positive_lanes
from memoa_jax.move_regression import Forecasts, contrasted, contrasted_penalty
from memoa_jax.types import Dimensions, Observation, Population

POINTS, FEATURES, AGENTS = 600, 8, 48
DISCOUNT, RIDGE = 0.999, 0.1


def bursts():
    """Features [n, p, N] and targets [n]: every 150th row and the two after it are large.

    The last quarter of the agents is driven by -4 times the input: their sums of products are
    the largest that a hundred thousand agents have.
    """
    rng = np.random.default_rng(0)
    walk = np.cumsum(0.1 * rng.normal(size=POINTS))
    row = np.arange(POINTS)
    x = walk * np.where((row > 3) & (row % 150 < 3), 100.0, 1.0)
    weights = rng.normal(size=AGENTS)
    weights[-AGENTS // 4 :] = -4.0 * np.sign(x[150])
    biases = rng.normal(size=(FEATURES, AGENTS))
    fresh = 0.1 * rng.normal(size=(POINTS, FEATURES, AGENTS))
    Z = np.maximum(weights * x[:, None, None] + biases + fresh, 0.0).astype(np.float32)
    return Z.astype(np.float64), np.append(x[1:], x[-1])


def forecasts(Z, y, shared, dtype):
    """All forecasts [n, N] as the product makes them."""
    count = Z.shape[-1]
    population = Population(size=jnp.asarray(count, dtype))
    dimensions = Dimensions(len(Z), 1, 1, Z.shape[1], shared_input=shared)

    @jax.jit
    def run(Z, y):
        def body(state, row):
            t, features, target = row
            seen = Observation(
                step=t,
                target=target,
                known=jnp.bool_(True),
                prediction=jnp.zeros((1, count), dtype),
                features=features,
                population=population,
                voters=population,
                told=None,
                agents=None,
            )
            return state.next(seen, DISCOUNT, RIDGE)

        start = Forecasts.empty(dimensions, count, dtype)
        return jax.lax.scan(body, start, (jnp.arange(len(y)), Z[:, None], y[:, None]))[1]

    return np.asarray(run(jnp.asarray(Z, dtype), jnp.asarray(y, dtype)))[:, 0].astype(np.float64)


def regress(Z, y):
    """The same of plain float64 numpy."""
    n, p, count = Z.shape
    gram, moment, found = np.zeros((count, p, p)), np.zeros((count, p)), np.zeros((n, count))
    for t in range(n):
        if t:
            gram = DISCOUNT * gram + np.einsum("an,bn->nab", Z[t - 1], Z[t - 1])
            moment = DISCOUNT * moment + (Z[t - 1] * (y[t] - y[t - 1])).T
        theta = np.linalg.solve(gram + RIDGE * np.eye(p), moment[..., None])[..., 0]
        found[t] = np.einsum("pn,np->n", Z[t], theta)
    return found


def test_contrasts_are_the_same_regression():
    Z, y = bursts()
    few = slice(0, 200), slice(None), slice(AGENTS - 14, None)
    expected = regress(Z[few], y[:200])
    for shared in (False, True):
        found = forecasts(Z[few], y[:200], shared, jnp.float64)
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-7)


def test_float32_keeps_its_precision_after_bursts():
    """What is lost without contrasts is shown beside: the check can fail."""
    Z, y = bursts()
    y32 = y.astype(np.float32).astype(np.float64)
    expected = regress(Z, y32)
    worst = {
        shared: np.max(
            np.abs(forecasts(Z, y, shared, jnp.float32) - expected) / (1 + np.abs(expected)), axis=0
        )
        for shared in (False, True)
    }
    loud = slice(-AGENTS // 4, None)
    assert np.median(worst[True]) < 1e-3
    assert worst[True][loud].max() < 1e-2
    assert worst[False][loud].max() > 0.1
    assert np.isfinite(worst[False]).all()


@pytest.mark.parametrize("p", [1, 3, 8])
def test_the_penalty_is_the_ridge_of_the_features(p):
    rng = np.random.default_rng(1)
    Z, weights = rng.normal(size=(2, p, 5)), rng.normal(size=p)
    W = np.asarray(contrasted(jnp.asarray(Z)))
    change = np.eye(p)
    change[1:, 0] -= 1
    np.testing.assert_allclose(W, np.einsum("ab,dbn->dan", change, Z), rtol=1e-14)
    theta = change.T @ weights
    np.testing.assert_allclose(
        np.einsum("dan,a->dn", W, weights), np.einsum("dan,a->dn", Z, theta), rtol=1e-12
    )
    np.testing.assert_allclose(weights @ contrasted_penalty(p) @ weights, theta @ theta, rtol=1e-12)


@pytest.mark.parametrize("solve", [solve_positive_lanes, solve_in_one_loop])
def test_a_component_that_cannot_be_told_from_those_before_it_is_left_out(solve):
    """Sums that rounding made indefinite: the answer is that of the components told apart."""
    eps = np.finfo(np.float32).eps
    large = np.float32(1e6)
    for slip in (0.0, -eps, -4 * eps, -64 * eps):
        rows = [[large], [large, large * np.float32(1 + slip)], [0.0, 0.0, 2.0]]
        matrix = [[jnp.full(3, entry, jnp.float32) for entry in row] for row in rows]
        right = [jnp.full(3, value, jnp.float32) for value in (large, large, 4.0)]
        found = np.asarray(solve(matrix, right))[:, 0]
        np.testing.assert_allclose(found, [1.0, 0.0, 2.0], atol=1e-6)
        said = bilinear_in_one_loop([jnp.full(3, x, jnp.float32) for x in (1, 5, 3)], matrix, right)
        np.testing.assert_allclose(said, 7.0, rtol=1e-6)
    nothing = solve([[jnp.zeros(2)]], [jnp.zeros(2)])
    np.testing.assert_array_equal(nothing[0], 0.0)
    assert np.isnan(solve([[jnp.full(2, jnp.nan)]], [jnp.ones(2)])[0]).all()


def test_encoders_say_whose_features_share_their_input():
    table = given_features(np.ones((3, 2, 1, 4)))
    assert random_features(4).shared_input
    assert views(echo_state(4), max_delay=1).shared_input
    assert not views(table).shared_input
    assert grouped([random_features(4), echo_state(4)]).shared_input
    # The columns of zeros of the smaller encoder have no input at all.
    assert not grouped([random_features(4), echo_state(3)]).shared_input
    assert not grouped([random_features(4), table]).shared_input
