"""The command line: what it prints, what a run leaves behind, and how it starts and streams."""

import hashlib
import io
import json
import math
import os
import subprocess
import sys
import time
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from helpers import TINY, summary_of, told

import memoa_jax
from memoa_jax import doctor, files, report
from memoa_jax.cli import main

pytestmark = pytest.mark.usefixtures("here")

CONFIGS = Path(__file__).parent.parent / "configs"
LABELS = ["greedy", "decentralized", "centralized", "uncoupled"]


def memoa(*words, code="", **options):
    """Run a command in a process of its own; `code` is Python to run before it."""
    program = f"import sys; {code}\nfrom memoa_jax.cli import main\nsys.exit(main())"
    environment = os.environ | {"PYTHONPATH": str(CONFIGS.parent)}
    command = [sys.executable, "-c", program, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, **options)


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["list"], ["validate", CONFIGS / "quickstart.toml"]]
)
def test_light_commands_load_no_jax(words):
    check = (
        "import atexit, os\n"
        "atexit.register(lambda: os._exit(9) if {'jax', 'numpy'} & set(sys.modules) else None)"
    )
    start = time.perf_counter()
    done = memoa(*words, code=check)
    seconds = time.perf_counter() - start
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert seconds < 5  # 0.3 s on an idle machine; loading JAX alone takes about 1 s


def test_version_and_module_entry_point():
    done = subprocess.run(
        [sys.executable, "-m", "memoa_jax", "--version"],
        capture_output=True,
        text=True,
        cwd=CONFIGS.parent,
    )
    assert done.stdout == f"memoa {memoa_jax.__version__}\n"


def test_list_names_every_kind(capsys):
    from memoa_jax.config import FAMILIES

    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for family in FAMILIES.values():
        for kind in family:
            (line,) = [line for line in lines if line.split()[0] == kind]
            assert len(line.split()) > 2


def test_validate_says_what_it_read(tiny, capsys):
    assert main(["validate", str(tiny), "--set", "agents=2000"]) == 0
    expected = f"{tiny}: valid: 2,000 agents, logistic, greedy, decentralized, centralized\n"
    assert capsys.readouterr().out == expected


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run the tiny config once, through the real library."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "tiny.toml").write_text(TINY)
    out, error = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(error):
        words = ["run", str(folder / "tiny.toml"), "--out", str(folder / "out")]
        assert main([*words, "--log-level", "info"]) == 0
    return out.getvalue(), error.getvalue(), folder / "out"


def test_run_prints_a_line_per_policy_and_one_table(finished):
    printed, error, out = finished
    lines = error.splitlines()
    assert [line.split(": needs ")[0] for line in lines[: len(LABELS)]] == LABELS
    # But for how far it is, which a slow machine tells.
    progress = [line for line in lines[len(LABELS) :] if "  step " not in line]
    assert [line.split(":")[0] for line in progress[:-1]] == LABELS
    assert progress[-1] == f"results in {out}"
    lines = printed.splitlines()
    assert lines[0] == "tiny: 6 agents, 20 steps of logistic, seed 0, float32"
    assert [line.split()[0] for line in lines[3:9]] == [*LABELS, "persistence", "running_mean"]


def test_table_holds_the_summarys_numbers(finished):
    printed, _, out = finished
    summary = summary_of(out)
    rows = {line.split()[0]: line.split() for line in printed.splitlines()[3:9]}
    columns = report._COLUMNS
    for label, policy in summary["policies"].items():
        for key, cell in zip(columns, rows[label][1:], strict=True):
            assert float(cell.replace(",", "")) == pytest.approx(
                policy[key], rel=1e-4, abs=0.51 if "per_second" in key else 0.006
            )
    for label, value in summary["baselines"].items():
        if label != "non_finite":
            cells = rows[label][1:]
            assert [float(cell) for cell in cells[:4]] == pytest.approx([value] * 4, rel=1e-4)
            assert set(cells[4:]) == {"-"}


