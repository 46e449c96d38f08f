"""What a run needs of memory: the compiled program's figure, the refusal, and what would fit."""

import itertools

import jax
import numpy as np
import pytest

from memoa_jax import preflight
from memoa_jax.encoders import random_features
from memoa_jax.experts import exponential_weights
from memoa_jax.mixture import ridge_mixture
from memoa_jax.policies import decentralized, greedy
from memoa_jax.series import brownian
from memoa_jax.simulate import simulate


def asked(policy=None, mixture=None, **options):
    parts = brownian(6), random_features(3), policy or greedy(), mixture or ridge_mixture()
    return parts, {"num_agents": 5000, "key": jax.random.key(0), **options}


UNUSED = itertools.count(5001)
"""Sizes that nothing in this process has compiled a program for, not even this test before."""


@pytest.mark.parametrize("schedule", ["resident", "stream"])
def test_the_program_that_is_measured_is_the_one_that_runs(schedule, compiled):
    size = next(UNUSED)
    policy = decentralized(game="forecast")
    parts, options = asked(policy, schedule=schedule, block=size, num_agents=5 * size)
    need, free = preflight.needed(parts, options)
    assert 0 < need < free
    programs = {"resident": ("jit(_begin)", "jit(_run)"), "stream": ("jit(_survey)", "jit(_live)")}
    large = [name for name in compiled if name in programs[schedule]]
    assert set(large) == set(programs[schedule])
    compiled.clear()
    result = simulate(*parts, **options)
    assert np.isfinite(result.server).all()
    assert not [name for name in compiled if name in large]


def test_memory_grows_with_the_agents_of_a_resident_run_and_not_of_a_stream():
    def need(agents, **options):
        return preflight.needed(*asked(**{**options, "num_agents": agents}))[0]

    few, many = need(5000), need(20_000)
    # At least the state: window, costs, efforts, predictions; a few kilobytes are for all.
    assert many > 20_000 * 4 * 20
    assert many / few == pytest.approx(4.0, rel=0.05)
    stream = {"schedule": "stream", "block": 512}
    assert need(131_072, **stream) == need(10 * 131_072, **stream)


def test_too_large_a_run_is_refused_with_what_fits(monkeypatch):
    parts, options = asked(num_agents=200_000)
    need, _ = preflight.needed(parts, options)
    monkeypatch.setattr(preflight, "free_bytes", lambda device: need // 2)
    with pytest.raises(preflight.SizeError) as refused:
        preflight.check(parts, options)
    told = str(refused.value)
    assert told.startswith(f"needs {preflight.size(need)} of memory, and ")
    assert 'allowed is run.schedule = "stream" (needs ' in told
    assert told.endswith("or agents up to about 100_000") or "about 99_000" in told
    assert "needs" in preflight.check(parts, {**options, "schedule": "stream"})

    parts, options = asked(mixture=exponential_weights(), num_agents=200_000)
    with pytest.raises(preflight.SizeError, match=r"allowed is agents up to about \d+_000$"):
        preflight.check(parts, {**options, "num_agents": 400_000})


def test_a_stream_is_told_a_smaller_block(monkeypatch):
    parts, options = asked(num_agents=100_000, schedule="stream", block=100_000)
    need, _ = preflight.needed(parts, options)
    monkeypatch.setattr(preflight, "free_bytes", lambda device: need // 3)
    with pytest.raises(preflight.SizeError, match=r'schedule = "stream" with run.block = 25000 '):
        preflight.check(parts, options)


def test_a_device_that_does_not_tell_refuses_nothing(monkeypatch):
    monkeypatch.setattr(preflight, "free_bytes", lambda device: None)
    assert preflight.check(*asked()).startswith("needs ")
