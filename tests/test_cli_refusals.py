"""The command line where it refuses, fails or is interrupted: one line each, no traceback."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import interrupt, summary_of, told

from memoa_jax import doctor, report
from memoa_jax.cli import main

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.usefixtures("here")


def test_wrong_usage_is_code_2(capsys):
    for words in ([], ["rnu"], ["sweep"], ["run", "x.toml", "--format", "xml"]):
        with pytest.raises(SystemExit) as caught:
            main(words)
        assert caught.value.code == 2
    told(capsys)


@pytest.mark.parametrize("command", ["run", "validate"])
def test_config_faults_are_code_2_and_one_line_each(command, tiny, capsys):
    words = [command, str(tiny), "--set", "agnts=3", "--set", "policy.greedy.window=0"]
    assert main(words) == 2
    assert told(capsys) == [
        "memoa: --set policy.greedy.window=0: policy.0.window = 0: allowed is a whole number >= 1",
        "memoa: --set agnts=3: agnts: unknown key; did you mean agents?",
    ]
    assert main([command, "none.toml"]) == 2
    assert told(capsys) == ["memoa: none.toml: no such file"]
    assert not Path("runs").exists()


def test_out_that_cannot_be_written_is_code_2_before_anything_runs(tiny, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for out in ("file", "file/below"):
        assert main(["run", str(tiny), "--out", out]) == 2
        expected = f"memoa: --out {out}: a file stands in the way; give a folder"
        assert told(capsys) == [expected]


def test_out_without_permission_is_code_2(tiny, monkeypatch, capsys):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    assert main(["run", str(tiny), "--out", "out"]) == 2
    assert told(capsys) == ["memoa: --out out: cannot be written (Permission denied)"]


RUNAWAY = [
    *("--set", 'policy=[{kind="greedy", window=20, cost={effort=1e-6}}]'),
    *("--set", "series={kind='brownian', steps=2000}"),
]
"""A long window with next to no effort runs away (MATH 7.2)."""


def test_diverged_policies_are_marked_and_their_numbers_are_null(tiny, capsys):
    """Nothing stays finite here, so the run has failed too: code 1, after it wrote all."""
    assert main(["run", str(tiny), *RUNAWAY]) == 1
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert captured.err.splitlines()[-1].startswith("memoa: no policy kept a finite server output")
    policy = summary_of(Path("runs/tiny"))["policies"]["greedy"]
    assert policy["diverged_agents"] > 0
    (row,) = [line for line in captured.out.splitlines() if line.startswith("greedy ")]
    assert row.endswith(f"diverged: {policy['diverged_agents']} of 6 agents")
    assert policy["worst_agent_rmse"] is None
    assert policy["server_rmse"] is None
    assert {"worst_agent_rmse", "server_rmse"} <= set(policy["non_finite"])
    assert "not finite" in row
    assert policy["notes"]
    assert f"greedy: {policy['notes'][0]}" in captured.out


def test_what_the_library_refuses_is_code_2(tiny, tmp_path, capsys):
    assert main(["run", str(tiny), "--set", "series.kind=co2", "--set", "series.steps=9999"]) == 2
    (line,) = told(capsys)
    assert line == f"memoa: {tiny}: co2.steps = 9999: allowed is a whole number 1 .. 2283"
    np.savez(tmp_path / "z.npz", features=np.zeros((21, 5, 1, 2)))
    given = ["run", str(tiny), "--set", "encoder={kind='given', path='z.npz'}"]
    assert main(given) == 2
    assert told(capsys)[0].endswith("21 points and 5 agents: allowed is 21 points and 6 agents")
    assert main([*given, "--set", "encoder.array=x"]) == 2
    assert told(capsys)[0].endswith("no array x; allowed: features")
    Path("z.npz").write_text("no array")
    assert main(given) == 2
    assert "not a NumPy file" in told(capsys)[0]


def test_interrupted_run_keeps_what_finished(tiny, monkeypatch, capsys):
    interrupt(monkeypatch, after=2)
    assert main(["run", str(tiny)]) == 130
    captured = capsys.readouterr()
    last = captured.err.splitlines()[-1]
    left = "centralized, uncoupled; go on with --resume runs/tiny"
    assert last == f"memoa: interrupted; not run: {left}"
    assert "INTERRUPTED: not run: centralized, uncoupled" in captured.out
    summary = summary_of(Path("runs/tiny"))
    assert summary["interrupted"] is True
    assert list(summary["policies"]) == ["greedy", "decentralized"]
    assert summary["policies"]["greedy"]["under_performer_regret"] is None


def test_interrupt_before_anything_finished_is_one_line(tiny, monkeypatch, capsys):
    interrupt(monkeypatch, after=0)
    assert main(["run", str(tiny)]) == 130
    assert told(capsys) == ["memoa: interrupted"]
    assert list(Path("runs/tiny").iterdir()) == []


def test_ctrl_c_in_a_process_is_code_130(tiny):
    """The signal arrives while the second policy runs; the first one's results stay."""
    # One program for all of them, and time enough in those that are left.
    policies = [f"{{kind='greedy', name='{name}'}}" for name in ("first", "second", "third")]
    changes = ["--set", "agents=400000", "--set", f"policy=[{', '.join(policies)}]"]
    process = subprocess.Popen(
        [sys.executable, "-m", "memoa_jax", "run", str(tiny), *changes, "--log-level", "info"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    while not (line := process.stderr.readline()).startswith("first: server RMSE"):
        assert line  # what it needs, and how far it is
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=120)[1].splitlines()
    assert process.returncode == 130
    assert rest[-1].startswith("memoa: interrupted; not run: ")
    assert rest[-1].endswith("third; go on with --resume runs/tiny")
    assert "Traceback" not in "".join(rest)
    summary = summary_of(Path("runs/tiny"))
    assert summary["interrupted"] is True
    assert "first" in summary["policies"]


def test_a_bad_jax_build_is_code_1(tiny, monkeypatch, capsys):
    from memoa_jax import canary

    def refuse():
        raise RuntimeError("jax 0.10.2 computes wrong numbers here; install another build")

    monkeypatch.setattr(canary, "check_build", refuse)
    assert main(["run", str(tiny)]) == 1
    assert told(capsys) == ["memoa: jax 0.10.2 computes wrong numbers here; install another build"]
    assert main(["doctor"]) == 1
    assert "BAD RuntimeError: jax 0.10.2 computes wrong numbers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory\n  9 GB"), "Out of memory 9 GB"),
        (MemoryError(), "policy greedy: out of memory"),
    ],
)
def test_a_device_that_gives_up_is_code_1(tiny, monkeypatch, capsys, error, said):
    from memoa_jax import policy_run as run

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(run, "simulate", fail)
    assert main(["run", str(tiny)]) == 1
    (line,) = told(capsys)
    assert said in line


