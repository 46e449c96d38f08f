"""How near the policies' step comes to what this device can move and compute.

Everything is per agent and step, in float32. Three things are put side by side:

1. The hand count: the least that the method, as defined, computes and moves (`hand_count`).
2. XLA's own count of the compiled step (`xla_count`): what the program as written does.
3. The time of `memoa_jax.simulate`, against this device's measured ceilings (`ceilings`).

The bound is the larger of two times: bytes over bandwidth, operations over arithmetic. Choose
agents so many that together they hold more than the caches. The first T steps of a game are
greedy: take many more.

    python benchmarks/roofline.py --agents 100000 --steps 100
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ceilings
import harness
import jax
from cases import Case
from hand_count import BYTES, bound_of

from memoa_jax import Result

SCHEDULES = ("resident", "stream")


def cases(asked: argparse.Namespace) -> dict[str, Case]:
    """Return the policies that are measured, by their names."""
    found = (
        Case("greedy", window=asked.window, features=asked.features),
        Case("decentralized", horizon=asked.horizon, features=asked.features),
        Case("forecast", features=asked.features),
    )
    return {case.label: case for case in found}


def xla_cost(case: Case, agents: int, points: int, chunk: int) -> dict[str, float]:
    """Return XLA's cost analysis of a whole run of a number of points, in chunks, compiled."""

    def run(key: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        result = case.simulate(agents, points, key, schedule="resident", chunk=chunk)
        return result.server, result.agent_costs

    told = jax.jit(run).lower(jax.random.key(0)).compile().cost_analysis()
    told = told[0] if isinstance(told, list) else told
    names = {"flops": "flops", "transcendentals": "transcendentals", "bytes": "bytes accessed"}
    return {ours: float(told.get(theirs, 0.0)) / agents for ours, theirs in names.items()}


def xla_count(case: Case, agents: int, *, verify: bool) -> dict[str, Any] | None:
    """Return XLA's count of one step of one agent, or None where it tells none.

    XLA counts the body of a loop once, however often it runs. A run of 40 points in two chunks
    holds the scan's body twice, in one chunk once: the difference is one step, free of the setup.
    With `verify`, 80 points in one chunk must cost what 40 do. A loop inside the step, such as
    the replay of a game, is counted once too: for it this is less than what is done. Integer
    operations count as flops.
    """
    try:
        whole, halves = (xla_cost(case, agents, 40, chunk) for chunk in (40, 20))
        step: dict[str, Any] = {name: halves[name] - whole[name] for name in whole}
        if verify:
            twice = xla_cost(case, agents, 80, 80)
            step["bodies_counted_once"] = abs(twice["flops"] - whole["flops"]) < 1.0
    except (NotImplementedError, TypeError, jax.errors.JaxRuntimeError) as error:
        print(f"XLA's count is not available here: {error}")
        return None
    return step if step["flops"] > 0 else None


def held_bytes(result: Result, agents: int) -> float | None:
    """Return the bytes of state that the run held per agent, by the shapes of its last state."""
    leaves = [leaf for leaf in jax.tree.leaves(result.state) if agents in leaf.shape]
    return sum(leaf.nbytes for leaf in leaves) / agents if leaves else None


def measure_case(
    case: Case, schedule: str, agents: int, points: int, roof: Mapping[str, float]
) -> dict[str, Any]:
    """Time one policy under one schedule and set it beside its bounds."""
    kept: list[Result] = []

    def run() -> None:
        kept[:] = [case.run(agents, points, schedule=schedule, chunk=points)]

    timing = harness.measure(run, repeats=3, warm=1)
    bounds = [bound_of(count, schedule, points, roof) for count in case.counts(points)]
    best = min(bounds, key=lambda one: one["floor_ns"])
    ns = ceilings.seconds(timing) / (agents * points) * 1e9
    return {
        **best,
        "schedule": schedule,
        "ns": ns,
        "wall_ns_median": timing.median / (agents * points) * 1e9,
        "wall_ns_least": timing.minimum / (agents * points) * 1e9,
        "spread": timing.spread,
        "reached": best["floor_ns"] / ns,
        "gigabytes_per_second": best["bytes"] / ns,
        "share_of_bandwidth": best["memory_ns"] / ns,
        "gigaflops_per_second": best["flops"] / ns,
        "gigaoperations_per_second": (best["flops"] + best["integers"]) / ns,
        "share_of_arithmetic": best["arithmetic_ns"] / ns,
        "held_bytes_per_agent": held_bytes(kept[0], agents),
        "status": int(kept[0].status),
        "alternatives": bounds,
    }


def parts_table(found: Mapping[str, Case], points: int, xla: Mapping[str, Any]) -> str:
    """Return the hand counts part by part, and XLA's count below each."""
    rows: list[dict[str, Any]] = []
    for name, case in found.items():
        for count in case.counts(points):
            heads = {"policy": name, "method": count.method}
            rows += [
                {
                    **heads,
                    "part": part.name,
                    "flops": part.flops,
                    "integer": part.integers,
                    "read B": BYTES * part.read,
                    "written B": BYTES * part.written,
                    "moved B": BYTES * (part.read + part.written),
                }
                for part in count.parts
            ]
            fields = {"flops": "flops", "integer": "integers"}
            total = {head: count.total(field) for head, field in fields.items()}
            moved = {f"{field} B": BYTES * count.total(field) for field in ("read", "written")}
            moved["moved B"] = sum(moved.values())
            rows.append({**heads, "part": "TOTAL", **total, **moved})
        if told := xla.get(name):
            # XLA does not tell integer operations from others, nor what is read from written.
            heads = {"policy": name, "method": "as compiled", "part": "XLA"}
            rows.append({**heads, "flops": told["flops"], "moved B": told["bytes"]})
    return harness.table(rows)


def report(result: Mapping[str, Any]) -> str:
    """Return the measurements as a table, and in words."""
    rows, words = [], []
    for name, runs in result["policies"].items():
        for run in runs:
            rows.append(
                {
                    "policy": name,
                    "schedule": run["schedule"],
                    "ns": run["ns"],
                    "floor ns": run["floor_ns"],
                    "reached": f"{run['reached']:.0%}",
                    "bound": run["bound"],
                    "bytes": run["bytes"],
                    "GB/s": run["gigabytes_per_second"],
                    "of bandwidth": f"{run['share_of_bandwidth']:.0%}",
                    "GFLOP/s": run["gigaflops_per_second"],
                    "of arithmetic": f"{run['share_of_arithmetic']:.0%}",
                }
            )
            words.append(
                f"{name}, {run['schedule']} ({run['method']}): {run['ns']:.0f} ns per agent-step, "
                f"{run['reached']:.0%} of what {run['bound']} allows (memory "
                f"{run['memory_ns']:.1f} ns, arithmetic {run['arithmetic_ns']:.1f} ns); "
                f"{run['held_bytes_per_agent'] or 0:.0f} bytes held per agent"
            )
    return "\n".join([harness.table(rows), "", *words])


def main() -> None:
    """Measure the device and the policies, print, and write `roofline.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--agents", type=int, default=100_000, help="N")
    parser.add_argument("--steps", type=int, default=100, help="rows of the series that are lived")
    parser.add_argument("--features", type=int, default=8, help="p")
    parser.add_argument("--window", type=int, default=20, help="W of the greedy policy")
    parser.add_argument("--horizon", type=int, default=10, help="T of the decentralized policy")
    parser.add_argument("--cache-kib", type=int, help="array within L2 (CPU 64, else 4096)")
    parser.add_argument("--memory-mib", type=int, default=256, help="array beyond every cache")
    parser.add_argument("--no-xla", action="store_true", help="skip XLA's own count (compiles)")
    parser.add_argument("--out", type=Path, default=harness.RESULTS, help="folder of the results")
    asked = parser.parse_args()
    host = jax.default_backend() == "cpu"
    cached = asked.cache_kib or (64 if host else 4096)
    bandwidths = {
        "memory": ceilings.bandwidth(asked.memory_mib * 2**18),
        "cache": ceilings.bandwidth(cached * 2**8),
    }
    peaks = ceilings.arithmetic(2**13 if host else 2**24)
    rows = [{"where": where, **found} for where, found in bandwidths.items()]
    sizes = f"arrays of {asked.memory_mib} MiB (memory) and {cached} KiB (cache)"
    print(f"{ceilings.clock()} time; GB/s, {sizes}")
    print(harness.table(rows))
    print(harness.table([{f"G {name} operations/s": one for name, one in peaks.items()}]), "\n")
    # Loops differ by how they are written; the roof is the best of them on this device.
    fair = [rate for name, rate in bandwidths["memory"].items() if host or "numpy" not in name]
    roof = {**peaks, "bandwidth": max(fair)}
    found, xla, points = cases(asked), {}, asked.steps
    if not asked.no_xla:
        for number, (name, case) in enumerate(found.items()):
            xla[name] = xla_count(case, asked.agents, verify=number == 0)
    print(parts_table(found, points, xla), "\n", flush=True)
    measured = {
        name: [measure_case(case, one, asked.agents, points, roof) for one in SCHEDULES]
        for name, case in found.items()
    }
    settings = {name: value for name, value in vars(asked).items() if name != "out"}
    result = {
        "settings": settings,
        "bandwidth_gigabytes_per_second": bandwidths,
        "clock": ceilings.clock(),
        "roof": roof,
        "hand_count": found_counts(found, points),
        "xla_count": xla,
        "policies": measured,
    }
    print(report(result))
    harness.save("roofline", result, asked.out)


def found_counts(found: Mapping[str, Case], points: int) -> dict[str, Any]:
    """Return the hand counts as plain data."""
    return {
        name: [dataclasses.asdict(count) for count in case.counts(points)]
        for name, case in found.items()
    }


if __name__ == "__main__":
    main()
