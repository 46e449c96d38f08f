"""What a gradient costs: five parameters of a game, forward through a whole run, beside the run.

    python benchmarks/gradients.py --agents 100000 --steps 200

The plain run and the one with derivatives are compiled, warmed, and take turns in one process;
peak memory is that of a process that does nothing else. Both modes can be asked for.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import harness
import work

NAMES = ("tracking", "consensus", "ensemble", "effort", "forgetting")
START = {"tracking": 1.0, "consensus": 1.5, "ensemble": 0.1, "effort": 0.5, "forgetting": 0.05}
POLICIES = ("decentralized", "offline", "forecast", "greedy")


def objective(policy: str, agents: int, steps: int, chunk: int | None) -> Any:
    """Return the server's RMSE as a function of the game's five numbers."""
    import jax

    import memoa_jax
    from memoa_jax.tuning import objective_of

    lived, key = memoa_jax.series.brownian(steps), jax.random.key(0)

    def value(parameters: dict[str, Any]) -> Any:
        cost = memoa_jax.GameCost(**parameters)
        made = {
            "decentralized": lambda: memoa_jax.decentralized(cost, horizon=5, window=1),
            "offline": lambda: memoa_jax.decentralized(
                cost, horizon=5, window=1, information="offline"
            ),
            "forecast": lambda: memoa_jax.decentralized(cost, game="forecast"),
            "greedy": lambda: memoa_jax.greedy(cost, window=3),
        }[policy]()
        result = memoa_jax.simulate(
            lived,
            memoa_jax.random_features(work.FEATURES, work.NOISE),
            made,
            memoa_jax.ridge_mixture(work.KAPPA, work.ETA),
            num_agents=agents,
            key=key,
            chunk=chunk,
        )
        return objective_of(result, "server_rmse")

    return value


def measure_one(options: argparse.Namespace) -> dict[str, Any]:
    """Measure one kind of run in this process: plain, forward or reverse."""
    import jax

    from memoa_jax.tuning import value_and_gradient

    chunk = max(int(options.steps**0.5), 1) if options.one == "reverse" else None
    plain = objective(options.policy, options.agents, options.steps, chunk)
    kinds = {"plain": lambda: jax.jit(plain)}
    for mode in ("forward", "reverse"):
        kinds[mode] = lambda mode=mode: value_and_gradient(plain, len(NAMES), mode)
    run = kinds[options.one]()
    first, _ = harness.once(lambda: jax.block_until_ready(run(START)))
    timing = harness.measure(
        lambda: jax.block_until_ready(run(START)), repeats=options.repeats, warm=0
    )
    return {
        "policy": options.policy,
        "kind": options.one,
        "agents": options.agents,
        "steps": options.steps,
        "seconds": timing.minimum,
        "spread": timing.spread,
        "compile_s": first - timing.minimum,
        "peak_mb": harness.peak_memory() / 1e6,
        "facts": harness.facts(),
    }


def main() -> None:
    parser = harness.Parser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--agents", type=harness.positive, default=10**5)
    parser.add_argument("--steps", type=harness.positive, default=200)
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=list(POLICIES))
    parser.add_argument("--modes", nargs="+", choices=("forward", "reverse"), default=["forward"])
    parser.add_argument("--repeats", type=harness.positive, default=3)
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    parser.add_argument("--one", choices=("plain", "forward", "reverse"))
    parser.add_argument("--policy", choices=POLICIES, default="decentralized")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(harness.plain(measure_one(options))))
        return
    result: dict[str, Any] = {"facts": {}, "rows": []}
    for policy in options.policies:
        plain = 0.0
        for kind in ("plain", *options.modes):
            words = [__file__, "--one", kind, "--policy", policy]
            words += ["--agents", str(options.agents), "--steps", str(options.steps)]
            words += ["--repeats", str(options.repeats)]
            row = harness.in_child(words)
            result["facts"] = row.pop("facts")
            plain = row["seconds"] if kind == "plain" else plain
            row["ratio"] = row["seconds"] / plain
            result["rows"].append(row)
            harness.save("gradients", result, options.out)
            print(harness.table([row]), file=sys.stderr, flush=True)
    print(harness.table(result["rows"]))


if __name__ == "__main__":
    main()