def test_summary_has_the_documented_keys(finished):
    summary = summary_of(finished[2])
    assert list(summary["policies"]) == LABELS
    assert summary["interrupted"] is False
    assert summary["regret_reference"] == "centralized"
    assert {"persistence", "running_mean"} <= set(summary["baselines"])
    for policy in summary["policies"].values():
        for key in (
            *("server_rmse", "mean_field_rmse", "mean_agent_rmse", "worst_agent_rmse"),
            *("worst_agent_cost", "under_performer_regret", "seconds", "agent_steps_per_second"),
            "under_performer_regret_best_readout",
        ):
            assert math.isfinite(policy[key]), key
        assert policy["non_finite"] == []
    assert summary["policies"]["centralized"]["under_performer_regret"] == 0.0


def test_trajectories_hold_series_outputs_and_records(finished):
    arrays = np.load(finished[2] / "trajectories.npz")
    targets = memoa_jax.series.logistic(20).targets
    np.testing.assert_array_equal(arrays["targets"], targets)
    summary = summary_of(finished[2])
    for label in LABELS:
        for kind in ("server", "mean_field"):
            path = arrays[f"{kind}/{label}"]
            assert path.shape == targets.shape
            rmse = np.sqrt(np.mean((path[1:] - targets[1:]) ** 2))
            assert rmse == pytest.approx(summary["policies"][label][f"{kind}_rmse"], rel=1e-4)
        assert arrays[f"recorded/{label}/prediction"].shape[:2] == (2, 2)
        assert arrays[f"recorded/{label}/weights"].shape == (2, 2)
        assert f"recorded/{label}/features" not in arrays


def test_manifest_names_versions_and_hashes_and_no_path(finished):
    folder = finished[2]
    text = (folder / "manifest.json").read_text()
    manifest = json.loads(text)
    assert {"memoa_jax", "jax", "jaxlib", "numpy", "python", "device", "dtype", "seed"} <= set(
        manifest
    )
    assert set(manifest["sha256"]) == {"config.toml", "summary.json", "trajectories.npz"}
    for name, digest in manifest["sha256"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert str(folder.parent) not in text
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["config.toml", "manifest.json", "summary.json", "trajectories.npz"]
    )


def without_times(summary):
    timed = ("seconds", "compile_seconds", "agent_steps_per_second")
    for policy in summary["policies"].values():
        for key in timed:
            del policy[key]
    return summary


def test_resolved_config_repeats_the_run(finished, tmp_path, capsys):
    """The same numbers to the last bit; and json instead of a table."""
    out = finished[2]
    words = ["run", str(out / "config.toml"), "--out", str(tmp_path / "again")]
    assert main([*words, "--format", "json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == summary_of(tmp_path / "again")
    assert without_times(printed) == without_times(summary_of(out))
    first, second = (np.load(p / "trajectories.npz") for p in (out, tmp_path / "again"))
    assert first.files == second.files
    for name in first.files:
        np.testing.assert_array_equal(first[name], second[name])


def test_forecast_games_run_without_uncoupled_company(tiny, capsys):
    games = "policy=[{kind='greedy', game='forecast'}, {kind='centralized', game='forecast'}]"
    assert main(["run", str(tiny), "--set", games]) == 0
    summary = summary_of(Path("runs/tiny"))
    assert list(summary["policies"]) == ["greedy", "centralized"]
    assert {policy["game"] for policy in summary["policies"].values()} == {"forecast"}
    assert summary["regret_reference"] == "centralized"


def test_default_folder_and_float64(tiny, capsys):
    words = ["run", str(tiny), "--set", "dtype=float64", "--set", "run.uncoupled=false"]
    assert main([*words, "--set", 'policy=[{kind="greedy"}]']) == 0
    assert list(summary_of(Path("runs/tiny"))["policies"]) == ["greedy"]
    assert np.load("runs/tiny/trajectories.npz")["server/greedy"].dtype == np.float64
    out = capsys.readouterr().out
    assert "regret: -, no centralized policy was run." in out
    assert summary_of(Path("runs/tiny"))["policies"]["greedy"]["under_performer_regret"] is None


def test_given_features_run_and_their_file_is_hashed(tiny, tmp_path, capsys):
    features = np.random.default_rng(0).normal(size=(21, 6, 1, 2))
    np.savez(tmp_path / "z.npz", features=features)
    words = ["--set", "encoder={kind='given', path='z.npz'}", "--set", 'policy=[{kind="greedy"}]']
    assert main(["run", str(tiny), *words]) == 0
    manifest = json.loads(Path("runs/tiny/manifest.json").read_text())
    digest = hashlib.sha256((tmp_path / "z.npz").read_bytes()).hexdigest()
    assert manifest["inputs"] == {"z.npz": digest}


def test_closed_pipe_is_quiet(tiny):
    words = f"{sys.executable} -m memoa_jax list | head -n 1"
    done = subprocess.run(
        words, shell=True, capture_output=True, text=True, cwd=CONFIGS.parent, check=True
    )
    assert done.stdout == "series:\n"
    assert done.stderr == ""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "memoa_jax", "list"],
        stdout=write,
        stderr=subprocess.PIPE,
        cwd=CONFIGS.parent,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_run_whose_readers_are_gone_still_writes_its_results(tiny, monkeypatch):
    with ExitStack() as streams:
        for stream in ("stdout", "stderr"):
            read, write = os.pipe()
            os.close(read)
            monkeypatch.setattr(sys, stream, streams.enter_context(os.fdopen(write, "w")))
        assert main(["run", str(tiny), "--set", 'policy=[{kind="greedy", cost={effort=1}}]']) == 0
        monkeypatch.undo()
    assert list(summary_of(tiny.parent / "runs" / "tiny")["policies"]) == ["greedy"]


def test_doctor_finds_this_machine_well(capsys):
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("ok ") for line in lines)
    for part in ("jax ", "device", "float64", "dense", "disk: ", "float32 products are right"):
        assert any(part in line for line in lines), part


