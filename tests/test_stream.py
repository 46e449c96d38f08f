"""The stream schedule against the resident one; the same bits on any number of devices."""

import textwrap

import jax
import numpy as np
import pytest
from helpers import said_by

from memoa_jax import placement
from memoa_jax.cost_spread import CostSpread
from memoa_jax.encoders import echo_state, random_features
from memoa_jax.experts import exponential_weights
from memoa_jax.game import GameCost
from memoa_jax.mixture import ridge_mixture, uniform_mixture
from memoa_jax.participation import bernoulli
from memoa_jax.placement import cut
from memoa_jax.policies import centralized, decentralized, greedy, heterogeneous
from memoa_jax.recording import Record
from memoa_jax.series import make_series
from memoa_jax.simulate import simulate
from memoa_jax.spread import Spread
from memoa_jax.sums import Sums
from memoa_jax.totals import Tally, joined
from memoa_jax.types import Population

KEY = jax.random.key(2)
FIELDS = ("prediction", "control", "features")


def toy(d, n=16):
    rng = np.random.default_rng(d)
    targets = np.cumsum(0.3 * rng.normal(size=(n, d)), axis=0)
    targets[7] = np.nan
    return make_series(rng.normal(size=(n, 2)), targets, "toy")


CASES = {
    "greedy": (1, greedy(window=2), ridge_mixture(0.7, 0.9, 0.5)),
    "greedy, sliding": (2, greedy(GameCost(effort=300.0, forgetting=0.1), 5), uniform_mixture()),
    "greedy forecast": (1, greedy(game="forecast"), ridge_mixture()),
    "forecast": (2, decentralized(game="forecast"), ridge_mixture(0.7, 0.9)),
    "forecast, late, finite": (1, centralized(game="forecast", staleness=2), ridge_mixture()),
    "offline": (2, decentralized(horizon=3, information="offline"), ridge_mixture()),
    "feedback": (2, decentralized(horizon=4), ridge_mixture(0.7, 0.9)),
    "feedback, late, finite": (
        1,
        centralized(horizon=5, staleness=1, sync_every=2),
        ridge_mixture(),
    ),
    "heterogeneous": (
        2,
        heterogeneous(horizon=3, window=2, spread=CostSpread(0.3, 0.3, 0.3)),
        ridge_mixture(),
    ),
    "heterogeneous, costs alike": (1, heterogeneous(horizon=4, sync_every=2), ridge_mixture()),
    "heterogeneous moments": (
        1,
        heterogeneous(horizon=2, features="moments", memory=0.9),
        ridge_mixture(),
    ),
    "heterogeneous moments, costs differ": (
        2,
        heterogeneous(horizon=3, spread=CostSpread(0.3, 0.3, 0.3), features="moments"),
        ridge_mixture(),
    ),
    "heterogeneous forecast": (
        2,
        heterogeneous(game="forecast", spread=CostSpread(0.3, 0.3, 0.3)),
        uniform_mixture(),
    ),
    "horizon 1": (1, decentralized(horizon=1), ridge_mixture()),
    "horizon 2": (1, decentralized(horizon=2), ridge_mixture()),
}


SLOW = (
    "greedy",
    "forecast",
    "feedback",
    "heterogeneous moments",
    "greedy forecast",
    "offline",
    "horizon 1",
    "horizon 2",
    "heterogeneous, costs alike",
    "heterogeneous moments, costs differ",
    "heterogeneous forecast",
)


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[pytest.mark.slow] * (c in SLOW)) for c in CASES]
)
def test_a_stream_gives_what_all_agents_together_give(case):
    d, policy, mixture = CASES[case]
    options = {
        "num_agents": 50,  # the seventh block of 8 is not full
        "key": KEY,
        "dtype": "float64",
        "best_readout": True,
        "record": Record(agents=(0, 17, 49), steps=(3, 15), fields=FIELDS),
    }
    parts = toy(d), echo_state(3), policy, mixture
    together = simulate(*parts, **options)
    stream = simulate(*parts, **options, schedule="stream", block=8, keep_costs=True)
    for name in ("server", "mean_field", "forecast", "agent_costs"):
        np.testing.assert_allclose(getattr(stream, name), getattr(together, name), rtol=1e-9)
    for name in FIELDS:
        assert stream.recorded[name].shape[:2] == (2, 3)
        expected = together.recorded[name]
        np.testing.assert_allclose(stream.recorded[name], expected, rtol=1e-9, atol=1e-12)
    for name in together.summary.__dataclass_fields__:
        found, expected = getattr(stream.summary, name), getattr(together.summary, name)
        np.testing.assert_allclose(found, expected, rtol=1e-9, err_msg=name)
    assert stream.status == together.status
    assert stream.state is None


