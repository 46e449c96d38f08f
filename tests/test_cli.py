"""The command line: exit codes, one line per fault, no traceback, and what a run leaves behind."""

import hashlib
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest

import memoa_jax
from memoa_jax import doctor, report
from memoa_jax.cli import main

CONFIGS = Path(__file__).parent.parent / "configs"
TINY = """
name = "tiny"
agents = 6
[series]
kind = "logistic"
steps = 20
[encoder]
kind = "random_features"
features = 2
[[policy]]
kind = "greedy"
cost = { effort = 1.0 }
[[policy]]
kind = "decentralized"
[[policy]]
kind = "centralized"
[record]
agents = [0, 5]
steps = [3, 4]
fields = ["prediction", "weights"]
"""
LABELS = ["greedy", "decentralized", "centralized", "uncoupled"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


def memoa(*words, code="", **options):
    """Run a command in a process of its own; `code` is Python to run before it."""
    program = f"import sys; {code}\nfrom memoa_jax.cli import main\nsys.exit(main())"
    environment = os.environ | {"PYTHONPATH": str(CONFIGS.parent)}
    command = [sys.executable, "-c", program, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, **options)


def told(capsys):
    """Return the lines on stderr but for the preflight's, after checking for tracebacks."""
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return [line for line in error.splitlines() if ": needs " not in line or "allowed" in line]


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


def test_wrong_usage_is_code_2(capsys):
    for words in ([], ["rnu"], ["run"], ["run", "x.toml", "--format", "xml"]):
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


def test_validate_says_what_it_read(tiny, capsys):
    assert main(["validate", str(tiny), "--set", "agents=2000"]) == 0
    expected = f"{tiny}: valid: 2,000 agents, logistic, greedy, decentralized, centralized\n"
    assert capsys.readouterr().out == expected


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


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run the tiny config once, through the real library."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "tiny.toml").write_text(TINY)
    out, error = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(error):
        assert main(["run", str(folder / "tiny.toml"), "--out", str(folder / "out")]) == 0
    return out.getvalue(), error.getvalue(), folder / "out"


def summary_of(folder):
    def refuse(word):
        raise AssertionError(f"not strict JSON: {word}")

    return json.loads((folder / "summary.json").read_text(), parse_constant=refuse)


def test_run_prints_a_line_per_policy_and_one_table(finished):
    printed, error, out = finished
    lines = error.splitlines()
    assert [line.split(": needs ")[0] for line in lines[: len(LABELS)]] == LABELS
    progress = lines[len(LABELS) :]
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


def test_given_features_run_and_their_file_is_hashed(tiny, tmp_path, capsys):
    features = np.random.default_rng(0).normal(size=(21, 6, 1, 2))
    np.savez(tmp_path / "z.npz", features=features)
    words = ["--set", "encoder={kind='given', path='z.npz'}", "--set", 'policy=[{kind="greedy"}]']
    assert main(["run", str(tiny), *words]) == 0
    manifest = json.loads(Path("runs/tiny/manifest.json").read_text())
    digest = hashlib.sha256((tmp_path / "z.npz").read_bytes()).hexdigest()
    assert manifest["inputs"] == {"z.npz": digest}


def interrupt(monkeypatch, after):
    """Make the policy number `after` behave as if Ctrl-C were pressed in it."""
    from memoa_jax import run

    calls = []
    real = run.simulate

    def simulate(*arguments, **keywords):
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        return real(*arguments, **keywords)

    monkeypatch.setattr(run, "simulate", simulate)


def test_interrupted_run_keeps_what_finished(tiny, monkeypatch, capsys):
    interrupt(monkeypatch, after=2)
    assert main(["run", str(tiny)]) == 130
    captured = capsys.readouterr()
    last = captured.err.splitlines()[-1]
    assert last == "memoa: interrupted; not run: centralized, uncoupled"
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
    process = subprocess.Popen(
        [sys.executable, "-m", "memoa_jax", "run", str(tiny), "--set", "agents=400000"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(CONFIGS.parent)},
    )
    while ": needs " in (first := process.stderr.readline()):
        pass
    assert first.startswith("greedy: server RMSE")
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=120)[1].splitlines()
    assert process.returncode == 130
    assert rest[-1].startswith("memoa: interrupted; not run: ")
    assert "Traceback" not in "".join(rest)
    summary = summary_of(Path("runs/tiny"))
    assert summary["interrupted"] is True
    assert "greedy" in summary["policies"]


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
    from memoa_jax import run

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(run, "simulate", fail)
    assert main(["run", str(tiny)]) == 1
    (line,) = told(capsys)
    assert said in line


