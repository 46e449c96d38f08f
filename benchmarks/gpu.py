"""Everything about this library on one GPU: speed, its limits, NaN, precision, block size.

    python benchmarks/gpu.py --out FOLDER

writes FOLDER/gpu.json after every row, and a figure at the end. In order:

    ceilings   copy bandwidth, arithmetic, and what a launch costs, measured
    products   sums of products over the population against float64, beside TF32
    kernels    how many things a step launches, from the compiled program
    rows       ms per step of every policy and population, resident and stream; 64 agents of every
               run recomputed in float64 (`cases`)
    solves     random systems of p = 1..32, solved as the policies do: count of not finite
    blocks     the stream's block size
    trace      one greedy run under JAX's profiler, where --trace names a folder

Each group has a process of its own: what one breaks costs the others nothing, and the peak of the
device's memory is of one policy and schedule, its populations ascending (a stream's holds the
costs that it is asked for, 4 bytes per agent). What does not fit into
--minutes is left out and named; --resume measures what gpu.json lacks.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import harness
from cases import Case
from hand_count import bound_of

CASES = {
    "greedy": Case("greedy"),
    "decentralized-5": Case("decentralized", horizon=5),
    "decentralized-10": Case("decentralized", horizon=10),
    "forecast": Case("forecast"),
}
TARGET_MS = 0.5
"""What greedy and decentralized agents are to reach per step at `TARGET_AGENTS`."""
TARGET_AGENTS = 10**6
PARTS = ("ceilings", "products", "kernels", "rows", "solves", "blocks", "trace")
Request = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large everything is: numbers copied and computed on, agents, systems, blocks."""

    copied: int
    computed: int
    summed: int
    resident: Sequence[int]
    stream: Sequence[int]
    small_stream: Sequence[int]
    systems: int
    solved: Sequence[int]
    blocks_of: int
    blocks: Sequence[int]


FULL = Scale(
    copied=2**30,
    computed=2**26,
    summed=10**6,
    resident=(10**4, 10**5, 10**6, 10**7),
    stream=(10**6, 10**7, 10**8),
    small_stream=(10**4, 10**5),
    systems=10**6,
    # The sizes that matter most first, should time run out.
    solved=(8, 16, 1, 2, 4, 17, 32, 12, 3, 5, 6, 7, 9, 10, 11, 13, 14, 15, 24),
    blocks_of=10**7,
    blocks=tuple(2**power for power in range(15, 22)),
)
QUICK = Scale(2**18, 2**12, 20_000, (1000, 4000), (4000,), (), 2000, (1, 8, 17), 8192, (2048, 4096))


def lengths(case: Case, schedule: str, agents: int, *, quick: bool) -> Request:
    """Return rows of the series and repeats: long enough to time, short enough for minutes.

    Greedy agents may run away in a series much longer than these. A stream of another length is
    another program, so only greedy agents, who take one pass, tell what its setup is.
    """
    if quick:
        return {"points": [16, 32] if schedule == "resident" else [24], "repeats": 2}
    if schedule == "resident":
        small = agents <= 10**6
        return {"points": [128, 384] if small else [32, 96], "repeats": 5 if small else 3}
    if agents <= 10**6:
        return {"points": [128, 384] if case.policy == "greedy" else [128], "repeats": 3}
    return {"points": [64], "repeats": 2} if agents <= 10**7 else {"points": [32], "repeats": 1}