def test_what_cannot_be_streamed_is_named():
    parts = toy(1), random_features(2)
    with pytest.raises(ValueError, match=r"mixture ExpertMixture needs every.*allowed is schedule"):
        simulate(*parts, greedy(), exponential_weights(), num_agents=4, key=KEY, schedule="stream")
    with pytest.raises(ValueError, match=r"participation.*weights"):
        simulate(
            *parts,
            greedy(),
            ridge_mixture(),
            num_agents=4,
            key=KEY,
            schedule="stream",
            participation=bernoulli(0.5),
            record=Record(fields=("weights",)),
        )
    with pytest.raises(ValueError, match="block"):
        simulate(
            *parts, greedy(), ridge_mixture(), num_agents=4, key=KEY, schedule="stream", block=0
        )
    policy = decentralized(game="forecast")
    with pytest.raises(ValueError, match="under jit, vmap or grad"):
        jax.vmap(
            lambda key: (
                simulate(
                    *parts, policy, ridge_mixture(), num_agents=4, key=key, schedule="stream"
                ).forecast
            )
        )(jax.random.split(KEY, 2))


def test_cuts_cover_the_population_and_depend_on_no_device_count():
    for agents in (1, 7, 2048, 100_001, 10**8):
        for block in (None, 3, 5000):
            plan = cut(agents, block, "cpu")
            assert plan.size * plan.blocks * plan.calls >= agents
            assert plan.shape.ragged == (plan.size * plan.blocks * plan.calls != agents)
            assert plan.blocks * plan.size <= max(65_536, plan.size)
            # little is wasted on places for nobody
            assert plan.size * plan.blocks * plan.calls < 1.02 * agents + plan.blocks * plan.size
    assert cut(10**7, None, "cpu").shape == cut(10**8, None, "cpu").shape


def test_spreads_and_tallies_of_blocks_join_to_those_of_the_whole():
    values = 1e4 + np.random.default_rng(0).normal(size=(3, 60))
    whole = Spread.of(values, Population(np.float64(60)))
    sums = Sums()
    for call in np.split(values, 3, axis=1):
        blocks = [Spread.of(b, Population(np.float64(10))) for b in np.split(call, 2, axis=1)]
        sums.add(jax.tree.map(lambda *leaves: np.stack(leaves)[:, None], *blocks))
    found = sums.result()
    np.testing.assert_allclose(found.mean[0], whole.mean, rtol=1e-14)
    np.testing.assert_allclose(found.scatter[0], whole.scatter, rtol=1e-9)
    np.testing.assert_allclose(whole.scatter, 59 * np.cov(values), rtol=1e-9)
    one = Tally(*[np.float64(2)] * 12)
    nobody = Tally(np.float64(0), *[np.float64(np.nan)] * 11)
    assert joined([nobody, one]).cost == 2
    assert joined([nobody, one]).worst_cost == joined([nobody, one]).best_cost == 2


def test_progress_is_told_and_an_error_in_a_block_is_raised():
    told = []
    options = {"num_agents": 30, "key": KEY, "schedule": "stream", "block": 8}
    parts = toy(1), random_features(2), decentralized(game="forecast"), uniform_mixture()
    simulate(*parts, **options, on_chunk=lambda done, whole: told.append((done, whole)))
    assert told == [(1, 2), (2, 2)]  # one survey and the run itself
    with pytest.raises(RuntimeError, match="stop"):
        simulate(*parts, **options, on_chunk=lambda *_: (_ for _ in ()).throw(RuntimeError("stop")))


SCRIPT = textwrap.dedent(
    """
    import sys
    import jax
    import numpy as np
    from memoa_jax import CostSpread, GameCost, decentralized, greedy, heterogeneous
    from memoa_jax import random_features, ridge_mixture, simulate
    from memoa_jax.series import brownian
    from memoa_jax.recording import Record
    from memoa_jax import placement

    placement.AGENTS_PER_CALL = 256  # many calls
    assert jax.device_count() == 8
    policies = {"greedy": greedy(GameCost(effort=50.0), window=5),
                "forecast": decentralized(game="forecast"), "feedback": decentralized(horizon=3),
                "own": heterogeneous(horizon=3, spread=CostSpread(0.3, 0.3, 0.3)),
                "moments": heterogeneous(horizon=3, features="moments")}
    counts = [int(word) for word in sys.argv[1].split()]
    for name in sys.argv[2:]:
        policy, found = policies[name], {}
        for count in counts:
            result = simulate(
                brownian(12), random_features(3), policy, ridge_mixture(), num_agents=5003,
                key=jax.random.key(0), schedule="stream", block=128, keep_costs=True,
                mesh=jax.sharding.Mesh(np.array(jax.devices()[:count]), ("agents",)),
                record=Record(agents=(0, 5002)),
            )
            found[count] = [np.asarray(x) for x in (
                result.agent_costs, result.server, result.mean_field, result.forecast,
                result.recorded["prediction"], *jax.tree.leaves(result.summary))]
        for count in counts[1:]:
            for one, other in zip(found[1], found[count], strict=True):
                assert one.tobytes() == other.tobytes()
    print("same bits")
    """
)


