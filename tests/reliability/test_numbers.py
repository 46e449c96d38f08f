"""Long runs on poor inputs: finite in float32, or flagged."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memoa_jax import (
    GameCost,
    decentralized,
    echo_state,
    greedy,
    random_features,
    ridge_mixture,
    simulate,
)
from memoa_jax.timeseries import make_series
from memoa_jax.types import Status

ROOT = Path(__file__).parents[2]
FORGETTING = jnp.linspace(0.0, 1.0, 6)
POLICIES = {
    "greedy": lambda a: greedy(GameCost(effort=1.0, forgetting=a), window=3),
    "greedy, long window": lambda a: greedy(GameCost(effort=1.0, forgetting=a), window=20),
    "decentralized": lambda a: decentralized(GameCost(effort=1.0, forgetting=a), window=1),
    # Its regression forgets by a discount; 0 would be one row only.
    "forecast": lambda a: decentralized(game="forecast", discount=jnp.maximum(1 - a, 1e-3)),
}


def rank_deficient(steps):
    """Return two inputs that are one, and targets that follow it."""
    one = np.sin(0.3 * np.arange(steps))[:, None]
    return np.repeat(one, 2, axis=1), np.roll(one, 1, axis=0)


SERIES = {
    "rank deficient": rank_deficient,
    "constant": lambda steps: (np.full((steps, 1), 3.0), np.full((steps, 1), 3.0)),
    "zero": lambda steps: (np.zeros((steps, 1)), np.zeros((steps, 1))),
}


QUICK = [("greedy", "zero"), ("decentralized", "rank deficient"), ("forecast", "constant")]
EVERY = [(policy, kind) for policy in POLICIES for kind in SERIES]


@pytest.mark.parametrize(
    ("policy", "kind", "steps"),
    [
        *((*one, 600) for one in QUICK),
        *(pytest.param(*one, 100_000, marks=pytest.mark.slow) for one in EVERY),
    ],
)
def test_figures_are_finite_or_flagged_whatever_is_forgotten(policy, kind, steps):
    lived = make_series(*SERIES[kind](steps), name=kind)
    encoder = echo_state(3) if kind == "rank deficient" else random_features(3)

    @jax.jit
    @jax.vmap
    def run(forgetting):
        result = simulate(
            lived,
            encoder,
            POLICIES[policy](forgetting.astype("float32")),
            ridge_mixture(),
            num_agents=3,
            key=jax.random.key(0),
            dtype="float32",
        )
        return result.server, result.summary, result.status, result.trouble

    server, summary, status, trouble = jax.device_get(run(FORGETTING))
    for k in range(len(FORGETTING)):
        figures = [getattr(summary, name)[k] for name in ("server_rmse", "worst_agent_cost")]
        if np.isfinite(server[k]).all() and np.isfinite(figures).all():
            continue
        assert summary.diverged_agents[k] > 0
        assert status[k] & Status.NON_FINITE
        assert 0 <= trouble.step[k] < steps


SOAK = """
import json, sys
import jax, numpy as np
from memoa_jax import *
from memoa_jax import series

steps, seen = int(sys.argv[1]), []

def resident():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

def on_chunk(done, of):
    seen.append(resident())

found = simulate(
    series.random_walk(steps), random_features(2), decentralized(game="forecast"),
    ridge_mixture(), num_agents=2, key=jax.random.key(0), on_chunk=on_chunk,
)
tenth = len(seen) // 10
print(json.dumps({"chunks": len(seen), "early": max(seen[:tenth]), "late": max(seen[tenth:]),
                  "rmse": float(found.summary.server_rmse)}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux only")
@pytest.mark.parametrize("steps", [20_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_memory_does_not_grow_over_a_long_run(steps):
    words = [sys.executable, "-c", SOAK, str(steps)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=True)
    found = json.loads(done.stdout)
    print(found)
    assert found["chunks"] >= steps // 512
    assert np.isfinite(found["rmse"])
    assert found["late"] <= 1.01 * found["early"]
