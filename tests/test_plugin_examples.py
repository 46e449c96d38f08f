"""The plug-ins under configs/plugins: a pre-trained network, experts from a file, a policy."""

import dataclasses
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import faults, summary_of
from test_plugins import forget  # noqa: F401

from memoa_jax import (
    decentralized,
    echo_state,
    greedy,
    random_features,
    ridge_mixture,
    simulate,
    standardise,
    uniform_mixture,
)
from memoa_jax import series as all_series
from memoa_jax.cli import main
from memoa_jax.contracts import Sizes, check_encoder, check_policy
from memoa_jax.plugins import find
from memoa_jax.timeseries import make_series, part

FOLDER = Path(__file__).parents[1] / "configs" / "plugins"


@pytest.fixture
def examples(here):
    """Work beside a copy of the examples, which then write nothing into the project."""
    shutil.copytree(FOLDER, here / "plugins", ignore=shutil.ignore_patterns("*.npz", "__pycache__"))
    return here / "plugins"


def function(name, family="encoder"):
    return find(name, family, str(FOLDER)).function


def waves(rows=60, gap=None):
    """Return a series of one output whose next value follows from two inputs, and a gap."""
    t = np.arange(rows)
    y = np.sin(0.9 * t) + 0.3 * np.sin(0.31 * t)
    if gap is not None:
        y = np.where(t == gap, np.nan, y)
    return make_series(np.stack([np.sin(0.9 * t), np.cos(0.31 * t)], axis=1), y[:, None])


def trained(series, prefix=30, **keys):
    made = function("gru_encoder:gru")(
        part(series, prefix), prefix=prefix, **{"width": 4, "features": 3, "steps": 5, **keys}
    )
    return jax.block_until_ready(made)


def sizes_of(series, features, dtype="float32", agents=5):
    return Sizes.of(series, features, agents, dtype)


@pytest.mark.parametrize(("dtype", "own_inputs"), [("float32", False), ("float64", True)])
def test_the_network_keeps_the_contract(dtype, own_inputs):
    series = waves(gap=7)
    check_encoder(trained(series), sizes_of(series, 3, dtype), own_inputs=own_inputs)


def test_the_network_learns_nothing_from_rows_after_its_prefix():
    """Another future: the same weights, bit for bit, and the same predictions up to there."""
    series, split = waves(), 30
    rng = np.random.default_rng(0)
    other = dataclasses.replace(
        series,
        inputs=np.where(np.arange(60)[:, None] < split, series.inputs, rng.normal(size=(60, 2))),
        targets=np.where(np.arange(60)[:, None] < split, series.targets, rng.normal(size=(60, 1))),
    )
    one, two = trained(series), trained(other)
    for mine, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    lives = [
        simulate(
            part(data, split), encoder, greedy(game="forecast"), ridge_mixture(),
            num_agents=4, key=jax.random.key(0),
        )
        for data, encoder in ((series, one), (other, two))
    ]  # fmt: skip
    np.testing.assert_array_equal(lives[0].server[: split + 1], lives[1].server[: split + 1])
    assert not np.array_equal(lives[0].server[split + 1 :], lives[1].server[split + 1 :])


def test_the_network_s_cell_is_a_gated_recurrent_unit():
    """Against a loop in NumPy, agent by agent, gate by gate."""
    rng = np.random.default_rng(1)
    width, count, inputs = 3, 4, 2
    module = sys.modules[function("gru_encoder:gru").__module__]
    weights = module.Weights(
        gates=rng.normal(size=(3 * width, inputs + width)),
        biases=rng.normal(size=3 * width),
        move=rng.normal(size=(1, width)),
    )
    own, hidden = rng.normal(size=(3 * width, count)), rng.normal(size=(width, count))
    x = rng.normal(size=(inputs, 1))
    found = module.cell(weights, own, hidden, x)
    for agent in range(count):
        h, b = hidden[:, agent], weights.biases + own[:, agent]
        w = [weights.gates[g * width : (g + 1) * width] for g in range(3)]
        bias = [b[g * width : (g + 1) * width] for g in range(3)]
        update = 1 / (1 + np.exp(-(w[0] @ np.r_[x[:, 0], h] + bias[0])))
        reset = 1 / (1 + np.exp(-(w[1] @ np.r_[x[:, 0], h] + bias[1])))
        fresh = np.tanh(w[2] @ np.r_[x[:, 0], reset * h] + bias[2])
        np.testing.assert_allclose(found[:, agent], (1 - update) * h + update * fresh, rtol=1e-12)


