"""The points of a sweep, and its faults: one line each, before anything runs."""

import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from helpers import BASE, GRID, drawn, write

from memoa_jax import sweep_plan
from memoa_jax.cli import main
from memoa_jax.config import Config
from memoa_jax.config_faults import ConfigError
from memoa_jax.config_file import load, to_toml
from memoa_jax.sweep_plan import plan

pytestmark = pytest.mark.usefixtures("grid")


def points(path, overrides=()):
    """Return the points' values, each once."""
    return list(dict.fromkeys(tuple(r.values.values()) for r in plan(load(path, overrides))))


# Points.


def test_a_grid_is_the_product_of_its_axes_and_the_last_runs_fastest():
    assert points("grid.toml") == list(product([0.1, pytest.approx(1.0), 10.0], [0.0, 0.3]))
    runs = plan(load("grid.toml"))
    assert [(r.index, r.point, r.config.seed) for r in runs[:3]] == [
        (0, 0, 0),
        (1, 0, 1),
        (2, 1, 0),
    ]
    assert len(runs) == 12
    one = runs[-1].config
    assert type(one) is Config
    assert (one.policy[1].cost.effort, one.encoder.noise, one.seed) == (10.0, 0.3, 1)
    assert one.policy[0].cost.effort == 10.0  # greedy's own
    linear = points("grid.toml", ["sweep.axis.0.scale=linear"])
    assert [effort for effort, _ in linear[::2]] == [0.1, pytest.approx(5.05), 10.0]


@pytest.mark.parametrize("method", ["random", "sobol"])
def test_drawn_points_lie_in_range_and_follow_the_seed(method):
    found = points(drawn(method, 64))
    assert len(found) == 64
    efforts = np.array([effort for effort, _ in found])
    assert ((efforts > 0.1) & (efforts < 10)).all()
    # Even in the logarithm: the lower half of the decades takes its share.
    tolerance = 0 if method == "sobol" else 12
    assert abs((efforts < 1).sum() - 32) <= tolerance
    assert abs(sum(noise == 0.0 for _, noise in found) - 32) <= tolerance
    assert points(drawn(method, 64)) == found
    assert points(drawn(method, 64, seed=1))[0] != found[0]


def test_sobol_takes_any_number_of_points_without_a_warning():
    assert points(drawn("sobol", 5)) == points(drawn("sobol", 8))[:5]
    assert len(plan(load(drawn("sobol", 1)))) == 1


def test_whole_ends_of_a_whole_key_give_whole_numbers_and_of_another_do_not():
    axis = '[[sweep.axis]]\nkey = "{}"\nlow = 1\nhigh = 9\n'
    windows = points(drawn("random", axes=axis.format("policy.greedy.window")))
    assert {type(value) for (value,) in windows} == {int}
    assert {value for (value,) in windows} <= set(range(1, 10))
    efforts = points(drawn("random", axes=axis.format("policy.greedy.cost.effort")))
    assert {type(value) for (value,) in efforts} == {float}
    assert any(value != round(value) for (value,) in efforts)


def test_a_point_is_what_set_makes_of_the_config():
    """Defaults that depend on what an axis changes are those of the point."""
    text = f'{BASE}[sweep]\nmethod = "grid"\n[[sweep.axis]]\nkey = "policy.decentralized.game"\n'
    path = write(text + 'values = ["hindsight", "forecast"]\n')
    base = write(BASE, "base.toml")
    for found, game in zip(plan(load(path)), ("hindsight", "forecast"), strict=True):
        alone = load(base, [f"policy.decentralized.game={game}", "name=x"])
        assert found.config == alone
    Path("out").mkdir()
    again = write(to_toml(load(path), Path("out")), "out/config.toml")
    assert [r.config for r in plan(load(again))] == [r.config for r in plan(load(path))]


def test_tables_may_be_values(tmp_path):
    values = 'values = [{ kind = "random_features" }, { kind = "echo_state", features = 3 }]'
    path = drawn("sobol", 4, axes=f'[[sweep.axis]]\nkey = "encoder"\n{values}\n')
    kinds = [r.config.encoder.kind for r in plan(load(path))]
    assert sorted(kinds) == ["echo_state"] * 2 + ["random_features"] * 2
    write(to_toml(load(path), tmp_path), "config.toml")
    assert load("config.toml") == load(path)


