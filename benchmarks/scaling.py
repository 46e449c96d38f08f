"""How memoa_jax scales: nanoseconds per agent and step, memory and compilation, as N grows.

    python benchmarks/scaling.py --agents 100 10000 1000000 --steps 20

A run has as many steps as fill thirty million agent-steps, but no fewer than `--steps` and no
more than a thousand. Every measurement has a process of its own: compilation and peak memory are
its own. One run warms (its time, less a later one's, is the compilation), the others are timed.
For 64 random agents of every row the costs are recomputed in NumPy float64 from the same draws
(`cases`); of a large stream they are then asked for in one more run, which no time and no memory
is about.
Writes `scaling.json` after every row, and a figure where matplotlib is installed.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import harness
import work
from cases import POLICIES, RESIDENT_BYTES, Case, Sample, not_finite

SCHEDULES = ("stream", "resident")
AGENT_STEPS = 3 * 10**7
"""What a run of a small population is made as long as."""
MOST_STEPS = 1000
KEPT_AGENTS = 10**6
"""Up to so many agents a stream's timed runs hand over all costs, 4 bytes each."""


def run_once(
    name: str, agents: int, steps: int, schedule: str, *, devices: int | None, costs: bool
) -> Any:
    """Run once to the end and return the `Result`."""
    import jax

    import memoa_jax

    result = memoa_jax.simulate(
        memoa_jax.series.brownian(steps),
        memoa_jax.random_features(work.FEATURES, work.NOISE),
        Case(name).make(),
        memoa_jax.ridge_mixture(work.KAPPA, work.ETA),
        num_agents=agents,
        key=jax.random.key(0),
        schedule=schedule,
        mesh=None if devices is None else jax.make_mesh((devices,), ("agents",)),
        keep_costs=costs,
    )
    return jax.block_until_ready(result)


def measure_one(options: argparse.Namespace) -> dict[str, Any]:
    """Measure one row, in this process."""
    name, agents, steps = options.policy, options.agents[0], options.steps
    devices = options.devices
    keep = agents <= KEPT_AGENTS
    found: list[Any] = []

    def run() -> None:
        found.clear()  # two populations need not fit
        found.append(run_once(name, agents, steps, options.schedule, devices=devices, costs=keep))

    first, _ = harness.once(run)
    timing = harness.measure(run, repeats=options.repeats, warm=0) if options.repeats else None
    peak = harness.peak_memory()
    per = 1e9 / (agents * (steps + 1))
    row = {
        "policy": name,
        "schedule": options.schedule,
        "agents": agents,
        "steps": steps,
        "devices": devices,
        "ns": (first if timing is None else timing.minimum) * per,
        "ns_median": None if timing is None else timing.median * per,
        "spread": None if timing is None else timing.spread,
        "compile_s": None if timing is None else first - timing.minimum,
        "peak_mb": peak / 1e6,
        "error": None,
        "not_finite": None,
        "facts": harness.facts(),
    }
    if agents > options.checked:
        return row
    if found[0].agent_costs is None:
        found[:] = [run_once(name, agents, steps, options.schedule, devices=devices, costs=True)]
    return row | {
        "error": Case(name).error(agents, steps + 1, Sample.of(found[0])),
        "not_finite": not_finite(found[0].agent_costs),
    }


def sweep(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all rows, each in a child process, and keep and tell each when it is known."""
    result: dict[str, Any] = {"facts": {}, "rows": []}
    for agents in options.agents:
        for name in options.policies:
            for schedule in options.schedules:
                if schedule == "resident" and agents * RESIDENT_BYTES > options.memory * 1e9:
                    continue
                words = [__file__, "--one", "--policy", name, "--schedule", schedule]
                steps = max(options.steps, min(AGENT_STEPS // agents, MOST_STEPS))
                words += ["--agents", str(agents), "--steps", str(steps)]
                words += ["--repeats", str(options.repeats if agents <= 10**7 else 0)]
                words += ["--checked", str(options.checked)]
                if options.devices is not None:
                    words += ["--devices", str(options.devices)]
                try:
                    row = harness.in_child(words)
                except RuntimeError as error:
                    print(f"{name}, {schedule}, {agents} agents: {error}", file=sys.stderr)
                    continue
                result["facts"] = row.pop("facts")
                result["rows"].append(row)
                harness.save("scaling", result, options.out)
                print(harness.table([row]), file=sys.stderr, flush=True)
    return result


def main() -> None:
    parser = harness.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--agents", type=harness.positive, nargs="+", default=[10**2, 10**4, 10**6])
    parser.add_argument("--steps", type=harness.positive, default=20, help="at least")
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=list(POLICIES))
    parser.add_argument("--schedules", nargs="+", choices=SCHEDULES, default=list(SCHEDULES))
    parser.add_argument("--repeats", type=int, default=3, help="0: the first run is the time")
    parser.add_argument("--devices", type=int, help="local devices of a stream (default: all)")
    parser.add_argument("--memory", type=float, default=12.0, help="gigabytes for resident runs")
    parser.add_argument("--checked", type=int, default=10**8, help="largest N that is recomputed")
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    parser.add_argument("--one", action="store_true", help="measure one row, print it as JSON")
    parser.add_argument("--policy", choices=POLICIES, default="greedy")
    parser.add_argument("--schedule", choices=SCHEDULES, default="stream")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(harness.plain(measure_one(options))))
        return
    result = sweep(options)
    if not result["rows"]:
        sys.exit("scaling.py: nothing was measured")
    path = harness.save("scaling", result, options.out)
    print(harness.table(result["rows"]))
    print(f"results in {path}")
    try:
        import scaling_figure
    except ImportError as error:
        print(f"no figure: {error}; benchmarks/scaling_figure.py draws it later")
        return
    print("figure in", ", ".join(str(one) for one in scaling_figure.draw(path)))


if __name__ == "__main__":
    main()
