"""The greedy step in other libraries: nanoseconds per agent and step, beside memoa_jax.

Every implementation does the work of `work` with its own library's random numbers.
Each has a process of its own, kept to the given cores, and the repeats of all take turns. Where
a library has several forms a short trial chooses the fastest. The error is the largest relative
one of 64 agents' cumulative costs against `oracle`: for memoa_jax, 64 agents of the
timed run itself; for the others, 64 agents with given draws.

    python benchmarks/peers.py --agents 10000 100000 --steps 40

A series of `steps` steps has one row more, and a row is what counts as a step here.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import harness
import numpy as np
import oracle
import work

OURS = "memoa_jax"
IMPLEMENTATIONS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    OURS: ("peers", ("stream",)),
    "NumPy batched": ("peer_numpy", ("einsum", "matmul", "incremental")),
    "NumPy agents last": ("peer_numpy", ("last",)),
    "PyTorch batched": ("peer_torch", ("lu", "cholesky")),
    "PyTorch agents last": ("peer_torch", ("last",)),
    "JAX vmap": ("peer_vmap", ("direct", "incremental")),
    "Numba agent by agent": (
        "peer_numba",
        ("library", "library_fastmath", "xorshift", "xorshift_fastmath"),
    ),
    "Numba lanes": ("peer_numba_lanes", ("lanes", "lanes_fastmath")),
}
"""What is compared: a module of this folder, and the forms that a trial chooses from."""
CHECKED = 64
TRIAL_AGENTS = 30_000
"""At most so many agents in a trial; past the caches, and still short."""
TRIAL_REPEATS = 3


def ours(agents: int, steps: int, schedule: str, seed: int = 0) -> Any:
    """Run memoa_jax on the work and return its `Result`."""
    import jax

    import memoa_jax

    result = memoa_jax.simulate(
        memoa_jax.series.brownian(steps),
        memoa_jax.random_features(work.FEATURES, work.NOISE),
        memoa_jax.greedy(memoa_jax.GameCost(effort=work.EFFORT), window=work.WINDOW),
        memoa_jax.ridge_mixture(work.KAPPA, work.ETA),
        num_agents=agents,
        key=jax.random.key(seed),
        schedule=schedule,
        keep_costs=True,
    )
    return jax.block_until_ready(result)


class Ours:
    """memoa_jax in the shape of a peer."""

    def __init__(self, schedule: str) -> None:
        self.schedule = schedule

    def run(self, agents: int, steps: int, seed: int) -> work.Outcome:
        """Run; only the mean of the efforts is known, and no mean field after the last row."""
        result = ours(agents, steps, self.schedule, seed)
        return work.Outcome(
            costs=np.asarray(result.agent_costs),
            efforts=np.atleast_1d(np.asarray(result.summary.mean_agent_effort)),
            server=np.append(np.asarray(result.server)[1:, 0], np.asarray(result.forecast)),
            mean_field=np.append(np.asarray(result.mean_field)[1:, 0], np.nan),
        )

    def check(self, last: work.Outcome, steps: int, seed: int) -> dict[str, float]:
        """Recompute agents of the last run; and the server of a run of these few alone."""
        agents = len(last.costs)
        chosen = np.random.default_rng(seed).choice(agents, min(CHECKED, agents), replace=False)
        found = recompute(self._draws(np.sort(chosen), steps, seed), work.targets_of(steps))
        few = self.run(CHECKED, steps, seed)
        own = recompute(self._draws(np.arange(CHECKED), steps, seed), work.targets_of(steps))
        return {
            "difference": oracle.largest_difference(last.costs[np.sort(chosen)], found.costs),
            "server_difference": float(np.max(np.abs(few.server - own.server[:, 0]))),
        }

    def _draws(self, agents: np.ndarray, steps: int, seed: int) -> oracle.Draws:
        import jax

        from memoa_jax import series

        if not np.array_equal(
            series.brownian(steps).targets[:, 0].astype(np.float32), work.targets_of(steps)
        ):
            raise RuntimeError("the peers' series is no longer memoa_jax.series.brownian")
        return oracle.draws_of(agents, jax.random.key(seed), steps + 1, features=work.FEATURES)


def recompute(draws: oracle.Draws, targets: work.Floats) -> oracle.Run:
    """Do the work in float64."""
    policy = oracle.Greedy(targets, work.WINDOW, work.EFFORT)
    return oracle.live(
        draws, targets[:, None], targets, policy, noise=work.NOISE, kappa=work.KAPPA, eta=work.ETA
    )


def check_given(peer: Any, steps: int) -> dict[str, float]:
    """Compare a peer on given draws with the oracle: costs relatively, the server absolutely."""
    draw = np.random.default_rng(7)
    targets = work.targets_of(steps)
    draws = oracle.Draws(
        weights=draw.standard_normal((CHECKED, 1), np.float32),
        biases=draw.standard_normal((CHECKED, work.FEATURES), np.float32),
        noise=draw.standard_normal((steps + 1, CHECKED, work.FEATURES), np.float32),
    )
    exact = recompute(draws, targets)
    found = peer.run_given(*draws, targets)
    return {
        "difference": oracle.largest_difference(found.costs, exact.costs),
        "server_difference": float(np.max(np.abs(found.server - exact.server[:, 0]))),
    }


def work_in_child(module: str, form: str) -> None:
    """Answer the parent: make one implementation, run it, check it, tell what it took."""
    try:
        peer: Any = Ours(form) if module == "peers" else _forms(module)[form]
        trouble = None
    except ImportError as error:
        trouble = f"not installed: {error.name}"
    base = harness.peak_memory()
    last: list[work.Outcome] = []

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        if trouble is not None:
            return {"trouble": trouble}
        agents, steps, seed = request["agents"], request["steps"], request["seed"]
        if request["do"] == "check":
            found = (
                peer.check(last[0], steps, seed)
                if isinstance(peer, Ours)
                else check_given(peer, steps)
            )
            used = (peer.schedule or "default") if isinstance(peer, Ours) else form
            return {**found, "form": used, "facts": harness.facts()}
        last.clear()
        wall, cpu = harness.once(lambda: last.append(peer.run(agents, steps, seed)))
        costs = last[0].costs.astype(np.float64)
        return {
            "wall": wall,
            "cpu": cpu,
            "cost": costs.mean(),
            "cost_error": costs.std() / math.sqrt(agents),
            "effort": float(np.mean(last[0].efforts)),
            "peak_bytes": harness.peak_memory(),
            "base_bytes": base,
        }

    harness.serve(answer)


def _forms(module: str) -> Mapping[str, Any]:
    forms: Mapping[str, Any] = importlib.import_module(module).FORMS
    return forms


class Contestant:
    """One implementation in its own process; trouble, once met, is kept and asks no more."""

    def __init__(self, name: str, form: str, steps: int, threads: int) -> None:
        self.name, self.form, self.steps, self.trouble = name, form, steps, None
        self.answers: list[dict[str, Any]] = []
        self.worker = harness.Worker(
            [str(Path(__file__).resolve()), "--worker", IMPLEMENTATIONS[name][0], form],
            allowed=harness.cores()[:threads],
            threads=threads,
            # A comparison on processors: an accelerator in the machine stays out of it.
            extra={"JAX_PLATFORMS": "cpu"},
        )

    def ask(self, do: str, agents: int) -> dict[str, Any]:
        """Have the work done once, or checked; an empty answer where there is trouble."""
        if self.trouble is not None:
            return {}
        try:
            answer = self.worker.ask(do=do, agents=agents, steps=self.steps, seed=0)
        except RuntimeError as error:
            answer = {"trouble": str(error)}
        self.trouble = answer.get("trouble")
        return {} if self.trouble is not None else answer

    def run(self, agents: int) -> None:
        """Run once and keep the answer."""
        answer = self.ask("run", agents)
        if answer:
            self.answers.append(answer)

    def row(self, agents: int) -> dict[str, Any]:
        """Summarise; the first run compiled, and does not count."""
        row: dict[str, Any] = {"agents": agents, "name": self.name, "form": self.form}
        check = self.ask("check", agents) if len(self.answers) > 1 else {}
        if self.trouble is not None or not check:
            return {**row, "trouble": self.trouble}
        first, *rest = self.answers
        timing = harness.Timing.of([a["wall"] for a in rest], [a["cpu"] for a in rest])
        unit = 1e9 / (agents * (self.steps + 1))
        return {
            **row,
            "ns": timing.minimum * unit,
            "cpu_ns": timing.cpu * unit,
            "spread": timing.spread,
            "compile_s": max(first["wall"] - rest[0]["wall"], 0.0),
            "peak_mb": rest[-1]["peak_bytes"] / 2**20,
            "base_mb": rest[-1]["base_bytes"] / 2**20,
            **{name: rest[-1][name] for name in ("cost", "cost_error", "effort")},
            **check,
        }


def take_turns(contestants: Sequence[Contestant], agents: int, repeats: int) -> None:
    """Run all once to compile, then in turns: what slows the machine meanwhile slows all."""
    for _ in range(repeats + 1):
        for contestant in contestants:
            contestant.run(agents)


def best_form(name: str, agents: int, steps: int, threads: int) -> tuple[str, dict[str, Any]]:
    """Return the fastest form of an implementation, and what the trial found for each, in ns."""
    forms = IMPLEMENTATIONS[name][1]
    found: dict[str, Any] = {}
    if len(forms) == 1:
        return forms[0], found
    agents = min(agents, TRIAL_AGENTS)
    clock = "cpu" if threads == 1 else "wall"  # processor time does not count other people's work
    with contextlib.ExitStack() as stack:
        contestants = [Contestant(name, form, steps, threads) for form in forms]
        for contestant in contestants:
            stack.callback(contestant.worker.close)
        take_turns(contestants, agents, TRIAL_REPEATS)
    for contestant in contestants:
        seconds = [answer[clock] for answer in contestant.answers[1:]]
        nanoseconds = min(seconds, default=math.nan) * 1e9 / (agents * (steps + 1))
        found[contestant.form] = contestant.trouble or nanoseconds
    timed = [form for form in forms if isinstance(found[form], float)]
    return min(timed, key=lambda form: found[form], default=forms[0]), found


def compare(
    agents: int, steps: int, threads: int, repeats: int, forms: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Time implementations in the given forms on one population size, taking turns."""
    with contextlib.ExitStack() as stack:
        contestants = []
        for name, form in forms.items():
            contestants.append(Contestant(name, form, steps, threads))
            stack.callback(contestants[-1].worker.close)
        take_turns(contestants, agents, repeats)
        rows = [contestant.row(agents) for contestant in contestants]
    reference = next((row for row in rows if row["name"] == OURS and "ns" in row), None)
    for row in rows:
        if reference is not None and "ns" in row:
            row["ratio"] = row["ns"] / reference["ns"]
            row["cpu_ratio"] = row["cpu_ns"] / reference["cpu_ns"]
            # Other draws, the same law: the mean costs differ by chance alone.
            error = math.hypot(row["cost_error"], reference["cost_error"])
            row["sigmas"] = (row["cost"] - reference["cost"]) / error
    return rows