def test_doctor_sees_a_full_disk(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "LEAST_DISK", 10**30)
    assert main(["doctor"]) == 1
    assert "BAD disk: " in capsys.readouterr().out


def test_files_are_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.replace(path, b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        files.replace(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_uncoupled_games_are_run_once_each(tiny):
    from memoa_jax.config_file import load
    from memoa_jax.run import policies

    config = load(
        tiny,
        [
            "policy=[{kind='greedy'}, {kind='centralized'}, {kind='decentralized', "
            "information='offline'}, {kind='decentralized', name='five', horizon=5}]"
        ],
    )
    planned = policies(config)
    listed = ["greedy", "centralized", "decentralized", "five"]
    assert list(planned) == [*listed, "uncoupled:centralized", "uncoupled:five"]
    assert planned["uncoupled:five"].horizon == 5
    assert planned["uncoupled:five"].cost.consensus == 0
    named = load(
        tiny,
        ["policy=[{kind='decentralized'}, {kind='centralized', cost={consensus=0}}]"],
    )
    assert list(policies(named)) == ["decentralized", "centralized"]


def test_a_stream_of_the_same_config_gives_the_same_figures(finished, tiny, capsys):
    """And what it cannot do is refused in one line, naming it."""
    stream = ["run", str(tiny), "--set", "run.schedule=stream", "--set", "run.block=4"]
    # The other games on a stream: tests/test_stream.py.
    policies = 'policy=[{kind="greedy", cost={effort=1.0}}, {kind="decentralized"}]'
    few = ["--set", 'record.fields=["prediction"]', "--set", policies]
    assert main([*stream, "--out", "few", *few]) == 0
    one, other = (summary_of(folder)["policies"] for folder in (finished[2], "few"))
    assert set(other) == set(one) - {"centralized"}
    for label in other:
        for name in ("server_rmse", "worst_agent_rmse", "mean_agent_effort"):
            assert one[label][name] == pytest.approx(other[label][name], rel=1e-4), (label, name)
    capsys.readouterr()
    assert main([*stream, "--out", "o"]) == 2
    (line,) = told(capsys)
    assert "policy greedy: simulate: schedule = 'stream' cannot do this: record.fields" in line


def test_a_cache_keeps_compiled_programs(tiny, tmp_path, capsys):
    words = ["run", str(tiny), "--out", "o", "--cache", "kept", "--set"]
    done = memoa(*words, "policy=[]")
    assert done.returncode == 2
    assert not (tmp_path / "kept").exists()  # a fault of the config comes first
    done = memoa(*words, "policy=[{kind='greedy'}]")
    assert done.returncode == 0, done.stderr
    assert any((tmp_path / "kept").iterdir())
    (tmp_path / "file").touch()
    assert main(["run", str(tiny), "--out", "o", "--cache", "file"]) == 2
    assert "--cache file: a file stands in the way" in capsys.readouterr().err
