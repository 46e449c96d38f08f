"""What the equilibrium costs to compute as the population grows: the reason for the method.

One game of T steps, N agents with the same features and costs, solved in five ways, in float64:

    nash_joint           `solve_nash_dense`: N coupled Riccati equations on the joint state R^{N d}
    nash_joint_numpy     the same equations in plain NumPy, written here, sharing no code with it
    planner_joint_numpy  one planner for all (the team optimum): one Riccati equation on R^{N d}
    nash_reduced         `solve_nash(..., population=N)`: exact at every N, by symmetry
    nash_limit           `solve_nash(..., population=None)`: the decentralized policy's gains

The first three are what "centralized" costs where symmetry is not used; at every size they are
compared with the reductions. The last two do not depend on N. Seconds are the least of repeats
by the clock of `ceilings` (processor time on one core of a CPU), medians on the wall stand beside
them; bytes are those of the compiled program, or the most that NumPy's arrays took in a run.
Writes `centralized_cost.json`, `.png` and `.svg`; with the package on the path, on one core:

    taskset -c 0 python benchmarks/centralized_cost.py
"""

from __future__ import annotations

import argparse
import math
import os
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ceilings
import centralized_figure
import harness
import jax
import jax.numpy as jnp
import numpy as np

from memoa_jax import FeatureMoments, GameCost, solve_nash, solve_nash_dense, solve_team

