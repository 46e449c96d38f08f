"""Sweeps: what they write, how points are ranked and drawn, and how a sweep goes on."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import GRID, SWEPT, assert_as_alone, drawn, rows_of, summary_of

from memoa_jax import report, sweep, sweep_batch, sweep_figures, sweep_report
from memoa_jax.choices import METRICS
from memoa_jax.cli import main
from memoa_jax.config import Config
from memoa_jax.config_file import load
from memoa_jax.figure_style import FigureError
from memoa_jax.sweep_plan import plan

pytestmark = pytest.mark.usefixtures("grid")

WRITTEN = {"config.toml", "runs.jsonl", "summary.json", "table.npz", "table.csv", "best.toml"} | {
    "manifest.json",
    "marginals.png",
}


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


# Results.


def test_a_sweep_says_its_progress_and_writes_its_files(finished):
    folder, summary, said = finished
    assert said == ["call 1 of 2: 12 of 36 rows", "call 2 of 2: 36 of 36 rows"]
    assert {path.name for path in folder.iterdir()} == WRITTEN | {"grid.toml"}
    assert summary_of(folder) == summary
    assert load(folder / "config.toml") == load(folder / "grid.toml")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["sha256"]) == WRITTEN - {"manifest.json", "marginals.png"}
    assert (manifest["seeds"], summary["compilations"]) == ([0, 1], 2)
    assert str(folder) not in json.dumps([manifest, summary])


def test_the_table_is_tidy_and_its_two_files_agree(finished):
    folder = finished[0]
    table = rows_of(folder / "table.csv")
    axes = ["policy.decentralized.cost.effort", "encoder.noise"]
    head = ["run", "point", *axes, "seed", "policy", "kind", "game", *METRICS]
    head += ["worst_agent", "diverged_agents", "status", "notes", "persistence", "running_mean"]
    assert list(table[0]) == head
    order = [(run.index, policy) for run in plan(load("grid.toml")) for policy in SWEPT]
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


def test_every_row_is_that_of_a_run_of_its_own(finished):
    found = {}
    with np.load(finished[0] / "table.npz") as packed:
        columns = {name: packed[name].tolist() for name in packed.files}
    for row in zip(*columns.values(), strict=True):
        figures = dict(zip(columns, row, strict=True))
        found[figures["run"], figures["policy"]] = figures
    runs = plan(load("grid.toml", ["run.best_readout=false"]))
    assert len(found) == len(SWEPT) * len(runs)
    assert_as_alone(found, runs, 1e-5)


def test_every_runs_config_is_listed_in_full(finished):
    lines = [json.loads(line) for line in (finished[0] / "runs.jsonl").read_text().splitlines()]
    for line, one in zip(lines, plan(load("grid.toml")), strict=True):
        assert (line["run"], line["point"], line["values"]) == (one.index, one.point, one.values)
        assert Config.model_validate(line["config"]) == one.config


def test_the_summary_ranks_points_by_their_means_over_seeds(finished):
    folder, summary, _ = finished
    table = rows_of(folder / "table.csv")
    for label in SWEPT:
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
    words = ["sweep", "grid.toml", "--out", "out", "--set", "sweep.top=2"]
    assert main([*words, "--log-level", "info"]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0] == "grid: grid of 6 points, 2 seeds, 6 agents, float32"
    assert lines[2].split() == ["policy", "effort", "noise", "server_rmse", "+-", "persistence"]
    assert [line.split()[:2] for line in lines[3:9]] == [
        [label, str(rank)] for label in SWEPT for rank in (1, 2)
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
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["sweep", "grid.toml", "--out", "out", "--log-level", "info"]) == 0
    assert "no figure: matplotlib is not installed" in capsys.readouterr().err
    assert not Path("out/marginals.png").exists()


def test_medians_are_by_value_on_a_grid_and_by_bin_elsewhere():
    grid, metric = load("grid.toml"), np.arange(6.0)
    places = np.array([0.1, 0.1, 0.1, 1.0, 1.0, 10.0])
    found = sweep_figures._medians("grid", grid.sweep.axis[0], places, metric)
    assert found == ([0.1, 1.0, 10.0], [1.0, 3.5, 5.0])
    random = load(drawn("random"))
    places = np.geomspace(0.1, 10.0, 40)
    centres, medians = sweep_figures._medians("random", random.sweep.axis[0], places, places)
    assert len(centres) == 10
    assert medians == centres
    assert np.diff(np.log(centres)) == pytest.approx(np.log(100) / 10, rel=0.3)
    one = sweep_figures._medians("random", random.sweep.axis[0], places[:1], places[:1])
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


def stop(monkeypatch, after, error=KeyboardInterrupt):
    """Make the call number `after` behave as if Ctrl-C were pressed in it; return the calls."""
    calls = []
    real = sweep_batch.Programs.run

    def once(self, batch):
        if len(calls) == after:
            raise error
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
    assert summary_of("out")["interrupted"] is True
    assert {row["policy"] for row in rows_of("out/table.csv")} == {"greedy"}
    with monkeypatch.context() as patch:
        stop(patch, 0, RuntimeError("RESOURCE_EXHAUSTED"))
        assert main(["sweep", "grid.toml", "--out", "out"]) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[-1] == "memoa: RESOURCE_EXHAUSTED; 12 of 36 rows are in out"
    with monkeypatch.context() as patch:
        calls = stop(patch, 9)
        assert main(["sweep", "grid.toml", "--out", "out", "--log-level", "info"]) == 0
    assert len(calls) == 1
    assert capsys.readouterr().err.splitlines()[0] == "12 of 36 rows are there"
    for name in WRITTEN - {"summary.json", "manifest.json", "marginals.png"}:
        assert (Path("out") / name).read_bytes() == (finished[0] / name).read_bytes(), name
    untimed = [summary_of(folder) for folder in ("out", finished[0])]
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
