"""What each policy costs beside the greedy stream, in one run: all take turns, and ratios are told.

    python benchmarks/ratios.py --devices 1 2

Each number of devices has a process of its own, kept to as many cores, in which all cases are
compiled first; then every repeat runs every case once, so that what slows the machine meanwhile
slows all of them. A ratio is of medians. The error is the largest relative one of 64 random
agents' costs against NumPy float64 with the same draws (`cases`), from one more run.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import harness
from cases import POLICIES, Case, Sample

CASES = (
    "greedy:stream",
    "decentralized:resident",
    "forecast:stream",
    "forecast:resident",
)
"""What is compared, the reference first; names of `cases.POLICIES` and a schedule each."""


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Run a case once to its end, in a worker, and tell what it took or how far it is off."""
    import jax

    name, schedule = request["case"].split(":")
    agents, rows, devices = request["agents"], request["rows"], request["devices"]
    case = Case(name)
    mesh = None if devices == 1 else jax.make_mesh((devices,), ("agents",))
    how = {"schedule": schedule, "mesh": mesh, "keep_costs": request["check"]}
    found: list[Any] = []
    wall, cpu = harness.once(lambda: found.append(case.run(agents, rows, **how)))
    told = {"wall": wall, "cpu": cpu, "peak_mb": harness.peak_memory() / 1e6}
    if request["check"]:
        told |= {"error": case.error(agents, rows, Sample.of(found[0])), "facts": harness.facts()}
    return told


class Competitor:
    """A case on a number of devices: what its runs took, and what is told of it."""

    def __init__(self, worker: harness.Worker, case: str, options: Any, devices: int) -> None:
        self.worker, self.case, self.devices = worker, case, devices
        self.size = {"agents": options.agents, "rows": options.rows}
        self.walls: list[float] = []

    def ask(self, check: bool = False) -> dict[str, Any]:
        """Have it run once."""
        request = {"case": self.case, "devices": self.devices, "check": check}
        return self.worker.ask(**self.size, **request)

    def row(self, reference: float) -> dict[str, Any]:
        """Summarise; `reference` is the median of what all are compared with, in seconds."""
        per = 1e9 / (self.size["agents"] * self.size["rows"])
        median = statistics.median(self.walls)
        return {
            "case": self.case,
            "devices": self.devices,
            "ns_median": median * per,
            "ns_least": min(self.walls) * per,
            "ns_most": max(self.walls) * per,
            "ratio": median / reference,
            **self.ask(check=True),
        }


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Let all cases take turns."""
    found: dict[str, Any] = {"agents": options.agents, "rows": options.rows, "results": []}
    with contextlib.ExitStack() as stack:
        all_of_them = []
        for devices in options.devices:
            flags = f"--xla_force_host_platform_device_count={devices}"
            words = [str(Path(__file__).resolve()), "--worker"]
            allowed = harness.cores()[:devices]
            worker = harness.Worker(words, allowed=allowed, xla_flags=flags)
            stack.callback(worker.close)
            all_of_them += [Competitor(worker, case, options, devices) for case in options.cases]
        for repeat in range(options.repeats + 1):
            for one in all_of_them:
                wall = one.ask()["wall"]
                if repeat:  # the first run compiles
                    one.walls.append(wall)
        reference = statistics.median(all_of_them[0].walls)
        for one in all_of_them:
            row = one.row(reference)
            found["facts"] = row.pop("facts")
            found["results"].append(row)
    return found


def case_of(text: str) -> str:
    """Read an argument that names a policy and a schedule."""
    name, _, schedule = text.partition(":")
    if name in POLICIES and schedule in ("stream", "resident"):
        return text
    raise argparse.ArgumentTypeError(
        f"{text!r}: allowed is POLICY:stream or POLICY:resident, of {', '.join(POLICIES)}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, print and save."""
    parser = harness.Parser(description=__doc__.partition("\n")[0])
    parser.add_argument("--agents", type=harness.positive, default=10**6)
    parser.add_argument("--rows", type=harness.positive, default=101)
    parser.add_argument("--repeats", type=harness.positive, default=5)
    parser.add_argument("--devices", type=harness.positive, nargs="+", default=[1])
    parser.add_argument("--cases", type=case_of, nargs="+", default=list(CASES))
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        harness.serve(answer)
        return
    if max(options.devices) > len(harness.cores()):
        parser.error(f"--devices: this process may use {len(harness.cores())} cores")
    found = compare(options)
    path = harness.save("ratios", found, options.out)
    print(harness.table(found["results"]))
    print(f"results in {path}")


if __name__ == "__main__":
    main()
