"""What a run will need of memory, told before anything is allocated, and what to do if it is much.

The figure is the compiled program's own (`footprint`): it is compiled for it, once, and then run.
"""

from __future__ import annotations

from typing import Any

import jax

from memoa_jax.footprint import free_bytes
from memoa_jax.resident import Prepared, resident_bytes
from memoa_jax.simulate import prepare
from memoa_jax.stream import Stream, stream_bytes

SMALLEST_BLOCK = 64


class SizeError(RuntimeError):
    """A run that no device here can hold, in one line with what would fit."""


def needed(arguments: tuple[Any, ...], options: dict[str, Any]) -> tuple[int, int | None]:
    """Return the bytes that a run holds where its agents live, and those that are free there.

    Args:
      arguments: the positional ones of `simulate`.
      options: its keywords, without `on_chunk`.

    Raises:
      ValueError: as `simulate`.
    """
    prepared = prepare(*arguments, **options)
    if isinstance(prepared, Stream):
        need, devices = stream_bytes(prepared), list(prepared.devices)
        need += 4 * prepared.plan.agents if prepared.keep_costs else 0
    else:
        need = resident_bytes(prepared, arguments[0], chunk=options.get("chunk"))
        devices = _devices(prepared)
    ours = [device for device in devices if device.process_index == jax.process_index()]
    # The devices of a CPU are threads, and share its memory.
    return need * (len(ours) if ours[0].platform == "cpu" else 1), free_bytes(ours[0])


def _devices(prepared: Prepared) -> list[Any]:
    if prepared.layout is None:
        return [jax.local_devices()[0]]
    return list(prepared.layout.shards.mesh.devices.flat)


def check(arguments: tuple[Any, ...], options: dict[str, Any]) -> str:
    """Return what a run needs, in words.

    Raises:
      ValueError: as `simulate`.
      SizeError: if it exceeds what is free, naming the block, schedule or population that fits.
    """
    need, free = needed(arguments, options)
    if free is None:
        return f"needs {size(need)}"
    if need <= free:
        return f"needs {size(need)} of {size(free)}"
    found = f"needs {size(need)} of memory, and {size(free)} are free: allowed is "
    raise SizeError(found + "; or ".join(_ways(arguments, options, need, free)))


def _ways(arguments: tuple[Any, ...], options: dict[str, Any], need: int, free: int) -> list[str]:
    """Return what would fit: a stream if this can be one, in the largest blocks; fewer agents."""
    ways = []
    block = options.get("block")
    while block is None or block >= SMALLEST_BLOCK:
        trial = {**options, "schedule": "stream", "block": block}
        try:
            less, _ = needed(arguments, trial)
        except ValueError:
            break  # this run cannot be a stream
        if less <= free:
            named = "" if block is None else f" with run.block = {block}"
            ways.append(f'run.schedule = "stream"{named} (needs {size(less)})')
            break
        prepared = prepare(*arguments, **trial)
        assert isinstance(prepared, Stream)
        block = prepared.plan.size // 2
    fewer = int(options["num_agents"] * (free / need))
    # Two digits: the figure is about right, no more.
    digits = 10 ** max(len(str(fewer)) - 2, 0)
    if fewer > 0:
        ways.append(f"agents up to about {fewer // digits * digits:,}".replace(",", "_"))
    return ways or ["a machine with more memory"]


def size(count: float) -> str:
    """Write a number of bytes.

    Example:
      >>> size(512), size(1_250_000), size(3e12)
      ('512 B', '1.2 MB', '3000 GB')
    """
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return (
                f"{count / unit:.0f} {name}" if count >= 10 * unit else f"{count / unit:.1f} {name}"
            )
    return f"{count:.0f} B"
