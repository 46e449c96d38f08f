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
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ceilings
import harness
import jax
from hand_count import (
    BYTES,
    Count,
    Sizes,
    decentralized_counts,
    forecast_counts,
    greedy_counts,
)

import memoa_jax
from memoa_jax import GameCost, policies, random_features, ridge_mixture, series, simulate

EFFORT = 5000.0
"""Of the window ridge: small efforts let a 20-step window run away; no time depends on it."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A policy, and the hand counts of the ways in which its step can be taken."""

    policy: Any
    counts: Sequence[Count]


def cases(s: Sizes) -> dict[str, Case]:
    """Return the policies that are measured."""
    cost = GameCost(effort=EFFORT)
    return {
        f"greedy W={s.window}": Case(policies.greedy(cost, window=s.window), greedy_counts(s)),
        f"decentralized T={s.horizon}": Case(
            policies.decentralized(horizon=s.horizon, window=min(3, s.horizon)),
            decentralized_counts(s),
        ),
        "forecast": Case(policies.decentralized(game="forecast"), forecast_counts(s)),
    }


def keywords(schedule: str | None, chunk: int) -> dict[str, Any]:
    """Return the keywords of `simulate` that this version of it knows."""
    known = inspect.signature(simulate).parameters
    wanted = {"schedule": schedule, "chunk": chunk}
    return {name: value for name, value in wanted.items() if name in known and value is not None}


def run_once(
    policy: Any, agents: int, steps: int, schedule: str | None, features: int = 8
) -> memoa_jax.Result:
    """Live through the series in one call, and wait for the result."""
    result = simulate(
        series.brownian(steps),
        random_features(features),
        policy,
        ridge_mixture(),
        num_agents=agents,
        key=jax.random.key(0),
        **keywords(schedule, steps + 1),
    )
    return jax.block_until_ready(result)


def xla_cost(policy: Any, agents: int, points: int, chunk: int, features: int) -> dict[str, float]:
    """Return XLA's cost analysis of a whole run of a number of points, in chunks, compiled."""

    def run(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        result = simulate(
            series.brownian(points - 1),
            random_features(features),
            policy,
            ridge_mixture(),
            num_agents=agents,
            key=key,
            **keywords("resident", chunk),
        )
        return result.server, result.agent_costs

    told = jax.jit(run).lower(jax.random.key(0)).compile().cost_analysis()
    told = told[0] if isinstance(told, list) else told
    names = {"flops": "flops", "transcendentals": "transcendentals", "bytes": "bytes accessed"}
    return {ours: float(told.get(theirs, 0.0)) / agents for ours, theirs in names.items()}


def xla_count(policy: Any, agents: int, features: int, *, verify: bool) -> dict[str, Any] | None:
    """Return XLA's count of one step of one agent, or None where it tells none.

    XLA counts the body of a loop once, however often it runs. A run of 40 points in two chunks
    holds the scan's body twice, in one chunk once: the difference is one step, free of the setup.
    With `verify`, 80 points in one chunk must cost what 40 do. A loop inside the step, such as
    the replay of a game, is counted once too: for it this is less than what is done. Integer
    operations count as flops.
    """
    try:
        whole, halves = (xla_cost(policy, agents, 40, chunk, features) for chunk in (40, 20))
        step: dict[str, Any] = {name: halves[name] - whole[name] for name in whole}
        if verify:
            twice = xla_cost(policy, agents, 80, 80, features)
            step["bodies_counted_once"] = abs(twice["flops"] - whole["flops"]) < 1.0
    except (NotImplementedError, TypeError, jax.errors.JaxRuntimeError) as error:
        print(f"XLA's count is not available here: {error}")
        return None
    return step if step["flops"] > 0 else None


def bound_of(count: Count, schedule: str, steps: int, roof: Mapping[str, float]) -> dict[str, Any]:
    """Return the nanoseconds that memory and arithmetic allow a step at best."""
    memory = count.bytes_moved(schedule, steps) / roof["bandwidth"]
    # Vector units do one or the other: times of float and integer operations add up.
    flops, integers = count.total("flops"), count.total("integers")
    computing = flops / roof["float"] + integers / roof["integer"]
    return {
        "method": count.method,
        "bytes": count.bytes_moved(schedule, steps),
        "flops": flops,
        "integers": integers,
        "memory_ns": memory,
        "arithmetic_ns": computing,
        "floor_ns": max(memory, computing),
        "bound": "memory" if memory > computing else "arithmetic",
    }


def schedules() -> tuple[str, ...]:
    """Return the schedules that this version of `simulate` offers; without the keyword, one."""
    offered = "schedule" in inspect.signature(simulate).parameters
    return ("resident", "stream") if offered else ("resident",)


def held_bytes(result: memoa_jax.Result, agents: int) -> float | None:
    """Return the bytes of state that the run held per agent, by the shapes of its last state."""
    leaves = [leaf for leaf in jax.tree.leaves(result.state) if agents in leaf.shape]
    return sum(leaf.nbytes for leaf in leaves) / agents if leaves else None


def measure_case(
    case: Case, schedule: str, agents: int, s: Sizes, roof: Mapping[str, float]
) -> dict[str, Any]:
    """Time one policy under one schedule and set it beside its bounds."""
    kept: list[memoa_jax.Result] = []

    def run() -> None:
        kept[:] = [run_once(case.policy, agents, s.steps - 1, schedule, s.features)]

    timing = harness.measure(run, repeats=3, warm=1)
    bounds = [bound_of(count, schedule, s.steps, roof) for count in case.counts]
    best = min(bounds, key=lambda one: one["floor_ns"])
    ns = ceilings.seconds(timing) / (agents * s.steps) * 1e9
    return {
        **best,
        "schedule": schedule,
        "ns": ns,
        "wall_ns_median": timing.median / (agents * s.steps) * 1e9,
        "wall_ns_least": timing.minimum / (agents * s.steps) * 1e9,
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


def parts_table(found: Mapping[str, Case], xla: Mapping[str, Any]) -> str:
    """Return the hand counts part by part, and XLA's count below each."""
    rows: list[dict[str, Any]] = []
    for name, case in found.items():
        for count in case.counts:
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
    s = Sizes(1, asked.features, 1, asked.window, asked.horizon, asked.steps)
    found, xla = cases(s), {}
    if not asked.no_xla:
        for number, (name, case) in enumerate(found.items()):
            xla[name] = xla_count(case.policy, asked.agents, s.features, verify=number == 0)
    print(parts_table(found, xla), "\n", flush=True)
    measured = {
        name: [measure_case(case, one, asked.agents, s, roof) for one in schedules()]
        for name, case in found.items()
    }
    settings = {name: value for name, value in vars(asked).items() if name != "out"}
    result = {
        "settings": settings,
        "bandwidth_gigabytes_per_second": bandwidths,
        "clock": ceilings.clock(),
        "roof": roof,
        "hand_count": found_counts(found),
        "xla_count": xla,
        "policies": measured,
    }
    print(report(result))
    harness.save("roofline", result, asked.out)


def found_counts(found: Mapping[str, Case]) -> dict[str, Any]:
    """Return the hand counts as plain data."""
    return {
        name: [dataclasses.asdict(count) for count in case.counts] for name, case in found.items()
    }


if __name__ == "__main__":
    main()
