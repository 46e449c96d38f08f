"""Run a population of agents through a series: `simulate`, and the resident schedule.

The resident schedule advances all agents together, step by step; `memoa_jax.stream` takes them
block by block through all time instead. Both drive the same step, `memoa_jax.loop.advance`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from memoa_jax.arguments import one_of, whole
from memoa_jax.draws import seed_words
from memoa_jax.loop import Info, Program, State, begin, points_of, run_chunk
from memoa_jax.metrics import Summary, diverging, summarise
from memoa_jax.recording import Field, Record, check
from memoa_jax.series import Series
from memoa_jax.stream import Parts, refusals, run_stream
from memoa_jax.totals import Tally
from memoa_jax.types import (
    Array,
    Dimensions,
    Encoder,
    Mixture,
    Participation,
    Policy,
    Population,
    record,
)

DEFAULT_CHUNK = 512
Schedule = Literal["resident", "stream"]


@record
class Result:
    """What a run returns.

    `server` [n, d] and `mean_field` [n, d]: row t is the prediction of y_t made before it was
    seen (row 0 is y_0); `forecast` [d] is the server's prediction of the point after the last.
    `agent_costs` [N] are cumulative squared errors (None where they were not kept). `recorded`
    maps fields to arrays [steps, agents, ...]. `state` is what a continuation would start from
    (None for a stream).
    """

    server: Array
    mean_field: Array
    forecast: Array
    agent_costs: Array | None
    summary: Summary
    recorded: dict[str, Array]
    state: State | None
    status: Array


# In a plain run the old state's memory becomes the new one's; a transformation may still need it.
_run_in_place = jax.jit(run_chunk, donate_argnames="state")
_run_traced = jax.jit(run_chunk)


@functools.partial(jax.jit, static_argnames=("dimensions", "num_agents", "fields", "best_readout"))
def _begin(
    encoder: Encoder,
    policy: Policy,
    mixture: Mixture,
    participation: Participation | None,
    key: Array,
    first_target: Array,
    recorded_agents: Array,
    *,
    dimensions: Dimensions,
    num_agents: int,
    fields: tuple[Field, ...],
    best_readout: bool,
) -> tuple[Program, State]:
    """Draw all agents."""
    return begin(
        encoder,
        policy,
        mixture,
        participation,
        seed_words(key),
        first_target,
        recorded_agents,
        population=Population(size=jnp.asarray(num_agents, first_target.dtype)),
        index=jnp.arange(num_agents, dtype=jnp.uint32),
        dimensions=dimensions,
        fields=fields,
        best_readout=best_readout,
    )


def simulate(
    series: Series,
    encoder: Encoder,
    policy: Policy,
    mixture: Mixture,
    *,
    num_agents: int,
    key: Array,
    record: Record | None = None,
    chunk: int | None = None,
    dtype: str = "float32",
    best_readout: bool = False,
    participation: Participation | None = None,
    on_chunk: Callable[[int, int], None] | None = None,
    schedule: Schedule = "resident",
    block: int | None = None,
    devices: Sequence[Any] | None = None,
    keep_costs: bool | None = None,
) -> Result:
    """Run a population of agents through a series, one step at a time, and score it.

    Exact; O(n N) for the bundled parts, memory O(N), nothing of shape [time, agents] unless
    recorded. A pure function of its arguments: it may be differentiated and mapped over the
    numbers inside encoder, policy and mixture, and changing those compiles nothing.

        Y^i_{t+1} = base^i_t + Z^i_t beta^i_t,     server_{t+1} = sum_i w_i Y^i_{t+1}

    Axes: n points, N agents, d outputs, k inputs, p features.

    Args:
      series: inputs [n, k] and targets [n, d]; a row with NaN in its target is missing: it
        gives no error, no regression row and no new weights.
      encoder: makes Z^i_t of x_t.
      policy: chooses beta^i_t and what it is added to.
      mixture: the server.
      num_agents: N.
      key: a JAX key, the run's seed. Agent i's draws depend on it, on i and on t alone.
      record: what to keep of single agents; None keeps nothing.
      chunk: steps per compiled call (default 512, or the whole series under a
        transformation); the last chunk is padded. It changes no bit of the result.
      dtype: "float32", or "float64" where 64-bit is enabled.
      best_readout: also accumulate the best fixed read-out in hindsight (p^2 numbers per agent).
      participation: who is present when (see `memoa_jax.participation`); None: everybody, always.
      on_chunk: called with (steps done, steps in all) after every chunk; in a stream with
        (compiled calls done, calls in all).
      schedule: "resident" advances all agents together, memory O(N). "stream" takes them block
        by block through all time, memory O(block), with one more pass over all agents for every
        population-wide question of the policy (forecast game and offline hindsight game one,
        feedback hindsight game two). Both give every agent the same numbers up to rounding;
        those of a stream are the same bits for any number of devices.
      block: agents per block of a stream; default what suits the device.
      devices: those that a stream deals its blocks to; default all local ones.
      keep_costs: return every agent's cost from a stream too (a resident run always does).

    Returns:
      Result.

    Raises:
      ValueError: if sizes do not fit, an index is out of range, or float64 is asked for while
        64-bit is off.

    Status:
      bits of `Status`: NON_FINITE when a prediction overflowed, and those of the policy.

    Source: arXiv 2605.05492, arXiv 2505.00216 (the online loop).

    Example:
      >>> from memoa_jax import encoders, mixture, policies, series
      >>> result = simulate(series.periodic(20), encoders.random_features(4), policies.greedy(),
      ...                   mixture.ridge_mixture(), num_agents=3, key=jax.random.key(0))
      >>> result.server.shape
      (21, 1)
    """
    targets = np.asarray(series.targets)
    points, outputs = targets.shape
    _check(num_agents, dtype, chunk)
    record = Record(agents=(), fields=()) if record is None else record
    check(record, num_agents, points)
    dimensions = Dimensions(
        points=points,
        inputs=series.inputs.shape[1],
        outputs=outputs,
        features=encoder.features,
    )
    one_of("simulate", "schedule", schedule, get_args(Schedule))
    if schedule == "stream":
        return _streamed(
            series,
            Parts(encoder, policy, mixture, seed_words(key)),
            dimensions,
            record,
            participation=participation is not None,
            agents=num_agents,
            block=block,
            devices=devices,
            dtype=dtype,
            best_readout=best_readout,
            keep_costs=bool(keep_costs),
            on_call=on_chunk,
        )
    program, state = _begin(
        encoder,
        policy,
        mixture,
        participation,
        key,
        jnp.asarray(targets[0], dtype),
        jnp.asarray(record.agents, jnp.int32),
        dimensions=dimensions,
        num_agents=num_agents,
        fields=record.fields,
        best_readout=best_readout,
    )
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((program, state)))
    length = points if traced and chunk is None else min(chunk or DEFAULT_CHUNK, points)
    run = _run_traced if traced else _run_in_place
    pieces: list[Info] = []
    for start in range(0, points, length):
        state, info = run(program, state, points_of(series, start, length, dtype))
        rows = min(length, points - start)
        pieces.append(jax.tree.map(lambda leaf, rows=rows: leaf[:rows], info))
        if not traced:
            pieces[-1] = jax.tree.map(np.asarray, pieces[-1])
        if on_chunk is not None:
            on_chunk(start + rows, points)
    return _result(record, state, pieces, targets)


def _streamed(
    series: Series,
    parts: Parts,
    dimensions: Dimensions,
    choice: Record,
    *,
    participation: bool,
    block: int | None,
    devices: Sequence[Any] | None,
    **options: Any,
) -> Result:
    """Run the stream schedule and bring its results into the shape of a resident run's."""
    lines = refusals(parts.policy, parts.mixture, choice, participation=participation)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(parts)):
        lines.append("a run under jit, vmap or grad cannot come back to the host between blocks")
    if lines:
        raise ValueError(
            f"simulate: schedule = 'stream' cannot do this: {'; '.join(lines)}: "
            "allowed is schedule = 'resident'"
        )
    if block is not None:
        whole("simulate", "block", block)
    found = run_stream(
        parts,
        series,
        dimensions,
        choice,
        block=block,
        devices=jax.local_devices() if devices is None else devices,
        **options,
    )
    targets = np.asarray(series.targets)
    server, mean_field = jnp.asarray(found.server), jnp.asarray(found.mean_field)
    tally = jax.tree.map(lambda leaf: jnp.asarray(leaf, server.dtype), found.tally)
    status = jnp.int32(found.status)
    return Result(
        server=server,
        mean_field=mean_field,
        forecast=jnp.asarray(found.forecast),
        agent_costs=found.costs if found.costs is None else jnp.asarray(found.costs),
        summary=summarise(tally, jnp.int32(found.steps), targets, server, mean_field),
        recorded=_kept(choice, found.recorded),
        state=None,
        status=status,
    )