COST = GameCost(tracking=1.0, consensus=1.0, ensemble=0.5, effort=0.1, forgetting=0.1)
"""Every term of the cost is switched on, so that no agreement is the accident of a zero."""
POPULATIONS = (2, 4, 10, 30, *(10**power for power in range(2, 9)))
"""For the two solvers that do not depend on N."""
MEMORY_SHARE = 0.4
"""The largest share of this machine's memory that a solver of the joint state may take."""
FITTED_SIZES = 4
"""To how many of the largest sizes a growth exponent is fitted."""
Gains = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Own [T, p, d], mean [T, p, d] and offset [T, p], as `FeedbackGains`."""


def game(horizon: int, outputs: int, features: int) -> tuple[FeatureMoments, np.ndarray]:
    """Return moments of rectified normal features, averaged over 1,000 agents, and targets."""
    draw = np.random.default_rng(0)
    sampled = np.maximum(draw.normal(size=(horizon, 1000, outputs, features)), 0.0)
    moments = FeatureMoments.from_samples(jnp.asarray(sampled))
    return moments, draw.normal(size=(horizon, outputs))


def _joint_gains(rows: np.ndarray, mean: np.ndarray, curvature: np.ndarray) -> np.ndarray:
    """Solve (D + m'R m) gains = m'R for all agents at once, [N, p, N d + 1].

    `rows` [N d, N d + 1] are R, `curvature` [N, p, p] is D, block diagonal. By the matrix
    inversion lemma the system is one of size N d, not N p.
    """
    n, d = len(curvature), mean.shape[0]
    lift = np.linalg.solve(curvature, np.broadcast_to(mean.T, (n, *mean.T.shape)))
    state_rows = rows[:, :-1].reshape(-1, n, d)
    system = np.einsum("xjd,jde->xje", state_rows, mean @ lift).reshape(n * d, n * d)
    answer = np.linalg.solve(np.eye(n * d) + system, rows)
    gains: np.ndarray = lift @ answer.reshape(n, d, -1)
    return gains


def numpy_nash(cost: GameCost, moments: FeatureMoments, targets: np.ndarray, n: int) -> np.ndarray:
    """Return the Nash gains [N, T, p, N d + 1] on (Y, 1) from N coupled Riccati equations."""
    horizon, d = targets.shape
    p, size, each = moments.mean.shape[-1], n * d + 1, np.arange(n)
    effort = np.eye(p) * float(cost.effort)
    own = np.eye(n * d, size).reshape(n, d, size)
    average = own.mean(axis=0)
    value, gains = np.zeros((n, size, size)), []
    for t in reversed(range(horizon)):
        mean, delta = np.asarray(moments.mean[t]), math.exp(-cost.forgetting * (horizon - 1 - t))
        noise = np.asarray(moments.second[t]) - np.einsum("ak,bl->abkl", mean, mean)
        target = np.outer(targets[t], np.eye(size)[-1])
        terms = ((cost.tracking, own - target), (cost.consensus, own - average))
        for weight, rows in (*terms, (cost.ensemble, np.array([average - target] * n))):
            value += delta * weight * (rows.swapaxes(1, 2) @ rows)
        # blocks[i, j] is the block of agent i's value that belongs to agent j's state
        blocks = value[:, :-1, :-1].reshape(n, n, d, n, d)[:, each, :, each].swapaxes(0, 1)
        curvature = np.einsum("iab,abkl->ikl", blocks[each, each], noise) + delta * effort
        own_rows = value[:, :-1].reshape(n, n, d, size)[each, each].reshape(n * d, size)
        gain = _joint_gains(own_rows, mean, curvature)
        closed = np.eye(size)
        closed[:-1] -= (mean @ gain).reshape(n * d, size)
        prices = np.einsum("jkx,abkl,jly->jabxy", gain, noise, gain, optimize=True)
        value = closed.T @ (value @ closed)
        value += np.tensordot(blocks, prices, 3) + gain.swapaxes(1, 2) @ (delta * effort) @ gain
        gains.append(gain)
    return np.stack(gains[::-1], axis=1)


def numpy_planner(
    cost: GameCost, moments: FeatureMoments, targets: np.ndarray, n: int
) -> np.ndarray:
    """Return the team's gains [N, T, p, N d + 1] on (Y, 1) from one Riccati equation."""
    horizon, d = targets.shape
    p, size, each = moments.mean.shape[-1], n * d + 1, np.arange(n)
    average = np.eye(n * d, size).reshape(n, d, size).mean(axis=0)
    value, gains = np.zeros((size, size)), []
    for t in reversed(range(horizon)):
        mean, delta = np.asarray(moments.mean[t]), math.exp(-cost.forgetting * (horizon - 1 - t))
        noise = np.asarray(moments.second[t]) - np.einsum("ak,bl->abkl", mean, mean)
        value += delta * (cost.ensemble - cost.consensus) * (average.T @ average)
        value[np.diag_indices(n * d)] += delta * (cost.tracking + cost.consensus) / n
        pull = delta * (cost.tracking + cost.ensemble) * (average.T @ targets[t])
        value[:, -1] -= pull
        value[-1] -= pull
        blocks = value[:-1, :-1].reshape(n, d, n, d)[each, :, each]
        effort = delta * cost.effort / n * np.eye(p)
        curvature = np.einsum("jab,abkl->jkl", blocks, noise) + effort
        gain = _joint_gains(value[:-1], mean, curvature)
        value = value - value[:, :-1] @ (mean @ gain).reshape(n * d, size)
        value = (value + value.T) / 2
        gains.append(gain)
    return np.stack(gains[::-1], axis=1)


def split(gains: np.ndarray) -> tuple[Gains, float]:
    """Read own, mean and offset gains off joint ones [N, T, p, N d + 1] of agents all alike.

    Also returns the largest departure from that form, relative to the largest gain: it would
    show any agent that is treated unlike the others.
    """
    n, horizon, p, size = gains.shape
    each, scatter = np.arange(n), 0.0
    leaves: list[list[np.ndarray]] = [[], [], []]
    for t in range(horizon):
        by_agent = gains[:, t, :, :-1].reshape(n, p, n, (size - 1) // n)
        diagonal, total = by_agent[each, :, each], by_agent.sum(axis=(0, 2))
        shared = (total - diagonal.sum(axis=0)) / (n * (n - 1))
        own, offset = diagonal.mean(axis=0) - shared, gains[:, t, :, -1].mean(axis=0)
        apart = by_agent - shared[:, None]
        apart[each, :, each] -= own
        scatter = max(scatter, float(np.abs(apart).max() / np.abs(own).max()))
        for leaf, found in zip(leaves, (own, n * shared, offset), strict=True):
            leaf.append(found)
    own_gains, mean_gains, offsets = (np.stack(leaf) for leaf in leaves)
    return (own_gains, mean_gains, offsets), scatter


def reduced(solve: Callable[..., Any], moments: FeatureMoments, y: np.ndarray, n: Any) -> Gains:
    """Return the gains of `solve_nash` or `solve_team` for n agents (None: the limit)."""
    gains = solve(COST, moments, jnp.asarray(y), n).gains
    return np.asarray(gains.own), np.asarray(gains.mean), np.asarray(gains.offset)


def distance(found: Gains, reference: Gains) -> float:
    """Return the largest difference of a gain, relative to the largest of its kind."""
    return max(
        float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(found, reference, strict=True)
    )


Prepared = tuple[Callable[[], np.ndarray], float | None, int | None]
"""A run that returns joint gains, seconds of compilation, and bytes that it needs, if known."""


def memory_of(compiled: Any) -> int | None:
    """Return the bytes of a compiled program's arguments, results and temporaries, if told."""
    told = compiled.memory_analysis()
    if told is None:
        return None
    names = ("argument_size_in_bytes", "output_size_in_bytes", "temp_size_in_bytes")
    return sum(int(getattr(told, name)) for name in names)


def prepare_joint(moments: FeatureMoments, y: np.ndarray, n: int) -> Prepared:
    """Compile `solve_nash_dense` for n agents."""
    everyone = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n, *leaf.shape)), moments)
    arguments = (COST, everyone, jnp.asarray(y))
    lowered = jax.jit(solve_nash_dense).lower(*arguments)
    kept: list[Any] = []
    seconds, _ = harness.once(lambda: kept.append(lowered.compile()))

    def run() -> np.ndarray:
        found = jax.block_until_ready(kept[0](*arguments))
        return np.concatenate([found.state, found.offset[..., None]], axis=-1)

    return run, seconds, memory_of(kept[0])


