"""What a run keeps for its report: the band of a sample of agents, and the costs of all."""

import jax
import numpy as np
import pytest
from helpers import GREEDY, RECORDED, SMALL

from memoa_jax import participation, placement, series
from memoa_jax.cli import main
from memoa_jax.cost_counts import BINS, CostCounts
from memoa_jax.encoders import random_features
from memoa_jax.game import GameCost
from memoa_jax.mixture import ridge_mixture
from memoa_jax.policies import affine, greedy
from memoa_jax.sample import LEAST_AGENTS, LEVELS, MOST_NUMBERS, band, chosen
from memoa_jax.simulate import simulate

ALL = ["--set", "record={agents=[0,1,2,3,4,5],fields=['prediction']}"]


def run(folder, *words):
    path = folder / "small.toml"
    path.write_text(SMALL + GREEDY + RECORDED)
    out = folder / f"out-{len(list(folder.iterdir()))}"
    assert main(["run", str(path), "--out", str(out), *words]) == 0
    return dict(np.load(out / "trajectories.npz"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the arrays of a run that recorded every agent's predictions."""
    return run(tmp_path_factory.mktemp("whole"), *ALL)


def test_the_band_of_all_agents_is_numpys_quantiles(whole):
    assert whole["band/agents"].tolist() == list(range(6))
    lived = whole["recorded/greedy/prediction"].astype(float)
    expected = np.quantile(lived, LEVELS, axis=1).swapaxes(0, 1)
    np.testing.assert_allclose(whole["band/greedy/quantiles"], expected, rtol=1e-6)
    assert not whole["band/greedy/lost"].any()


def test_a_sample_is_recorded_beside_what_the_user_asked_for(whole, tmp_path):
    some = run(tmp_path, "--set", "run.sample=3")
    assert some["band/agents"].tolist() == [1, 3, 5]
    lived = whole["recorded/greedy/prediction"]
    expected = np.quantile(lived[:, [1, 3, 5]].astype(float), LEVELS, axis=1).swapaxes(0, 1)
    np.testing.assert_allclose(some["band/greedy/quantiles"], expected, rtol=1e-6)
    # The config records agents 0 and 5 at rows 3 and 4.
    np.testing.assert_array_equal(some["recorded/greedy/prediction"], lived[[3, 4]][:, [0, 5]])
    assert some["recorded/greedy/weights"].shape == (2, 2)


@pytest.mark.parametrize("schedule", ["resident", pytest.param("stream", marks=pytest.mark.slow)])
def test_sampling_changes_no_bit_of_a_run(schedule, tmp_path):
    plain = ["--set", "record.fields=['prediction']", "--set", f"run.schedule='{schedule}'"]
    with_it, without = run(tmp_path, *plain), run(tmp_path, *plain, "--set", "run.sample=0")
    assert {name.split("/")[0] for name in set(with_it) - set(without)} == {"band"}
    for name, values in without.items():
        assert values.tobytes() == with_it[name].tobytes(), name


def test_the_sample_is_spread_evenly_and_bounded():
    assert chosen(10**6, 100, 1000, 1)[:2] == (5000, 15000)
    for agents, most, points, width in ((7, 100, 50, 1), (10**8, 100, 2284, 1), (999, 10, 9, 3)):
        found = chosen(agents, most, points, width)
        assert len(set(found)) == len(found) == min(agents, most)
        assert min(found) >= 0
        assert max(found) < agents
    long = chosen(10**6, 100, 50_000, 4)
    assert len(long) == LEAST_AGENTS
    assert len(chosen(10**6, 100, 5000, 1)) == MOST_NUMBERS // 5000
    assert chosen(10**6, 0, 100, 1) == ()


def test_agents_without_a_number_or_absent_are_left_out_and_counted():
    rng = np.random.default_rng(0)
    lived = rng.normal(size=(5, 8, 2))
    present = np.ones((5, 8), bool)
    lived[1, 3], lived[2, :, 0] = np.inf, np.nan
    present[3, :5] = False
    found, lost = band(lived, present)
    assert lost.tolist() == [0, 1, 8, 0, 0]
    np.testing.assert_allclose(found[0], np.quantile(lived[0], LEVELS, axis=0), rtol=1e-6)
    others = np.delete(lived[1], 3, axis=0)
    np.testing.assert_allclose(found[1], np.quantile(others, LEVELS, axis=0), rtol=1e-6)
    assert np.isnan(found[2]).all()
    np.testing.assert_allclose(found[3], np.quantile(lived[3, 5:], LEVELS, axis=0), rtol=1e-6)


def test_the_band_is_of_those_present(tmp_path):
    """Held against the mask itself: a run that is given who is there."""
    mask = np.random.default_rng(1).random((21, 6)) < 0.6
    np.save(tmp_path / "mask.npy", mask)
    there = f"participation={{kind='file', path='{tmp_path / 'mask.npy'}'}}"
    found = run(tmp_path, *ALL, "--set", there)
    lived = found["recorded/greedy/prediction"].astype(float)
    for row in range(1, 21):
        here = lived[row][mask[row - 1]]
        expected = np.quantile(here, LEVELS, axis=0) if len(here) else np.full((7, 1), np.nan)
        np.testing.assert_allclose(found["band/greedy/quantiles"][row], expected, rtol=1e-6)
    taken = mask[:20].sum(0)
    assert found["costs/greedy/counts"].sum() == (taken > 0).sum()


def lives(agents=70, policy=None, **how):
    return simulate(
        series.logistic(20),
        random_features(2),
        policy or greedy(GameCost(effort=1.0), window=2),
        ridge_mixture(),
        num_agents=agents,
        key=jax.random.key(0),
        count_costs=True,
        keep_costs=True,
        **how,
    )


def by_hand(costs, rows):
    """Return (edges, counts) of numpy's own histogram over the same grid, and those left out."""
    bits = np.arange(BINS + 1, dtype=np.int64) << 13
    edges = bits.astype(np.uint32).view(np.float32)
    edges[-1] = np.inf
    each = (np.asarray(costs, float) / rows).astype(np.float32)
    good = each[np.isfinite(each)]
    return np.bincount(np.searchsorted(edges, good, side="right") - 1, minlength=BINS), each


@pytest.mark.parametrize("how", [{}, {"schedule": "stream", "block": 8}])
def test_costs_are_counted_as_numpy_would(how, monkeypatch):
    monkeypatch.setattr(placement, "AGENTS_PER_CALL", 24)
    result = lives(**how)
    expected, _ = by_hand(result.agent_costs, 20)
    np.testing.assert_array_equal(result.cost_counts.counts, expected)
    assert result.cost_counts.counts.sum() == 70
    assert int(result.cost_counts.lost) == 0
    edges, counts = result.cost_counts.coarse(16)
    assert len(counts) <= 16
    assert counts[0] > 0 < counts[-1]
    each = (np.asarray(result.agent_costs, float) / 20).astype(np.float32)
    np.testing.assert_array_equal(np.histogram(each, edges)[0], counts)


def test_costs_that_are_no_number_are_counted_apart():
    wild = affine(own=np.full((2, 1), 1e3), mean=np.zeros((2, 1)), target=np.zeros((2, 1)))
    result = lives(policy=wild, agents=50)
    costs = np.asarray(result.agent_costs)
    assert 0 < (~np.isfinite(costs)).sum() == int(result.cost_counts.lost)
    assert result.cost_counts.counts.sum() == np.isfinite(costs).sum()


def test_an_agent_counts_by_the_rows_that_it_took_part_in():
    mask = np.ones((21, 5), bool)
    mask[:, 1] = False
    mask[10:, 2] = False
    result = lives(agents=5, participation=participation.given_participation(mask))
    rows = np.array([20, 20, 10, 20, 20])
    kept = np.array([0, 2, 3, 4])
    expected, _ = by_hand(np.asarray(result.agent_costs)[kept], rows[kept])
    np.testing.assert_array_equal(result.cost_counts.counts, expected)


def test_counts_join_extremes_and_the_empty():
    found = CostCounts.none().add(np.array([0.0, 1e-300, 1e300, np.inf, np.nan, 5.0]), 1)
    assert (int(found.counts.sum()), int(found.lost)) == (4, 2)
    assert (found.counts[0], found.counts[-1]) == (2, 1)
    edges, counts = found.coarse(256)
    assert counts.sum() == 4
    assert len(edges) == len(counts) + 1 <= 257
    assert np.all(np.diff(edges) > 0)
    edges, counts = CostCounts.none().coarse()
    assert (edges.size, counts.size) == (1, 0)
    halves = CostCounts.none().add([5.0, 1.0], 1).add([2.0], 1)
    np.testing.assert_array_equal(halves.counts, CostCounts.none().add([1.0, 2.0, 5.0], 1).counts)


def test_a_record_of_many_fields_leaves_the_band_fewer_agents():
    points, few = 2284, chosen(10**6, 100, 2284, 1 + 8 + 8)
    assert len(few) == max(MOST_NUMBERS // (points * 17), LEAST_AGENTS)
