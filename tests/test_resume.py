"""`memoa run` is kept, gone on with, and refuses what is not its own."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from helpers import summary_of, told

from memoa_jax import policy_run as run
from memoa_jax.cli import main
from memoa_jax.disk_keeper import DiskKeeper
from memoa_jax.files import only_writer

TEXT = """
name = "kept"
agents = 7
[series]
kind = "logistic"
steps = 30
[encoder]
kind = "random_features"
features = 2
[[policy]]
kind = "greedy"
[[policy]]
kind = "greedy"
name = "second"
[run]
uncoupled = false
chunk = 8
"""
EVERY = ["--checkpoint-every", "0"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("kept.toml").write_text(TEXT)


def stop_at(monkeypatch, offer, number=signal.SIGINT):
    """Send a signal at one of the moments when a run can be kept."""
    offers, real = [], DiskKeeper.offer

    def counting(self, *arguments):
        offers.append(1)
        if len(offers) == offer:
            signal.raise_signal(number)
        real(self, *arguments)

    monkeypatch.setattr(DiskKeeper, "offer", counting)


def interrupted(monkeypatch, offer, number=signal.SIGINT, *words):
    with monkeypatch.context() as patch:
        stop_at(patch, offer, number)
        code = main(["run", "kept.toml", *words])
    assert code == 128 + number
    return summary_of(Path("runs/kept"))


def arrays_of(folder):
    return Path(folder, "trajectories.npz").read_bytes()


def without_times(summary):
    for policy in summary["policies"].values():
        for name in ("seconds", "compile_seconds", "agent_steps_per_second"):
            del policy[name]
    return summary


@pytest.mark.parametrize("offer", [1, 2, 4, 6])
def test_an_interrupted_run_goes_on_and_ends_as_if_nothing_had_been(monkeypatch, capsys, offer):
    assert main(["run", "kept.toml", "--out", "whole"]) == 0
    summary = interrupted(monkeypatch, offer)
    label, rows = ("greedy", 8 * offer) if offer <= 3 else ("second", 8 * (offer - 3))
    assert summary["partial"] == {label: rows}
    assert summary["interrupted"]
    captured = capsys.readouterr()
    assert f"INTERRUPTED: {label}: {rows} of 31 rows only" in captured.out
    assert "stopping at the end of this chunk; once more to stop at once" in captured.err
    assert captured.err.endswith("go on with --resume runs/kept\n")
    whole = np.load("whole/trajectories.npz")
    with np.load("runs/kept/trajectories.npz") as partial:
        found = partial[f"server/{label}"]
    np.testing.assert_array_equal(found, whole[f"server/{label}"][:rows])

    assert main(["run", "--resume", "runs/kept", "--log-level", "info"]) == 0
    assert f"goes on from {rows} of 31" in capsys.readouterr().err
    assert (
        Path("runs/kept/trajectories.npz").read_bytes()
        == Path("whole/trajectories.npz").read_bytes()
    )
    ended, expected = (without_times(summary_of(Path(one))) for one in ("runs/kept", "whole"))
    assert ended == expected
    assert not Path("runs/kept/checkpoint").exists()


GROUPS = (
    TEXT[: TEXT.index("[[policy]]")].replace("agents = 7\n", "")
    + """