def test_the_plan_needs_no_jax():
    code = "import sys, memoa_jax.sweep_plan as p, memoa_jax.config_file as f\n"
    code += "p.plan(f.load('grid.toml'))\nassert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert sweep_plan.MOST_RUNS == 20_000
    with pytest.raises(ConfigError):
        plan(load("grid.toml", ["sweep.seeds=10000"]))


# Faults.

AXIS = '[[sweep.axis]]\nkey = "encoder.noise"\n'
FAULTS = {
    "sweep.method: missing; allowed is grid, random, sobol": f"[sweep]\n{AXIS}values = [1.0]",
    'sweep.method = "gird": allowed is grid, random, sobol; did you mean grid?': (
        f"[sweep]\nmethod = 'gird'\n{AXIS}values = [1.0]"
    ),
    "sweep.axis: missing; allowed is one [[sweep.axis]] table or more": "[sweep]\nmethod = 'grid'",
    "sweep.metod: unknown key; did you mean method?": (
        f"[sweep]\nmethod = 'grid'\nmetod = 1\n{AXIS}values = [1.0]"
    ),
    "sweep.points: a grid has the points of its axes; allowed is random or sobol": (
        f"[sweep]\nmethod = 'grid'\npoints = 3\n{AXIS}values = [1.0]"
    ),
    'sweep.points: missing; with method = "sobol" allowed is a whole number >= 1': (
        f"[sweep]\nmethod = 'sobol'\n{AXIS}values = [1.0]"
    ),
    'sweep.metric = "rmse": allowed is server_rmse, mean_field_rmse': (
        f"[sweep]\nmethod = 'grid'\nmetric = 'rmse'\n{AXIS}values = [1.0]"
    ),
    "sweep.seeds = 0: allowed is how many (1 to 10000)": (
        f"[sweep]\nmethod = 'grid'\nseeds = 0\n{AXIS}values = [1.0]"
    ),
    "sweep.axis.0.high = 1.0: allowed is a number above low, 2.0": (
        f"[sweep]\nmethod = 'grid'\n{AXIS}low = 2.0\nhigh = 1.0\ncount = 2"
    ),
    'sweep.axis.0.low = 0.0: allowed is a number > 0 with scale = "log"': (
        f"[sweep]\nmethod = 'grid'\n{AXIS}low = 0.0\nhigh = 1.0\ncount = 2\nscale = 'log'"
    ),
    'sweep.axis.0.low = "a": allowed is a finite number': (
        f"[sweep]\nmethod = 'grid'\n{AXIS}low = 'a'\nhigh = 1.0\ncount = 2"
    ),
    "sweep.axis.0.high: missing; allowed is a finite number, or values": (
        f"[sweep]\nmethod = 'grid'\n{AXIS}low = 0.0\ncount = 2"
    ),
    "sweep.axis.0.count: missing; on a grid allowed is a whole number >= 2, or values": (
        f"[sweep]\nmethod = 'grid'\n{AXIS}low = 0.0\nhigh = 1.0"
    ),
    'sweep.axis.0.count = 3: method = "random" takes no count; allowed is sweep.points': (
        f"[sweep]\nmethod = 'random'\npoints = 2\n{AXIS}low = 0.0\nhigh = 1.0\ncount = 3"
    ),
    "sweep.axis.0.low = 0.0: values are given too; allowed is one of them": (
        f"[sweep]\nmethod = 'grid'\n{AXIS}values = [1.0]\nlow = 0.0"
    ),
    "sweep.axis.0.values = [1.0, 1.0]: a value stands twice; allowed is each once": (
        f"[sweep]\nmethod = 'grid'\n{AXIS}values = [1.0, 1.0]"
    ),
    'sweep.axis.1.key = "encoder.noise": taken by axis 0; give each key one axis': (
        f"[sweep]\nmethod = 'grid'\n{AXIS}values = [1.0]\n{AXIS}values = [2.0]"
    ),
    'sweep.axis.0.key = "seed": allowed is another key: seeds are an axis of their own': (
        "[sweep]\nmethod = 'grid'\n[[sweep.axis]]\nkey = 'seed'\nvalues = [1]"
    ),
    "seeds: allowed is sweep.seeds": (f"[sweep]\nmethod = 'grid'\n{AXIS}values = [1.0]"),
    "sweep.axis.0: encoder.noise = -1.0: allowed is a number >= 0": (
        f"[sweep]\nmethod = 'grid'\n{AXIS}values = [0.5, -1.0, -2.0]"
    ),
    "sweep.axis.0: encoder.nois: unknown key; did you mean noise?": (
        "[sweep]\nmethod = 'grid'\n[[sweep.axis]]\nkey = 'encoder.nois'\nvalues = [1.0, 2.0]"
    ),
    'sweep.axis.0.key = "policy.gredy.window": policy has no element gredy; did you mean greedy?': (
        "[sweep]\nmethod = 'grid'\n[[sweep.axis]]\nkey = 'policy.gredy.window'\nvalues = [1]"
    ),
    'sweep.axis.0.key = "a..b": allowed is a dotted key': (
        "[sweep]\nmethod = 'grid'\n[[sweep.axis]]\nkey = 'a..b'\nvalues = [1]"
    ),
    'sweep.axis.1.key = "policy.0.window": changes what axis 0 changes': (
        "[sweep]\nmethod = 'grid'\n[[sweep.axis]]\nkey = 'policy.greedy.window'\nvalues = [1]\n"
        "[[sweep.axis]]\nkey = 'policy.0.window'\nvalues = [2]"
    ),
    "sweep.axis.0.count = 9: gives a whole number twice; allowed is up to 3, or values": (
        "[sweep]\nmethod = 'grid'\n[[sweep.axis]]\nkey = 'policy.greedy.window'\n"
        "low = 1\nhigh = 3\ncount = 9"
    ),
    "sweep: 10,000 points with 3 seeds: 30,000 runs: allowed is up to 20,000": (
        f"[sweep]\nmethod = 'random'\npoints = 10000\nseeds = 3\n{AXIS}low = 0.0\nhigh = 1.0"
    ),
    'sweep.axis.1: policy.1.staleness = 1: allowed is 0 with information = "offline"': (
        "[sweep]\nmethod = 'grid'\n"
        "[[sweep.axis]]\nkey = 'policy.1.information'\nvalues = ['feedback', 'offline']\n"
        "[[sweep.axis]]\nkey = 'policy.1.staleness'\nvalues = [0, 1]"
    ),
}


