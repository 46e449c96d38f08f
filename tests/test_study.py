"""Many runs of one config: the same numbers as run by run, tables over seeds, partial results."""

import json
import math
import statistics
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from helpers import interrupt, rows_of, summary_of

from memoa_jax import build, run, study, study_report
from memoa_jax.cli import main
from memoa_jax.config_faults import ConfigError
from memoa_jax.config_file import load

STUDY = """
name = "small"
agents = 10
seeds = [0, 5]

[[series]]
kind = "logistic"
steps = 20
published = { MEMOA = 0.0067, "theirs|ours" = 1 }

[[series]]
kind = "periodic"
name = "four"
steps = 20

[[encoder]]
kind = "random_features"
features = 2

[[encoder]]
kind = "random_features"
name = "loud"
features = 2
noise = 0.5

[[policy]]
kind = "greedy"

[[policy]]
kind = "centralized"

[run]
uncoupled = false
"""
SERIES, ENCODERS, SEEDS = ["logistic", "four"], ["random_features", "loud"], [0, 5]
POLICIES = ["greedy", "centralized"]
CELLS = [f"{one}, {encoder}, seed {s}" for one, encoder, s in product(SERIES, ENCODERS, SEEDS)]


@pytest.fixture(autouse=True)
def study_file(here):
    (here / "study.toml").write_text(STUDY)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run the study once; return its folder and what it said."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "study.toml").write_text(STUDY)
    said = []
    study.run_study(load(folder / "study.toml"), folder, say=said.append)
    return folder, said


def test_a_study_says_one_line_per_cell_and_writes_five_files(finished):
    folder, said = finished
    # Both series have the same sizes, so an encoder's cells run one after the other.
    ran = [f"{one}, {encoder}, seed {s}" for encoder, one, s in product(ENCODERS, SERIES, SEEDS)]
    assert [line.split(":")[0] for line in said] == ran
    assert said[0].endswith(" s (1 of 8)")
    assert "(2 of 8, about " in said[1]
    assert said[1].endswith(" left)")
    assert said[-1].endswith("(8 of 8)")
    written = {path.name for path in folder.iterdir()} - {"study.toml"}
    assert written == {"summary.json", "table.csv", "table.md", "config.toml", "manifest.json"}
    assert load(folder / "config.toml") == load(folder / "study.toml")


def test_every_number_is_that_of_a_run_of_its_own(finished, tmp_path):
    table = {
        (row["series"], row["encoder"], row["policy"], int(row["seed"])): row
        for row in rows_of(finished[0] / "table.csv")
    }
    assert len(table) == 16
    for cell in load("study.toml").cells():
        # A run of its own keeps a sample of its agents besides: another program, in which a last
        # digit may be rounded otherwise.
        bare = cell.config.run.model_copy(update={"sample": 0})
        config = cell.config.model_copy(update={"run": bare})
        found = run.run(config, tmp_path, say=lambda _: None)
        for policy, alone in found["policies"].items():
            row = table[(cell.series, cell.encoder, policy, cell.config.seed)]
            for key, value in alone.items():
                if key in row and not key.endswith("seconds"):
                    text = row[key]
                    assert (text if isinstance(value, str) else float(text)) == value, key
            for key in ("persistence", "running_mean"):
                assert float(row[key]) == found["baselines"][key]


def test_summary_holds_mean_extremes_deviation_and_every_seed(finished):
    summary = summary_of(finished[0])
    assert (summary["interrupted"], summary["not_run"]) == (False, [])
    assert (summary["seeds"], list(summary["series"])) == (SEEDS, SERIES)
    assert summary["series"]["logistic"]["published"] == {"MEMOA": 0.0067, "theirs|ours": 1}
    assert summary["series"]["four"]["published"] is None
    table = rows_of(finished[0] / "table.csv")
    for one, encoder, policy in product(SERIES, ENCODERS, POLICIES):
        found = summary["series"][one]["encoders"][encoder]["policies"][policy]
        assert (found["seeds"], found["diverged_agents"]) == (SEEDS, [0, 0])
        for key in study_report.MEASURED:
            values = [
                float(row[key])
                for row in table
                if (row["series"], row["encoder"], row["policy"]) == (one, encoder, policy)
            ]
            assert found[key]["per_seed"] == values
            assert found[key]["mean"] == statistics.fmean(values)
            assert (found[key]["min"], found[key]["max"]) == (min(values), max(values))
            assert found[key]["standard_deviation"] == pytest.approx(np.std(values, ddof=1))


