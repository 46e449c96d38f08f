"""The parts of `gpu`, measured: one process of its own answers for a few of them, line by line.

A request is a JSON object; its `do` names the function of `PARTS` below that measures it, the
rest are the function's arguments. What fails is told as `trouble`, and the process goes on.
"""

from __future__ import annotations

import functools
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import ceilings
import harness
import jax
import jax.numpy as jnp
import kernels
import numpy as np
from cases import RESIDENT_BYTES, Case, Sample, not_finite

from memoa_jax import random_features, ridge_mixture
from memoa_jax.draws import seed_words
from memoa_jax.linalg import UNROLLED_FEATURES
from memoa_jax.loop import begin, points_of, run_chunk
from memoa_jax.placement import cut
from memoa_jax.regression import NormalEquations
from memoa_jax.types import Dimensions, Population

RIDGE = 0.1
"""Of the random systems: the forecast game's, and the smallest that the policies use."""


def facts() -> dict[str, Any]:
    """Describe the device, as far as a program can ask."""
    device = jax.devices()[0]
    return {
        **harness.facts(),
        "platform": device.platform,
        "platform_version": device.client.platform_version,
        "device_bytes": memory(device).get("bytes_limit"),
    }


def memory(device: Any = None) -> Mapping[str, int]:
    """Return what the device tells about its memory; nothing where it tells nothing."""
    return (device or jax.devices()[0]).memory_stats() or {}


def measure_ceilings(copied: int, computed: int) -> dict[str, Any]:
    """Measure bandwidth on arrays of `copied` numbers, arithmetic on `computed`, and launches."""
    return {
        "bandwidth": ceilings.bandwidth(copied, host=False),
        **ceilings.arithmetic(computed),
        "launch_us": ceilings.launches(),
    }


def check_products(agents: int, features: int) -> dict[str, Any]:
    """Compare sums of products over a population with float64: the library's, and the default.

    The default precision of a float32 matrix product is the device's: TF32 on recent GPUs.
    """
    values = jax.random.normal(jax.random.key(1), (features, agents)) + 0.5
    exact = np.asarray(values, np.float64)
    exact = exact @ exact.T

    def difference(product: jax.Array) -> float:
        return float(np.linalg.norm(np.asarray(product, np.float64) - exact)) / float(
            np.linalg.norm(exact)
        )

    library = jax.jit(lambda v: Population(jnp.float32(agents)).products(v, v))
    default = jax.jit(lambda v: jnp.matmul(v, v.T))
    return {"library": difference(library(values)), "default": difference(default(values))}


def count_kernels(case: Mapping[str, Any], agents: int, points: int) -> dict[str, Any]:
    """Compile a chunk of the resident schedule; count what its step launches, and its memory."""
    one = Case(**case)
    series = one.series(points)
    dimensions = Dimensions(points, series.inputs.shape[1], series.targets.shape[1], one.features)

    def prepare(key: jax.Array) -> Any:
        first = jnp.asarray(series.targets[0], jnp.float32)
        return begin(
            random_features(one.features),
            one.make(),
            ridge_mixture(),
            None,
            seed_words(key),
            first,
            jnp.zeros(0, jnp.int32),
            population=Population(size=jnp.asarray(agents, jnp.float32)),
            index=jnp.arange(agents, dtype=jnp.uint32),
            dimensions=dimensions,
            fields=(),
            best_readout=False,
        )

    program, state = jax.eval_shape(prepare, jax.random.key(0))
    run = jax.jit(run_chunk, donate_argnames="state")
    compiled = run.lower(program, state, points_of(series, 0, points, "float32")).compile()
    least, most = kernels.of_step(compiled.as_text() or "")
    # Greedy agents add up their window anew once in so many steps; games are played at all.
    share = 1 / one.window if one.policy == "greedy" else 1.0
    held = None
    if (told := compiled.memory_analysis()) is not None:
        held = told.argument_size_in_bytes + told.output_size_in_bytes + told.temp_size_in_bytes
        held = (held - told.alias_size_in_bytes) / agents
    return {
        "kernels": least.total + share * (most.total - least.total),
        "kernels_least": least.total,
        "kernels_most": most.total,
        "decisions": most.decisions,
        "copies": most.copies,
        "copied_bytes_per_agent": least.copied_bytes / agents
        + share * (most.copied_bytes - least.copied_bytes) / agents,
        "held_bytes_per_agent": held,
    }


def measure_row(
    case: Mapping[str, Any],
    schedule: str,
    agents: int,
    points: list[int],
    repeats: int,
    block: int | None = None,
) -> dict[str, Any]:
    """Time runs of one policy, population and schedule; hand over a sample of the shortest.

    With two lengths the time of a step is the difference of the least times over the difference
    of the lengths: what a run costs once (draws, results, the first launch) falls out, and is
    told as `setup_s`. With one length a run is divided by its steps, everything included.
    Resident runs are cut into chunks of the shorter length, so that both run the same compiled
    program; what a chunk costs the host stays in.
    """
    one, device = Case(**case), jax.devices()[0]
    limit = memory(device).get("bytes_limit")
    if schedule == "resident" and limit is not None and agents * RESIDENT_BYTES > limit:
        return {"trouble": f"not tried: {agents * RESIDENT_BYTES / 1e9:.0f} GB or so"}
    how: dict[str, Any] = {"schedule": schedule, "chunk": points[0], "keep_costs": True}
    how |= {} if block is None else {"block": block}
    found: dict[int, dict[str, Any]] = {}

    def live(length: int) -> float:
        result: list[Any] = []
        wall, _ = harness.once(lambda: result.append(one.run(agents, length, **how)))
        # Only what the host needs is kept: two populations need not fit.
        found[length] = {
            "not_finite": not_finite(result[0].agent_costs),
            "status": int(result[0].status),
            "sample": Sample.of(result[0])._asdict(),
        }
        return wall

    first, *_ = [live(length) for length in points]
    turns = [[live(length) for length in points] for _ in range(repeats)]
    walls = dict(zip(points, zip(*turns, strict=True), strict=True))
    short, long = min(walls[points[0]]), min(walls[points[-1]])
    apart = points[-1] - points[0]
    step = (long - short) / apart if apart else short / points[0]
    peak = memory(device).get("peak_bytes_in_use")
    size = None if schedule == "resident" else cut(agents, block, device.platform).size
    return {
        "ms_per_step": step * 1e3,
        "ns_per_agent_step": step / agents * 1e9,
        "timed": "difference of two lengths" if apart else "whole runs",
        "run_s": long,
        "spread": max(walls[points[-1]]) / long,
        "setup_s": short - step * points[0] if apart else None,
        "compile_s": first - short,
        "peak_mb": None if peak is None else peak / 1e6,
        "agents_per_block": size,
        **found[points[0]],
    }