@pytest.mark.parametrize("said", FAULTS)
def test_every_fault_is_one_line(said, capsys):
    head = "seeds = 2\n" if said.startswith("seeds") else ""
    write(f"{head}{BASE}{FAULTS[said]}")
    for command in ("validate", "sweep"):
        assert main([command, "x.toml"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"memoa: x.toml: {said}")


def test_several_series_are_no_base_of_a_sweep(capsys):
    write(GRID.replace("[series]", "[[series]]"))
    assert main(["validate", "x.toml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("memoa: x.toml: series = ")


def test_the_commands_know_their_configs(capsys):
    assert main(["validate", "grid.toml"]) == 0
    assert capsys.readouterr().out == (
        "grid.toml: valid: 6 agents, logistic x 12 runs, greedy, decentralized\n"
    )
    assert main(["run", "grid.toml"]) == 2
    assert capsys.readouterr().err == "memoa: grid.toml: has a [sweep]; allowed is memoa sweep\n"
    write(BASE)
    assert main(["sweep", "x.toml"]) == 2
    assert capsys.readouterr().err == "memoa: x.toml: has no [sweep]; allowed is memoa run\n"


def test_without_scipy_sobol_is_refused_in_one_line(monkeypatch, capsys):
    path = drawn("sobol")
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    assert main(["validate", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("SciPy is not installed: pip install 'memoa-jax[sweep]'")
    assert main(["validate", str(drawn("random"))]) == 0
