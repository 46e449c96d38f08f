"""Float32 over a long run: every agent's cost against NumPy float64 fed the same draws.

    python benchmarks/precision.py

Runs of 1,000 steps, on a quiet series and on one that is a hundred times as large in every 250th
row and the two after it. Many random agents are recomputed (`oracle`): what a burst costs in
precision differs much from agent to agent.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cases
import harness

BOUND = 1e-4
"""What the largest relative difference of a cost should stay under."""


def measure(
    case: cases.Case, agents: int, points: int, schedule: str, checked: int
) -> dict[str, Any]:
    """Run once and compare."""
    result = case.run(agents, points, schedule=schedule, keep_costs=True)
    error = case.error(agents, points, cases.Sample.of(result, checked))
    return {
        "policy": case.label,
        "schedule": schedule,
        "bursts": case.bursts,
        "agents": agents,
        "points": points,
        "checked": checked,
        "error": error,
        "diverged": int(result.summary.diverged_agents),
        "holds": error <= BOUND,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--agents", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--checked", type=int, default=1024, help="agents that are recomputed")
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    options = parser.parse_args()
    rows = []
    for policy in cases.POLICIES:
        for bursts in (False, True):
            for schedule in ("resident", "stream"):
                case = cases.Case(policy, bursts=bursts)
                sizes = (options.agents, options.steps + 1, schedule, options.checked)
                rows.append(measure(case, *sizes))
                print(harness.table(rows[-1:]), flush=True)
    path = harness.save("precision", {"bound": BOUND, "rows": rows}, options.out)
    print(f"results in {path}")


if __name__ == "__main__":
    main()
