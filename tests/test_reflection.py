"""The basis in which what all agents share stands alone: exact, and worth it in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memoa_jax import GameCost, decentralized
from memoa_jax.hindsight import MomentsSurvey, settle
from memoa_jax.memory import History, Reflected
from memoa_jax.reflection import householder_vector, reflect
from memoa_jax.spread import Spread
from memoa_jax.sums import Sums
from memoa_jax.types import Dimensions, Population, Sight

HORIZON, FEATURES, AGENTS = 3, 4, 5000


@pytest.mark.parametrize("mean", [[3.0, 4.0, 0.0], [-2.0, 1.0, 5.0], [0.0, 0.0, 0.0], [0.0, 1, 0]])
def test_a_mean_is_laid_on_the_first_axis_and_back(mean):
    mean = jnp.asarray(mean)
    vector = householder_vector(mean)
    laid = reflect(mean, vector)
    np.testing.assert_allclose(jnp.abs(laid[0]), jnp.linalg.norm(mean), rtol=1e-14)
    np.testing.assert_allclose(laid[1:], 0, atol=1e-14)
    np.testing.assert_allclose(reflect(laid, vector), mean, atol=1e-14)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_means_of_any_size_have_an_axis(size):
    mean = jnp.asarray([3.0, 4.0], jnp.float32) * jnp.float32(size)
    np.testing.assert_allclose(jnp.linalg.norm(householder_vector(mean)), 1, rtol=1e-6)


def features(dtype):
    """A burst: what an agent's features share is a thousand times what tells them apart."""
    draw = np.random.default_rng(0)
    shared = 1000 * draw.normal(size=(HORIZON, 1, 1, AGENTS)) + 500
    own = draw.normal(size=(HORIZON, 1, FEATURES, AGENTS)) + np.arange(FEATURES)[:, None]
    # What float32 can hold of them is what both are given.
    return jnp.asarray((shared + own).astype(np.float32), dtype)


def gains(dtype, begin):
    """Return the gains of a game on the features' moments as `begin` makes them."""
    policy = decentralized(GameCost(consensus=2.0), horizon=HORIZON, window=1)
    dimensions = Dimensions(points=9, inputs=1, outputs=1, features=FEATURES)
    lived, targets = features(dtype), jnp.asarray([[100.0], [-50.0], [3.0], [1.0]], dtype)
    history, size = History.empty(HORIZON, dimensions, dtype), jnp.asarray(AGENTS, dtype)

    @jax.jit
    def lives(history, step, target, now):
        sight = Sight(step, target, jnp.asarray(True), size)
        return settle(policy, history, begin(now, Population(size)), sight)

    for step in range(HORIZON + 1):
        history, plan = lives(history, jnp.int32(step), targets[step], lived[step % HORIZON])
    return plan.gains


def plain(lived, population):
    """The moments as they are."""
    whole = Reflected.of(lived, population)
    mean, second = population.mean(lived), population.products(lived[0], lived[0])[None, None]
    moments = type(whole.moments)(mean, second / population.size)
    return Reflected(moments, jnp.zeros_like(whole.householder))


def apart(found, exact):
    """Return the largest difference, relative to the largest gain of its kind."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(exact), strict=True)
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def test_gains_of_a_burst_keep_their_digits_in_float32():
    exact = gains("float64", plain)
    assert apart(gains("float64", Reflected.of), exact) < 1e-7
    assert apart(gains("float32", Reflected.of), exact) < 1e-4
    assert not apart(gains("float32", plain), exact) < 1e-2  # NaN: what the reflection is for


def test_blocks_of_a_stream_are_joined_as_they_are_without_reflection():
    policy = decentralized(horizon=HORIZON)
    lived, sums = features("float64")[0], Sums()
    for part in jnp.split(lived, 2, axis=-1):
        half = Population(jnp.asarray(AGENTS / 1.0), own=jnp.asarray(AGENTS / 2))
        spread = Spread.of(part.reshape(FEATURES, -1), half, reflected=True)
        assert np.any(spread.householder != 0)
        sums.add(jax.tree.map(lambda leaf: leaf[None], spread))
    joined, flat = sums.result(), np.asarray(lived.reshape(FEATURES, -1))
    np.testing.assert_allclose(joined.mean, flat.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(joined.scatter, np.cov(flat, ddof=0) * AGENTS, rtol=1e-9)

    sight = Sight(jnp.int32(0), jnp.zeros(1), jnp.asarray(True), jnp.asarray(float(AGENTS)))
    dimensions = Dimensions(points=9, inputs=1, outputs=1, features=FEATURES)
    survey = MomentsSurvey(policy)
    history, _ = survey.meet(survey.begin(dimensions, "float64"), joined, sight)
    np.testing.assert_allclose(
        history.pending.moments.second[0, 0], flat @ flat.T / AGENTS, rtol=1e-12
    )
