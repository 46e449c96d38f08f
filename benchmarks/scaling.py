"""How memoa_jax scales: nanoseconds per agent and step, memory and compilation, as N grows.

    python benchmarks/scaling.py --agents 100 10000 1000000 --steps 100

Every measurement has a process of its own: compilation and peak memory are its own. One run
warms (its time, less a later one's, is the compilation), the others are timed. Greedy runs are
recomputed in NumPy float64 from the same float32 draws, for 64 random agents (`oracle`); the
forecast game's too, from the mean field of the run itself.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import harness
import numpy as np
import oracle
import work

CHECKED = 64
HORIZON = 5
POLICIES = ("greedy", "decentralized", "offline", "forecast")
SCHEDULES = ("stream", "resident")
RESIDENT_BYTES = 2500
"""About what a resident run holds per agent at its peak: larger populations are left out."""


def policy_of(name: str) -> Any:
    """Return the policy that a row is about."""
    import memoa_jax

    if name == "greedy":
        return memoa_jax.greedy(memoa_jax.GameCost(effort=work.EFFORT), window=work.WINDOW)
    if name == "forecast":
        return memoa_jax.decentralized(game="forecast")
    information = "offline" if name == "offline" else "feedback"
    return memoa_jax.decentralized(horizon=HORIZON, window=1, information=information)


def run_once(
    name: str, agents: int, steps: int, schedule: str, *, devices: int | None, costs: bool
) -> Any:
    """Run once to the end and return the `Result`."""
    import jax

    import memoa_jax

    result = memoa_jax.simulate(
        memoa_jax.series.brownian(steps),
        memoa_jax.random_features(work.FEATURES, work.NOISE),
        policy_of(name),
        memoa_jax.ridge_mixture(work.KAPPA, work.ETA),
        num_agents=agents,
        key=jax.random.key(0),
        schedule=schedule,
        devices=None if devices is None else jax.local_devices()[:devices],
        keep_costs=costs,
    )
    return jax.block_until_ready(result)


def error_of(name: str, agents: int, steps: int, result: Any) -> float | None:
    """Return the largest relative error of 64 agents' costs; None where there is no oracle."""
    import jax

    if name not in ("greedy", "forecast") or result.agent_costs is None:
        return None
    chosen = np.sort(np.random.default_rng(0).choice(agents, min(CHECKED, agents), replace=False))
    draws = oracle.draws_of(chosen, jax.random.key(0), steps + 1, features=work.FEATURES)
    targets = work.targets_of(steps).astype(np.float64)[:, None]
    if name == "greedy":
        policy: Any = oracle.Greedy(targets, work.WINDOW, work.EFFORT)
    else:
        mean_field = np.asarray(result.mean_field, np.float64)
        moves = np.append(mean_field[1:], [result.forecast], axis=0) - targets
        policy = oracle.Forecast(targets, moves, tracking=1.0, pull=10.0, effort=1e-3)
    inputs = _inputs(steps)
    exact = oracle.live(draws, inputs, targets, policy, noise=work.NOISE)
    found = np.asarray(result.agent_costs)[chosen]
    return float(oracle.largest_difference(found, exact.costs))


def _inputs(steps: int) -> np.ndarray:
    from memoa_jax import series

    return np.asarray(series.brownian(steps).inputs, np.float32).astype(np.float64)


def measure_one(options: argparse.Namespace) -> dict[str, Any]:
    """Measure one row, in this process."""
    name, agents, steps = options.policy, options.agents[0], options.steps
    devices = options.devices
    keep = agents <= 10**6

    def run() -> Any:
        return run_once(name, agents, steps, options.schedule, devices=devices, costs=keep)

    found: list[Any] = []
    first, _ = harness.once(lambda: found.append(run()))
    timing = harness.measure(run, repeats=options.repeats, warm=0) if options.repeats else None
    per = 1e9 / (agents * (steps + 1))
    return {
        "policy": name,
        "schedule": options.schedule,
        "agents": agents,
        "steps": steps,
        "devices": devices,
        "ns": (first if timing is None else timing.minimum) * per,
        "ns_median": None if timing is None else timing.median * per,
        "spread": None if timing is None else timing.spread,
        "compile_s": None if timing is None else first - timing.minimum,
        "peak_mb": harness.peak_memory() / 1e6,
        "error": error_of(name, agents, steps, found[0]),
    }


def sweep(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure all rows, each in a child process, and tell each when it is known."""
    rows = []
    for agents in options.agents:
        for name in options.policies:
            for schedule in options.schedules:
                if schedule == "resident" and agents * RESIDENT_BYTES > options.memory * 1e9:
                    continue
                words = [__file__, "--one", "--policy", name, "--schedule", schedule]
                words += ["--agents", str(agents), "--steps", str(options.steps)]
                words += ["--repeats", str(options.repeats if agents <= 10**7 else 0)]
                if options.devices is not None:
                    words += ["--devices", str(options.devices)]
                rows.append(harness.in_child(words))
                print(harness.table(rows[-1:]), file=sys.stderr, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agents", type=int, nargs="+", default=[10**2, 10**4, 10**6])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=list(POLICIES))
    parser.add_argument("--schedules", nargs="+", choices=SCHEDULES, default=list(SCHEDULES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--devices", type=int, help="local devices of a stream (default: all)")
    parser.add_argument("--memory", type=float, default=12.0, help="gigabytes for resident runs")
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    parser.add_argument("--one", action="store_true", help="measure one row, print it as JSON")
    parser.add_argument("--policy", choices=POLICIES, default="greedy")
    parser.add_argument("--schedule", choices=SCHEDULES, default="stream")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure_one(options)))
        return
    rows = sweep(options)
    path = harness.save("scaling", {"rows": rows}, options.out)
    print(harness.table(rows))
    print(f"results in {path}")


if __name__ == "__main__":
    main()
