"""What every benchmark shares: timing, facts about the machine, child processes, results, tables.

Imports the standard library and NumPy only, so that a child process holds in memory what it
measures and little else.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Self

import numpy as np

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("numpy", "jax", "jaxlib", "torch", "numba")


class Parser(argparse.ArgumentParser):
    """Command-line arguments; what is wrong with them is told in one line."""

    def error(self, message: str) -> NoReturn:
        """Tell, and end with code 2."""
        self.exit(2, f"{self.prog}: {message}\n")


def positive(text: str) -> int:
    """Read an argument that must be a whole number of at least 1."""
    with contextlib.suppress(ValueError):
        if int(text) >= 1:
            return int(text)
    raise argparse.ArgumentTypeError(f"{text!r}: allowed is a whole number of at least 1")


@dataclasses.dataclass(frozen=True)
class Timing:
    """Wall-clock seconds of repeated runs; `cpu` is the least processor time of one of them.

    `spread` is the slowest over the fastest: on an idle machine it is close to 1. Processor time
    counts all threads and is what a run costs where others use the same cores.
    """

    minimum: float
    median: float
    spread: float
    cpu: float
    repeats: int

    @classmethod
    def of(cls, walls: Sequence[float], cpus: Sequence[float]) -> Self:
        """Summarise measured seconds."""
        fastest = min(walls)
        spread = max(walls) / fastest if fastest > 0 else math.nan
        return cls(fastest, statistics.median(walls), spread, min(cpus), len(walls))


def once(run: Callable[[], Any]) -> tuple[float, float]:
    """Return wall-clock and processor seconds of one run, which must block until it is done."""
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(run: Callable[[], Any], repeats: int = 5, warm: int = 1) -> Timing:
    """Time `run`, which must block until it is done, after `warm` runs that do not count."""
    for _ in range(warm):
        run()
    walls, cpus = zip(*(once(run) for _ in range(repeats)), strict=True)
    return Timing.of(walls, cpus)


def cores() -> list[int]:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def facts() -> dict[str, Any]:
    """Describe what a measurement ran on; no name of a machine, a person or a folder.

    JAX is asked for its devices only where it has been imported, which starts its backend.
    """
    told: dict[str, Any] = {
        "versions": {"python": platform.python_version(), **_versions()},
        "system": platform.system(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores_allowed": len(cores()),
    }
    if "jax" in sys.modules:
        devices = sys.modules["jax"].devices()
        told["devices"] = {"count": len(devices), "kind": devices[0].device_kind}
    return told


def _versions() -> dict[str, str]:
    """Return versions: of what is always there, and of the peers that have been imported."""
    found = {}
    for name in _PACKAGES:
        if name in sys.modules or name in ("numpy", "jax", "jaxlib"):
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[name] = importlib.metadata.version(name)
    return found


def _processor() -> str | None:
    """Return the processor's model name where the system tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or None


def peak_memory() -> int:
    """Return the most memory that this process has held so far, in bytes.

    Linux is asked for the high-water mark of this program's own memory: `ru_maxrss` survives the
    start of a program, so a child of a large process would report its parent's size.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def plain(value: Any) -> Any:
    """Turn a value into what strict JSON holds: NumPy to Python, numbers not finite to None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def save(name: str, payload: Mapping[str, Any], folder: Path | str = RESULTS) -> Path:
    """Write ``folder/NAME.json`` in one piece, with `facts` where the payload has none."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(plain({"facts": facts(), **payload}), indent=1, allow_nan=False)
    with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".part", delete=False) as file:
        file.write(text + "\n")
    # A temporary file is private to its owner; a result is for everybody.
    os.chmod(file.name, 0o644)
    path = folder / f"{name}.json"
    os.replace(file.name, path)
    return path


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as aligned plain text, one column per key of the first row.

    Numbers are set right and rounded to four digits, None is left out.

    Example:
      >>> print(table([{"name": "a", "ns": 12.3456}, {"name": "bcd", "ns": None}]))
      name     ns
      a     12.35
      bcd
    """
    if not rows:
        return ""
    heads = list(rows[0])
    cells = [[_cell(row.get(head)) for head in heads] for row in rows]
    right = [any(isinstance(row.get(head), int | float) for row in rows) for head in heads]
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    return "\n".join(
        "  ".join(
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in [heads, *cells]
    )


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


@contextlib.contextmanager
def on_cores(allowed: Sequence[int] | None) -> Iterator[None]:
    """Keep this thread, and the processes that it starts meanwhile, on the given cores."""
    if allowed is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, allowed)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def surroundings(
    threads: int | None = None,
    xla_flags: str | None = None,
    extra: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return a child's environment: this process's, a number of threads, and XLA's flags."""
    environment = dict(os.environ)
    if threads is not None:
        for name in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
            environment[f"{name}_NUM_THREADS"] = str(threads)
    if xla_flags is not None:
        environment["XLA_FLAGS"] = xla_flags
    environment.update(extra or {})
    return environment


def in_child(
    arguments: Sequence[str],
    *,
    allowed: Sequence[int] | None = None,
    threads: int | None = None,
    xla_flags: str | None = None,
    extra: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> dict[str, Any]:
    """Run ``python ARGUMENTS`` afresh and return the JSON object on its last line of output.

    Its compile time and its peak memory are its own.

    Args:
      arguments: a script and its arguments, or ``-m`` and a module.
      allowed: the cores it may use; None: this process's.
      threads: for the libraries that ask the environment.
      xla_flags: replaces XLA_FLAGS; None passes this process's on.
      extra: further environment variables.
      timeout: in seconds.

    Raises:
      RuntimeError: if it fails, with the end of what it said.
    """
    with on_cores(allowed):
        process = subprocess.Popen(
            [sys.executable, *arguments],
            env=surroundings(threads, xla_flags, extra),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    try:
        output, complaint = process.communicate(timeout=timeout)
    except BaseException:
        process.kill()
        process.wait()
        raise
    if process.returncode != 0 or not output.strip():
        raise RuntimeError(f"child ended with {process.returncode}: {complaint[-2000:]}")
    answer: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return answer


class Worker:
    """A child process that answers one JSON object per line of JSON, so that runs interleave.

    The child calls `serve`. Arguments as in `in_child`.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        allowed: Sequence[int] | None = None,
        threads: int | None = None,
        xla_flags: str | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> None:
        with on_cores(allowed):
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                env=surroundings(threads, xla_flags, extra),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
          RuntimeError: if the child has ended; what it said stands on the error output.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(plain(request)) + "\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"worker ended with {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the child."""
        self.process.kill()
        self.process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(answer: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """Answer a `Worker`'s requests until its input ends."""
    for line in sys.stdin:
        reply = json.dumps(plain(answer(json.loads(line))), allow_nan=False)
        print(reply, flush=True)
