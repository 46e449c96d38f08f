"""The scan against a plain numpy loop and against reference numbers; what it must not change."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import plain_loop
import pytest

from memoa_jax.encoders import echo_state, given_features, random_features, views
from memoa_jax.game import GameCost
from memoa_jax.mixture import ridge_mixture
from memoa_jax.policies import centralized, decentralized, greedy
from memoa_jax.recording import Record
from memoa_jax.resident import _run_in_place
from memoa_jax.series import make_series
from memoa_jax.simulate import simulate

REFERENCE = json.loads((pathlib.Path(__file__).parent / "reference/online_loop.json").read_text())
FIELDS = ("prediction", "control", "features", "weights")
KEY = jax.random.key(3)
COST = GameCost(tracking=0.9, consensus=0.7, ensemble=0.2, effort=0.6, forgetting=0.1)
NUMBERS = (0.9, 0.7, 0.2, 0.6, 0.1)


def close(actual, expected, tolerance=1e-9):
    """Assert agreement relative to the largest entry."""
    scale = np.max(np.abs(expected))
    assert np.shape(actual) == np.shape(expected)
    assert np.max(np.abs(np.asarray(actual) - expected)) <= tolerance * scale


def toy_series(d, n=14, seed=0, gaps=()):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(n, 2))
    targets = np.cumsum(0.4 * rng.normal(size=(n, d)), axis=0)
    targets[list(gaps)] = np.nan
    return make_series(inputs, targets, "toy")


def policies():
    return {
        "greedy": (greedy(COST, window=3), {"window": 3}),
        "decentralized": (
            decentralized(COST, horizon=3, window=2),
            {"window": 2, "horizon": 3},
        ),
        "centralized": (
            centralized(COST, horizon=4, window=2, sync_every=3),
            {"window": 2, "horizon": 4, "sync_every": 3},
        ),
        "decentralized offline": (
            decentralized(COST, horizon=2, window=5, information="offline", greedy_effort=2.0),
            {"window": 5, "horizon": 2, "information": "offline", "greedy_effort": 2.0},
        ),
        "centralized offline": (
            centralized(COST, horizon=3, window=3, information="offline"),
            {"window": 3, "horizon": 3, "information": "offline"},
        ),
    }


def encoders(series, count, p):
    n, d = series.targets.shape
    table = np.random.default_rng(5).normal(size=(n, count, d, p))
    view = {"max_delay": 2, "offset": 0.3, "noise": 0.2}
    return {
        "random_features": (random_features(p, 0.3), {"kind": "relu"}),
        "echo_state tanh": (echo_state(p, 0.3), {"kind": "tanh"}),
        "echo_state hard": (echo_state(p, 0.3, "hard_sigmoid"), {"kind": "hard_sigmoid"}),
        "given": (given_features(table), {"kind": "given", "given": table}),
        "views": (views(random_features(p, 0.3), **view), {"kind": "relu", "view": view}),
    }


def run(series, encoder, policy, count, **options):
    options.setdefault("record", Record(agents=tuple(range(count)), fields=FIELDS))
    options.setdefault("dtype", "float64")
    options.setdefault("key", KEY)
    return simulate(series, encoder, policy, ridge_mixture(0.8, 0.9), num_agents=count, **options)


def compare(result, expected):
    close(result.recorded["prediction"], expected["prediction"])
    close(result.recorded["control"], expected["control"])
    close(result.recorded["weights"], expected["weights"])
    close(result.server, expected["server"])
    close(result.forecast, expected["forecast"])
    close(result.mean_field, expected["prediction"].mean(axis=1))


SHORT = ("greedy", "decentralized", "centralized offline")
"""Policies that are tried by default; the others are variations of these."""
every_policy = pytest.mark.parametrize(
    "policy_name",
    [
        pytest.param(one, marks=[pytest.mark.slow] * (one not in SHORT))
        for one in sorted(policies())
    ],
)


@pytest.mark.parametrize("case", REFERENCE, ids=lambda c: f"{c['policy']}-{c['horizon']}")
def test_reference_numbers(case):
    cost = GameCost(*(case[k] for k in ("tracking", "consensus", "ensemble", "effort")))
    cost = GameCost(cost.tracking, cost.consensus, cost.ensemble, cost.effort, case["forgetting"])
    make = {"decentralized": decentralized, "centralized": centralized}.get(case["policy"])
    policy = greedy(cost, window=case["window"])
    if make:
        policy = make(
            cost, horizon=case["horizon"], window=case["window"], sync_every=case["sync_every"]
        )
    features = np.array(case["features"])
    y = np.array(case["series"])
    count = features.shape[1]
    result = simulate(
        make_series(y, y, "reference"),
        given_features(features),
        policy,
        ridge_mixture(case["kappa"], case["eta"]),
        num_agents=count,
        key=KEY,
        dtype="float64",
        record=Record(agents=tuple(range(count)), fields=FIELDS),
    )
    close(result.recorded["prediction"], np.array(case["predictions"]))
    close(result.recorded["control"][:-1], np.array(case["controls"]))
    close(result.recorded["weights"][:-1], np.array(case["weights"]))
    close(result.server, np.array(case["server"]))


@pytest.mark.parametrize(
    ("policy_name", "encoder_name", "d"),
    [
        # The greedy and the decentralized policy with every encoder and number of outputs, but not
        # with all of both, and the centralized with one; all together: slow.
        pytest.param(
            policy,
            encoder,
            d,
            marks=[pytest.mark.slow] * ((i + j + d) % 3 > 0 or (i == 2 and j < 3)),
        )
        for i, policy in enumerate(("greedy", "decentralized", "centralized"))
        for j, encoder in enumerate(
            ("random_features", "echo_state tanh", "echo_state hard", "given")
        )
        for d in (1, 2, 3)
    ]
    + [(policy, "given", 2) for policy in ("decentralized offline", "centralized offline")]
    + [("decentralized", "views", 2)],
)
def test_scan_equals_plain_loop(policy_name, encoder_name, d):
    series = toy_series(d)
    count, p, y = 5, 3, np.asarray(series.targets)
    policy, options = policies()[policy_name]
    encoder, how = encoders(series, count, p)[encoder_name]
    result = run(series, encoder, policy, count)
    Z = plain_loop.features_of(series=series, key=KEY, count=count, p=p, noise=0.3, **how)
    close(result.recorded["features"], Z)
    kind = policy_name.split()[0]
    expected = plain_loop.online_loop(y, Z, kind, cost=NUMBERS, kappa=0.8, eta=0.9, **options)
    compare(result, expected)
    summary = result.summary
    errors = expected["prediction"][1:] - y[1:, None]
    costs = (errors**2).sum(axis=(0, 2))
    close(result.agent_costs, costs)
    assert int(summary.worst_agent) == np.argmax(costs)
    np.testing.assert_allclose(summary.worst_agent_cost, costs.max())
    np.testing.assert_allclose(summary.best_agent_cost, costs.min())
    np.testing.assert_allclose(summary.agent_cost_variance, costs.var())
    rmse = np.sqrt((errors**2).mean(axis=(0, 2)))
    np.testing.assert_allclose(summary.worst_agent_rmse, rmse.max())
    np.testing.assert_allclose(summary.mean_agent_rmse, rmse.mean())
    server_error = expected["server"][1:] - y[1:]
    np.testing.assert_allclose(summary.server_rmse, np.sqrt((server_error**2).mean()))
    mean_error = errors.mean(axis=1)
    np.testing.assert_allclose(summary.mean_field_rmse, np.sqrt((mean_error**2).mean()))
    effort = (expected["control"][:-1] ** 2).sum(axis=(0, 2)).mean()
    np.testing.assert_allclose(summary.mean_agent_effort, effort)


@every_policy
def test_missing_targets_give_no_error_no_row_no_weights(policy_name):
    series = toy_series(2, n=20, gaps=(4, 5, 12))
    policy, options = policies()[policy_name]
    encoder, how = encoders(series, 4, 2)["given"]
    result = run(series, encoder, policy, 4, chunk=6)
    y = np.asarray(series.targets)
    expected = plain_loop.online_loop(
        y, how["given"], policy_name.split()[0], cost=NUMBERS, kappa=0.8, eta=0.9, **options
    )
    compare(result, expected)
    errors = (expected["prediction"] - y[:, None])[1:]
    close(result.agent_costs, np.nansum(errors**2, axis=(0, 2)))
    assert int(result.summary.scored_steps) == 16


def test_best_fixed_readout_is_the_least_squares_minimum():
    series = toy_series(2, n=30)
    encoder, how = encoders(series, 4, 3)["given"]
    result = run(series, encoder, greedy(COST), 4, best_readout=True)
    y, Z = np.asarray(series.targets), how["given"]
    moves = np.diff(y, axis=0).ravel()
    costs = [
        np.linalg.lstsq(Z[:-1, i].reshape(-1, 3), moves, rcond=None)[1].item() for i in range(4)
    ]
    np.testing.assert_allclose(result.summary.best_readout_worst_cost, max(costs), rtol=1e-10)
    plain = run(series, encoder, greedy(COST), 4)
    assert np.isnan(plain.summary.best_readout_worst_cost)


@pytest.mark.parametrize(
    ("policy_name", "encoder_name"),
    [
        pytest.param(one, "random_features", marks=[pytest.mark.slow] * (one not in SHORT))
        for one in sorted(policies())
    ]
    + [("decentralized", "echo_state tanh"), ("decentralized", "views")],
)
def test_the_future_changes_nothing_before_it(policy_name, encoder_name):
    """Altering x and y from row t + 1 on leaves every prediction up to t + 1 bit for bit."""
    series, cut = toy_series(2, n=16), 9
    altered = make_series(
        np.concatenate([series.inputs[: cut + 1], 7 - 3 * series.inputs[cut + 1 :]]),
        np.concatenate([series.targets[: cut + 1], 5 + 4 * series.targets[cut + 1 :]]),
        "altered",
    )
    policy = policies()[policy_name][0]
    encoder = encoders(series, 5, 3)[encoder_name][0]
    one, two = run(series, encoder, policy, 5), run(altered, encoder, policy, 5)
    for name in ("prediction", "server", "mean_field"):
        a, b = (r.recorded.get(name, getattr(r, name, None)) for r in (one, two))
        np.testing.assert_array_equal(a[: cut + 2], b[: cut + 2])
        assert not np.array_equal(a[cut + 2], b[cut + 2])


@every_policy
def test_permuting_agents_permutes_results(policy_name):
    series = toy_series(2)
    table = np.random.default_rng(1).normal(size=(14, 6, 2, 3))
    order = np.random.default_rng(2).permutation(6)
    policy = policies()[policy_name][0]
    plain = run(series, given_features(table), policy, 6)
    mixed = run(series, given_features(table[:, order]), policy, 6)
    for field in FIELDS:
        close(mixed.recorded[field], np.asarray(plain.recorded[field])[:, order], 1e-12)
    close(mixed.server, np.asarray(plain.server), 1e-12)
    close(mixed.agent_costs, np.asarray(plain.agent_costs)[order], 1e-12)


@pytest.mark.parametrize(
    "encoder_name",
    [
        pytest.param("random_features", marks=pytest.mark.slow),
        "echo_state tanh",
        pytest.param("views", marks=pytest.mark.slow),
    ],
)
def test_enlarging_the_population_changes_no_draw(encoder_name):
    series = toy_series(2)
    record = Record(agents=(0, 1, 2), fields=("prediction", "features"))
    encoder = encoders(series, 3, 4)[encoder_name][0]
    small = run(series, encoder, greedy(COST), 3, record=record)
    large = run(series, encoder, greedy(COST), 300, record=record)
    # the random bits are the same (tests/test_draws.py); tanh may round differently in a vector
    close(small.recorded["features"], np.asarray(large.recorded["features"]), 1e-14)
    # greedy agents are alone: their whole life is the same
    close(small.recorded["prediction"], np.asarray(large.recorded["prediction"]), 1e-13)


@pytest.mark.parametrize(
    ("policy_name", "dtype", "chunks"),
    [
        ("greedy", "float32", (1, 22)),
        ("decentralized", "float32", (4,)),
        ("centralized offline", "float64", (4,)),
        *(
            pytest.param(*case, (1, 4, 22), marks=pytest.mark.slow)
            for case in (
                ("greedy", "float32"),
                ("decentralized", "float32"),
                ("centralized offline", "float64"),
            )
        ),
    ],
    ids=str,
)
def test_chunks_change_no_bit_and_compile_nothing(policy_name, dtype, chunks):
    series = toy_series(2, n=23, gaps=(7,))
    policy = policies()[policy_name][0]
    encoder = random_features(3, 0.2)
    whole = run(series, encoder, policy, 37, chunk=23, dtype=dtype, best_readout=True)
    for chunk in chunks:
        before = _run_in_place._cache_size()
        parts = run(series, encoder, policy, 37, chunk=chunk, dtype=dtype, best_readout=True)
        # the padded last chunk is the same program
        assert _run_in_place._cache_size() <= before + 1
        for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
            np.testing.assert_array_equal(a, b)


def test_progress_is_told_after_every_chunk():
    told = []
    tell = lambda done, of: told.append((done, of))  # noqa: E731
    run(toy_series(1), random_features(2), greedy(COST), 3, chunk=6, on_chunk=tell)
    assert told == [(6, 14), (12, 14), (14, 14)]


def test_recording_chooses_agents_steps_and_fields():
    series = toy_series(1)
    everything = run(series, random_features(2), greedy(COST), 5)
    some = run(
        series,
        random_features(2),
        greedy(COST),
        5,
        record=Record(agents=(3, 1), steps=(0, 7), fields=("control",)),
    )
    assert set(some.recorded) == {"control"}
    expected = np.asarray(everything.recorded["control"])[[0, 7]][:, [3, 1]]
    close(some.recorded["control"], expected, 1e-14)
    assert run(series, random_features(2), greedy(COST), 5, record=None).recorded == {}


def test_float32_stays_float32_and_near_float64():
    series = toy_series(2)
    for name in ("greedy", "decentralized"):
        policy = policies()[name][0]
        single = run(series, random_features(3), policy, 5, dtype="float32")
        double = run(series, random_features(3), policy, 5)
        wide = {str(leaf.dtype) for leaf in jax.tree.leaves((single.state, single.recorded))}
        assert wide <= {"float32", "int32", "uint32", "bool"}
        close(np.asarray(single.server, float), np.asarray(double.server), 2e-4)


def test_one_agent_and_a_diverging_one():
    series = toy_series(1, n=200)
    alone = run(series, random_features(3), centralized(COST), 1)
    assert np.isfinite(alone.summary.server_rmse)
    wild = greedy(GameCost(effort=1e-3), window=20)
    # float32 overflow is the point here
    result = run(series, random_features(3), wild, 4, dtype="float32", record=None)
    assert int(result.summary.diverged_agents) > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "num_agents = 0: allowed is an integer in 1.."),
        ({"chunk": 0}, "chunk = 0"),
        ({"dtype": "float16"}, "dtype = 'float16': allowed is one of float32, float64"),
        ({"record": Record(agents=(9,))}, "record.agents holds 9: allowed is 0..4"),
        ({"record": Record(steps=(99,))}, "record.steps holds 99: allowed is 0..13"),
        ({"record": Record(fields=("speed",))}, "record.fields holds 'speed'"),
    ],
)
def test_wrong_arguments_are_refused_by_name(options, message):
    options = {"record": None, **options}
    with pytest.raises(ValueError, match=message):
        run(toy_series(1), random_features(2), greedy(), options.pop("count", 5), **options)


@pytest.mark.parametrize(
    ("shape", "message"),
    [((14, 5, 2, 3), "d = 2 outputs"), ((14, 4, 1, 3), "holds 4 agents"), ((9, 5, 1, 3), "9 rows")],
)
def test_given_features_that_do_not_fit_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        run(toy_series(1), given_features(np.ones(shape)), greedy(), 5)


def test_float64_without_x64_is_refused_with_a_hint():
    jax.config.update("jax_enable_x64", False)
    try:
        with pytest.raises(ValueError, match="jax_enable_x64"):
            run(toy_series(1), random_features(2), greedy(), 5)
    finally:
        jax.config.update("jax_enable_x64", True)


def test_float32_sums_of_a_large_population_are_right():
    """Mean field and server of 100,001 agents in float32 against numpy float64."""
    series = toy_series(2, n=8)
    count = 100_001
    kept = Record(agents=tuple(range(count)), steps=(7,), fields=("prediction", "weights"))
    result = run(
        series, random_features(3), decentralized(COST), count, dtype="float32", record=kept
    )
    predictions = np.asarray(result.recorded["prediction"][0], np.float64)
    np.testing.assert_allclose(result.mean_field[7], predictions.mean(axis=0), rtol=2e-6)
    deviation = predictions - predictions.mean(axis=0)
    y = np.asarray(series.targets)[7].astype(np.float32).astype(float)
    system = deviation.T @ deviation + 0.8 * np.eye(2)
    response = np.linalg.solve(system, y - 0.9 * predictions.mean(axis=0))
    close(
        np.asarray(result.recorded["weights"][0], float), 0.9 / count + deviation @ response, 1e-4
    )


def test_gradient_and_batch_of_a_whole_run():
    series = toy_series(1)

    def score(effort):
        policy = decentralized(GameCost(effort=effort, consensus=0.5), horizon=3)
        return run(series, random_features(3), policy, 4, record=None).summary.server_rmse

    efforts = jnp.array([0.3, 0.6, 1.2])
    batch = jax.vmap(score)(efforts)
    close(batch, np.array([score(e) for e in efforts]), 1e-12)
    step = 1e-5
    backward, forward = jax.jit(jax.grad(score)), jax.jit(jax.jacfwd(score))
    for e in efforts:
        slope = (score(e + step) - score(e - step)) / (2 * step)
        np.testing.assert_allclose(backward(e), slope, rtol=1e-6)
        np.testing.assert_allclose(forward(e), slope, rtol=1e-6)
