"""A run that was ended anywhere and gone on with is the run that was never ended, bit for bit."""

import jax
import numpy as np
import pytest

from memoa_jax import (
    CostSpread,
    GameCost,
    Record,
    centralized,
    decentralized,
    echo_state,
    exponential_weights,
    greedy,
    heterogeneous,
    participation,
    placement,
    ridge_mixture,
    series,
    simulate,
)
from memoa_jax.checkpoint import DamagedError, Store, from_arrays, to_arrays
from memoa_jax.keeping import Kept

POLICIES = {
    "greedy": greedy(GameCost(effort=5.0), window=2),
    "decentralized": decentralized(GameCost(consensus=2.0), horizon=3, window=1),
    "offline": decentralized(GameCost(consensus=2.0), horizon=3, information="offline"),
    "centralized": centralized(GameCost(consensus=2.0), horizon=2),
    "forecast": decentralized(game="forecast"),
    "heterogeneous": heterogeneous(horizon=2, spread=CostSpread(effort=0.5)),
    "moments": heterogeneous(horizon=2, features="moments", memory=0.9),
}
CASES = {
    "resident": {"chunk": 7, "num_agents": 9, "best_readout": True},
    "late": {
        "chunk": 5,
        "num_agents": 9,
        "participation": participation.markov(0.3, 0.4),
        "mixture": exponential_weights(),
    },
    "sharded": {"chunk": 7, "num_agents": 11, "mesh": 1, "reproducible": True},
    "stream": {
        "schedule": "stream",
        "num_agents": 70,
        "block": 8,
        "keep_costs": True,
        "count_costs": True,
    },
}


class Ended(KeyboardInterrupt):
    """Ends a run from inside."""


class Disk:
    """Keeps every offer on the disk, and ends the run at one of them."""

    def __init__(self, folder, end=None):
        self.store, self.end, self.offers, self.partials = Store(folder), end, 0, []

    def resume(self, template):
        found = self.store.load()
        if found is None:
            return None
        (arrays, facts), notes = found
        assert not notes
        return Kept(from_arrays(arrays, template(facts), "run"), facts)

    def offer(self, done, of, keep, partial=None):
        assert 0 < done < of
        if self.offers == self.end:
            kept = keep()
            self.store.save(to_arrays(kept.tree, "run"), kept.facts)
            if partial is not None:
                self.partials.append((done, partial()))
            raise Ended
        self.offers += 1


@pytest.fixture(autouse=True)
def _small_calls(monkeypatch):
    monkeypatch.setattr(placement, "AGENTS_PER_CALL", 24)


def run(policy, case, keeper=None):
    how = {"mixture": ridge_mixture(), "dtype": "float32", **CASES[case]}
    if "mesh" in how:
        how["mesh"] = jax.make_mesh((how["mesh"],), ("agents",))
    choice = Record(agents=(0, 7), fields=("prediction", "control"))
    return simulate(
        series.logistic(20),
        echo_state(2),
        POLICIES[policy],
        how.pop("mixture"),
        key=jax.random.key(3),
        record=choice,
        keeper=keeper,
        **how,
    )


def bits(result):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(result)]


@pytest.mark.parametrize(
    ("policy", "case"),
    [
        ("greedy", "resident"),
        ("forecast", "late"),
        ("decentralized", "stream"),
        *(
            pytest.param(policy, "resident", marks=pytest.mark.slow)
            for policy in ("decentralized", "offline", "centralized", "forecast", "heterogeneous")
        ),
        pytest.param("decentralized", "sharded", marks=pytest.mark.slow),
        pytest.param("moments", "late", marks=pytest.mark.slow),
        *(pytest.param(one, "stream", marks=pytest.mark.slow) for one in ("greedy", "forecast")),
    ],
)
def test_a_run_gone_on_with_is_the_run_that_was_never_ended(policy, case, tmp_path):
    keeper = Disk(tmp_path)
    whole = run(policy, case, keeper)
    assert keeper.offers >= 2
    for end in sorted({0, keeper.offers // 2, keeper.offers - 1}):
        folder = tmp_path / str(end)
        with pytest.raises(Ended):
            run(policy, case, Disk(folder, end))
        again = run(policy, case, Disk(folder))
        assert bits(again) == bits(whole)


def test_many_ends_in_one_run(tmp_path):
    """Ended at every offer, one after the other."""
    whole = run("decentralized", "stream")
    ends = 0
    while True:
        try:
            found = run("decentralized", "stream", Disk(tmp_path, 0))
            break
        except Ended:
            ends += 1
    assert ends >= 8
    assert bits(found) == bits(whole)


def test_the_result_so_far_is_that_of_a_shorter_series(tmp_path):
    keeper = Disk(tmp_path, 1)
    with pytest.raises(Ended):
        run("greedy", "resident", keeper)
    ((done, partial),) = keeper.partials
    whole = run("greedy", "resident")
    assert done == 14
    np.testing.assert_array_equal(partial.server[:done], whole.server[:done])
    np.testing.assert_array_equal(
        partial.recorded["control"][:done], whole.recorded["control"][:done]
    )
    errors = np.asarray(partial.server)[1:done] - series.logistic(20).targets[1:done]
    np.testing.assert_allclose(partial.summary.server_rmse, np.sqrt(np.mean(errors**2)), rtol=1e-5)
    assert int(partial.summary.scored_steps) == done - 1


def test_arrays_of_another_run_are_refused(tmp_path):
    with pytest.raises(Ended):
        run("greedy", "resident", Disk(tmp_path, 0))
    with pytest.raises(DamagedError, match="wanted is"):
        run("forecast", "resident", Disk(tmp_path))
