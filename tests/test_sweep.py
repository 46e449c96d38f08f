"""Sweeps: their points, faults, one compilation per policy, the same numbers, going on, results."""

import builtins
import csv
import json
import math
from itertools import product
from pathlib import Path

import jax
import numpy as np
import pytest

from memoa_jax import (
    build,
    report,
    run,
    simulate,
    sweep,
    sweep_batch,
    sweep_figures,
    sweep_plan,
    sweep_report,
)
from memoa_jax.choices import METRICS
from memoa_jax.cli import main
from memoa_jax.config import Config
from memoa_jax.config_faults import ConfigError
from memoa_jax.config_file import load, to_toml
from memoa_jax.figures import FigureError
from memoa_jax.sweep_plan import plan

BASE = """
agents = 6

[series]
kind = "logistic"
steps = 12

[encoder]
kind = "random_features"
features = 2

[[policy]]
kind = "greedy"

[[policy]]
kind = "decentralized"
horizon = 2
"""
EFFORT = """
[[sweep.axis]]
key = "policy.decentralized.cost.effort"
low = 0.1
high = 10.0
scale = "log"
"""
NOISE = """
[[sweep.axis]]
key = "encoder.noise"
values = [0.0, 0.3]
"""
GRID = f"""{BASE}
[sweep]
method = "grid"
seeds = 2
top = 3
{EFFORT}
count = 3
{NOISE}
"""
POLICIES = ["greedy", "decentralized", "uncoupled"]
WRITTEN = {"config.toml", "runs.jsonl", "summary.json", "table.npz", "table.csv", "best.toml"} | {
    "manifest.json",
    "marginals.png",
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("grid.toml").write_text(GRID)


def write(text, name="x.toml"):
    Path(name).write_text(text)
    return name


def drawn(method, points=16, seed=0, axes=EFFORT + NOISE):
    table = f'[sweep]\nmethod = "{method}"\npoints = {points}\n'
    return write(f"seed = {seed}\n{BASE}{table}{axes}")


def points(path, overrides=()):
    """Return the points' values, each once."""
    return list(dict.fromkeys(tuple(r.values.values()) for r in plan(load(path, overrides))))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Sweep the grid once; return its folder, summary, and what it said."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "grid.toml").write_text(GRID)
    said = []
    summary = sweep.run_sweep(load(folder / "grid.toml"), folder, say=said.append)
    return folder, summary, said


@pytest.fixture
def held(finished):
    """Return a folder that holds the finished sweep."""
    Path("out").mkdir()
    for name in WRITTEN:
        (Path("out") / name).write_bytes((finished[0] / name).read_bytes())
    return Path("out")


def read(folder):
    def refuse(word):
        raise AssertionError(f"not strict JSON: {word}")

    return json.loads((Path(folder) / "summary.json").read_text(), parse_constant=refuse)


def rows(folder):
    with (Path(folder) / "table.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


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


def hide(monkeypatch, package):
    """Make a package look as if it were not installed."""
    real = builtins.__import__

    def refuse(name, *arguments, **keywords):
        if name.split(".")[0] == package:
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", refuse)


def test_without_scipy_sobol_is_refused_in_one_line(monkeypatch, capsys):
    path = drawn("sobol")
    hide(monkeypatch, "scipy")
    assert main(["validate", path]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("SciPy is not installed: pip install 'memoa-jax[sweep]'")
    assert main(["validate", drawn("random")]) == 0


# Numbers.


LATE = '\n[participation]\nkind = "bernoulli"\nprobability = 0.8\n'


@pytest.mark.parametrize(("dtype", "who"), [("float32", ""), ("float64", LATE)])
def test_every_row_is_that_of_a_run_of_its_own(dtype, who):
    axes = f'{EFFORT}\n[[sweep.axis]]\nkey = "mixture.kappa"\nlow = 0.1\nhigh = 2.0\n'
    drive = "\n[run]\nuncoupled = false\nbest_readout = false\n"
    table = '[sweep]\nmethod = "random"\npoints = 2\nseeds = [4, 7]\n'
    text = f'dtype = "{dtype}"\n{BASE}{who}{drive}{table}'
    runs = plan(load(write(text + axes)))
    found = {}
    programs = sweep_batch.Programs()
    for batch in sweep_batch.batches(runs):
        found |= programs.run(batch)
    assert len(found) == 2 * len(runs)
    tolerance = 1e-10 if dtype == "float64" else 1e-5
    for one in runs:
        series = build.series(one.config.series)
        encoder = build.encoder(one.config, series.num_points)
        for label, table in run.policies(one.config).items():
            arguments, options = build.simulation(one.config, series, encoder, table)
            alone = simulate(*arguments, **options)
            figures = found[one.index, label]
            for name in (*METRICS, "worst_agent", "diverged_agents"):
                expected = float(getattr(alone.summary, name))
                assert figures[name] == pytest.approx(expected, rel=tolerance, abs=tolerance), name
            assert figures["persistence"] == pytest.approx(float(alone.summary.persistence_rmse))
            assert figures["status"] == int(alone.status)


def compilations(path, overrides=()):
    """Run a sweep's calls; return how many programs of its own they made, and those compiled."""
    events = []

    def listen(event, duration_secs, **_):
        if event.endswith("/backend_compile_duration"):
            events.append(event)

    programs = sweep_batch.Programs()
    calls = sweep_batch.batches(plan(load(path, overrides)))
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for batch in calls:
            programs.run(batch)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return programs.compiled, len(events)


def test_sixteen_points_compile_each_policy_once(monkeypatch):
    axes = f"{EFFORT}count = 4\n{NOISE.replace('0.3', '0.1, 0.2, 0.3')}"
    path = write(f'{BASE}[sweep]\nmethod = "grid"\n{axes}')
    monkeypatch.setattr(sweep_batch, "MOST_PLACES", 24)  # four runs a call
    compilations(path, ["sweep.axis.1.values=[0.0]"])  # what a process compiles once, such as keys
    # Decentralized and uncoupled are one structure, greedy another.
    assert compilations(path) == (2, 2)


def test_a_static_number_is_another_shape():
    axis = '[[sweep.axis]]\nkey = "policy.decentralized.horizon"\nvalues = [1, 2, 3]\n'
    runs = plan(load(write(f'{BASE}[sweep]\nmethod = "grid"\n{axis}')))
    # One of greedy; decentralized and uncoupled share theirs.
    assert len({one.shape for one in sweep_batch.batches(runs)}) == 1 + 3


def test_calls_are_bounded_even_and_run_nothing_twice(monkeypatch):
    runs = plan(load("grid.toml"))
    monkeypatch.setattr(sweep_batch, "MOST_PLACES", 6 * 5)
    calls = sweep_batch.batches(runs)
    # Noise and seed change all policies, effort not the greedy one: 4 and 12 + 12 jobs.
    assert [(len(one.jobs), one.size) for one in calls] == [(4, 4)] + [(5, 5)] * 4 + [(4, 5)]
    places = [place for one in calls for place in one.places]
    assert sorted(places) == sorted(product(range(12), POLICIES))
    monkeypatch.setattr(sweep_batch, "MOST_PLACES", 1)
    assert {one.size for one in sweep_batch.batches(runs)} == {1}


def test_streams_and_given_features_are_swept_too():
    np.save("z.npy", np.random.default_rng(0).normal(size=(13, 6, 1, 2)))
    keys = ["encoder={kind='given', path='z.npy'}", "sweep.axis.1.key=mixture.kappa"]
    keys += ["sweep.axis.1.values=[1.0, 2.0]", "sweep.seeds=1", "run.uncoupled=false"]
    keys += ["policy=[{kind='greedy'}]", "sweep.axis.0.key=policy.greedy.cost.effort"]
    found = {}
    for schedule in ("resident", "stream"):
        runs = plan(load("grid.toml", [*keys, f"run.schedule={schedule}"]))
        calls = sweep_batch.batches(runs)
        assert all(one.alone == (schedule == "stream") for one in calls)
        programs = sweep_batch.Programs()
        found[schedule] = {p: f for one in calls for p, f in programs.run(one).items()}
    for place, figures in found["resident"].items():
        other = found["stream"][place]["server_rmse"]
        assert other == pytest.approx(figures["server_rmse"], rel=1e-4)


def test_a_sweep_that_no_device_can_hold_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sweep_batch, "free_bytes", lambda device: 1000)
    assert main(["sweep", "grid.toml"]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("memoa: 4 runs at a time need ")
    assert line.endswith('kB are free: allowed is fewer agents, or run.schedule = "stream"')


# Results.


def test_a_sweep_says_its_progress_and_writes_its_files(finished):
    folder, summary, said = finished
    assert said == ["call 1 of 2: 12 of 36 rows", "call 2 of 2: 36 of 36 rows"]
    assert {path.name for path in folder.iterdir()} == WRITTEN | {"grid.toml"}
    assert read(folder) == summary
    assert load(folder / "config.toml") == load(folder / "grid.toml")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["sha256"]) == WRITTEN - {"manifest.json", "marginals.png"}
    assert (manifest["seeds"], summary["compilations"]) == ([0, 1], 2)
    assert str(folder) not in json.dumps([manifest, summary])


def test_the_table_is_tidy_and_its_two_files_agree(finished):
    folder = finished[0]
    table = rows(folder)
    axes = ["policy.decentralized.cost.effort", "encoder.noise"]
    head = ["run", "point", *axes, "seed", "policy", "kind", "game", *METRICS]
    head += ["worst_agent", "diverged_agents", "status", "notes", "persistence", "running_mean"]
    assert list(table[0]) == head
    order = [(run.index, policy) for run in plan(load("grid.toml")) for policy in POLICIES]
    assert [(int(row["run"]), row["policy"]) for row in table] == order
    with np.load(folder / "table.npz") as packed:
        assert packed.files == head
        for name in head:
            column = packed[name]
            text = [row[name] for row in table]
            if column.dtype.kind == "U":
                assert column.tolist() == text
            else:
                assert column.tolist() == [float(word) for word in text]
    for row, (index, _) in zip(table, order, strict=True):
        one = plan(load("grid.toml"))[index]
        assert [float(row[key]) for key in axes] == list(one.values.values())
        assert int(row["seed"]) == one.config.seed


def test_every_runs_config_is_listed_in_full(finished):
    lines = [json.loads(line) for line in (finished[0] / "runs.jsonl").read_text().splitlines()]
    for line, one in zip(lines, plan(load("grid.toml")), strict=True):
        assert (line["run"], line["point"], line["values"]) == (one.index, one.point, one.values)
        assert Config.model_validate(line["config"]) == one.config


def test_the_summary_ranks_points_by_their_means_over_seeds(finished):
    folder, summary, _ = finished
    table = rows(folder)
    for label in POLICIES:
        means = {}
        for row in table:
            if row["policy"] == label:
                means.setdefault(int(row["point"]), []).append(float(row["server_rmse"]))
        ranked = sorted(means, key=lambda point: (np.mean(means[point]), point))
        top = summary["policies"][label]["top"]
        assert [one["point"] for one in top] == ranked[:3]
        for one in top:
            assert one["per_seed"] == means[one["point"]]
            assert one["mean"] == pytest.approx(np.mean(one["per_seed"]))
            assert one["standard_deviation"] == pytest.approx(np.std(one["per_seed"], ddof=1))
            assert one["persistence"] == float(table[0]["persistence"])
    first = min(summary["policies"].values(), key=lambda policy: policy["top"][0]["mean"])
    assert summary["best"]["mean"] == first["top"][0]["mean"]


def test_the_best_config_is_one_that_runs(finished, tmp_path, capsys):
    folder, summary, _ = finished
    best = load(folder / "best.toml")
    assert best.name == "grid-best"
    values = summary["best"]["values"]
    cost = best.policy[1].cost
    assert [cost.effort, best.encoder.noise] == list(values.values())
    words = ["run", str(folder / "best.toml"), "--out", "out", "--set", "run.best_readout=false"]
    assert main(words) == 0
    capsys.readouterr()
    found = json.loads(Path("out/summary.json").read_text())["policies"][summary["best"]["policy"]]
    assert found["server_rmse"] == pytest.approx(summary["best"]["per_seed"][0], rel=1e-5)


def test_what_diverged_is_never_called_best(finished):
    folder, _, _ = finished
    config = load("grid.toml")
    runs = plan(config)
    with np.load(folder / "table.npz") as packed:
        table = {name: packed[name].copy() for name in packed.files}
    table["server_rmse"][table["point"] == 0] = np.nan
    table["diverged_agents"][table["run"] == 2] = 1
    summary = sweep_report.summarise(config, runs, table, missing=0)
    for policy in summary["policies"].values():
        assert {one["point"] for one in policy["top"]}.isdisjoint({0, 1})
        assert (policy["points_ranked"], policy["points_not_ranked"]) == (4, 2)
    report.to_json(summary)
    summary |= {"seconds": 1.0, "compile_seconds": 0.5, "compilations": 2}
    line = "greedy: not ranked, not finite or with diverged agents: 2 of 6 points"
    assert line in sweep_report.table(summary)
    table["server_rmse"][:] = math.inf
    summary = sweep_report.summarise(config, runs, table, missing=0)
    assert summary["best"] is None
    assert sweep_report.lost(summary)


def test_the_command_prints_the_best_points_beside_persistence(held, capsys):
    assert main(["sweep", "grid.toml", "--out", "out", "--set", "sweep.top=2"]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0] == "grid: grid of 6 points, 2 seeds, 6 agents, float32"
    assert lines[2].split() == ["policy", "effort", "noise", "server_rmse", "+-", "persistence"]
    assert [line.split()[:2] for line in lines[3:9]] == [
        [label, str(rank)] for label in POLICIES for rank in (1, 2)
    ]
    assert sum(line.endswith("  best") for line in lines) == 1
    assert captured.err.splitlines()[-1] == "results in out"
    assert captured.err.splitlines()[0] == "36 of 36 rows are there"
    # What it ranks by may change.
    words = ["sweep", "grid.toml", "--out", "out", "--set", "sweep.metric=mean_agent_cost"]
    assert main([*words, "--format", "json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["metric"], summary["compilations"]) == ("mean_agent_cost", 0)


def test_without_matplotlib_only_the_figure_is_missing(held, monkeypatch, capsys):
    (held / "marginals.png").unlink()
    hide(monkeypatch, "matplotlib")
    assert main(["sweep", "grid.toml", "--out", "out"]) == 0
    assert "no figure: matplotlib is not installed" in capsys.readouterr().err
    assert not Path("out/marginals.png").exists()


def test_medians_are_by_value_on_a_grid_and_by_bin_elsewhere():
    grid, metric = load("grid.toml"), np.arange(6.0)
    places = np.array([0.1, 0.1, 0.1, 1.0, 1.0, 10.0])
    found = sweep_figures._medians(grid, grid.sweep.axis[0], places, metric)
    assert found == ([0.1, 1.0, 10.0], [1.0, 3.5, 5.0])
    random = load(drawn("random"))
    places = np.geomspace(0.1, 10.0, 40)
    centres, medians = sweep_figures._medians(random, random.sweep.axis[0], places, places)
    assert len(centres) == 10
    assert medians == centres
    assert np.diff(np.log(centres)) == pytest.approx(np.log(100) / 10, rel=0.3)
    one = sweep_figures._medians(random, random.sweep.axis[0], places[:1], places[:1])
    assert one == ([places[0]], [places[0]])


def test_the_figure_leaves_out_what_is_not_finite_and_says_so(finished, monkeypatch):
    with np.load(finished[0] / "table.npz") as packed:
        table = {name: packed[name].copy() for name in packed.files}
    table["server_rmse"][table["policy"] == "greedy"] = np.nan
    table["server_rmse"][1] = np.inf
    table["encoder.noise"] = np.where(table["encoder.noise"] > 0, "loud", "still")
    from matplotlib.figure import Figure

    drawn_panels = []
    real = Figure.savefig

    def keep(self, *arguments, **keywords):
        drawn_panels.extend(self.axes)
        return real(self, *arguments, **keywords)

    monkeypatch.setattr(Figure, "savefig", keep)
    sweep_figures.draw_marginals(load("grid.toml"), table, Path("m.png"))
    assert Path("m.png").read_bytes().startswith(b"\x89PNG")
    effort, noise = drawn_panels
    labels = [text.get_text() for text in effort.get_legend().get_texts()]
    assert labels == ["decentralized (1 runs not finite)", "uncoupled", "persistence"]
    assert (effort.get_xscale(), noise.get_xscale()) == ("log", "linear")
    assert [text.get_text() for text in noise.get_xticklabels()] == ["still", "loud"]
    table["server_rmse"][:] = np.nan
    with pytest.raises(FigureError, match="no run stayed finite"):
        sweep_figures.draw_marginals(load("grid.toml"), table, Path("m.png"))


# Going on.


def stop(monkeypatch, after):
    """Make the call number `after` behave as if Ctrl-C were pressed in it; return the calls."""
    calls = []
    real = sweep_batch.Programs.run

    def once(self, batch):
        if len(calls) == after:
            raise KeyboardInterrupt
        calls.append(1)
        return real(self, batch)

    monkeypatch.setattr(sweep_batch.Programs, "run", once)
    return calls


def test_an_interrupted_sweep_goes_on_and_ends_the_same(finished, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        stop(patch, 1)
        assert main(["sweep", "grid.toml", "--out", "out"]) == 130
    captured = capsys.readouterr()
    last = "memoa: interrupted; not run: 24 rows; the same command goes on"
    assert captured.err.splitlines()[-1] == last
    assert "INTERRUPTED: 12 of 36 rows; the same command goes on" in captured.out
    assert read("out")["interrupted"] is True
    assert {row["policy"] for row in rows("out")} == {"greedy"}
    with monkeypatch.context() as patch:
        calls = stop(patch, 9)
        assert main(["sweep", "grid.toml", "--out", "out"]) == 0
    assert len(calls) == 1
    assert capsys.readouterr().err.splitlines()[0] == "12 of 36 rows are there"
    for name in WRITTEN - {"summary.json", "manifest.json", "marginals.png"}:
        assert (Path("out") / name).read_bytes() == (finished[0] / name).read_bytes(), name
    untimed = [read(folder) for folder in ("out", finished[0])]
    for summary in untimed:
        for key in ("seconds", "compile_seconds", "compilations"):
            del summary[key]
    assert untimed[0] == untimed[1]


def test_an_interrupt_before_the_first_call_leaves_nothing(monkeypatch, capsys):
    stop(monkeypatch, 0)
    assert main(["sweep", "grid.toml", "--out", "out"]) == 130
    assert capsys.readouterr().err == "memoa: interrupted\n"
    assert list(Path("out").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("agents=7", "with agents = 6 where this has 7"),
        ("sweep.axis.0.high=20.0", "with sweep.axis.0.high = 10.0 where this has 20.0"),
        ("sweep.seeds=3", "with sweep.seeds.2 = none where this has 2"),
        ("policy.greedy.window=5", "with policy.0.window = 3 where this has 5"),
    ],
)
def test_another_sweep_is_refused_by_its_first_key(change, said, held, capsys):
    before = (held / "table.npz").read_bytes()
    assert main(["sweep", "grid.toml", "--out", "out", "--set", change]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    allowed = "allowed is another --out, or --fresh to start again in this one"
    assert line == f"memoa: grid.toml: out holds another sweep, {said}: {allowed}"
    assert (held / "table.npz").read_bytes() == before


def test_fresh_starts_again(held, monkeypatch, capsys):
    stop(monkeypatch, 0)
    words = ["sweep", "grid.toml", "--out", "out", "--set", "agents=7", "--fresh"]
    assert main(words) == 130
    assert capsys.readouterr().err == "memoa: interrupted\n"
    assert list(held.iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "text", "other", "flipped"])
def test_a_damaged_table_is_refused_in_one_line(damage, held, capsys):
    path = held / "table.npz"
    whole = path.read_bytes()
    if damage == "other":
        np.savez(path, run=np.arange(3))
    elif damage == "flipped":
        middle = len(whole) // 3
        path.write_bytes(whole[:middle] + bytes(255 - b for b in whole[middle : middle + 40]))
    else:
        path.write_bytes(whole[:100] if damage == "cut" else b"run,policy")
    assert main(["sweep", "grid.toml", "--out", "out"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("memoa: grid.toml: out/table.npz: is damaged")


def test_other_results_are_not_written_over(capsys):
    Path("out").mkdir()
    Path("out/summary.json").write_text('{"name": "a run"}')
    assert main(["sweep", "grid.toml", "--out", "out"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("memoa: grid.toml: out holds other results: allowed is another --out")
    Path("out/summary.json").write_text("{")
    assert main(["sweep", "grid.toml", "--out", "out"]) == 2
    assert "summary.json is damaged" in capsys.readouterr().err


def test_the_plan_needs_no_jax():
    import subprocess
    import sys

    code = "import sys, memoa_jax.sweep_plan as p, memoa_jax.config_file as f\n"
    code += "p.plan(f.load('grid.toml'))\nassert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert sweep_plan.MOST_RUNS == 20_000
    with pytest.raises(ConfigError):
        plan(load("grid.toml", ["sweep.seeds=10000"]))