def test_results_that_cannot_be_written_are_code_1(tiny, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "replace_together", full)
    assert main(["run", str(tiny), "--set", "policy=[{kind='greedy'}]"]) == 1
    line = told(capsys)[-1]
    assert line == "memoa: runs/tiny: results cannot be written (No space left on device)"


def test_a_bug_keeps_its_traceback(tiny, monkeypatch):
    from memoa_jax import policy_run as run

    def broken(*_, **__):
        raise ValueError("Incompatible shapes")

    monkeypatch.setattr(run, "simulate", broken)
    with pytest.raises(ValueError, match="Incompatible shapes"):
        main(["run", str(tiny)])


def test_doctor_knows_the_excluded_builds(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "version", lambda package: "0.10.2")
    assert main(["doctor"]) == 1
    assert "BAD jax 0.10.2: computes wrong numbers on CPU" in capsys.readouterr().out


def test_too_many_agents_are_refused_before_anything_runs(tiny, tmp_path, capsys):
    folder = tmp_path / "o"
    code = main(["run", str(tiny), "--out", str(folder), "--set", "agents=2000000000"])
    assert code == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "GB are free: allowed is run.schedule" in line or "agents up to about" in line
    assert "Traceback" not in line
    assert not any(folder.iterdir())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--set", "run.devices=4096"], "run.devices = 4096: allowed is 1.."),
        (["--distributed", "here"], "--distributed here: allowed is HOST:PORT,COUNT,INDEX"),
        (["--distributed", "localhost:1,2,2"], "allowed is HOST:PORT,COUNT,INDEX with INDEX"),
    ],
)
def test_devices_and_processes_that_are_not_there_are_one_line(tiny, tmp_path, capsys, words, told):
    assert main(["run", str(tiny), "--out", str(tmp_path / "o"), *words]) == 2
    assert told in capsys.readouterr().err.splitlines()[-1]
