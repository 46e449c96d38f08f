"""`memoa tune`: what it may see, what it writes, what it refuses."""

import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import rows_of, summary_of, told

from memoa_jax import build, tune_report, tune_run
from memoa_jax.cli import main
from memoa_jax.config_faults import ConfigError
from memoa_jax.config_file import load
from memoa_jax.config_tune import TUNABLE, values
from memoa_jax.report import to_json
from memoa_jax.timeseries import part

TUNE = """
name = "small"
agents = 6
dtype = "float64"

[series]
kind = "logistic"
steps = 60

[encoder]
kind = "random_features"
features = 2

[[policy]]
kind = "greedy"

[[policy]]
kind = "decentralized"
game = "forecast"

[run]
uncoupled = false

[tune]
policy = "decentralized"
keys = ["policy.cost.effort", "policy.cost.consensus", "encoder.noise", "mixture.kappa"]
steps = 6
held_out = 0.25
"""


@pytest.fixture(autouse=True)
def tune_file(here):
    (here / "tune.toml").write_text(TUNE)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Tune once, with the gradient checked; return the folder, the summary and what was said."""
    folder = tmp_path_factory.mktemp("tune")
    (folder / "tune.toml").write_text(TUNE)
    said = []
    summary = tune_run.run_tuning(load(folder / "tune.toml"), folder, said.append, check=True)
    return folder, summary, said


def changed(text, **replacements):
    run, tune = text.split("[tune]")
    for old, new in replacements.items():
        assert old in tune or old in run
        if old in tune:
            tune = tune.replace(old, new)
        else:
            run = run.replace(old, new)
    Path("changed.toml").write_text(f"{run}[tune]{tune}")
    return load("changed.toml")


def test_the_files_tell_one_story(finished):
    folder, summary, said = finished
    written = summary_of(folder)
    assert written == json.loads(to_json(summary))
    history = rows_of(folder / "history.csv")
    assert [int(row["step"]) for row in history] == list(range(7))
    keys = list(summary["start"])
    assert keys == load(folder / "tune.toml").tune.keys
    assert {key: float(history[0][key]) for key in keys} == pytest.approx(summary["start"])
    best = min(history, key=lambda row: float(row["validation"]))
    assert {key: float(best[key]) for key in keys} == summary["best"]
    assert {key: float(history[-1][key]) for key in keys} == summary["final"]
    assert float(history[-1]["objective"]) < float(history[0]["objective"])
    assert summary["gradient_check"]["agree"]
    assert max(summary["gradient_check"]["difference"].values()) < 1e-6
    assert said[0].startswith("gradient agrees with central differences")
    assert not list(folder.glob("*.tmp"))
    assert (folder / "history.png").read_bytes()[:4] == b"\x89PNG"
    shown = tune_report.table(summary)
    for word in ("persistence", "default", "tuned", "policy.cost.effort", "held out, rows 46..60"):
        assert word in shown


def test_the_best_config_runs_and_is_judged_on_the_held_out_rows(finished, tmp_path):
    folder, summary, _ = finished
    assert main(["run", str(folder / "best.toml"), "--out", str(tmp_path / "best")]) == 0
    found = summary_of(tmp_path / "best")
    tuned = summary["held_out"]["tuned"]
    played = found["policies"]["decentralized"]
    assert played["server_rmse"] == pytest.approx(tuned["server_rmse"], rel=1e-9)
    assert played["worst_agent_rmse"] == pytest.approx(tuned["worst_agent_rmse"], rel=1e-9)
    persistence = summary["held_out"]["persistence"]["server_rmse"]
    assert found["baselines"]["persistence"] == pytest.approx(persistence, rel=1e-12)
    assert found["scored_steps"] == 15
    final = load(folder / "final.toml")
    assert final.policy[1].cost.effort == summary["final"]["policy.cost.effort"]
    assert final.policy[0] == load(folder / "tune.toml").policy[0]  # the other one is as it was


def test_nothing_of_the_held_out_rows_is_seen(finished, monkeypatch):
    folder, summary, _ = finished
    config = load(folder / "tune.toml")
    split = tune_run.splits(config, 61)[0]
    assert split == (5, 38, 46, 61)
    original = build.series

    def another_future(table):
        lived = original(table)
        lived.targets[split.held_out :] += 7.0
        lived.inputs[split.held_out :] -= 3.0
        return lived

    monkeypatch.setattr(build, "series", another_future)
    again = tune_run.run_tuning(config, Path(), lambda _: None)
    assert again["best"] == summary["best"]
    assert again["final"] == summary["final"]
    assert again["origins"][0]["validation"] == summary["origins"][0]["validation"]
    assert again["held_out"]["tuned"] != summary["held_out"]["tuned"]


@pytest.mark.parametrize(
    ("schedule", "mode"),
    [
        ("stream", "forward"),
        ("resident", "reverse"),
        pytest.param("stream", "reverse", marks=pytest.mark.slow),
    ],
)
def test_schedules_and_modes_descend_on_one_path(finished, schedule, mode):
    config = changed(
        TUNE,
        **{"uncoupled = false": f'uncoupled = false\nschedule = "{schedule}"\nblock = 4'},
        **{"steps = 6": f'steps = 2\nmode = "{mode}"'},
    )
    found = tune_run.run_tuning(config, Path(), lambda _: None)
    rows = rows_of("history.csv")
    folder = finished[0]
    together = rows_of(folder / "history.csv")
    for mine, theirs in zip(rows, together, strict=False):
        for name in set(theirs) - {"origin", "step"}:
            assert float(mine[name]) == pytest.approx(float(theirs[name]), rel=1e-6), name
    assert len(rows) == 3
    assert found["mode"] == mode


def test_several_origins_share_the_held_out_rows_and_see_more_and_more():
    config = changed(TUNE, **{"held_out = 0.25": "held_out = 0.25\norigins = 3\nwarm_up = 0.0"})
    windows = tune_run.splits(config, 61)
    assert [(split.held_out, split.stop) for split in windows] == [(46, 51), (51, 56), (56, 61)]
    for split in windows:
        assert split.scored == 1
        assert split.held_out - split.validation == round(0.2 * (split.held_out - 1))


def test_figures_of_several_origins_are_pooled_over_rows():
    origins = [
        tune_run.Origin(None, None, {"tuned": dict.fromkeys(tune_report._COLUMNS, v) | {"rows": r}})
        for v, r in ((1.0, 30.0), (3.0, 10.0))
    ]
    found = tune_report._pooled(origins, "tuned")
    assert found["server_rmse"] == pytest.approx(math.sqrt((30 + 90) / 40))
    assert found["mean_agent_cost"] == pytest.approx((30 + 30) / 40)


def test_seeds_are_averaged():
    config = changed(TUNE, **{"steps = 6": "steps = 6\nseeds = [3, 8]"})
    lived = part(build.series(config.series), 10)
    together = tune_run.objective_on(config, lived)(config.start())
    each = [
        tune_run.objective_on(
            changed(TUNE, **{"steps = 6": f"steps = 6\nseeds = [{seed}]"}), lived
        )(config.start())
        for seed in (3, 8)
    ]
    assert each[0] != each[1]
    np.testing.assert_allclose(together, np.mean(each), rtol=1e-12)


def test_changes_build_what_a_config_with_those_values_builds():
    config = load("tune.toml")
    policy = config.tuned_policy
    known = values(config, policy)
    assert set(known) < set(TUNABLE)
    assert "policy.greedy_effort" not in known  # it is not set
    moved = {key: 0.5 * value + 0.01 for key, value in known.items()}
    other = tune_run.tuned_config(config, moved, scored_from=7)
    assert other.series.scored_from == 7
    for built, expected in (
        (build.policy(policy, moved), build.policy(other.tuned_policy)),
        (build.encoder(config, 61, moved), build.encoder(other, 61)),
        (build.server_mixture(config, moved), build.server_mixture(other)),
    ):
        assert jax.tree.structure(built) == jax.tree.structure(expected)
        assert jax.tree.leaves(built) == jax.tree.leaves(expected)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({'"mixture.kappa"': '"mixture.kapa"'}, 'tune.keys.3 = "mixture.kapa": not a number'),
        ({'"mixture.kappa"': '"encoder.noise"'}, 'tune.keys.3 = "encoder.noise": named twice'),
        ({'"mixture.kappa"': '"policy.greedy_effort"'}, "not a number that this run has; allowed"),
        ({'policy = "decentralized"': 'policy = "central"'}, 'tune.policy = "central": allowed is'),
        ({"steps = 6": "steps = 0"}, "tune.steps = 0: allowed is a whole number >= 1"),
        ({"steps = 6": "stepps = 6"}, "tune.stepps: unknown key; did you mean steps?"),
        ({"steps = 6": 'optimiser = "adan"'}, "did you mean adam?"),
        ({"held_out = 0.25": "held_out = 1.5"}, "tune.held_out = 1.5: allowed is a number > 0"),
        ({"keys = [": "keys = []\nothers = ["}, "tune.keys = []: allowed is a list of keys"),
    ],
)
def test_faults_are_told_in_one_line_each(changes, fault, capsys):
    with pytest.raises(ConfigError, match=r"changed\.toml: ") as caught:
        changed(TUNE, **changes)
    assert any(fault in line for line in caught.value.faults), caught.value.faults
    assert main(["tune", "changed.toml"]) == 2
    told = capsys.readouterr().err
    assert fault in told
    assert "Traceback" not in told


def test_windows_without_rows_are_refused(capsys):
    changed(TUNE, **{"held_out = 0.25": "held_out = 0.25\norigins = 12"})
    assert main(["tune", "changed.toml"]) == 2
    assert "give a window of 1 rows of the series' 60: allowed is 2 or more" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("first", "last", "fault"),
    [
        (46, 61, "held_out and tune.origins give a window of rows 46..60, none"),
        (38, 46, "validation has rows 38..45, none of which has all its targets"),
        (5, 38, "warm_up and tune.validation leave rows 5..37, none of which has"),
    ],
)
def test_windows_without_targets_are_refused_before_the_descent(
    first, last, fault, capsys, monkeypatch
):
    def refuse(*_, **__):
        raise AssertionError("descended")

    monkeypatch.setattr(tune_run, "tune", refuse)
    cells = ["" if first <= row < last else f"{math.sin(row)}" for row in range(61)]
    rows = "\n".join(f"{row / 61},{cell}" for row, cell in enumerate(cells))
    Path("gap.csv").write_text(f"x,y\n{rows}\n")
    series = 'kind = "table"\npath = "gap.csv"\nmissing = "mask"\ninputs = ["x"]\ntargets = ["y"]'
    Path("changed.toml").write_text(TUNE.replace('kind = "logistic"\nsteps = 60', series))
    assert main(["tune", "changed.toml"]) == 2
    (line,) = told(capsys)
    assert line.startswith(f"memoa: changed.toml: tune.{fault}")
    assert line.endswith(": allowed are rows of which at least one has")


def test_the_command_line_tunes_and_says_so(capsys):
    words = ["tune", "tune.toml", "--set", "tune.steps=1", "--check-gradients"]
    assert main([*words, "--log-level", "info"]) == 0
    out, told = capsys.readouterr()
    assert "held out" in out
    assert "gradient agrees" in told
    assert "results in runs/small" in told
    assert Path("runs/small/best.toml").is_file()
    assert main(["run", "tune.toml"]) == 2
    assert "has a [tune]; allowed is memoa tune" in capsys.readouterr().err
    assert main(["validate", "tune.toml"]) == 0


def test_an_interruption_keeps_what_was_found(monkeypatch, capsys):
    real = tune_run.tune

    def interrupted(*arguments, on_step, **options):
        def told(number, step):
            on_step(number, step)
            if number == 2:
                raise KeyboardInterrupt

        return real(*arguments, on_step=told, **options)

    monkeypatch.setattr(tune_run, "tune", interrupted)
    assert main(["tune", "tune.toml", "--format", "json"]) == 130
    out, told = capsys.readouterr()
    assert json.loads(out)["interrupted"] is True
    assert json.loads(out)["origins"][0]["steps"] == 2
    assert "interrupted" in told
    assert Path("runs/small/best.toml").is_file()
