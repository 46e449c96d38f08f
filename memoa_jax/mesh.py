"""Agents over the devices of a mesh: the resident schedule's step, a shard of agents on each.

Agents meet in sums and maxima over the population alone (`Population`), so that the step is the
one of a single device: here a sum goes on over the devices. Which arrays are cut, and along which
axis, is found by drawing populations of two sizes: what grows with the agents belongs to them.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from memoa_jax.arithmetic import in_order
from memoa_jax.choices import Containment
from memoa_jax.loop import Info, Point, Program, State, begin, run_chunk
from memoa_jax.recording import Field
from memoa_jax.types import Array, Dimensions, Population, Tree

AXIS = "agents"
"""The axis of a mesh along which agents are spread."""
GRAIN = 128
"""Neighbours whose sum is taken first: a power of two, and whole vectors of any machine."""


class Shards(NamedTuple):
    """How a population is spread: `size` places on each device; those past `agents` are empty.

    `grain` is the number of neighbours whose sum is taken first where the order of sums is fixed.
    """

    mesh: Mesh
    agents: int
    size: int
    grain: int | None

    @property
    def places(self) -> int:
        """Places in all."""
        return int(self.mesh.shape[AXIS]) * self.size


def automatic(mesh: Mesh) -> Mesh:
    """Return a mesh of the same devices and axes along which XLA finds how arrays are cut.

    `jax.make_mesh` makes axes that stand in every array's type; looking one agent up in an array
    cut along such an axis is then a type error.

    Example:
      >>> automatic(jax.make_mesh((1,), ("agents",))).axis_types
      (Auto,)
    """
    return Mesh(mesh.devices, mesh.axis_names)


def spread(mesh: Mesh, agents: int, *, reproducible: bool) -> Shards:
    """Spread a population over a mesh's axis "agents".

    Args:
      mesh: with an axis "agents"; along its other axes everything is repeated.
      agents: N; it need not be a multiple of the devices.
      reproducible: sums are taken over neighbours first, then over those sums, in an order that
        no number of devices changes; shards hold whole groups of such neighbours.

    Raises:
      ValueError: if the mesh has no axis "agents".

    Example:
      >>> mesh = jax.make_mesh((1,), ("agents",))
      >>> spread(mesh, 1000, reproducible=True)[1:]
      (1000, 1024, 128)
    """
    if AXIS not in mesh.axis_names:
        raise ValueError(
            f"simulate: mesh has the axes {', '.join(map(repr, mesh.axis_names)) or '(none)'}: "
            f"allowed is a jax.sharding.Mesh with an axis {AXIS!r}"
        )
    grain = GRAIN if reproducible else None
    unit = grain or 1
    return Shards(mesh, agents, -(-agents // (unit * int(mesh.shape[AXIS]))) * unit, grain)


class Layout(NamedTuple):
    """Where the leaves of a run's program and state live."""

    shards: Shards
    program: tuple[PartitionSpec, ...]
    state: tuple[PartitionSpec, ...]


class Size(NamedTuple):
    """What is static about the beginning of a run, see `loop.begin`."""

    dimensions: Dimensions
    fields: tuple[Field, ...]
    best_readout: bool
    containment: Containment = "report"


def layout_of(shards: Shards, parts: tuple[Tree, ...], size: Size) -> Layout:
    """Find which axis of what a run holds are its agents.

    Args:
      shards: the population's.
      parts: the arguments of `loop.begin` that are not keywords.
      size: its keywords that are static.
    """

    def shapes(count: int) -> list[list[tuple[int, ...]]]:
        index = jnp.arange(count, dtype=jnp.uint32)
        made = jax.eval_shape(functools.partial(_begin, shards, size, index), *parts)
        return [[leaf.shape for leaf in jax.tree.leaves(one)] for one in made]

    def cuts(fewer: list[tuple[int, ...]], more: list[tuple[int, ...]]) -> list[PartitionSpec]:
        return [
            PartitionSpec(*(AXIS if a != b else None for a, b in zip(*pair, strict=True)))
            for pair in zip(fewer, more, strict=True)
        ]

    program, state = map(cuts, shapes(3), shapes(4))
    return Layout(shards, tuple(program), tuple(state))