def test_the_network_refuses_rows_that_count():
    with pytest.raises(ValueError, match=r"prefix = 30: allowed is 3 to series\.scored_from = 10"):
        function("gru_encoder:gru")(part(waves(), 10), prefix=30)


@pytest.mark.slow
def test_the_network_is_worth_its_training():
    """On chaos its agents end far below agents with random features, and below persistence."""
    series = part(standardise(all_series.logistic(400), "levels"), 150)
    encoders = {
        "gru": function("gru_encoder:gru")(series, prefix=150, width=8, features=4, steps=150),
        "random": random_features(4),
        "echo": echo_state(4),
    }
    found = {
        name: simulate(
            series, encoder, decentralized(game="forecast"), ridge_mixture(),
            num_agents=20, key=jax.random.key(0),
        ).summary
        for name, encoder in encoders.items()
    }  # fmt: skip
    rmse = {name: float(one.mean_agent_rmse) for name, one in found.items()}
    assert rmse["gru"] < 0.5 * min(rmse["random"], rmse["echo"]), rmse
    assert rmse["gru"] < 0.5 * float(found["gru"].persistence_rmse), rmse


def test_the_network_runs_from_its_config(examples, capsys):
    less = [
        *("agents=5", "series={kind='logistic', steps=40, scored_from=20}", "encoder.prefix=20"),
        *("encoder.steps=3", "encoder.width=4", "policy=[{kind='greedy', game='forecast'}]"),
    ]
    sets = [f"--set={one}" for one in less]
    assert main(["run", "plugins/gru.toml", "--out", "out", *sets]) == 0
    assert summary_of("out")["series"] == "logistic"
    capsys.readouterr()
    assert main(["run", "plugins/gru.toml", "--out", "no", *sets, "--set=encoder.prefix=21"]) == 2
    said = capsys.readouterr().err
    assert (
        'encoder.kind = "gru_encoder:gru": gru raised ValueError: prefix = 21: allowed is' in said
    )
    assert "(gru_encoder.py:" in said
    assert "Traceback" not in said


def test_experts_run_from_a_file_that_their_script_writes(examples, capsys):
    (missing,) = faults("plugins/experts.toml")
    assert missing.startswith('encoder.path = "')
    assert missing.endswith(": no such file")
    script = [sys.executable, "plugins/expert_features.py"]
    done = subprocess.run(script, capture_output=True, text=True, check=True, timeout=120)
    assert "8 experts on 3120 points: ar1, ar2" in done.stdout
    # A longer file serves a shorter series; its first rows are the series' own.
    sets = ["--set=agents=5", "--set=series.steps=60"]
    assert main(["run", "plugins/experts.toml", "--out", "out", *sets]) == 0
    assert summary_of("out")["steps"] == 60


def test_experts_know_nothing_of_what_comes():
    module = sys.modules[function("expert_features:experts").__module__]
    rng = np.random.default_rng(0)
    y = np.cumsum(rng.normal(size=80))
    y[20] = np.nan
    other = np.where(np.arange(80) <= 50, y, rng.normal(size=80))
    one, two = (module.expected_moves(values, season=12) for values in (y, other))
    for name in one:
        np.testing.assert_array_equal(one[name][:51], two[name][:51])
        assert np.isfinite(one[name]).all()
        if name != "season":
            assert not np.array_equal(one[name][51:], two[name][51:]), name


def test_an_autoregression_is_the_ridge_fit_of_all_moves_so_far():
    module = sys.modules[function("expert_features:experts").__module__]
    y = np.cumsum(np.random.default_rng(2).normal(size=40))
    found, t = module.autoregression(y, 2, ridge=0.5), 30
    rows = np.array([[y[s], y[s - 1] if s else y[0], 1.0] for s in range(t + 1)])
    gram = rows[:t].T @ rows[:t] + 0.5 * np.eye(3)
    weights = np.linalg.solve(gram, rows[:t].T @ np.diff(y[: t + 1]))
    assert found[t] == pytest.approx(rows[t] @ weights, rel=1e-9)


def test_agents_hear_experts_of_their_own(here):
    moves = np.arange(5 * 2 * 6, dtype=float).reshape(5, 2, 6)
    np.savez("e.npz", moves=moves)
    made = function("expert_features:experts")("e.npz", heard=3)
    series = make_series(np.ones((5, 1)), np.ones((5, 2)))
    check_encoder(made, sizes_of(series, 3))
    few, many = (
        simulate(
            series, made, greedy(game="forecast"), uniform_mixture(), num_agents=count,
            key=jax.random.key(3), record=_features(4),
        ).recorded["features"]
        for count in (4, 9)
    )  # fmt: skip
    np.testing.assert_array_equal(few, many)  # whatever the population
    for agent in range(4):
        heard = [int(value) for value in few[0, agent, 0]]
        assert len(set(heard)) == 3
        for step in range(5):
            np.testing.assert_array_equal(few[step, agent], moves[step][:, heard])
    assert len({tuple(row) for row in few[0, :, 0].tolist()}) > 1