def prepare_numpy(
    solve: Callable[..., np.ndarray], moments: FeatureMoments, y: np.ndarray, n: int
) -> Prepared:
    """Bind a NumPy solver to n agents; nothing is compiled."""
    return (lambda: solve(COST, moments, y, n)), None, None


def expected(rows: Sequence[Mapping[str, Any]], key: str, n: int) -> float:
    """Extend a column of the last two rows to n agents by the power law through them."""
    if len(rows) < 2:
        return 0.0
    (a, first), (b, last) = ((row["agents"], row[key]) for row in rows[-2:])
    return float(last * (n / b) ** max(math.log(last / first) / math.log(b / a), 2.0))


def climb(
    name: str, prepare: Callable[[int], Prepared], reduction: Callable[[Any], Gains], seconds: float
) -> tuple[list[dict[str, Any]], str]:
    """Measure a solver of the joint state at growing sizes; also say what ended it."""
    rows: list[dict[str, Any]] = []
    limit = reduction(None)
    memory = MEMORY_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for half_octave in (2, 4, 6, *range(8, 60)):
        n = round(2 ** (half_octave / 2))
        if expected(rows, "seconds", n) > seconds:
            return rows, f"N = {n} would take more than {seconds:g} s"
        if expected(rows, "bytes", n) > memory:
            return rows, f"N = {n} would take more than {MEMORY_SHARE:.0%} of the memory"
        run, compile_seconds, needed = prepare(n)
        if needed is None:
            tracemalloc.start()
        found, scatter = split(run())  # also the run that does not count
        if needed is None:
            needed = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        rough = max(rows[-1]["seconds"] if rows else 0.0, expected(rows, "seconds", n))
        timing = harness.measure(run, repeats=3 if rough > 2 else 7, warm=0)
        rows.append(
            {
                "solver": name,
                "agents": n,
                "seconds": ceilings.seconds(timing),
                "wall_seconds": timing.median,
                "spread": timing.spread,
                "compile_seconds": compile_seconds,
                "bytes": needed,
                "difference": max(distance(found, reduction(n)), scatter),
                "distance_to_limit": distance(found, limit),
            }
        )
        print(f"{name}: N = {n}, {rows[-1]['seconds']:.3g} s", flush=True)
    return rows, "no larger size was asked for"


def flat(moments: FeatureMoments, y: np.ndarray) -> list[dict[str, Any]]:
    """Measure the reduction at every population and the limit, each one compiled program."""
    rows: list[dict[str, Any]] = []
    limit = reduced(solve_nash, moments, y, None)
    for name, populations in (("nash_reduced", POPULATIONS), ("nash_limit", (None,))):
        share = None if populations == (None,) else 2.0
        lowered = jax.jit(solve_nash).lower(COST, moments, jnp.asarray(y), share)
        kept: list[Any] = []
        compile_seconds, _ = harness.once(lambda kept=kept, low=lowered: kept.append(low.compile()))
        for n in populations:
            arguments = (COST, moments, jnp.asarray(y), None if n is None else float(n))
            timing = harness.measure(
                lambda run=kept[0], given=arguments: jax.block_until_ready(run(*given)), 51, 5
            )
            apart = 0.0 if n is None else distance(reduced(solve_nash, moments, y, n), limit)
            rows.append(
                {
                    "solver": name,
                    "agents": n,
                    "seconds": ceilings.seconds(timing),
                    "wall_seconds": timing.median,
                    "spread": timing.spread,
                    "compile_seconds": compile_seconds,
                    "bytes": memory_of(kept[0]),
                    "distance_to_limit": apart,
                }
            )
    return rows


