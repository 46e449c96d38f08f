"""The affine policy in a config: its sizes, its runs, and `memoa tune` on its gains."""

import csv
import json
from pathlib import Path

import pytest

from memoa_jax import build, tune_run
from memoa_jax.cli import main
from memoa_jax.config_faults import ConfigError
from memoa_jax.config_file import load
from memoa_jax.config_tune import TUNABLE, values
from memoa_jax.timeseries import part
from memoa_jax.tuning import tune

RUN = """
name = "gains"
agents = 6
dtype = "float64"

[series]
kind = "logistic"
steps = 60

[encoder]
kind = "random_features"
features = 3

[[policy]]
kind = "decentralized"
game = "forecast"

[[policy]]
kind = "affine"
"""
TUNE = """
[tune]
policy = "affine"
keys = ["policy.own", "policy.mean", "policy.target", "policy.offset"]
measure = "mean_agent_cost"
optimiser = "nadam"
learning_rate = 0.001
steps = 100
"""
FITS = "own = [[0.1], [0.0], [0.2]]\ntarget = [[-0.1], [0.0], [-0.2]]\noffset = [0.0, 0.1, 0.0]\n"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def config(text):
    Path("gains.toml").write_text(text)
    return load("gains.toml")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Tune all gains from zero; return the folder and the summary."""
    folder = tmp_path_factory.mktemp("gains")
    (folder / "gains.toml").write_text(RUN + TUNE)
    return folder, tune_run.run_tuning(load(folder / "gains.toml"), folder, lambda _: None)


def test_gains_are_tuned_from_zero_entry_by_entry(finished):
    folder, summary = finished
    names = [f"policy.{gain}.{k}.0" for gain in ("own", "mean", "target") for k in range(3)]
    names += [f"policy.offset.{k}" for k in range(3)]
    assert list(summary["start"]) == names
    assert set(summary["start"].values()) == {0.0}
    assert summary["mode"] == "reverse"  # twelve numbers
    history = list(csv.DictReader((folder / "history.csv").read_text().splitlines()))
    assert set(names) < set(history[0])
    assert {f"gradient {name}" for name in names} < set(history[0])
    first, *_, last = (float(row["objective"]) for row in history)
    # By little: of a chaotic series gains that all agents share foretell next to nothing.
    assert last < 0.999 * first
    (origin,) = summary["origins"]
    assert origin["validation"][1] < 0.995 * origin["validation"][0]
    assert (folder / "history.png").is_file()


def test_the_tuned_config_runs_beside_the_games_and_gives_its_figures(finished, tmp_path):
    folder, summary = finished
    best = load(folder / "best.toml")
    assert best.policy[0] == load(folder / "gains.toml").policy[0]
    assert best.policy[1].own == [[summary["best"][f"policy.own.{k}.0"]] for k in range(3)]
    assert best.policy[1].offset == [summary["best"][f"policy.offset.{k}"] for k in range(3)]
    assert main(["run", str(folder / "best.toml"), "--out", str(tmp_path / "best")]) == 0
    found = json.loads((tmp_path / "best" / "summary.json").read_text())
    assert list(found["policies"]) == ["decentralized", "affine"]
    played, tuned = found["policies"]["affine"], summary["held_out"]["tuned"]
    assert (played["kind"], played["game"]) == ("affine", "none")
    for name in ("server_rmse", "mean_agent_rmse", "worst_agent_rmse"):
        assert played[name] == pytest.approx(tuned[name], rel=1e-9)
    assert played["mean_agent_cost"] / found["scored_steps"] == pytest.approx(
        tuned["mean_agent_cost"], rel=1e-9
    )
    # The config that was tuned names its zeros, and tunes to the same.
    again = load(folder / "config.toml")
    assert again.policy[1].offset == [0.0] * 3
    assert again.start() == summary["start"]


def test_gains_tuned_from_zero_learn_to_follow_a_random_walk():
    text = RUN.replace('"logistic"', '"random_walk"') + TUNE.replace("0.001", "0.005")
    sized = config(text).sized(3, 1)
    lived = part(build.series(sized.series), 5)
    follow = tune_run.gradient_on(sized, lived)
    start = sized.start()
    found = tune(follow, start, dict.fromkeys(start, "free"), steps=40, learning_rate=0.005)
    assert found.best.objective < 0.6 * found.history[0].objective


def test_gains_that_are_given_are_where_descent_begins_and_others_stay():
    made = config(RUN + FITS + TUNE.replace(', "policy.offset"', "").replace('"policy.own", ', ""))
    assert set(TUNABLE) >= {"policy.own", "policy.mean", "policy.target", "policy.offset"}
    sized = made.sized(3, 1)
    start = sized.start()
    assert start == {
        **{f"policy.mean.{k}.0": 0.0 for k in range(3)},
        **{f"policy.target.{k}.0": (-0.1, 0.0, -0.2)[k] for k in range(3)},
    }
    assert sized.policy[1].own == [[0.1], [0.0], [0.2]]
    moved = {name: number + k for k, (name, number) in enumerate(start.items())}
    other = tune_run.tuned_config(sized, moved, scored_from=7)
    assert values(other, other.tuned_policy) == values(sized, sized.tuned_policy) | moved
    assert build.policy(sized.tuned_policy, moved) == build.policy(other.tuned_policy)
    assert sized.start() == start  # nothing was changed in place


@pytest.mark.parametrize(
    ("gains", "fault"),
    [
        (
            "own = [[1.0], [1.0]]\n",
            "policy.1.own: 2 rows of length 1: allowed is 3 rows of length 1, a row per feature of "
            "the encoder and a number per output of the series",
        ),
        (
            "target = [[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]\n",
            "policy.1.target: 3 rows of length 2: allowed is 3 rows of length 1",
        ),
        ("offset = [1.0]\n", "policy.1.offset: length 1: allowed is length 3, a number per"),
    ],
)
def test_gains_of_another_size_are_refused_in_one_line_each(gains, fault, capsys):
    config(RUN + gains)
    assert main(["run", "gains.toml"]) == 2
    told = capsys.readouterr().err
    assert fault in told
    assert "Traceback" not in told
    with pytest.raises(ConfigError) as caught:
        tune_run.run_tuning(config(RUN + gains + TUNE), Path(), lambda _: None)
    assert len(caught.value.faults) == 1
    assert fault in caught.value.faults[0]


def test_gains_are_no_number_of_another_policy():
    with pytest.raises(ConfigError, match=r'"policy.own": not a number that this run has'):
        config(RUN + TUNE.replace('"affine"', '"decentralized"'))
    with pytest.raises(ConfigError, match=r"allowed: policy.own, policy.mean, policy.target, pol"):
        config(RUN + TUNE.replace('"policy.own"', '"policy.ridge"'))


def test_a_stream_refuses_the_affine_policy_by_name(capsys):
    config(RUN + FITS + '[run]\nschedule = "stream"\n')
    assert main(["run", "gains.toml"]) == 2
    told = capsys.readouterr().err
    assert "policy affine: simulate: schedule = 'stream' cannot do this: policy Affine" in told
    config(RUN + TUNE + '[run]\nschedule = "stream"\n')
    assert main(["tune", "gains.toml"]) == 2
    assert "policy Affine names no surveys" in capsys.readouterr().err


def test_studies_and_sweeps_run_it(tmp_path):
    config("seeds = 2\n" + RUN + FITS)
    assert main(["run", "gains.toml", "--out", "study"]) == 0
    rows = list(csv.DictReader(Path("study/table.csv").read_text().splitlines()))
    assert {(row["policy"], row["game"]) for row in rows} == {
        ("decentralized", "forecast"),
        ("affine", "none"),
    }
    config(
        RUN + FITS + '[sweep]\nmethod = "grid"\n[[sweep.axis]]\nkey = "policy.affine.own.1.0"\n'
        "low = 0.0\nhigh = 0.2\ncount = 3\n"
    )
    assert main(["sweep", "gains.toml", "--out", "sweep"]) == 0
    rows = list(csv.DictReader(Path("sweep/table.csv").read_text().splitlines()))
    swept = [float(row["server_rmse"]) for row in rows if row["policy"] == "affine"]
    other = [float(row["server_rmse"]) for row in rows if row["policy"] == "decentralized"]
    assert (len(set(swept)), len(set(other))) == (3, 1)
    assert json.loads(Path("sweep/summary.json").read_text())["compilations"] == 2