def test_results_that_cannot_be_written_are_code_1(tiny, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "replace", full)
    assert main(["run", str(tiny)]) == 1
    line = told(capsys)[-1]
    assert line == "memoa: runs/tiny: results cannot be written (No space left on device)"


def test_a_bug_keeps_its_traceback(tiny, monkeypatch):
    from memoa_jax import run

    def broken(*_, **__):
        raise ValueError("Incompatible shapes")

    monkeypatch.setattr(run, "simulate", broken)
    with pytest.raises(ValueError, match="Incompatible shapes"):
        main(["run", str(tiny)])


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
    for part in ("jax ", "device", "float64", "dense"):
        assert any(part in line for line in lines), part


def test_doctor_knows_the_excluded_builds(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "version", lambda package: "0.10.2")
    assert main(["doctor"]) == 1
    assert "BAD jax 0.10.2: computes wrong numbers on CPU" in capsys.readouterr().out


def test_files_are_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    report.replace(path, b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        report.replace(path, b"new")
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


@pytest.mark.parametrize(
    "imports",
    [
        "import memoa_jax",
        "import memoa_jax.simulate",
        "import memoa_jax; memoa_jax.simulate; import memoa_jax.simulate",
        "from memoa_jax.simulate import Record; import memoa_jax",
        "import importlib, memoa_jax; importlib.import_module('memoa_jax.simulate')",
        "from memoa_jax import *; import memoa_jax",
    ],
)
def test_simulate_is_the_function_in_every_import_order(imports):
    code = (
        f"{imports}\n"
        "from types import FunctionType; import sys\n"
        "from memoa_jax import simulate\n"
        "assert simulate is memoa_jax.simulate\n"
        "assert callable(simulate) and not isinstance(simulate, type(sys)), simulate\n"
        "assert simulate is sys.modules['memoa_jax.simulate'].simulate"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=CONFIGS.parent
    )
    assert done.returncode == 0, done.stderr


def test_importing_the_package_loads_nothing():
    code = (
        "import sys, memoa_jax; dir(memoa_jax); memoa_jax.__version__\n"
        "assert not {'jax', 'numpy', 'pydantic'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=CONFIGS.parent)


def test_public_names_resolve_and_others_do_not():
    for name in memoa_jax.__all__:
        assert getattr(memoa_jax, name) is not None
        assert name in dir(memoa_jax)
    with pytest.raises(AttributeError, match="has no attribute 'simulat'"):
        _ = memoa_jax.simulat
    assert not hasattr(memoa_jax, "__wrapped__")


def test_a_stream_of_the_same_config_gives_the_same_figures(tiny, tmp_path, capsys):
    """And what it cannot do is refused in one line, naming it."""
    few = ["--set", 'record.fields=["prediction"]']
    for schedule in ("resident", "stream"):
        more = ["--set", f"run.schedule={schedule}", "--set", "run.block=4"]
        assert main(["run", str(tiny), "--out", str(tmp_path / schedule), *few, *more]) == 0
    one, other = (summary_of(tmp_path / name)["policies"] for name in ("resident", "stream"))
    for label in LABELS:
        for name in ("server_rmse", "worst_agent_rmse", "mean_agent_effort"):
            assert one[label][name] == pytest.approx(other[label][name], rel=1e-4), (label, name)
    capsys.readouterr()
    assert main(["run", str(tiny), "--out", "o", "--set", "run.schedule=stream"]) == 2
    (line,) = told(capsys)
    assert "policy greedy: simulate: schedule = 'stream' cannot do this: record.fields" in line


def test_a_cache_keeps_compiled_programs(tiny, tmp_path, capsys):
    done = memoa("run", str(tiny), "--out", "o", "--cache", "kept", "--set", "policy=[]")
    assert done.returncode == 2
    assert not (tmp_path / "kept").exists()  # a fault of the config comes first
    done = memoa("run", str(tiny), "--out", "o", "--cache", "kept")
    assert done.returncode == 0, done.stderr
    assert any((tmp_path / "kept").iterdir())
    (tmp_path / "file").touch()
    assert main(["run", str(tiny), "--out", "o", "--cache", "file"]) == 2
    assert "--cache file: a file stands in the way" in capsys.readouterr().err


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