def plan(options: Any) -> Iterator[tuple[str, list[Request]]]:
    """Yield the groups that share a process, what matters most first: the part, and requests."""
    scale = QUICK if options.quick else FULL
    cases = [CASES[name] for name in options.policies]
    resident, stream = (options.agents or sizes for sizes in (scale.resident, scale.stream))

    def rows(case: Case, schedule: str, populations: Sequence[int]) -> tuple[str, list[Request]]:
        row = {"do": "row", "case": dataclasses.asdict(case), "schedule": schedule}
        return "rows", [
            {**row, "agents": agents, **lengths(case, schedule, agents, quick=options.quick)}
            for agents in sorted(populations)
        ]

    def solves(sizes: Sequence[int]) -> tuple[str, list[Request]]:
        amount = {"systems": scale.systems, "sample": 1000}
        return "solves", [{"do": "solves", "features": p, **amount} for p in sizes]

    yield "ceilings", [{"do": "ceilings", "copied": scale.copied, "computed": scale.computed}]
    yield "products", [{"do": "products", "agents": scale.summed, "features": 8}]
    size = {"agents": scale.summed, "points": 32}
    yield "kernels", [{"do": "kernels", "case": dataclasses.asdict(one), **size} for one in cases]
    yield from (rows(case, "resident", resident) for case in cases)
    if options.trace:
        traced = {"case": dataclasses.asdict(CASES["greedy"]), "folder": str(options.trace)}
        yield "trace", [{"do": "trace", **traced, **size}]
    yield from (rows(case, "stream", [n for n in stream if n <= 10**7]) for case in cases)
    yield solves(scale.solved[:7])
    _, (greedy,) = rows(CASES["greedy"], "stream", [scale.blocks_of])
    yield "blocks", [{**greedy, "block": block} for block in scale.blocks]
    yield from (rows(case, "stream", [n for n in stream if n > 10**7]) for case in cases)
    yield solves(scale.solved[7:])
    if not options.agents:
        yield from (rows(case, "stream", scale.small_stream) for case in cases)


class Measuring:
    """The results so far, and the processes that they come from."""

    def __init__(self, options: Any) -> None:
        self.options, self.begun = options, time.monotonic()
        self.result: dict[str, Any] = {"facts": {}, "trouble": [], **{part: [] for part in PARTS}}
        self.checking: harness.Worker | None = None

    def facts(self) -> Mapping[str, Any]:
        """Ask a process that sees the device what it is; goes on from earlier results of it."""
        with _worker() as worker:
            facts = worker.ask(do="facts")
        facts.pop("seconds")
        path = self.options.out / "gpu.json"
        if self.options.resume and path.exists():
            earlier = json.loads(path.read_text())
            if earlier["facts"].get("devices") != facts.get("devices"):
                raise SystemExit(f"gpu.py: {path} is of another device: remove it, or --resume")
            self.result.update({part: earlier.get(part, []) for part in PARTS})
        self.result["facts"] = facts
        for part in PARTS:
            for entry in self.result[part]:
                self.settle(part, entry)
        return facts

    def late(self) -> bool:
        """Tell whether the time is up."""
        limit: float = 60 * self.options.minutes
        return time.monotonic() - self.begun > limit

    def measure(self, part: str, requests: Sequence[Request]) -> None:
        """Measure a group in a process of its own; another goes on where one ends."""
        known = [one["request"] for one in self.result[part]]
        waiting = [one for one in requests if named(one) not in known]
        while waiting and not self.late():
            with _worker() as worker:
                while waiting and not self.late():
                    request = waiting.pop(0)
                    try:
                        self.enter(part, request, worker.ask(**request))
                    except RuntimeError as error:
                        self.note(part, request, str(error))
                        break
        for request in waiting:
            self.note(part, request, "not measured: the time was up (see --minutes, --resume)")

    def enter(self, part: str, request: Request, found: dict[str, Any]) -> None:
        """Keep a result, have it checked, and tell it."""
        if trouble := found.get("trouble"):
            self.note(part, request, trouble)
            return
        entry = {"request": named(request), **found}
        self.result[part].append(entry)
        self.save()
        self.settle(part, entry)
        shown = show(self.result, part)[-1:]
        print(f"{time.monotonic() - self.begun:.0f} s  {part}\n{harness.table(shown)}", flush=True)

    def settle(self, part: str, entry: dict[str, Any]) -> None:
        """Have a result checked whose sample still waits for it."""
        if "sample" in entry:
            entry["error"] = self.check(part, entry["request"], entry["sample"])
            del entry["sample"]
            self.save()

    def check(self, part: str, request: Request, sample: Request) -> float | None:
        """Have a run's sample recomputed, by a process whose memory is nobody's peak."""
        if self.checking is None:
            self.checking = _worker()
        case, agents, points = request["case"], request["agents"], request["points"][0]
        try:
            found = self.checking.ask(
                do="check", case=case, agents=agents, points=points, sample=sample
            )
        except RuntimeError as error:
            self.close()
            found = {"trouble": str(error)}
        if trouble := found.get("trouble"):
            self.note(part, request, f"could not be checked: {trouble}")
        return found.get("error")

    def close(self) -> None:
        """End the process that checks."""
        if self.checking is not None:
            self.checking.close()
            self.checking = None

    def note(self, part: str, request: Request, trouble: str) -> None:
        """Keep what went wrong, and go on."""
        entry = {"part": part, "request": named(request), "trouble": trouble}
        self.result["trouble"].append(entry)
        print(f"{part}: {words(request)}: {trouble}", flush=True)
        self.save()

    def save(self) -> Path:
        """Write gpu.json."""
        conclude(self.result)
        path: Path = harness.save("gpu", self.result, self.options.out)
        return path


