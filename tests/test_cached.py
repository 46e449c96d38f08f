"""Agents some thousand at a time: everybody once, and what all at once would have found."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import said_by

from memoa_jax.cached import CACHED_AGENTS, block_size, in_cache, updated_in_cache
from memoa_jax.encoders import random_features
from memoa_jax.game import GameCost
from memoa_jax.mixture import ridge_mixture
from memoa_jax.move_regression import Forecasts
from memoa_jax.policies import decentralized
from memoa_jax.series import make_series
from memoa_jax.simulate import simulate
from memoa_jax.types import Dimensions, Observation, Population

FIRST = 4 * CACHED_AGENTS
"""From so many agents on they are taken in parts."""


@pytest.mark.parametrize("count", [7, FIRST, FIRST + 1, 40_000])
def test_everybody_is_updated_once(count):
    rng = np.random.default_rng(0)
    total, more = rng.normal(size=(3, count)), rng.normal(size=count)
    more[count // 2] = np.nan  # stays its own agent's trouble

    @jax.jit
    def run(total, more, scale):
        return updated_in_cache(
            lambda kept, more, scale: {"sum": kept["sum"] + (scale * more)[None]},
            lambda kept, more, scale: (kept["sum"] * more[None], jnp.sum(kept["sum"], axis=0)),
            {"sum": total},
            more,
            scale,
        )

    kept, (product, sums) = run(total, more, 2.0)
    expected = total + 2.0 * more
    np.testing.assert_allclose(kept["sum"], expected, rtol=1e-15)
    np.testing.assert_allclose(product, expected * more, rtol=1e-15)
    np.testing.assert_allclose(sums, expected.sum(axis=0), rtol=1e-12)
    alone = jax.jit(lambda more: in_cache(lambda x: {"twice": 2 * x}, more))(more)
    np.testing.assert_array_equal(alone["twice"], 2 * more)


def test_blocks_are_equal_and_of_whole_vectors():
    for count in (FIRST, 36_000, 10**5, 10**6, 10**7, 2**20):
        size = block_size(count)
        assert count % size == 0
        assert size % 16 == 0
        assert CACHED_AGENTS // 2 < size < 2 * CACHED_AGENTS
    assert all(block_size(count) is None for count in (FIRST - 16, FIRST + 1, 100_003, 16 * 65_537))


def regress(Z, y, known, discount, ridge):
    """Forecasts [n, d, N] of plain numpy, one agent after the other."""
    n, d, p, count = Z.shape
    found = np.zeros((n, d, count))
    for i in range(count):
        gram, moment = np.zeros((p, p)), np.zeros(p)
        for t in range(n):
            if t > 0:
                gram, moment = discount * gram, discount * moment
                if known[t] and known[t - 1]:
                    gram += Z[t - 1, :, :, i].T @ Z[t - 1, :, :, i]
                    moment += Z[t - 1, :, :, i].T @ (y[t] - y[t - 1])
            found[t, :, i] = Z[t, :, :, i] @ np.linalg.solve(gram + ridge * np.eye(p), moment)
    return found


@pytest.mark.parametrize(
    ("d", "p", "count"), [(1, 2, FIRST), (3, 2, 36_000), (3, 2, FIRST + 9), (2, 17, 6)]
)
def test_forecasts_of_many_agents(d, p, count):
    """The first and the last agents and those where two parts meet, against numpy."""
    n, rng = 4, np.random.default_rng(1)
    Z = np.asarray(jax.random.normal(jax.random.key(0), (n, d, p, count)))
    y, known = rng.normal(size=(n, d)), np.array([True, True, False, True])
    some = np.unique(np.r_[0:2, CACHED_AGENTS - 1, CACHED_AGENTS, count - 9 : count].clip(0))
    some = some[some < count]

    @jax.jit
    def run(Z, discount, ridge):
        forecasts = Forecasts.empty(Dimensions(n, d, d, p), count, Z.dtype)
        population, found = Population(size=jnp.asarray(float(count))), []
        for t in range(n):
            seen = Observation(
                step=jnp.int32(t),
                target=jnp.asarray(y[t]),
                known=jnp.asarray(known[t]),
                prediction=jnp.zeros((d, count)),
                features=Z[t],
                population=population,
                voters=population,
                told=None,
                agents=None,
            )
            forecasts, forecast = forecasts.next(seen, discount, ridge)
            found.append(forecast)
        return jnp.stack(found)

    expected = regress(Z[..., some], y, known, 0.9, 0.1)
    np.testing.assert_allclose(run(Z, 0.9, 0.1)[..., some], expected, rtol=1e-9, atol=1e-12)


SAME_BITS = """
import jax
import jax.numpy as jnp
import numpy as np

from memoa_jax.move_regression import Entry, _at_once, _entered
from memoa_jax.regression import NormalEquations

p, count = 3, 36_000
keys = jax.random.split(jax.random.key(3), 6)

def run(forecast):
    @jax.jit
    def step(equations, keys, size):
        Z = [size * jax.random.normal(key, (1, p, count), jnp.float32) for key in keys]
        one, discount, ridge = (jnp.float32(x) for x in (1.0, 0.97, 1e-3))
        return forecast(True, equations, Entry(*Z, (size * one,), one, discount, ridge))

    equations, found = NormalEquations.empty(p, count, jnp.float32), []
    for t in range(5):
        size = jnp.float32(100.0 if t < 2 else 1.0)
        equations, forecasts = step(equations, keys[t : t + 2], size)
        found.append(forecasts)
    return [np.asarray(leaf) for leaf in jax.tree.leaves(equations)], np.asarray(found)

(parts, forecasts), (whole, expected) = run(_entered), run(_at_once)
assert all(np.array_equal(*pair) for pair in zip(parts, whole)), "sums"
np.testing.assert_allclose(forecasts, expected, rtol=1e-3, atol=1e-3)
"""


def test_sums_are_rounded_as_all_at_once_would_be():
    """Bit for bit, as users compile: after large steps other sums are other forecasts."""
    said_by(SAME_BITS)


def test_a_population_taken_in_parts_is_a_stream_of_small_blocks_and_has_its_gradient():
    y = np.random.default_rng(2).normal(size=(5, 1))
    series = make_series(y, y, "noise")

    def cost(effort, schedule):
        policy = decentralized(GameCost(effort=effort), game="forecast", discount=0.9)
        result = simulate(
            series,
            random_features(2),
            policy,
            ridge_mixture(),
            num_agents=FIRST,
            key=jax.random.key(0),
            schedule=schedule,
            dtype="float64",
        )
        return result.summary.mean_agent_cost

    found, slope = jax.value_and_grad(cost)(0.1, "resident")
    np.testing.assert_allclose(found, cost(0.1, "resident"), rtol=1e-12)
    np.testing.assert_allclose(found, cost(0.1, "stream"), rtol=1e-12)
    step = 1e-5
    expected = (cost(0.1 + step, "resident") - cost(0.1 - step, "resident")) / (2 * step)
    np.testing.assert_allclose(slope, expected, rtol=1e-6)