def test_rows_stand_in_the_order_of_the_config(finished):
    found = [
        (row["series"], row["encoder"], int(row["seed"]), row["policy"])
        for row in rows_of(finished[0] / "table.csv")
    ]
    assert found == list(product(SERIES, ENCODERS, SEEDS, POLICIES))


def test_markdown_has_a_row_per_policy_and_the_best_server_in_bold(finished):
    text = (finished[0] / "table.md").read_text()
    summary = summary_of(finished[0])
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines[0] == (
        "| series | encoder | policy | server | mean agent | worst agent | persistence | "
        "running mean | published |"
    )
    assert len(lines) == 2 + 8
    for one, part in zip(SERIES, (lines[2:6], lines[6:]), strict=True):
        found = summary["series"][one]
        means = [
            found["encoders"][encoder]["policies"][policy]["server_rmse"]["mean"]
            for encoder, policy in product(ENCODERS, POLICIES)
        ]
        bold = ["**" in line for line in part]
        assert bold == [mean == min(means) for mean in means]
        for line, mean in zip(part, means, strict=True):
            cell = line.split(" | ")[3].strip("*")
            assert float(cell.split(" ± ")[0]) == pytest.approx(mean, rel=1e-3)
            persistence = found["baselines"]["persistence"]
            assert float(line.split(" | ")[6]) == pytest.approx(persistence, rel=1e-3)
    assert lines[2].endswith("| MEMOA 0.0067, theirs\\|ours 1 |")
    assert lines[6].endswith("| - |")


def test_manifest_names_seeds_and_hashes(finished):
    manifest = json.loads((finished[0] / "manifest.json").read_text())
    assert manifest["seeds"] == SEEDS
    assert set(manifest["sha256"]) == {"summary.json", "table.csv", "table.md", "config.toml"}
    assert str(finished[0]) not in json.dumps(manifest)


