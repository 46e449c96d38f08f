"""Where agents live: a population cut into blocks of one size, and the blocks dealt to devices.

The cut depends on the population and the block size alone, never on the devices, and results
come back in the blocks' order: so do the bits of everything that is computed from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from memoa_jax.types import Array, Population, Tree

CPU_BLOCK = 2048
"""Agents per block on CPU: what they carry stays in a core's cache."""
DEVICE_BLOCK = 131_072
"""Agents per block elsewhere: enough to fill the device."""
AGENTS_PER_CALL = 65_536
"""Agents per compiled call on CPU: calls are then rare, and progress is told often enough."""


class Cut(NamedTuple):
    """How a population is cut: `calls` of `blocks` blocks of `size` agents, the last ones empty."""

    agents: int
    size: int
    blocks: int
    calls: int

    @property
    def ragged(self) -> bool:
        """Whether some places in the blocks stand for no agent."""
        return self.agents != self.size * self.blocks * self.calls

    def firsts(self, call: int) -> np.ndarray:
        """Return the first agent of each block of a call, [blocks]."""
        each = call * self.blocks + np.arange(self.blocks)
        return (each * self.size).astype(np.uint32)


def cut(agents: int, size: int | None, platform: str) -> Cut:
    """Cut a population into blocks; the cut depends on nothing but these three.

    Args:
      agents: N.
      size: agents per block; None: what suits the platform.
      platform: "cpu", "gpu" or "tpu".

    Example:
      >>> cut(10_000, 1_000, "cpu")
      Cut(agents=10000, size=1000, blocks=10, calls=1)
    """
    on_cpu = platform == "cpu"
    size = min(agents, size or (CPU_BLOCK if on_cpu else DEVICE_BLOCK))
    needed = -(-agents // size)
    calls = -(-needed // (max(AGENTS_PER_CALL // size, 1) if on_cpu else 1))
    return Cut(agents, size, -(-needed // calls), calls)


def members(plan: Cut, first: Array, dtype: Any) -> tuple[Array, Population]:
    """Return the places [size] of a block's agents, and the population as the block knows it."""
    index = first + jnp.arange(plan.size, dtype=jnp.uint32)
    everyone = jnp.asarray(plan.agents, dtype)
    if not plan.ragged:
        return index, Population(size=everyone, own=jnp.asarray(plan.size, dtype))
    present = index < plan.agents
    own = jnp.sum(present.astype(dtype))
    return index, Population(size=everyone, present=present, own=own)


def deal(
    run: Callable[..., Tree], plan: Cut, devices: Sequence[Any], arguments: tuple[Tree, ...]
) -> Iterator[Tree]:
    """Run all calls, dealt to the devices in turn, a thread for each; yield results in order."""
    placed = [jax.device_put(arguments, device) for device in devices]

    def one(call: int) -> Tree:
        device = devices[call % len(devices)]
        firsts = jax.device_put(plan.firsts(call), device)
        return jax.device_get(run(*placed[call % len(devices)], firsts))

    with ThreadPoolExecutor(len(devices)) as pool:
        waiting: list[Any] = []
        try:
            for call in range(plan.calls):
                waiting.append(pool.submit(one, call))
                if len(waiting) > 2 * len(devices):  # a bounded queue: memory stays flat
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for left in waiting:
                left.cancel()