[[group]]
name = "few"
agents = 2
cost = { effort = 0.5 }
[[group]]
name = "many"
agents = 5
encoder = { kind = "echo_state", features = 1 }
[[policy]]
kind = "heterogeneous"
horizon = 1
spread = { effort = 0.5 }
[run]
uncoupled = false
chunk = 8
[record]
agents = [0, 6]
"""
)


def test_groups_and_costs_of_everybody_s_own_go_on_too(monkeypatch, capsys):
    Path("kept.toml").write_text(GROUPS)
    assert main(["run", "kept.toml", "--out", "whole"]) == 0
    summary = interrupted(monkeypatch, 2)
    assert summary["partial"] == {"heterogeneous": 16}
    assert main(["run", "--resume", "runs/kept", "--log-level", "info"]) == 0
    assert "heterogeneous: goes on from 16 of 31" in capsys.readouterr().err
    assert arrays_of("runs/kept") == arrays_of("whole")
    ended, expected = (without_times(summary_of(one)) for one in ("runs/kept", "whole"))
    assert ended == expected
    assert set(expected["policies"]["heterogeneous"]["groups"]) == {"few", "many"}


def test_a_termination_is_code_143(monkeypatch, capsys):
    interrupted(monkeypatch, 1, signal.SIGTERM)
    assert capsys.readouterr().err.splitlines()[-1].startswith("memoa: terminated; not run: ")


def test_unfinished_work_is_not_written_over(monkeypatch, capsys):
    interrupted(monkeypatch, 2)
    capsys.readouterr()
    assert main(["run", "kept.toml"]) == 2
    (line,) = told(capsys)
    assert "runs/kept holds an unfinished run: allowed is --resume runs/kept" in line
    assert main(["run", "kept.toml", "--fresh"]) == 0
    assert not summary_of(Path("runs/kept"))["interrupted"]


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--set", "seed=3"], "is of seed = 0 where this has 3"),
        (["--set", 'dtype="float64"'], 'is of dtype = "float32" where this has "float64"'),
        (["--set", "policy.greedy.window=5"], "policy.0.window = 3 where this has 5"),
        (["--set", "agents=8"], "is of agents = 7 where this has 8"),
        (["--fresh"], "--fresh with --resume runs/kept: allowed is one of them"),
        (["--out", "other"], "--out other with --resume runs/kept: allowed is one of them"),
    ],
)
def test_another_run_is_refused_by_key(monkeypatch, capsys, words, fault):
    interrupted(monkeypatch, 2)
    capsys.readouterr()
    assert main(["run", "kept.toml", "--resume", "runs/kept", *words]) == 2
    (line,) = told(capsys)
    assert fault in line
    assert main(["run", "--resume", "runs/kept"]) == 0


def newest(kind):
    return sorted(Path("runs/kept/checkpoint/policy-0").glob(f"*.{kind}"))[-1]


def test_a_damaged_checkpoint_falls_back_to_the_one_before_it(monkeypatch, capsys):
    assert main(["run", "kept.toml", "--out", "whole"]) == 0
    interrupted(monkeypatch, 2, signal.SIGINT, *EVERY)
    path = newest("npz")
    path.write_bytes(path.read_bytes()[:-9])
    assert main(["run", "--resume", "runs/kept", "--log-level", "info"]) == 0
    error = capsys.readouterr().err
    assert (
        f"{path} is damaged (its SHA-256 is another): the checkpoint before it stands in" in error
    )
    assert "goes on from 8 of 31" in error
    assert (
        Path("runs/kept/trajectories.npz").read_bytes()
        == Path("whole/trajectories.npz").read_bytes()
    )


def test_where_nothing_is_whole_the_run_is_refused_in_one_line(monkeypatch, capsys):
    interrupted(monkeypatch, 1)
    newest("json").write_text("{}")
    capsys.readouterr()
    assert main(["run", "--resume", "runs/kept"]) == 1
    assert "is damaged" in told(capsys)[-1]


def test_a_foreign_checkpoint_is_refused(monkeypatch, capsys):
    interrupted(monkeypatch, 1)
    identity = Path("runs/kept/checkpoint/identity.json")
    identity.write_text(identity.read_text().replace('"seed": 0', '"seed": 1'))
    capsys.readouterr()
    assert main(["run", "--resume", "runs/kept"]) == 2
    (line,) = told(capsys)
    assert "identity.json is damaged" in line
    assert "--fresh" in line


def test_faults_of_the_words_themselves(capsys):
    assert main(["run"]) == 2
    assert "no CONFIG: allowed is a TOML file, or --resume DIR" in told(capsys)[0]
    assert main(["run", "--resume", "nowhere"]) == 2
    assert "--resume nowhere: no such folder" in told(capsys)[0]
    Path("empty").mkdir()
    assert main(["run", "kept.toml", "--resume", "empty"]) == 2
    assert "holds no unfinished run" in told(capsys)[0]
    with pytest.raises(SystemExit):
        main(["run", "kept.toml", "--checkpoint-every", "-3"])
    assert "allowed is a number >= 0, or never" in capsys.readouterr().err


def test_an_input_file_that_changed_is_another_run(monkeypatch, capsys):
    rows = "\n".join(f"{0.1 * k:.3f},{(k * 7 % 5) / 5:.3f}" for k in range(31))
    Path("data.csv").write_text(f"x,y\n{rows}\n")
    series = 'kind = "table"\npath = "data.csv"\ninputs = ["x"]\ntargets = ["y"]'
    Path("kept.toml").write_text(TEXT.replace('kind = "logistic"\nsteps = 30', series))
    interrupted(monkeypatch, 2)
    Path("data.csv").write_text(f"x,y\n{rows.replace('0.400', '0.401')}\n")
    capsys.readouterr()
    assert main(["run", "--resume", "runs/kept"]) == 2
    assert "is of series.path = " in told(capsys)[0]


def test_a_disk_that_is_full_is_told_and_costs_no_result(monkeypatch, capsys):
    assert main(["run", "kept.toml", "--out", "whole"]) == 0
    interrupted(monkeypatch, 1)
    from memoa_jax import checkpoint

    def full(path):
        raise OSError(28, "No space left on device")

    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "replacing", full)
        stop_at(patch, 3)
        assert main(["run", "--resume", "runs/kept", *EVERY]) == 130
    assert "greedy: cannot be kept at 16 of 31 (No space left on device)" in capsys.readouterr().err
    assert main(["run", "--resume", "runs/kept", "--log-level", "info"]) == 0
    assert "greedy: goes on from 8 of 31" in capsys.readouterr().err
    assert arrays_of("runs/kept") == arrays_of("whole")


def test_two_runs_do_not_write_in_one_folder(capsys):
    Path("runs/kept").mkdir(parents=True)
    with only_writer(Path("runs/kept")):
        assert main(["run", "kept.toml"]) == 2
    (line,) = told(capsys)
    assert line.startswith("memoa: --out runs/kept: process ")
    assert line.endswith(" writes here: allowed is one at a time, or another folder")
    assert main(["run", "kept.toml"]) == 0


def test_a_short_run_keeps_nothing(monkeypatch):
    seen = []
    monkeypatch.setattr(DiskKeeper, "prepare", lambda: seen.append(1), raising=False)
    assert main(["run", "kept.toml"]) == 0
    assert seen == []
    assert sorted(path.name for path in Path("runs/kept").iterdir()) == [
        *("config.toml", "manifest.json", "summary.json", "trajectories.npz")
    ]


STUDY = TEXT.replace("agents = 7", "agents = 7\nseeds = [0, 1, 2]")


def test_a_study_goes_on_cell_by_cell(monkeypatch, capsys):
    Path("kept.toml").write_text(STUDY)
    assert main(["run", "kept.toml", "--out", "whole"]) == 0
    interrupted(monkeypatch, 8)
    played, real = [], run.simulate
    monkeypatch.setattr(run, "simulate", lambda *a, **k: played.append(1) or real(*a, **k))
    capsys.readouterr()
    assert main(["run", "--resume", "runs/kept"]) == 0
    assert len(played) == 4  # of six: two were of the first seed
    texts = [Path(one, "table.csv").read_text().splitlines() for one in ("whole", "runs/kept")]
    columns = texts[0][0].split(",")
    kept = [
        k for k, name in enumerate(columns) if "seconds" not in name and "per_second" not in name
    ]
    rows = [[[line.split(",")[k] for k in kept] for line in text] for text in texts]
    assert rows[0] == rows[1]
    assert not json.loads(Path("runs/kept/summary.json").read_text())["interrupted"]


TUNE = (
    TEXT.replace('name = "kept"', 'name = "kept"\ndtype = "float64"')
    + """
[tune]
keys = ["policy.cost.effort", "encoder.noise"]
steps = 5
patience = 4
"""
)


def test_a_tuning_goes_on_step_by_step(monkeypatch, capsys):
    Path("kept.toml").write_text(TUNE)
    assert main(["tune", "kept.toml", "--out", "whole"]) == 0
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        assert main(["tune", "kept.toml"]) == 130
    assert summary_of(Path("runs/kept"))["interrupted"]
    capsys.readouterr()
    assert main(["tune", "--resume", "runs/kept", "--log-level", "info"]) == 0
    assert "origin 1: goes on from 3 of 6" in capsys.readouterr().err
    for name in ("history.csv", "best.toml", "final.toml"):
        assert Path("runs/kept", name).read_bytes() == Path("whole", name).read_bytes()
    assert not Path("runs/kept/checkpoint").exists()