@pytest.mark.parametrize(
    "words",
    [
        ("1 2", "greedy"),
        pytest.param(
            ("1 2 4 8", "greedy", "forecast", "feedback", "own", "moments"), marks=pytest.mark.slow
        ),
    ],
    ids=lambda words: words[0],
)
def test_one_two_four_and_eight_devices_give_the_same_bits(words):
    assert said_by(SCRIPT, *words, devices=8) == "same bits"


@pytest.mark.parametrize(
    ("features", "policy"),
    [
        (3, greedy(GameCost(effort=2000.0), window=20)),
        (3, decentralized(game="forecast")),
        pytest.param(3, decentralized(horizon=3), marks=pytest.mark.slow),
        pytest.param(8, greedy(GameCost(effort=2000.0), window=20), marks=pytest.mark.slow),
        pytest.param(8, decentralized(game="forecast"), marks=pytest.mark.slow),
        pytest.param(8, decentralized(horizon=3), marks=pytest.mark.slow),
    ],
)
def test_float32_costs_agree_with_float64_after_bursts(features, policy):
    rng = np.random.default_rng(3)
    targets = np.cumsum(0.1 * rng.normal(size=300))
    targets[100:103] *= 100.0  # a burst of a hundred times the amplitude
    series = make_series(targets[:, None] / 10, targets[:, None], "burst")
    parts = series, echo_state(features), policy, ridge_mixture()
    single, double = (
        simulate(*parts, num_agents=64, key=KEY, dtype=dtype).agent_costs
        for dtype in ("float32", "float64")
    )
    assert np.max(np.abs(single - double) / double) < 1e-4


def test_populations_cut_alike_share_one_compiled_program(compiled):
    options = {"key": KEY, "schedule": "stream", "block": 8, "dtype": "float64"}
    parts = toy(1, 9), random_features(2), greedy(window=2), ridge_mixture()
    simulate(*parts, num_agents=41, **options)
    compiled.clear()
    for agents in (42, 47):
        whole = simulate(*parts, num_agents=agents, key=KEY, dtype="float64")
        stream = simulate(*parts, num_agents=agents, **options)
        np.testing.assert_allclose(stream.mean_field, whole.mean_field, rtol=1e-9)
    assert "jit(_live)" not in compiled


ONCE = textwrap.dedent(
    """
    import jax
    from memoa_jax import decentralized, placement, random_features, ridge_mixture, simulate
    from memoa_jax.series import brownian

    placement.AGENTS_PER_CALL = 16  # ten calls: every device has one
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration, fun_name="", **_: event.endswith("backend_compile_duration")
        and compiled.append(fun_name))
    assert jax.device_count() == 8
    parts = brownian(12), random_features(3), decentralized(game="forecast"), ridge_mixture()
    for seed in range(2):
        simulate(*parts, num_agents=160, key=jax.random.key(seed), schedule="stream", block=16)
    print(*sorted(name for name in compiled if name in ("jit(_survey)", "jit(_live)")))
    """
)


def test_eight_devices_share_one_compiled_program():
    assert said_by(ONCE, devices=8) == "jit(_live) jit(_survey)"


@pytest.mark.parametrize(
    "agents", [1, 7, 4095, 4096, 10_000, 16_385, 100_001, 1_000_000, 5_000_000]
)
def test_a_cut_holds_everybody_wastes_little_and_shares_evenly(agents):
    plan = placement.cut(agents, None, "cpu")
    places = plan.size * plan.blocks * plan.calls
    assert agents <= places <= 1.06 * agents + placement.LANES * 8
    assert plan.size <= placement.CPU_BLOCK
    assert plan.size * plan.blocks <= placement.AGENTS_PER_CALL
    if 4096 <= agents < 64 * placement.AGENTS_PER_CALL:
        assert plan.calls % 8 == 0
    firsts = np.concatenate([plan.firsts(call) for call in range(plan.calls)])
    assert firsts[0] == 0
    assert np.all(np.diff(firsts) == plan.size)