def _worker() -> harness.Worker:
    """Start a process that measures; it takes the device's memory bit by bit, not all at once."""
    program = str(Path(__file__).with_name("gpu_parts.py"))
    return harness.Worker([program], extra={"XLA_PYTHON_CLIENT_PREALLOCATE": "false"})


def named(request: Request) -> Request:
    """Return what names a measurement: the request, without folders of the machine it ran on."""
    return {name: value for name, value in request.items() if name != "folder"}


def words(request: Request) -> str:
    """Return a request in a few words."""
    case = [Case(**request["case"]).label] if "case" in request else []
    rest = ("schedule", "agents", "features", "block")
    return " ".join([request["do"], *case, *(str(request[key]) for key in rest if key in request)])


def conclude(result: dict[str, Any]) -> None:
    """Set every row beside what the device allows, name the best block, judge the targets."""
    for row in (*result["rows"], *result["blocks"]):
        case = Case(**row["request"]["case"])
        row["policy"] = case.label
        row.update({name: row["request"][name] for name in ("schedule", "agents")})
        if result["ceilings"]:
            row.update(limits(row, case, result))
    timed = {row["agents_per_block"]: row["ms_per_step"] for row in result["blocks"]}
    result["best_block"] = min(timed, key=lambda size: timed[size]) if timed else None
    result["targets"] = [
        {
            **{name: row[name] for name in ("policy", "schedule", "agents", "ms_per_step")},
            "target_ms": TARGET_MS,
            "reached": row["ms_per_step"] <= TARGET_MS,
        }
        for row in result["rows"]
        if row["agents"] == TARGET_AGENTS and row["policy"] != "forecast"
    ]


