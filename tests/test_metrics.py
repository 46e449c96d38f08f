"""Metrics: compensated sums, baselines and RMSE against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memoa_jax import GameCost, greedy, random_features, ridge_mixture, series, simulate
from memoa_jax.metrics import baselines, rmse
from memoa_jax.recording import Record
from memoa_jax.totals import ReadOut, Total, root
from memoa_jax.types import Dimensions


def test_compensated_sums_keep_what_float32_loses():
    values = np.random.default_rng(0).uniform(0, 1, (100_000, 3)).astype(np.float32)
    values[0] = 1e7
    exact = values.astype(np.float64).sum(axis=0)

    @jax.jit
    def total(rows):
        add = lambda total, row: (total.add(row), row)  # noqa: E731
        return jax.lax.scan(add, Total.zero((3,), jnp.float32), rows)[0].result()

    naive = np.add.accumulate(values, axis=0)[-1]
    assert np.abs(naive / exact - 1).max() > 1e-5
    assert np.abs(np.asarray(total(jnp.asarray(values)), float) / exact - 1).max() < 1e-7


def test_an_infinite_total_stays_infinite():
    total = Total.zero((), jnp.float32).add(jnp.float32(np.inf)).add(jnp.float32(1.0))
    assert np.isinf(total.result())


def test_baselines_and_rmse_with_gaps():
    y = np.array([[1.0, 2], [3, 4], [np.nan, 1], [5, 0], [7, 8]])
    plain = baselines(y)
    np.testing.assert_array_equal(plain["persistence"], [[1, 2], [1, 2], [3, 4], [3, 4], [5, 0]])
    np.testing.assert_allclose(plain["running_mean"], [[1, 2], [1, 2], [2, 3], [2, 3], [3, 2]])
    known = np.isfinite(y).all(axis=1)
    error = (plain["persistence"] - y)[[1, 3, 4]]
    expected = np.sqrt(np.mean(error**2))
    np.testing.assert_allclose(rmse(plain["persistence"], y, jnp.asarray(known)), expected)


def test_persistence_of_a_series_shifted_by_one_is_exact():
    y = np.arange(5.0)[:, None]
    np.testing.assert_array_equal(baselines(y)["persistence"][1:], y[:-1])


def test_root_is_safe_at_zero_and_honest_about_nan():
    assert float(jax.grad(root)(0.0)) == 0
    assert float(root(jnp.array(9.0))) == 3
    assert np.isnan(root(jnp.array(np.nan)))
    assert np.isinf(root(jnp.array(np.inf)))


def test_rank_deficient_readout_reaches_the_least_squares_minimum():
    rng = np.random.default_rng(0)
    dimensions = Dimensions(9, 1, 1, 3)
    Z = rng.normal(size=(6, 1, 3, 2))
    Z[:, :, 2] = Z[:, :, 0]  # twice the same feature
    moves = rng.normal(size=(6, 1))
    readout = ReadOut.empty(dimensions, 2, jnp.float64).add(
        jnp.zeros(1), jnp.asarray(False), jnp.asarray(Z[0])
    )
    for t in range(6):
        following = jnp.asarray(Z[(t + 1) % 6])
        readout = readout.add(jnp.asarray(moves[t]), jnp.asarray(True), following)
    for i in range(2):
        A = Z[:, 0, :, i]
        theta = np.linalg.lstsq(A, moves[:, 0], rcond=None)[0]
        minimum = np.sum((moves[:, 0] - A @ theta) ** 2)
        np.testing.assert_allclose(readout.costs()[i], minimum, rtol=1e-8)


@pytest.mark.parametrize("schedule", ["resident", "stream"])
def test_only_the_scored_rows_count_and_all_rows_are_lived_through(schedule):
    whole = series.logistic(40)
    targets = whole.targets.copy()
    targets[25] = np.nan
    whole = series.make_series(whole.inputs, targets)
    options = {
        "num_agents": 7,
        "key": jax.random.key(0),
        "dtype": "float64",
        "schedule": schedule,
        "keep_costs": True,
        "record": Record(agents=tuple(range(7)), fields=("prediction", "control")),
    }
    parts = random_features(3), greedy(GameCost(effort=5.0)), ridge_mixture()
    everything = simulate(whole, *parts, **options)
    late = simulate(series.part(whole, scored_from=20), *parts, **options)
    cut = simulate(series.part(whole, scored_from=20, stop=30), *parts, **options)
    np.testing.assert_array_equal(late.server, everything.server)
    for found, stop in ((late, 41), (cut, 30)):
        rows = [row for row in range(20, stop) if row != 25]
        error = np.asarray(everything.recorded["prediction"])[rows, :, 0] - targets[rows]
        np.testing.assert_allclose(found.agent_costs, np.sum(error**2, axis=0), rtol=1e-12)
        server = np.asarray(everything.server)[rows] - targets[rows]
        np.testing.assert_allclose(found.summary.server_rmse, np.sqrt(np.mean(server**2)))
        np.testing.assert_allclose(
            found.summary.worst_agent_rmse, np.sqrt(np.mean(error**2, axis=0)).max()
        )
        assert found.summary.scored_steps == len(rows)
        held = targets[[row - 1 if row != 26 else 24 for row in rows]]
        np.testing.assert_allclose(
            found.summary.persistence_rmse, np.sqrt(np.mean((held - targets[rows]) ** 2))
        )
        # The effort of what a scored row was predicted with, observed or not.
        control = np.asarray(everything.recorded["control"])[19 : stop - 1]
        np.testing.assert_allclose(
            found.summary.mean_agent_effort, np.sum(control**2, axis=(0, 2)).mean()
        )
