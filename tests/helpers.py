"""What tests of the command line, of configs and of written files share."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

QUICK_FLAGS = "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0"
"""XLA's optimizer turned down; see conftest.py."""

MINIMAL = """
[series]
kind = "logistic"
[[policy]]
kind = "greedy"
"""
"""A config with no more than it must have."""

SMALL = """
agents = 6
[series]
kind = "logistic"
steps = 20
[encoder]
kind = "random_features"
features = 2
"""
"""A run but for its policies."""
GREEDY = """
[[policy]]
kind = "greedy"
cost = { effort = 1.0 }
"""
FORECAST = """
[[policy]]
kind = "decentralized"
game = "forecast"
"""
RECORDED = """
[record]
agents = [0, 5]
steps = [3, 4]
fields = ["prediction", "weights"]
"""
TINY = f"""
name = "tiny"
{SMALL}
{GREEDY}
[[policy]]
kind = "decentralized"
[[policy]]
kind = "centralized"
{RECORDED}
"""
"""A run; see the fixture `tiny`."""

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
"""A sweep; see the fixture `grid`."""
SWEPT = ["greedy", "decentralized", "uncoupled"]
"""The policies of `GRID`."""


def write(text, name="x.toml"):
    """Write a file in the working folder; return its path."""
    path = Path.cwd() / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def drawn(method, points=16, seed=0, axes=EFFORT + NOISE):
    """Write a sweep of drawn points; return its path."""
    table = f'[sweep]\nmethod = "{method}"\npoints = {points}\n'
    return write(f"seed = {seed}\n{BASE}{table}{axes}")


def faults(path, *overrides):
    """Return the faults of a config, without the path of its file."""
    from memoa_jax.config_faults import ConfigError
    from memoa_jax.config_file import load

    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    assert all("\n" not in fault for fault in caught.value.faults)
    return [fault.removeprefix(f"{path}: ") for fault in caught.value.faults]


def environment(devices=1, *, quick=False):
    """Return that of a process with so many devices; a quick one compiles as this session does."""
    flags = [f"--xla_force_host_platform_device_count={devices}"]
    of_the_session = os.environ.get("MEMOA_TEST_QUICK") == "yes"
    if quick and of_the_session and not os.environ.get("MEMOA_TEST_OPTIMISED"):
        flags.append(QUICK_FLAGS)
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(flags)}


def said_by(script, *words, devices=1, quick=False):
    """Run a script where warnings are errors, in a process of its own; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *words],
        env=environment(devices, quick=quick),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def strict_json(path):
    """Read a file of JSON proper, which knows no NaN and no Infinity."""

    def refuse(word):
        raise AssertionError(f"not strict JSON: {word}")

    return json.loads(Path(path).read_text(), parse_constant=refuse)


def summary_of(folder):
    return strict_json(Path(folder) / "summary.json")


def rows_of(path):
    """Read the rows of a CSV file, by the names of its columns."""
    with Path(path).open(newline="") as stream:
        return list(csv.DictReader(stream))


def told(capsys):
    """Return the lines on stderr but for the preflight's, after checking for tracebacks."""
    error = capsys.readouterr().err
    assert "Traceback" not in error, error
    return [line for line in error.splitlines() if ": needs " not in line or "allowed" in line]


def interrupt(monkeypatch, after, error=KeyboardInterrupt):
    """Make the policy number `after` behave as if Ctrl-C were pressed in it."""
    from memoa_jax import policy_run as run

    calls = []
    real = run.simulate

    def simulate(*arguments, **keywords):
        calls.append(1)
        if len(calls) > after:
            raise error
        return real(*arguments, **keywords)

    monkeypatch.setattr(run, "simulate", simulate)


def assert_as_alone(found, runs, tolerance):
    """Hold figures of a sweep, by run and policy, against those of runs of their own."""
    from memoa_jax import build, run, simulate
    from memoa_jax.choices import METRICS

    for one in runs:
        series = build.series(one.config.series)
        encoder = build.encoder(one.config, series.num_points)
        for label, table in run.policies(one.config).items():
            arguments, options = build.simulation(one.config, series, encoder, table)
            alone = simulate(*arguments, **options)
            figures = found[one.index, label]
            for name in (*METRICS, "worst_agent", "diverged_agents"):
                expected = float(getattr(alone.summary, name))
                close = pytest.approx(expected, rel=tolerance, abs=tolerance)
                assert figures[name] == close, (one.index, label, name)
            persistence = pytest.approx(float(alone.summary.persistence_rmse))
            assert figures["persistence"] == persistence
            assert figures["status"] == int(alone.status)
