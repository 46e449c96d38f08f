"""What a compiled program needs of memory, and what a device has."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import jax


def bytes_of(program: jax.stages.Lowered) -> int:
    """Compile, and return the bytes that a device holds while the program runs.

    The program is the one that a call of the same function with such arguments runs: nothing is
    compiled twice.
    """
    told: Any = program.compile().memory_analysis()
    held = told.argument_size_in_bytes + told.output_size_in_bytes - told.alias_size_in_bytes
    return int(held + told.temp_size_in_bytes)


def free_bytes(device: Any) -> int | None:
    """Return the bytes that a device still has for arrays, or None where it does not tell.

    On CPU the machine's available memory, or what a control group leaves of it.
    """
    stats = None if device.platform == "cpu" else device.memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    if device.platform != "cpu":
        return None
    found = []
    with contextlib.suppress(OSError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    with contextlib.suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        # Files that are only cached count as used, and are given up where memory is needed.
        found.append(limit - used + _cached(group))
    return min(found, default=None)


def _cached(group: Path) -> int:
    words = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return int(words.get("inactive_file", 0))