def test_the_command_runs_a_study_and_prints_its_table(finished, capsys):
    words = ["run", "study.toml", "--out", "out", "--set", "series.four.name=period"]
    assert main([*words, "--log-level", "info"]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0] == "small: 10 agents, 2 seeds, float32"
    assert [line.split()[:3] for line in lines[3:11]] == [
        list(names) for names in product(["logistic", "period"], ENCODERS, POLICIES)
    ]
    assert sum(" * " in line for line in lines[3:11]) == 2
    assert captured.err.splitlines()[-1] == "results in out"
    assert main(["run", "study.toml", "--set", "seed=5", "--format", "json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again == summary_of("runs/small")
    policy = again["series"]["four"]["encoders"]["loud"]["policies"]["greedy"]
    assert policy["server_rmse"]["standard_deviation"] is None
    whole = summary_of(finished[0])["series"]["four"]["encoders"]["loud"]["policies"]["greedy"]
    assert policy["server_rmse"]["per_seed"] == whole["server_rmse"]["per_seed"][1:]


def test_validate_names_all_of_a_study(capsys):
    assert main(["validate", "study.toml"]) == 0
    assert capsys.readouterr().out == (
        "study.toml: valid: 10 agents, logistic four x random_features loud x seeds 0 5, "
        "greedy, centralized\n"
    )


GO_ON = "; go on with --resume out"


@pytest.mark.parametrize("after", [3, 4])
def test_an_interrupted_study_keeps_what_finished(after, finished, monkeypatch, capsys):
    interrupt(monkeypatch, after)
    assert main(["run", "study.toml", "--out", "out"]) == 130
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    summary = summary_of("out")
    assert summary["interrupted"] is True
    cut = {f"{o['series']}, {o['encoder']}, seed {o['seed']}": o for o in summary["not_run"]}
    done = {CELLS[0], CELLS[1]} if after == 4 else {CELLS[0]}
    assert set(cut) == set(CELLS) - done
    if after == 3:
        assert cut[CELLS[1]]["policies"] == ["centralized"]
    last = captured.err.splitlines()[-1]
    first = next(cell for cell in CELLS if cell in cut)
    assert last == f"memoa: interrupted; not run: {first}, and {len(cut) - 1} more{GO_ON}"
    assert f"INTERRUPTED: not run: {first}; and" in captured.out
    kept = rows_of("out/table.csv")
    assert len(kept) == after
    whole = rows_of(finished[0] / "table.csv")
    for row, other in zip(kept, whole, strict=False):
        assert row["server_rmse"] == other["server_rmse"]
    greedy = summary["series"]["logistic"]["encoders"]["random_features"]["policies"]["greedy"]
    assert greedy["seeds"] == SEEDS
    assert ("1 of 2 seeds" in (Path("out") / "table.md").read_text()) == (after == 3)


def test_an_interrupt_before_anything_finished_leaves_nothing(monkeypatch, capsys):
    interrupt(monkeypatch, after=0)
    assert main(["run", "study.toml", "--out", "out"]) == 130
    assert capsys.readouterr().err == "memoa: interrupted\n"
    assert list(Path("out").iterdir()) == []


def test_a_device_that_gives_up_leaves_what_finished(monkeypatch, capsys):
    interrupt(monkeypatch, 2, RuntimeError("RESOURCE_EXHAUSTED"))
    assert main(["run", "study.toml", "--out", "out"]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert (
        line
        == f"memoa: {CELLS[1]}: policy greedy: RESOURCE_EXHAUSTED; 1 of 8 runs are in out{GO_ON}"
    )
    assert summary_of("out")["interrupted"] is True
    assert len(rows_of("out/table.csv")) == 2


def test_what_cannot_be_built_is_refused_before_anything_runs(monkeypatch, capsys):
    interrupt(monkeypatch, 0, AssertionError)
    assert main(["run", "study.toml", "--set", "series.1={kind='co2', steps=9999}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "memoa: study.toml: series co2: co2.steps = 9999: allowed is a whole number 1 .. 2283"
    )
    np.save("z.npy", np.zeros((21, 9, 1, 2)))
    assert main(["run", "study.toml", "--set", "encoder.1={kind='given', path='z.npy'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("memoa: study.toml: logistic, given: encoder.path = ")
    assert line.endswith("21 points and 9 agents: allowed is 21 points and 10 agents")
    assert main(["run", "study.toml", "--set", "series.1={kind='boc', path='none.csv'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith('none.csv": no such file')


def test_input_files_are_hashed_under_the_labels_of_their_tables(monkeypatch):
    np.save("z.npy", np.zeros((21, 10, 1, 2)))
    np.save("there.npy", np.ones((21, 10), bool))
    config = load(
        "study.toml",
        ["encoder.1={kind='given', path='z.npy'}", "participation={kind='file', path='there.npy'}"],
    )
    assert set(study._manifest(config)["inputs"]) == {
        "encoder given: z.npy",
        "participation: there.npy",
    }


def test_compiled_programs_are_let_go_when_they_grow_many(monkeypatch):
    cleared = []
    monkeypatch.setattr(study.jax, "clear_caches", lambda: cleared.append(1))
    monkeypatch.setattr(study, "compare", lambda config, *_, **__: config)
    monkeypatch.setattr(study, "without_partial", lambda found: found)
    monkeypatch.setattr(study, "summarise", lambda found: {"interrupted": False})
    config = load("study.toml", ["series.1.steps=30"])
    series = study._build_all(config)
    cells = study._in_order(config, series)
    # Four combinations of sizes and encoder compile 2 policies each; seeds compile nothing.
    assert sum(study._compiles(cells, series)) == 4
    for most, times in ((64, 0), (4, 1), (1, 4)):
        monkeypatch.setattr(study, "MOST_PROGRAMS", most)
        cleared.clear()
        list(study._play(cells, series, policies=2, session=None))
        assert len(cleared) == times


def policy(servers, diverged=(0, 0)):
    spread = study_report.spread(servers)
    return {
        **{"kind": "greedy", "game": "hindsight", "seeds": [0, 1][: len(servers)]},
        **dict.fromkeys(study_report.MEASURED, spread),
        **{"non_finite": [], "diverged_seeds": sum(d > 0 for d in diverged)},
        **{"diverged_agents": list(diverged), "notes": []},
    }


def test_tables_mark_divergence_and_never_call_it_best():
    summary = {
        **{"name": "x", "agents": 2000, "seeds": [0, 1], "dtype": "float32"},
        **{"interrupted": False, "not_run": []},
        "series": {
            "s": {
                "published": None,
                "baselines": {"persistence": 0.25, "running_mean": None, "non_finite": []},
                "encoders": {
                    "e": {
                        "policies": {
                            "lost": policy([0.1, None], diverged=(0, 1500)),
                            "kept": policy([0.5, 0.6]),
                        }
                    }
                },
            }
        },
    }
    lost, kept = study_report.to_markdown(summary).splitlines()[4:6]
    remark = "diverged: 1 of 2 seeds, up to 1,500 agents"
    assert lost.startswith(f"| s | e | lost ({remark}) | not finite |")
    assert kept.startswith("| s | e | kept | **0.5500 ± 0.071** | ")
    assert kept.endswith("| 0.2500 | not finite |")
    plain = study_report.table(summary).splitlines()
    assert plain[3].endswith(f"not finite  {remark}")
    assert "0.5500 +- 0.071 *" in plain[4]
    assert not study_report.lost(summary)
    gone = summary["series"]["s"]["encoders"]["e"]["policies"]
    gone.update(lost=policy([None, None]), kept=policy([None, None]))
    assert study_report.lost(summary)


def test_spread_says_nothing_where_a_value_is_missing():
    assert study_report.spread([None, 1.0]) == {
        **dict.fromkeys(("mean", "min", "max", "standard_deviation")),
        "per_seed": [None, 1.0],
    }
    assert study_report.spread([2.0])["standard_deviation"] is None


SINGLE = """
agents = 6
[series]
kind = "logistic"
steps = 20
[encoder]
kind = "random_features"
features = 2
[[policy]]
kind = "greedy"
"""


def test_participation_files_are_checked():
    Path("one.toml").write_text(SINGLE)
    keys = "participation={kind='file', path='there.npy'}"
    for array, said in (
        (np.ones((21, 6)), "float64 of shape (21, 6): allowed is true and false of shape [n, N]"),
        (
            np.ones((21, 5), bool),
            "21 points and 5 agents: allowed is 21 points or more and 6 agents",
        ),
        (
            np.ones((20, 6), bool),
            "20 points and 6 agents: allowed is 21 points or more and 6 agents",
        ),
    ):
        np.save("there.npy", array)
        with pytest.raises(ConfigError, match=r"participation\.path = ") as caught:
            build.present(load("one.toml", [keys]), 21)
        assert caught.value.faults[0].endswith(said)
    np.save("there.npy", np.ones((30, 6), bool))
    assert build.present(load("one.toml", [keys]), 21).mask.shape == (21, 6)
    assert build.present(load("one.toml"), 21) is None


def test_standardised_series_and_their_names():
    Path("one.toml").write_text(SINGLE)
    plain = build.series(load("one.toml").series)
    scaled = build.series(load("one.toml", ["series.standardise=true", "series.name=z"]).series)
    assert (plain.name, scaled.name) == ("logistic", "z")
    np.testing.assert_array_equal(plain.targets, scaled.targets)
    assert abs(np.mean(scaled.inputs)) < abs(np.mean(plain.inputs))
    both = build.series(load("one.toml", ["series.standardise=both"]).series)
    np.testing.assert_array_equal(both.inputs[:, :1], scaled.inputs)
    assert both.inputs.shape == (21, 2)


def test_a_run_with_another_server_and_agents_that_come_and_go(capsys):
    Path("one.toml").write_text(SINGLE)
    words = ["--set", "mixture={kind='ewa'}"]
    words += ["--set", "participation={kind='markov', leave=0.2, join=0.5}"]
    assert main(["run", "one.toml", "--out", "out", *words]) == 0
    greedy = summary_of("out")["policies"]["greedy"]
    assert math.isfinite(greedy["server_rmse"])
    resolved = load("out/config.toml")
    assert (resolved.mixture.kind, resolved.participation.kind) == ("ewa", "markov")
