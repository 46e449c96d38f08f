"""The resident schedule: all agents together, step by step, on one device or on those of a mesh."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from memoa_jax.loop import Info, Point, Program, State, begin, points_of, run_chunk
from memoa_jax.mesh import (
    Layout,
    Size,
    begin_sharded,
    everything,
    everywhere,
    layout_of,
    run_sharded,
    spread,
)
from memoa_jax.metrics import diverging
from memoa_jax.recording import Record
from memoa_jax.series import Series
from memoa_jax.totals import Tally
from memoa_jax.types import (
    Array,
    Dimensions,
    Encoder,
    Mixture,
    Participation,
    Policy,
    Population,
    Scalar,
    Tree,
)

DEFAULT_CHUNK = 512


class Lived(NamedTuple):
    """What a resident run returns: rows over time, the last state, what the agents came to."""

    info: Info
    state: State
    tally: Tally
    costs: Array
    forecast: Array
    steps: Array
    status: Array


def run_resident(
    parts: tuple[Encoder, Policy, Mixture, Participation | None, Array],
    series: Series,
    dimensions: Dimensions,
    choice: Record,
    *,
    agents: int,
    mesh: Mesh | None,
    reproducible: bool,
    dtype: str,
    best_readout: bool,
    chunk: int | None,
    on_chunk: Callable[[int, int], None] | None,
) -> Lived:
    """Advance all agents through the series; the arguments are those of `simulate`, checked.

    `parts` are the encoder, the policy, the server, the participation and the seed's words.
    """
    targets = np.asarray(series.targets)
    size = Size(dimensions, choice.fields, best_readout)
    first, chosen = jnp.asarray(targets[0], dtype), jnp.asarray(choice.agents, jnp.int32)
    together: tuple[Tree, ...] = (*parts, first, chosen)
    layout = None
    if mesh is not None or reproducible:
        mesh = jax.make_mesh((1,), ("agents",)) if mesh is None else mesh
        shards = spread(mesh, agents, reproducible=reproducible)
        together = everywhere(together, mesh)
        layout = layout_of(shards, together, size)
        program, state = begin_sharded(together, layout=layout, size=size)
    else:
        program, state = _begin(together, agents=agents, size=size)
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((program, state)))
    points = dimensions.points
    length = points if traced and chunk is None else min(chunk or DEFAULT_CHUNK, points)
    run = _run_traced if traced else _run_in_place
    pieces: list[Info] = []
    for start in range(0, points, length):
        rows = min(length, points - start)
        ahead = points_of(series, start, length, dtype)
        if layout is not None:
            ahead = everywhere(ahead, layout.shards.mesh)
        state, info = run(program, state, ahead, layout=layout)
        pieces.append(jax.tree.map(lambda leaf, rows=rows: leaf[:rows], info))
        if not traced:
            pieces[-1] = jax.tree.map(np.asarray, pieces[-1])
        if on_chunk is not None:
            on_chunk(start + rows, points)
    tally, costs = everything(
        _judge(state, diverging(targets), agents=agents, outputs=dimensions.outputs)
    )
    joined: Info = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *pieces)
    end = everything((state.server, state.totals.steps, state.status))
    return Lived(joined, state, tally, costs, *end)


@functools.partial(jax.jit, static_argnames=("agents", "size"))
def _begin(parts: tuple[Tree, ...], *, agents: int, size: Size) -> tuple[Program, State]:
    """Draw all agents on one device."""
    dtype = parts[-2].dtype
    return begin(
        *parts,
        population=Population(size=jnp.asarray(agents, dtype)),
        index=jnp.arange(agents, dtype=jnp.uint32),
        **size._asdict(),
    )


def _run(
    program: Program, state: State, points: Point, *, layout: Layout | None
) -> tuple[State, Info]:
    if layout is None:
        return run_chunk(program, state, points)
    return run_sharded(program, state, points, layout=layout)


# In a plain run the old state's memory becomes the new one's; a transformation may still need it.
_run_in_place = jax.jit(_run, static_argnames="layout", donate_argnames="state")
_run_traced = jax.jit(_run, static_argnames="layout")


@functools.partial(jax.jit, static_argnames=("agents", "outputs"))
def _judge(state: State, lost: Scalar, *, agents: int, outputs: int) -> tuple[Tally, Array]:
    """Return what the agents came to and each one's cost, [N]; empty places count nowhere."""
    costs = state.totals.cost.result()
    exists = None if costs.shape[0] == agents else jnp.arange(costs.shape[0]) < agents
    return Tally.of(state.totals, outputs, lost, among=exists), costs[:agents]