def slope(rows: Sequence[Mapping[str, Any]], key: str) -> float:
    """Return the exponent k of key ~ N^k, by least squares on logarithms."""
    columns = [[math.log(row[name]) for row in rows] for name in ("agents", key)]
    return float(np.polyfit(*columns, 1)[0])


def measure_all(horizon: int, outputs: int, features: int, seconds: float) -> dict[str, Any]:
    """Measure every solver and return what `centralized_cost.json` holds."""
    moments, y = game(horizon, outputs, features)
    solvers: dict[str, tuple[Callable[[int], Prepared], Callable[..., Any]]] = {
        "nash_joint": (lambda n: prepare_joint(moments, y, n), solve_nash),
        "nash_joint_numpy": (lambda n: prepare_numpy(numpy_nash, moments, y, n), solve_nash),
        "planner_joint_numpy": (lambda n: prepare_numpy(numpy_planner, moments, y, n), solve_team),
    }
    joint: dict[str, Any] = {}
    for name, (prepare, solve) in solvers.items():
        rows, ended = climb(
            name, prepare, lambda n, solve=solve: reduced(solve, moments, y, n), seconds
        )
        fitted = rows[-FITTED_SIZES:]
        keys = ("seconds", "wall_seconds", "bytes")
        exponents = {key: slope(fitted, key) for key in keys}
        joint[name] = {
            "rows": rows,
            "ended_because": ended,
            "fitted_to": [row["agents"] for row in fitted],
            "exponents": exponents,
            "largest_difference": max(row["difference"] for row in rows),
            "extrapolated_10000": {
                key: rows[-1][key] * (10**4 / rows[-1]["agents"]) ** exponents[key]
                for key in exponents
            },
        }
    rows = flat(moments, y)
    reached = [row for row in rows if row["solver"] == "nash_reduced" and row["agents"] >= 100]
    return {
        "settings": {
            "horizon": horizon,
            "outputs": outputs,
            "features": features,
            "seconds_bound": seconds,
            "clock": ceilings.clock(),
            "dtype": "float64",
            "cost": {key: getattr(COST, key) for key in COST.__dataclass_fields__},
        },
        "joint": joint,
        "reduced": rows,
        "distance_slope": slope(reached, "distance_to_limit"),
    }


def report(result: Mapping[str, Any]) -> str:
    """Return the measurements as a table, and what they say in sentences."""
    outputs, rows = result["settings"]["outputs"], []
    solved = [row for solver in result["joint"].values() for row in solver["rows"]]
    for row in [*solved, *result["reduced"]]:
        alone = row["solver"].startswith("nash_reduced") or row["agents"] is None
        rows.append(
            {
                "solver": row["solver"],
                "agents": "limit" if row["agents"] is None else f"{row['agents']:,}",
                "seconds": row["seconds"],
                "wall": row["wall_seconds"],
                "spread": row["spread"],
                "compile s": row["compile_seconds"],
                "MB": row["bytes"] / 1e6 if row["bytes"] else None,
                "from reduction": row.get("difference"),
                "from limit": row["distance_to_limit"],
                "sent per agent": outputs if alone else outputs * row["agents"],
            }
        )
    lines = [harness.table(rows), ""]
    for name, solver in result["joint"].items():
        powers, far = solver["exponents"], solver["extrapolated_10000"]
        lines.append(
            f"{name}: seconds ~ N^{powers['seconds']:.2f} (median on the wall "
            f"{powers['wall_seconds']:.2f}), bytes ~ N^{powers['bytes']:.2f} over "
            f"N = {solver['fitted_to']}; {solver['ended_because']}; largest difference from the "
            f"reduction {solver['largest_difference']:.1e}; extrapolated to 10,000 agents "
            f"{far['seconds']:.2g} s and {far['bytes'] / 1e9:.2g} GB"
        )
    lines.append(f"distance of the reduction to the limit ~ N^{result['distance_slope']:.4f}")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write the numbers and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--horizon", type=int, default=5, help="steps T of the game")
    parser.add_argument("--features", type=int, default=4, help="features p per output")
    parser.add_argument("--outputs", type=int, default=1, help="outputs d")
    parser.add_argument("--seconds", type=float, default=20.0, help="bound on one joint solve")
    parser.add_argument("--out", type=Path, default=harness.RESULTS, help="folder of the results")
    asked = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    result = measure_all(asked.horizon, asked.outputs, asked.features, asked.seconds)
    print(report(result))
    path = harness.save("centralized_cost", result, asked.out)
    centralized_figure.draw(path)


if __name__ == "__main__":
    main()