def _begin(shards: Shards, size: Size, index: Array, *parts: Tree) -> tuple[Program, State]:
    """Draw the agents at some places."""
    population = Population(
        size=jnp.asarray(shards.agents, parts[-2].dtype),
        exists=None if shards.places == shards.agents else index < shards.agents,
        combine=_summed if shards.grain is None else _summed_in_order,
        widest=_widest,
        grain=shards.grain,
    )
    return begin(*parts, population=population, index=index, **size._asdict())


def _summed(parts: Array) -> Array:
    return lax.psum(in_order(parts), AXIS)


def _widest(largest: Array) -> Array:
    return jnp.max(lax.all_gather(largest, AXIS), axis=0)


def _summed_in_order(parts: Array) -> Array:
    gathered = lax.all_gather(parts, AXIS, axis=parts.ndim - 1, tiled=True)
    return in_order(gathered)


def begin_sharded(parts: tuple[Tree, ...], *, layout: Layout, size: Size) -> tuple[Program, State]:
    """Draw every agent on the device where it will live; see `loop.begin`."""
    shards = layout.shards

    def local(*parts: Tree) -> tuple[Program, State]:
        first = lax.axis_index(AXIS).astype(jnp.uint32) * jnp.uint32(shards.size)
        return _begin(shards, size, first + jnp.arange(shards.size, dtype=jnp.uint32), *parts)

    made = jax.eval_shape(functools.partial(_begin, shards, size), jnp.zeros(3, jnp.uint32), *parts)
    specs = (_like(made[0], layout.program), _like(made[1], layout.state))
    draw = jax.shard_map(
        local, mesh=shards.mesh, in_specs=PartitionSpec(), out_specs=specs, check_vma=False
    )
    drawn: tuple[Program, State] = draw(*parts)
    return drawn


def run_sharded(
    program: Program, state: State, points: Point, *, layout: Layout
) -> tuple[State, Info]:
    """Do what `loop.run_chunk` does, every device with its own agents."""
    program_specs, state_specs = _like(program, layout.program), _like(state, layout.state)
    run = jax.shard_map(
        run_chunk,
        mesh=layout.shards.mesh,
        in_specs=(program_specs, state_specs, PartitionSpec()),
        out_specs=(state_specs, PartitionSpec()),
        check_vma=False,
    )
    found: tuple[State, Info] = run(program, state, points)
    return found


def _like(tree: Tree, specs: tuple[PartitionSpec, ...]) -> Tree:
    return jax.tree.unflatten(jax.tree.structure(tree), specs)


def placed(made: tuple[Program, State], layout: Layout) -> tuple[Program, State]:
    """Tell the shapes of a program and a state where their arrays will live."""

    def put(shape: Any, spec: PartitionSpec) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(layout.shards.mesh, spec)
        return jax.ShapeDtypeStruct(
            shape.shape, shape.dtype, sharding=sharding, weak_type=shape.weak_type
        )

    program, state = made
    return (
        jax.tree.map(put, program, _like(program, layout.program)),
        jax.tree.map(put, state, _like(state, layout.state)),
    )


def everywhere(tree: Tree, mesh: Mesh) -> Tree:
    """Put arrays on every device of a mesh, also on those of other processes.

    Numbers, and arrays that are being traced, stay as they are.
    """
    sharding = NamedSharding(mesh, PartitionSpec())

    def put(leaf: Any) -> Any:
        traced = isinstance(leaf, jax.core.Tracer)
        known = isinstance(leaf, jax.Array | np.ndarray)
        return jax.device_put(leaf, sharding) if known and not traced else leaf

    return jax.tree.map(put, tree)


def everything(tree: Tree) -> Tree:
    """Give every process the whole of arrays that several of them hold in parts."""

    def whole(leaf: Any) -> Any:
        if isinstance(leaf, jax.core.Tracer) or leaf.is_fully_addressable:
            return leaf
        if leaf.is_fully_replicated:
            return np.asarray(leaf)
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(whole, tree)