def show(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the printed table."""
    columns = (
        "agents name form ns cpu_ns ratio cpu_ratio spread compile_s peak_mb difference "
        "server_difference sigmas trouble"
    )
    return harness.table([{column: row.get(column) for column in columns.split()} for row in rows])


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--agents", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--schedule", default="stream", help="of memoa_jax, where it has any")
    parser.add_argument(
        "--only", nargs="+", choices=list(IMPLEMENTATIONS), default=list(IMPLEMENTATIONS)
    )
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker is not None:
        work_in_child(*options.worker)
        return
    if not 1 <= options.threads <= len(harness.cores()):
        parser.error(f"--threads: this process may use {len(harness.cores())} cores")
    steps, threads = options.steps, options.threads
    trial = {name: best_form(name, max(options.agents), steps, threads) for name in options.only}
    forms = {name: form for name, (form, _) in trial.items()}
    if OURS in forms:
        forms[OURS] = options.schedule
    payload: dict[str, Any] = {
        "facts": harness.facts(),
        "steps": steps,
        "threads": threads,
        "effort": work.EFFORT,
        "trial_ns": {name: found for name, (_, found) in trial.items() if found},
        "rows": [],
    }
    for agents in options.agents:
        rows = compare(agents, steps, threads, options.repeats, forms)
        for row in rows:
            payload["facts"]["versions"].update(row.pop("facts", {}).get("versions", {}))
        payload["rows"] += rows
        path = harness.save("peers", payload, options.out)
        print(show(rows), flush=True)
    print(f"written: {path.name}")


if __name__ == "__main__":
    main()
