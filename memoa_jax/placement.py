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
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from memoa_jax.types import Array, Population, Tree

AXIS = "devices"
"""Of the mesh on which calls are dealt out."""
CPU_BLOCK = 2048
"""Agents per block on CPU: what they carry stays in a core's cache."""
DEVICE_BLOCK = 131_072
"""Agents per block elsewhere: enough to fill the device."""
LANES = 16
"""Blocks whose size is chosen here are a multiple of this, for the processor's vectors."""
AGENTS_PER_CALL = 65_536
"""Agents per compiled call on CPU: calls are then rare, and progress is told often enough."""
ROUND = 8
"""Calls on CPU come in rounds of so many, so that 2, 4 or 8 devices have the same to do."""
WORTH_SHARING = 4096
"""From so many agents on."""
MANY_CALLS = 64
"""From so many calls on all have the most blocks: populations then share a compiled program."""


class Blocks(NamedTuple):
    """What a compiled call depends on: its `number` blocks of `size` agents.

    `ragged` says whether some of their places may stand for no agent.
    """

    size: int
    number: int
    ragged: bool


class Cut(NamedTuple):
    """How a population is cut: `calls` of `blocks` blocks of `size` agents, the last ones empty."""

    agents: int
    size: int
    blocks: int
    calls: int

    @property
    def shape(self) -> Blocks:
        """What a compiled call depends on; the size of the population is no part of it."""
        places = self.size * self.blocks * self.calls
        return Blocks(self.size, self.blocks, places != self.agents)

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
    on_cpu, chosen = platform == "cpu", size is None
    size = min(agents, size or (CPU_BLOCK if on_cpu else DEVICE_BLOCK))
    needed = -(-agents // size)
    most = max(AGENTS_PER_CALL // size, 1) if on_cpu else 1
    calls = -(-needed // most)
    if calls >= MANY_CALLS:
        return Cut(agents, size, most, calls)
    if on_cpu and chosen and agents >= WORTH_SHARING:
        calls = -(-calls // ROUND) * ROUND
        blocks = -(-needed // calls)
        # Smaller blocks rather than empty ones; whole vectors.
        return Cut(agents, -(-agents // (calls * blocks * LANES)) * LANES, blocks, calls)
    return Cut(agents, size, -(-needed // calls), calls)


def members(shape: Blocks, agents: Array, first: Array, dtype: Any) -> tuple[Array, Population]:
    """Return the places [size] of a block's agents, and the population as the block knows it."""
    index = first + jnp.arange(shape.size, dtype=jnp.uint32)
    everyone = agents.astype(dtype)
    if not shape.ragged:
        return index, Population(size=everyone, own=jnp.asarray(shape.size, dtype))
    exists = index < agents
    own = jnp.sum(exists.astype(dtype))
    return index, Population(size=everyone, exists=exists, own=own)


class Together:
    """A function of arguments and a call's first agents, on all devices of a process at once.

    It is traced and compiled once, however many devices there are; nothing passes between them.
    """

    def __init__(self, run: Callable[..., Tree], devices: Sequence[Any]) -> None:
        here = jax.process_index()
        self.devices: tuple[Any, ...] = tuple(devices)
        self.ours: list[int] = [n for n, one in enumerate(devices) if one.process_index == here]
        mesh = jax.sharding.Mesh(np.asarray([devices[n] for n in self.ours]), (AXIS,))
        self.alike: NamedSharding = NamedSharding(mesh, PartitionSpec())
        self.apart: NamedSharding = NamedSharding(mesh, PartitionSpec(AXIS))

        def each(arguments: tuple[Tree, ...], firsts: Array) -> Tree:
            return jax.tree.map(lambda leaf: leaf[None], run(*arguments, firsts[0]))

        each.__name__ = getattr(run, "func", run).__name__  # what compilations are told by
        specs = (self.alike.spec, self.apart.spec)
        self.compiled: jax.stages.Wrapped = jax.jit(
            jax.shard_map(
                each, mesh=mesh, in_specs=specs, out_specs=self.apart.spec, check_vma=False
            )
        )

    def __call__(self, arguments: tuple[Tree, ...], firsts: Sequence[np.ndarray]) -> list[Tree]:
        """Do one call on each device, arguments lying on all; return what each of them found."""
        found = jax.device_get(self.compiled(arguments, self.dealt(firsts)))
        return [jax.tree.map(lambda leaf, n=n: leaf[n], found) for n in range(len(firsts))]

    def dealt(self, firsts: Sequence[np.ndarray]) -> Array:
        """Give each device the first agents of its call's blocks."""
        return jax.device_put(np.stack(firsts), self.apart)


def deal(run: Together, plan: Cut, arguments: tuple[Tree, ...], begun: int = 0) -> Iterator[Tree]:
    """Run all calls, in rounds of one on each device; yield their results in order.

    Those before `begun` are left out; of several processes, it is a multiple of the devices.

    Devices may belong to several processes, the same number to each: every process runs the
    calls of its own and is given the results of all.
    """
    placed, together = jax.device_put(arguments, run.alike), len(run.devices)

    def one(first: int) -> list[Tree]:
        # The last round has a call for every device, needed or not: processes meet after it.
        return run(placed, [plan.firsts((first + n) % plan.calls) for n in run.ours])

    rounds = range(begun, plan.calls, together)
    for first, found in zip(rounds, _ahead(one, rounds), strict=True):
        results = found if len(found) == together else _exchange(found, run.devices)
        yield from results[: plan.calls - first]


def _ahead(one: Callable[[int], Tree], rounds: Sequence[int]) -> Iterator[Tree]:
    """Do one round while the last one's results are used; yield what they return in order."""
    with ThreadPoolExecutor(1) as pool:
        waiting: list[Any] = []
        try:
            for each in rounds:
                waiting.append(pool.submit(one, each))
                if len(waiting) > 2:  # a bounded queue: memory stays flat
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for left in waiting:
                left.cancel()


def _exchange(mine: Sequence[Tree], devices: Sequence[Any]) -> list[Tree]:
    """Give every process what each device found in a round, in the devices' order."""
    structure = jax.tree.structure(mine[0])
    leaves = [np.asarray(leaf) for one in mine for leaf in jax.tree.leaves(one)]
    packed = np.frombuffer(b"".join(leaf.tobytes() for leaf in leaves), np.uint8)
    told = np.asarray(multihost_utils.process_allgather(packed))
    found: dict[int, list[Tree]] = {}
    for process, words in enumerate(told):
        ends = np.cumsum([leaf.nbytes for leaf in leaves])
        pieces = [
            np.frombuffer(part.tobytes(), leaf.dtype).reshape(leaf.shape)
            for part, leaf in zip(np.split(words, ends[:-1]), leaves, strict=True)
        ]
        each = len(pieces) // len(mine)
        found[process] = [
            jax.tree.unflatten(structure, pieces[n * each : (n + 1) * each])
            for n in range(len(mine))
        ]
    return [found[device.process_index].pop(0) for device in devices]
