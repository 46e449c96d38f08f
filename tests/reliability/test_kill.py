"""kill -9 at any moment loses nothing: a run gone on with ends in the same bytes."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import environment

ROOT = Path(__file__).parents[2]
CONFIG = """
name = "killed"
agents = 60
[series]
kind = "logistic"
steps = 400
[encoder]
kind = "echo_state"
features = 2
[[policy]]
kind = "greedy"
[[policy]]
kind = "decentralized"
[[policy]]
kind = "centralized"
game = "forecast"
[run]
uncoupled = false
chunk = 10
[record]
agents = [0, 7]
fields = ["prediction", "control"]
"""
# Every save takes a while, and says so: a file stands there from its first byte to its last name.
SLOW_SAVES = """
import os, time
real = os.fsync
def fsync(number):
    with open("saving", "w"): pass
    time.sleep(0.004)
    real(number)
    time.sleep(0.004)
    try: os.unlink("saving")
    except FileNotFoundError: pass
os.fsync = fsync
"""
TIMES = ("seconds", "compile_seconds", "agent_steps_per_second")


SHORT = (
    CONFIG.split("[[policy]]")[0]
    + """
[[policy]]
kind = "greedy"
[run]
chunk = 10
"""
)


@pytest.fixture(params=["short", pytest.param("long", marks=pytest.mark.slow)])
def place(request, tmp_path):
    """Return a folder with a config, a cache of compiled programs, and what the run comes to."""
    folder = tmp_path
    (folder / "run.toml").write_text(SHORT if request.param == "short" else CONFIG)
    (folder / "patch").mkdir()
    (folder / "patch" / "sitecustomize.py").write_text(SLOW_SAVES)
    finish(start(folder, "--out", "whole", patch=False))
    return folder


def start(folder, *words, config=("run.toml",), patch=True):
    path = os.pathsep.join([str(ROOT), *([str(folder / "patch")] if patch else [])])
    words = ["run", *config, "--cache", "cache", "--checkpoint-every", "0", *words]
    quick = (folder / "run.toml").read_text() == SHORT
    return subprocess.Popen(
        [sys.executable, "-m", "memoa_jax", *words],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(quick=quick) | {"PYTHONPATH": path},
    )


def finish(process):
    told = process.communicate(timeout=300)[1]
    assert process.returncode == 0, told


def shape(folder):
    """Return a run's results without its times: a hash of the arrays, and the summary."""
    summary = json.loads((folder / "summary.json").read_text())
    for policy in summary["policies"].values():
        for name in TIMES:
            del policy[name]
    return hashlib.sha256((folder / "trajectories.npz").read_bytes()).hexdigest(), summary


def valid(folder):
    """Hold what a killed run leaves behind against what it says of itself."""
    manifest = folder / "manifest.json"
    if not manifest.exists():
        return
    hashes = json.loads(manifest.read_text())["sha256"]
    assert hashes == {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in hashes
    }
    summary = json.loads((folder / "summary.json").read_text())
    if not summary["interrupted"]:
        # Killed after its last write: all there, but perhaps for what it kept to go on from.
        assert shape(folder) == shape(folder.parent / "whole")
    else:
        assert summary["partial"] or summary["not_run"]
    names = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    assert names <= {*hashes, "manifest.json", "checkpoint"}


def kill_and_go_on(folder, out, chance):
    """Start or go on, and kill; return "saving" or "elsewhere", or None if the run ended first."""
    kept = (folder / out / "checkpoint" / "identity.json").exists()
    process = start(folder, *(("--resume", out) if kept else ("--out", out, "--fresh")))
    inside, marker = chance.random() < 0.5, folder / "saving"
    marker.unlink(missing_ok=True)
    # A few die before they have anything to lose; the others after their first save.
    early = chance.random() < 0.05
    until = time.monotonic() + chance.uniform(0.0, 4.0) if early else None
    while process.poll() is None:
        if until is None and marker.exists():
            until = time.monotonic() + chance.uniform(0.0, 1.0)
        due = until is not None and time.monotonic() >= until
        if due and (early or not inside or marker.exists()):
            break
        time.sleep(0.0005)
    where = "saving" if marker.exists() else "elsewhere"
    process.send_signal(signal.SIGKILL)
    rest = process.communicate(timeout=60)[1]
    if process.returncode == 0:
        return None
    assert process.returncode == -signal.SIGKILL, rest
    valid(folder / out)
    return where


def test_a_killed_run_ends_in_the_same_bytes(place):
    kills, inside = (3, 0) if (place / "run.toml").read_text() == SHORT else (200, 50)
    chance, seen, runs = random.Random(0), [], 0
    while len(seen) < kills or seen.count("saving") < inside:
        out, alive = f"run-{runs}", True
        while alive and len(seen) < kills:
            where = kill_and_go_on(place, out, chance)
            alive = where is not None
            if alive:
                seen.append(where)
        if alive:
            kept = (place / out / "checkpoint" / "identity.json").exists()
            words = ("--resume", out) if kept else ("--out", out, "--fresh")
            finish(start(place, *words))
        assert shape(place / out) == shape(place / "whole")
        left = {path.name for path in (place / out).iterdir()}
        assert left == {path.name for path in (place / "whole").iterdir()}
        runs += 1
        print(f"run {runs}: {len(seen)} kills so far", flush=True)
    print(f"{len(seen)} kills, {seen.count('saving')} of them inside a save, {runs} runs")
