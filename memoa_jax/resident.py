"""The resident schedule: all agents together, step by step, on one device or on those of a mesh."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from memoa_jax.choices import Containment
from memoa_jax.footprint import bytes_of
from memoa_jax.groups import group_of
from memoa_jax.keeping import Keeper, Kept
from memoa_jax.loop import Info, Point, Program, State, begin, in_chunks, points_of, run_chunk
from memoa_jax.mesh import (
    Layout,
    Size,
    automatic,
    begin_sharded,
    everything,
    everywhere,
    layout_of,
    placed,
    run_sharded,
    spread,
)
from memoa_jax.metrics import diverging
from memoa_jax.recording import Record
from memoa_jax.series import Series
from memoa_jax.totals import AgentTotals, Tally, tallies_by_group
from memoa_jax.trouble import Trouble
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
from memoa_jax.watching import Live, Moment, Watcher

DEFAULT_CHUNK, LEAST_CHUNK = 512, 16
"""Most and fewest steps per compiled call where the caller does not say."""
AGENT_STEPS_PER_CALL = 2 * 10**7
"""A call of a large population has fewer: it is over in seconds, then told, kept or stopped."""


class Lived(NamedTuple):
    """What a resident run returns: rows over time, the last state, what the agents came to."""

    info: Info
    state: State
    tally: Tally
    costs: Array
    groups: Tally | None
    forecast: Array
    steps: Array
    status: Array
    trouble: Trouble


class Prepared(NamedTuple):
    """What a run begins with: the arguments of `loop.begin`, on the mesh if there is one."""

    parts: tuple[Tree, ...]
    size: Size
    layout: Layout | None
    agents: int

    @classmethod
    def of(
        cls,
        parts: tuple[Encoder, Policy, Mixture, Participation | None, Array | None, Array],
        first_target: np.ndarray,
        dimensions: Dimensions,
        choice: Record,
        *,
        agents: int,
        mesh: Mesh | None,
        reproducible: bool,
        dtype: str,
        best_readout: bool,
        containment: Containment = "report",
    ) -> Prepared:
        """Prepare a run; see `simulate`.

        `parts` end with the participation, the sizes of the groups and the seed's words.

        Raises:
          ValueError: if the mesh has no axis for the agents.
        """
        size = Size(dimensions, choice.fields, best_readout, containment)
        first, chosen = jnp.asarray(first_target, dtype), jnp.asarray(choice.agents, jnp.int32)
        together: tuple[Tree, ...] = (*parts, first, chosen)
        if mesh is None and not reproducible:
            return cls(together, size, None, agents)
        mesh = automatic(jax.make_mesh((1,), ("agents",)) if mesh is None else mesh)
        together = everywhere(together, mesh)
        shards = spread(mesh, agents, reproducible=reproducible)
        return cls(together, size, layout_of(shards, together, size), agents)

    def points(self, series: Series, start: int, length: int) -> Point:
        """Return rows of the series where the run needs them."""
        points = points_of(series, start, length, self.parts[-2].dtype)
        return points if self.layout is None else everywhere(points, self.layout.shards.mesh)


def run_resident(
    prepared: Prepared,
    series: Series,
    *,
    chunk: int | None,
    on_chunk: Callable[[int, int], None] | None,
    keeper: Keeper | None = None,
    told: Callable[[Lived, int], Any] | None = None,
    watch: Watcher | None = None,
) -> Lived:
    """Advance all agents through the series, in chunks of steps; see `simulate`.

    `told` turns the life so far, and its rows, into what the keeper is shown.
    """
    program, state = _begin(*prepared)
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((program, state)))
    points = series.targets.shape[0]
    length = min(chunk or (points if traced else _default_chunk(prepared.agents)), points)
    if traced:
        whole = prepared.points(series, 0, -(-points // length) * length)
        state, info = _run_traced(program, state, whole, layout=prepared.layout, length=length)
        info = jax.tree.map(lambda leaf: leaf[:points], info)
        return _lived(prepared, series, state, info)
    state, info, done = _resumed(prepared, series, program, state, keeper)

    def keep() -> Kept:
        whole = jax.tree.map(np.asarray, everything(state))
        return Kept({"state": whole, "info": info}, {"done": done})

    def partial() -> Any:
        return None if told is None else told(_lived(prepared, series, state, info), done)

    def show() -> None:
        if watch is not None:
            watch(Moment(done, points, lambda: _glance(prepared, series, state, info, done)))

    show()
    while done < points:
        rows = min(length, points - done)
        here = prepared.points(series, done, length)
        state, piece = _run_in_place(program, state, here, layout=prepared.layout)
        info = _entered(info, piece, done, points)
        done += rows
        if on_chunk is not None:
            on_chunk(done, points)
        show()
        if keeper is not None and done < points:
            keeper.offer(done, points, keep, partial)
    return _lived(prepared, series, state, jax.tree.map(jnp.asarray, info))


def _default_chunk(agents: int) -> int:
    return max(LEAST_CHUNK, min(DEFAULT_CHUNK, AGENT_STEPS_PER_CALL // agents))


def _entered(info: Info | None, piece: Info, done: int, points: int) -> Info:
    """Enter a chunk's rows in those of the whole run, NumPy [points, ...], in place."""

    def blank(leaf: Array) -> np.ndarray:
        # Written now: memory that a run cannot have is missed at its beginning, not at its end.
        return np.full((points, *leaf.shape[1:]), 0, leaf.dtype)

    def enter(rows: np.ndarray, leaf: Array) -> None:
        rows[done : done + leaf.shape[0]] = np.asarray(leaf)[: points - done]

    whole: Info = jax.tree.map(blank, piece) if info is None else info
    jax.tree.map(enter, whole, piece)
    return whole