def _features(count):
    from memoa_jax import Record

    return Record(agents=tuple(range(count)), fields=("features",))


BAD_FILES = {
    "moves[:, 0]": "allowed is finite numbers of shape [n, d, experts]",
    "np.full_like(moves, np.nan)": "allowed is finite numbers of shape [n, d, experts]",
    "moves[..., :2]": "heard = 3: allowed is 1 to 2, the experts there are",
}


@pytest.mark.parametrize("change", BAD_FILES)
def test_experts_files_that_do_not_serve_are_refused(here, change):
    moves = np.ones((5, 2, 6))
    np.savez("e.npz", moves=eval(change, {"np": np, "moves": moves}))
    with pytest.raises(ValueError, match=re.escape(BAD_FILES[change])):
        function("expert_features:experts")("e.npz", heard=3)
    with pytest.raises(ValueError, match="no array other: allowed is one of moves"):
        function("expert_features:experts")("e.npz", array="other")


def test_the_policy_is_its_equations():
    """Against a loop in NumPy over steps and agents, with a row that is missing."""
    rate, lean, floor, agents = 0.3, 0.4, 0.01, 4
    series = make_series(
        np.random.default_rng(5).normal(size=(12, 2)),
        np.where(
            np.arange(12)[:, None] == 6, np.nan, np.random.default_rng(6).normal(size=(12, 2))
        ),
    )
    policy = function("my_policy:nlms", "policy")(rate=rate, lean=lean, floor=floor)
    check_policy(policy, sizes_of(series, 3))
    result = simulate(
        series, echo_state(3), policy, uniform_mixture(), num_agents=agents,
        key=jax.random.key(0), dtype="float64", record=_both(agents),
    )  # fmt: skip
    features, told = (np.asarray(result.recorded[x]) for x in ("features", "prediction"))
    theta = np.zeros((agents, 3))
    last = series.targets[0]
    for t in range(11):
        row, known = series.targets[t], not np.isnan(series.targets[t]).any()
        y = row if known else last
        moves = np.empty((agents, 2))
        for i in range(agents):
            before = t > 0 and not np.isnan(series.targets[t - 1]).any()
            if known and before:
                z = features[t - 1, i]
                error = (y - last) - z @ theta[i]
                theta[i] += rate * z.T @ error / (floor + np.sum(z**2))
            moves[i] = features[t, i] @ theta[i]
        expected = y + (1 - lean) * moves + lean * moves.mean(axis=0)
        np.testing.assert_allclose(told[t + 1], expected, rtol=1e-9, atol=1e-12)
        last = y


def _both(count):
    from memoa_jax import Record

    return Record(agents=tuple(range(count)), fields=("features", "prediction"))


@pytest.mark.slow
def test_the_policy_s_numbers_are_data():
    """Mapped over and differentiated: no program is compiled per value."""
    nlms = function("my_policy:nlms", "policy")
    kind = type(nlms())

    def score(rate):
        policy = kind(rate=rate, lean=0.5, floor=1e-3)
        life = simulate(
            all_series.logistic(8), random_features(2), policy, uniform_mixture(),
            num_agents=3, key=jax.random.key(0), dtype="float64",
        )  # fmt: skip
        return life.summary.mean_agent_cost

    rates = jnp.array([0.1, 0.5])
    mapped = jax.jit(jax.vmap(score))(rates)
    np.testing.assert_allclose(mapped[1], jax.jit(score)(0.5), rtol=1e-9)
    assert mapped[0] != mapped[1]
    assert np.isfinite(jax.jit(jax.grad(score))(0.5))


def test_the_policy_runs_from_its_config(examples, capsys):
    sets = ["--set=agents=5", "--set=series.steps=40", "--set=encoder.features=2"]
    assert main(["run", "plugins/my_policy.toml", "--out", "out", *sets]) == 0
    assert list(summary_of("out")["policies"]) == ["nlms", "decentralized"]
    capsys.readouterr()
    assert (
        main(["run", "plugins/my_policy.toml", "--out", "no", *sets, "--set=policy.nlms.rate=2"])
        == 2
    )
    said = capsys.readouterr().err
    assert "nlms raised ValueError: rate = 2.0: allowed is a number > 0 and < 2 (my_poli" in said