def _kept(choice: Record, recorded: dict[str, Any]) -> dict[str, Array]:
    """Return the chosen steps of what was recorded."""
    if choice.steps is None:
        return {name: jnp.asarray(values) for name, values in recorded.items()}
    kept = np.asarray(choice.steps, np.int32)
    return {name: jnp.asarray(values[kept]) for name, values in recorded.items()}


_tally = jax.jit(Tally.of, static_argnames="outputs")


def _result(record: Record, state: State, pieces: Sequence[Info], targets: np.ndarray) -> Result:
    """Join the chunks, keep the recorded steps, and summarise."""
    info: Info = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *pieces)
    return Result(
        server=info.server,
        mean_field=info.mean_field,
        forecast=state.server,
        agent_costs=state.totals.cost.result(),
        summary=summarise(
            _tally(state.totals, targets.shape[1], diverging(targets)),
            state.totals.steps,
            targets,
            info.server,
            info.mean_field,
        ),
        recorded=_kept(record, info.recorded),
        state=state,
        status=state.status,
    )


def _check(num_agents: int, dtype: str, chunk: int | None) -> None:
    """Refuse sizes and dtypes that cannot be run."""
    whole("simulate", "num_agents", num_agents, 1, 2**31 - 1)
    if chunk is not None:
        whole("simulate", "chunk", chunk)
    one_of("simulate", "dtype", dtype, ("float32", "float64"))
    if dtype == "float64" and jnp.result_type(float) != jnp.float64:
        raise ValueError(
            "simulate: dtype = 'float64' while 64-bit is off: allowed is 'float32', or call "
            "jax.config.update('jax_enable_x64', True) first"
        )