def _resumed(
    prepared: Prepared, series: Series, program: Program, state: State, keeper: Keeper | None
) -> tuple[State, Info | None, int]:
    """Return where to begin: the state, the rows so far (None: none), and how many."""
    if keeper is None:
        return state, None, 0
    points = series.targets.shape[0]

    def template(_: Any) -> Tree:
        here = prepared.points(series, 0, 2)
        run = functools.partial(_run, layout=prepared.layout)
        _, rows = jax.eval_shape(run, program, state, here)
        whole = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((points, *leaf.shape[1:]), leaf.dtype), rows
        )
        return {"state": state, "info": whole}

    kept = keeper.resume(template)
    if kept is None:
        return state, None, 0
    there = jax.tree.map(
        lambda leaf, begun: jax.device_put(leaf, begun.sharding), kept.tree["state"], state
    )
    return there, kept.tree["info"], int(kept.facts["done"])


def _lived(prepared: Prepared, series: Series, state: State, info: Info) -> Lived:
    """Judge a life as it stands."""
    targets = np.asarray(series.targets)
    _, outputs = targets.shape
    *_, groups, _, _, _ = prepared.parts
    judged = _judge(state, diverging(targets), groups, agents=prepared.agents, outputs=outputs)
    rest = (state.server, state.totals.steps, state.status, state.trouble)
    return Lived(info, state, *everything((*judged, *rest)))


def _glance(prepared: Prepared, series: Series, state: State, info: Info | None, done: int) -> Live:
    """Return the figures of the first rows; the run goes on as if nobody had looked."""
    if info is None:
        return Live()
    targets, rows = np.asarray(series.targets), np.arange(done)
    counted = rows[series.scored[:done] & (rows > 0)]
    if not counted.size:
        return Live()
    error = np.asarray(info.server)[counted].astype(np.float64) - targets[counted]
    server = float(np.sqrt(np.mean(error**2)))
    if jax.process_count() > 1:  # the others, who do not look now, would have to join in
        return Live(server)
    totals = dataclasses.replace(state.totals, readout=None)
    tame = None if state.bounds is None else state.bounds.tame
    size = {"agents": prepared.agents, "outputs": targets.shape[1]}
    worst, rmse, diverged = _worst(totals, tame, diverging(targets), **size)
    return Live(server, float(rmse), int(worst), int(diverged))


def resident_bytes(prepared: Prepared, series: Series, *, chunk: int | None) -> int:
    """Return the bytes that a device holds in a run; compiles it, and draws nobody."""
    layout = prepared.layout
    length = min(chunk or _default_chunk(prepared.agents), series.targets.shape[0])
    made = _begin.eval_shape(*prepared)
    if layout is not None:
        made = placed(made, layout)
    points = prepared.points(series, 0, length)
    return max(
        bytes_of(_begin.lower(*prepared)),
        bytes_of(_run_in_place.lower(*made, points, layout=layout)),
    )


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _begin(
    parts: tuple[Tree, ...], size: Size, layout: Layout | None, agents: int
) -> tuple[Program, State]:
    """Draw all agents."""
    if layout is not None:
        return begin_sharded(parts, layout=layout, size=size)
    return begin(
        *parts,
        population=Population(size=jnp.asarray(agents, parts[-2].dtype)),
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


@functools.partial(jax.jit, static_argnames=("layout", "length"))
def _run_traced(
    program: Program, state: State, points: Point, *, layout: Layout | None, length: int
) -> tuple[State, Info]:
    """Run chunk after chunk; going back, what happened inside of a chunk is computed again."""
    return in_chunks(functools.partial(_run, program, layout=layout), state, points, length)


@functools.partial(jax.jit, static_argnames=("agents", "outputs"))
def _worst(
    totals: AgentTotals, tame: Array | None, lost: Scalar, *, agents: int, outputs: int
) -> tuple[Array, Array, Array]:
    """Return the worst agent so far, its RMSE, and how many have diverged; one program for all."""
    places = totals.pending_effort.shape[0]
    exists = None if places == agents else jnp.arange(places) < agents
    tally = Tally.of(totals, outputs, lost, among=exists, tame=tame)
    return tally.worst, tally.worst_rmse, tally.diverged


@functools.partial(jax.jit, static_argnames=("agents", "outputs"))
def _judge(
    state: State, lost: Scalar, groups: Array | None, *, agents: int, outputs: int
) -> tuple[Tally, Array, Tally | None]:
    """Return what the agents came to, each one's cost [N], and what every group came to.

    Empty places count nowhere.
    """
    costs = state.totals.cost.result()
    places = jnp.arange(costs.shape[0], dtype=jnp.uint32)
    exists = None if costs.shape[0] == agents else places < agents
    tame = None if state.bounds is None else state.bounds.tame
    tally = functools.partial(Tally.of, state.totals, outputs, lost, tame=tame)
    by_group = None
    if groups is not None:
        by_group = tallies_by_group(
            lambda mine: tally(among=mine if exists is None else mine & exists),
            group_of(places, groups),
            groups.shape[0],
        )
    return tally(among=exists), costs[:agents], by_group
