"""Agents some thousand at a time: everybody once, and what all at once would have found."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memoa_jax.cached import CACHED_AGENTS, in_cache
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
def test_everybody_is_computed(count):
    rng = np.random.default_rng(0)
    total, more = rng.normal(size=(3, count)), rng.normal(size=count)
    more[count // 2] = np.nan  # stays its own agent's trouble

    @jax.jit
    def run(total, more, scale):
        def compute(total, more, scale):
            return {"product": total * more[None]}, scale * jnp.sum(total, axis=0)

        return in_cache(compute, total, more, scale)

    found, sums = run(total, more, 2.0)
    np.testing.assert_array_equal(found["product"], total * more)
    np.testing.assert_allclose(sums, 2 * total.sum(axis=0), rtol=1e-12)


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