def check_sample(
    case: Mapping[str, Any], agents: int, points: int, sample: Mapping[str, Any]
) -> dict[str, Any]:
    """Recompute a run's sample; its costs are None where they were not finite."""
    return {"error": Case(**case).error(agents, points, Sample(**sample))}


def check_solves(features: int, systems: int, sample: int) -> dict[str, Any]:
    """Solve random systems as the policies do; count what is not finite, compare a sample.

    Gram matrices of p normal rows, times a number of 10^-2..10^2 of their own, plus a ridge:
    conditioned up to 10^5. The residual is |A x - b| / (|A| |x| + |b|), which does not depend
    on that; the difference is |x - x64| / |x64|, which does.
    """

    @jax.jit
    def make(key: jax.Array) -> NormalEquations:
        scale_key, *keys = jax.random.split(key, features + 1)
        scale = 10.0 ** jax.random.uniform(scale_key, (systems,), minval=-1.0, maxval=1.0)

        def enter(equations: NormalEquations, key: jax.Array) -> tuple[NormalEquations, None]:
            rows = scale * jax.random.normal(key, (1, features + 1, systems))
            return equations.add(rows[:, :features], rows[:, features]), None

        empty = NormalEquations.empty(features, systems, jnp.float32)
        return jax.lax.scan(enter, empty, jnp.stack(keys))[0]

    equations = make(jax.random.key(features))
    solve = jax.jit(lambda one: one.solve(RIDGE))
    found: list[jax.Array] = []
    first, _ = harness.once(lambda: found.append(jax.block_until_ready(solve(equations))))
    timing = harness.measure(lambda: jax.block_until_ready(solve(equations)), repeats=5)
    finite = jax.jit(lambda x: jnp.sum(jnp.all(jnp.isfinite(x), axis=0)))(found[0])
    chosen = np.sort(np.random.default_rng(0).choice(systems, min(sample, systems), replace=False))
    return {
        "route": "unrolled" if features <= UNROLLED_FEATURES else "library",
        "ns_per_system": timing.minimum / systems * 1e9,
        "compile_s": first - timing.minimum,
        "not_finite": systems - int(finite),
        **_against_doubles(equations, found[0], chosen),
    }


def _against_doubles(
    equations: NormalEquations, solution: jax.Array, chosen: np.ndarray
) -> dict[str, float]:
    """Compare the chosen systems' solutions with those of float64 NumPy."""
    p = len(equations.gram)
    matrix = np.tile(RIDGE * np.eye(p), (len(chosen), 1, 1))
    for a, row in enumerate(equations.gram):
        held = np.asarray(row[:, chosen], np.float64).T
        matrix[:, a, : a + 1] += held
        matrix[:, :a, a] += held[:, :a]
    right = np.asarray(equations.moment[:, chosen], np.float64).T
    x = np.asarray(solution[:, chosen], np.float64).T
    exact = np.linalg.solve(matrix, right[..., None])[..., 0]
    size = np.linalg.norm(matrix, axis=(1, 2)) * np.linalg.norm(x, axis=1)
    residual = np.linalg.norm((matrix @ x[..., None])[..., 0] - right, axis=1)
    difference = np.linalg.norm(x - exact, axis=1) / np.linalg.norm(exact, axis=1)
    return {
        "largest_residual": float(np.max(residual / (size + np.linalg.norm(right, axis=1)))),
        "largest_difference": float(np.max(difference)),
        "median_difference": float(np.median(difference)),
    }


def trace(case: Mapping[str, Any], agents: int, points: int, folder: str) -> dict[str, Any]:
    """Record one warm resident run with JAX's profiler."""
    run = functools.partial(
        Case(**case).run, agents, points, schedule="resident", chunk=points, keep_costs=True
    )
    run()
    with jax.profiler.trace(folder):
        run()
    return {"recorded_steps": points}


PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "facts": facts,
    "ceilings": measure_ceilings,
    "products": check_products,
    "kernels": count_kernels,
    "row": measure_row,
    "check": check_sample,
    "solves": check_solves,
    "trace": trace,
}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Measure what is asked for; tell what went wrong in one line."""
    start = time.perf_counter()
    try:
        found = PARTS[request.pop("do")](**request)
    except Exception as error:
        traceback.print_exc()
        lines = str(error).strip().splitlines()
        found = {"trouble": f"{type(error).__name__}: {lines[0][:300] if lines else ''}"}
    return {**found, "seconds": time.perf_counter() - start}


if __name__ == "__main__":
    # Ctrl-C is for the process that asks; it ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    harness.serve(answer)
