"""The calls of a sweep: the numbers of runs of their own, one compilation per policy."""

from itertools import product

import jax
import numpy as np
import pytest
from helpers import BASE, EFFORT, NOISE, SWEPT, assert_as_alone, write

from memoa_jax import sweep_batch
from memoa_jax.cli import main
from memoa_jax.config_file import load
from memoa_jax.sweep_plan import plan

pytestmark = pytest.mark.usefixtures("grid")

LATE = '\n[participation]\nkind = "bernoulli"\nprobability = 0.8\n'


def test_every_row_is_that_of_a_run_of_its_own():
    """Of agents that come and go, too; and for a whole sweep: tests/test_sweep.py."""
    axes = f'{EFFORT}\n[[sweep.axis]]\nkey = "mixture.kappa"\nlow = 0.1\nhigh = 2.0\n'
    drive = "\n[run]\nuncoupled = false\nbest_readout = false\n"
    table = '[sweep]\nmethod = "random"\npoints = 2\nseeds = [4, 7]\n'
    runs = plan(load(write(f'dtype = "float64"\n{BASE}{LATE}{drive}{table}{axes}')))
    found = {}
    programs = sweep_batch.Programs()
    for batch in sweep_batch.batches(runs):
        found |= programs.run(batch)
    assert len(found) == 2 * len(runs)
    assert_as_alone(found, runs, 1e-10)


def compilations(path, overrides=()):
    """Run a sweep's calls; return how many programs of its own they made, and those compiled."""
    events = []

    def listen(event, duration_secs, **_):
        if event.endswith("/backend_compile_duration"):
            events.append(event)

    programs = sweep_batch.Programs()
    calls = sweep_batch.batches(plan(load(path, overrides)))
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for batch in calls:
            programs.run(batch)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return programs.compiled, len(events)


def test_sixteen_points_compile_each_policy_once(monkeypatch):
    axes = f"{EFFORT}count = 4\n{NOISE.replace('0.3', '0.1, 0.2, 0.3')}"
    path = write(f'{BASE}[sweep]\nmethod = "grid"\n{axes}')
    monkeypatch.setattr(sweep_batch, "MOST_PLACES", 24)  # four runs a call
    # What a process compiles once, such as keys, and one policy is enough for.
    alone = ["policy=[{kind='greedy'}]", "sweep.axis.0.key=policy.greedy.cost.effort"]
    compilations(path, [*alone, "sweep.axis.0.count=2", "sweep.axis.1.values=[0.0, 0.1]"])
    # Decentralized and uncoupled are one structure, greedy another.
    assert compilations(path) == (2, 2)


def test_a_static_number_is_another_shape():
    axis = '[[sweep.axis]]\nkey = "policy.decentralized.horizon"\nvalues = [1, 2, 3]\n'
    runs = plan(load(write(f'{BASE}[sweep]\nmethod = "grid"\n{axis}')))
    # One of greedy; decentralized and uncoupled share theirs.
    assert len({one.shape for one in sweep_batch.batches(runs)}) == 1 + 3


def test_calls_are_bounded_even_and_run_nothing_twice(monkeypatch):
    runs = plan(load("grid.toml"))
    monkeypatch.setattr(sweep_batch, "MOST_PLACES", 6 * 5)
    calls = sweep_batch.batches(runs)
    # Noise and seed change all policies, effort not the greedy one: 4 and 12 + 12 jobs.
    assert [(len(one.jobs), one.size) for one in calls] == [(4, 4)] + [(5, 5)] * 4 + [(4, 5)]
    places = [place for one in calls for place in one.places]
    assert sorted(places) == sorted(product(range(12), SWEPT))
    monkeypatch.setattr(sweep_batch, "MOST_PLACES", 1)
    assert {one.size for one in sweep_batch.batches(runs)} == {1}


def test_streams_and_given_features_are_swept_too():
    np.save("z.npy", np.random.default_rng(0).normal(size=(13, 6, 1, 2)))
    keys = ["encoder={kind='given', path='z.npy'}", "sweep.axis.1.key=mixture.kappa"]
    keys += ["sweep.axis.1.values=[1.0, 2.0]", "sweep.seeds=1", "run.uncoupled=false"]
    keys += ["policy=[{kind='greedy'}]", "sweep.axis.0.key=policy.greedy.cost.effort"]
    found = {}
    for schedule in ("resident", "stream"):
        runs = plan(load("grid.toml", [*keys, f"run.schedule={schedule}"]))
        calls = sweep_batch.batches(runs)
        assert all(one.alone == (schedule == "stream") for one in calls)
        programs = sweep_batch.Programs()
        found[schedule] = {p: f for one in calls for p, f in programs.run(one).items()}
    for place, figures in found["resident"].items():
        other = found["stream"][place]["server_rmse"]
        assert other == pytest.approx(figures["server_rmse"], rel=1e-4)


def test_a_sweep_that_no_device_can_hold_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sweep_batch, "free_bytes", lambda device: 1000)
    assert main(["sweep", "grid.toml"]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("memoa: 4 runs at a time need ")
    assert line.endswith('kB are free: allowed is fewer agents, or run.schedule = "stream"')
