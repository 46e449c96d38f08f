"""The one scan over time. It receives encoder, policy and mixture and imports none of them.

`advance` is the step: at time t it scores the predictions made for t, lets the agents encode,
decide and predict t + 1, and lets the server weigh them. It is given x_t and y_t and nothing
later, so no prediction can look ahead.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from memoa_jax.arguments import one_of, whole
from memoa_jax.draws import seed_words
from memoa_jax.linalg import applied, computed_once
from memoa_jax.metrics import AgentTotals, Summary, summarise
from memoa_jax.recording import Field, Record, check, pick
from memoa_jax.series import Series
from memoa_jax.types import (
    Agents,
    Array,
    Dimensions,
    Encoder,
    Mixture,
    Observation,
    Participation,
    Policy,
    Population,
    Status,
    Tree,
    record,
    static,
)

DEFAULT_CHUNK = 512


@record
class Program:
    """What does not change during a run: the parts, the agents and their parameters."""

    encoder: Encoder
    policy: Policy
    mixture: Mixture
    parameters: Tree
    agents: Agents
    population: Population
    participation: Participation | None
    recorded_agents: Array
    recorded_fields: tuple[Field, ...] = static()


@record
class State:
    """Exactly what the next step needs.

    `step` is t; `prediction` [d, N], its mean over agents `mean_field` [d] and `server` [d] were
    made for time t, by the agents `present` [N] at step t-1 (None: all); `target` [d] is the last
    observed value. The rest belongs to the parts that made it. `status` holds the bits of
    `Status` met so far.
    """

    step: Array
    prediction: Array
    server: Array
    mean_field: Array
    target: Array
    encoder: Tree
    policy: Tree
    mixture: Tree
    participation: Tree
    present: Array | None
    totals: AgentTotals
    status: Array


@record
class Point:
    """One row of the series as the scan sees it; rows that only fill a chunk are not `real`."""

    inputs: Array
    target: Array
    known: Array
    real: Array


@record
class Info:
    """What a person looks at, one row per step: server and mean field [d], recorded fields."""

    server: Array
    mean_field: Array
    recorded: dict[str, Array]


@record
class Result:
    """What a run returns.

    `server` [n, d] and `mean_field` [n, d]: row t is the prediction of y_t made before it was
    seen (row 0 is y_0); `forecast` [d] is the server's prediction of the point after the last.
    `agent_costs` [N] are cumulative squared errors. `recorded` maps fields to arrays
    [steps, agents, ...]. `state` is what a continuation would start from.
    """

    server: Array
    mean_field: Array
    forecast: Array
    agent_costs: Array
    summary: Summary
    recorded: dict[str, Array]
    state: State
    status: Array


def advance(program: Program, state: State, point: Point) -> tuple[State, Info]:
    """Live through one step: see y_t, score, encode, decide, predict y_{t+1}, weigh.

    Y^i_{t+1} = base^i + Z^i_t beta^i_t; O(N) arithmetic, sums over agents of size O(d^2 p^2).
    """
    step = state.step
    target = jnp.where(point.known, point.target, state.target)
    encoder_state, features = program.encoder.encode(
        program.parameters, state.encoder, program.agents, point.inputs, step
    )
    participation, present = state.participation, None
    if program.participation is not None:
        participation, present = program.participation.present(participation, program.agents, step)
    population = program.population.among(present)
    features = computed_once(population.only_present(features))
    observation = Observation(
        step=step,
        target=target,
        known=point.known,
        prediction=state.prediction,
        features=features,
        population=population,
        voters=program.population.among(state.present),
    )
    policy_state, action = program.policy.act(state.policy, observation)
    control = population.only_present(action.control)
    prediction = action.base + applied(features, control)
    mixture_state, server = program.mixture.mix(state.mixture, observation, prediction)
    totals = state.totals.score(
        error=state.prediction - target[:, None],
        counted=point.known & (step > 0),
        voters=state.present,
        move=target - state.target,
        control=control,
        features=features,
    )
    mean_field = population.mean(prediction)
    if present is not None:
        # Where nobody is, the last value stands in for everybody's prediction.
        deserted = ~(population.largest(jnp.ones_like(prediction[0])) > 0)
        server, mean_field = (jnp.where(deserted, target, x) for x in (server, mean_field))
    # One agent's overflow or NaN shows in the sum over all agents.
    lost = ~jnp.all(jnp.isfinite(mean_field))
    info = Info(
        server=state.server,
        mean_field=state.mean_field,
        recorded=pick(
            program.recorded_fields,
            program.recorded_agents,
            {
                "prediction": lambda: state.prediction,
                "control": lambda: control,
                "features": lambda: features,
                "weights": lambda: program.mixture.weights(mixture_state, population),
            },
        ),
    )
    state = State(
        step=step + 1,
        prediction=prediction,
        server=server,
        mean_field=mean_field,
        target=target,
        encoder=encoder_state,
        policy=policy_state,
        mixture=mixture_state,
        participation=participation,
        present=present,
        totals=totals,
        status=state.status | action.status | jnp.where(lost, Status.NON_FINITE, 0),
    )
    return state, info


def run_chunk(program: Program, state: State, points: Point) -> tuple[State, Info]:
    """Scan `advance` over a chunk of the series; padding rows leave the state as it is."""

    def body(state: State, point: Point) -> tuple[State, Info]:
        blank = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
            jax.eval_shape(advance, program, state, point)[1],
        )
        return lax.cond(
            point.real,
            lambda: advance(program, state, point),
            lambda: (state, blank),
        )

    return lax.scan(body, state, points)


# In a plain run the old state's memory becomes the new one's; a transformation may still need it.
_run_in_place = jax.jit(run_chunk, donate_argnames="state")
_run_traced = jax.jit(run_chunk)


@functools.partial(
    jax.jit, static_argnames=("dimensions", "num_agents", "fields", "dtype", "best_readout")
)
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
    dtype: Any,
    best_readout: bool,
) -> tuple[Program, State]:
    """Draw the agents and return the program and the state before step 0 (all predict y_0)."""
    agents = Agents(index=jnp.arange(num_agents, dtype=jnp.uint32), key=seed_words(key))
    parameters = encoder.parameters(agents, dimensions, dtype)
    program = Program(
        encoder=encoder,
        policy=policy,
        mixture=mixture,
        parameters=parameters,
        agents=agents,
        population=Population(size=jnp.asarray(num_agents, dtype)),
        participation=participation,
        recorded_agents=recorded_agents,
        recorded_fields=fields,
    )
    state = State(
        step=jnp.int32(0),
        prediction=jnp.broadcast_to(first_target[:, None], (dimensions.outputs, num_agents)),
        server=first_target,
        mean_field=first_target,
        target=first_target,
        encoder=encoder.init(parameters, agents, dimensions, dtype),
        policy=policy.init(dimensions, num_agents, dtype),
        mixture=mixture.init(dimensions, num_agents, dtype),
        participation=None
        if participation is None
        else participation.init(agents, dimensions.points),
        present=None if participation is None else jnp.ones(num_agents, bool),
        totals=AgentTotals.empty(
            dimensions, num_agents, dtype, best_readout=best_readout, everyone=participation is None
        ),
        status=jnp.int32(Status.OK),
    )
    return program, state


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
      on_chunk: called with (steps done, steps in all) after every chunk.

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
        dtype=jnp.dtype(dtype),
        best_readout=best_readout,
    )
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((program, state)))
    length = points if traced and chunk is None else min(chunk or DEFAULT_CHUNK, points)
    run = _run_traced if traced else _run_in_place
    pieces: list[Info] = []
    for start in range(0, points, length):
        state, info = run(program, state, _points(series, start, length, dtype))
        rows = min(length, points - start)
        pieces.append(jax.tree.map(lambda leaf, rows=rows: leaf[:rows], info))
        if not traced:
            pieces[-1] = jax.tree.map(np.asarray, pieces[-1])
        if on_chunk is not None:
            on_chunk(start + rows, points)
    return _result(record, state, pieces, targets)


def _result(record: Record, state: State, pieces: Sequence[Info], targets: np.ndarray) -> Result:
    """Join the chunks, keep the recorded steps, and summarise."""
    info: Info = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *pieces)
    recorded = info.recorded
    if record.steps is not None:
        kept = np.asarray(record.steps, np.int32)
        recorded = {name: values[kept] for name, values in recorded.items()}
    return Result(
        server=info.server,
        mean_field=info.mean_field,
        forecast=state.server,
        agent_costs=state.totals.cost.result(),
        summary=summarise(state.totals, targets, info.server, info.mean_field),
        recorded=recorded,
        state=state,
        status=state.status,
    )


def _points(series: Series, start: int, length: int, dtype: str) -> Point:
    """Return rows start .. start + length - 1 of the series, padded with rows not real.

    At least two rows: XLA inlines a loop of one step, and may round it differently.
    """
    stop = min(start + length, series.targets.shape[0])
    size = max(length, 2)
    padding = [(0, size - (stop - start)), (0, 0)]
    targets = np.asarray(series.targets)[start:stop]
    known = np.atleast_1d(np.isfinite(targets).all(axis=1))
    targets = np.where(known[:, None], targets, 0.0)
    return Point(
        inputs=jnp.asarray(np.pad(np.asarray(series.inputs)[start:stop], padding), dtype),
        target=jnp.asarray(np.pad(targets, padding), dtype),
        known=jnp.asarray(np.pad(known, padding[0])),
        real=jnp.asarray(np.arange(start, start + size) < stop),
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