def limits(row: Mapping[str, Any], case: Case, result: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a step would take if only memory, only arithmetic or only launches counted.

    A stream's block is taken to be larger than the caches of a GPU, so its step moves what a
    resident one does; on CPU it lives in the cache. Every block launches its own kernels. The
    passes that a stream makes before its last one are not in these bounds.
    """
    ceiling, request = result["ceilings"][-1], row["request"]
    roof = {**ceiling, "bandwidth": max(ceiling["bandwidth"].values())}
    moves = row["schedule"] if result["facts"]["platform"] == "cpu" else "resident"
    points = request["points"][-1]
    bounds = [bound_of(count, moves, points, roof) for count in case.counts(points)]
    best = min(bounds, key=lambda bound: bound["floor_ns"])
    per = row["agents"] * 1e-6
    found = {
        "method": best["method"],
        "bytes_per_agent_step": best["bytes"],
        "memory_ms": best["memory_ns"] * per,
        "arithmetic_ms": best["arithmetic_ns"] * per,
        "launch_ms": None,
        "share_of_bandwidth": best["memory_ns"] * per / row["ms_per_step"],
    }
    blocks = -(-row["agents"] // (row["agents_per_block"] or row["agents"]))
    for counted in result["kernels"]:
        if counted["request"]["case"] == request["case"]:
            cost = ceiling["launch_us"]
            each = counted["kernels"] * cost["kernel"] + counted["decisions"] * cost["decision"]
            found["launch_ms"] = blocks * each / 1e3
    return {**found, "bound": verdict(found, row["ms_per_step"])}


def verdict(found: Mapping[str, Any], took: float) -> str:
    """Say in words what bounds a step."""
    named = {"memory": "memory_ms", "arithmetic": "arithmetic_ms", "launches": "launch_ms"}
    allowed = {name: found[key] for name, key in named.items() if found[key] is not None}
    name = max(allowed, key=lambda one: allowed[one])
    share = allowed[name] / took
    if share >= 0.5:
        return f"{name} ({share:.0%} of the time)"
    return f"none alone ({name} most: {share:.0%} of the time)"


def show(result: Mapping[str, Any], part: str) -> list[dict[str, Any]]:
    """Return a part's results as rows of a table."""
    if part in ("rows", "blocks"):
        return [
            {
                "policy": row["policy"],
                "schedule": row["schedule"],
                "agents": row["agents"],
                "block": row["agents_per_block"],
                "ms/step": row["ms_per_step"],
                "ns": row["ns_per_agent_step"],
                "memory ms": row.get("memory_ms"),
                "launch ms": row.get("launch_ms"),
                "bound": row.get("bound"),
                "compile s": row["compile_s"],
                "peak MB": row["peak_mb"],
                "error": row.get("error"),
                "not finite": row["not_finite"],
            }
            for row in result[part]
        ]
    return [_flat(one) for one in result[part]]


def _flat(one: Mapping[str, Any]) -> dict[str, Any]:
    """Return a result as one row: its request's case and size, then its numbers."""
    request = one["request"]
    case = {"policy": Case(**request["case"]).label} if "case" in request else {}
    size = {"p": request["features"]} if request["do"] == "solves" else {}
    numbers: dict[str, Any] = {}
    for name, value in one.items():
        if isinstance(value, Mapping) and name != "request":
            numbers |= {f"{name} {key}": entry for key, entry in value.items()}
        elif name not in ("request", "seconds"):
            numbers[name] = value
    return {**case, **size, **numbers}


def report(result: Mapping[str, Any]) -> str:
    """Return everything that was measured as tables, and the conclusions in words."""
    lines = [f"{part}\n{harness.table(show(result, part))}\n" for part in PARTS if result[part]]
    if result["best_block"]:
        lines.append(f"best block of a stream: {result['best_block']:,} agents")
    lines += [
        f"{one['policy']}, {one['schedule']}, N = {one['agents']:,}: {one['ms_per_step']:.3f} ms "
        f"per step, {'reaches' if one['reached'] else 'misses'} {one['target_ms']} ms"
        for one in result["targets"]
    ]
    lost = [one["request"] for one in (*result["solves"], *result["rows"]) if one["not_finite"]]
    lines.append(f"not finite: {', '.join(map(words, lost)) or 'nothing'}")
    lines += [f"trouble: {words(one['request'])}: {one['trouble']}" for one in result["trouble"]]
    return "\n".join(lines)


def draw(path: Path) -> None:
    """Draw the figure where matplotlib is installed."""
    try:
        import gpu_figure
    except ImportError as error:
        print(f"no figure: {error}; benchmarks/gpu_figure.py draws it later")
        return
    print("figure in", ", ".join(str(one) for one in gpu_figure.draw(path)) or "no file: no rows")


def arguments() -> Any:
    """Read the command line."""
    parser = harness.Parser(prog="gpu.py", description=__doc__.splitlines()[0])
    parser.add_argument("--policies", nargs="+", choices=CASES, default=list(CASES), metavar="NAME")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--agents", type=harness.positive, nargs="+", help="instead of 10^4..10^8")
    parser.add_argument("--minutes", type=harness.positive, default=8, help="start nothing later")
    parser.add_argument("--trace", type=Path, metavar="FOLDER", help="profile a greedy run")
    parser.add_argument("--resume", action="store_true", help="measure what gpu.json lacks")
    parser.add_argument("--quick", action="store_true", help="small sizes: does everything run?")
    parser.add_argument("--anyway", action="store_true", help="on whatever device there is")
    parser.add_argument("--out", type=Path, default=harness.RESULTS, help="folder of the results")
    return parser.parse_args()


def main() -> None:
    """Measure, print, write gpu.json and the figure."""
    options = arguments()
    # Ended from outside is ended as by Ctrl-C: with what there is.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    measuring, cut_off = Measuring(options), False
    try:
        platform = measuring.facts()["platform"]
        if platform != "gpu" and not options.anyway:
            raise SystemExit(f"no GPU here: jax found {platform}; --anyway runs it on this device")
        for part, requests in plan(options):
            if part in options.only:
                measuring.measure(part, requests)
    except KeyboardInterrupt:
        cut_off = True
        print("interrupted: what had been measured is kept")
    finally:
        measuring.close()
    path = measuring.save()
    print(report(measuring.result))
    print(f"results in {path}")
    draw(path)
    sys.exit(130 if cut_off else int(bool(measuring.result["trouble"])))


if __name__ == "__main__":
    main()
