"""The one step in time, and the scan over it. It imports no encoder, policy or mixture.

`advance` is the step: at time t it scores the predictions made for t, lets the agents encode,
decide and predict t + 1, and lets the server weigh them. It is given x_t and y_t and nothing
later, so no prediction can look ahead. It is written for a block of agents: all of them, those
of one device, or a few thousand of a stream are the same to it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from memoa_jax.arithmetic import computed_once
from memoa_jax.choices import Containment
from memoa_jax.groups import in_groups
from memoa_jax.linalg import applied
from memoa_jax.recording import Field, pick
from memoa_jax.series import Series
from memoa_jax.totals import AgentTotals
from memoa_jax.trouble import Bounds, Trouble, first
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
    containment: Containment = static(default="report")


@record
class State:
    """Exactly what the next step needs.

    `step` is t; `prediction` [d, N], its mean over agents `mean_field` [d] and `server` [d] were
    made for time t, by the agents `present` [N] at step t-1 (None: all); `target` [d] is the last
    observed value. The rest belongs to the parts that made it. `status` holds the bits of
    `Status` met so far, `trouble` the first that was seen; `bounds` are there where wild agents
    are contained.
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
    trouble: Trouble
    bounds: Bounds | None


@record
class Point:
    """One row of the series as the scan sees it; rows that only fill a chunk are not `real`.

    `known` says whether the target was observed, `scored` whether the row counts in the figures.
    `told` is what surveys of the whole population found for the step (None: there were none).
    """

    inputs: Array
    target: Array
    known: Array
    scored: Array
    real: Array
    told: Tree = None


@record
class Info:
    """What a person looks at, one row per step: server and mean field [d], recorded fields."""

    server: Array
    mean_field: Array
    recorded: dict[str, Array]


@jax.jit  # Within a larger program: so that its trace serves all who ask for its shapes.
def advance(program: Program, state: State, point: Point) -> tuple[State, Info]:
    """Live through one step: see y_t, score, encode, decide, predict y_{t+1}, weigh.

    Y^i_{t+1} = base^i + Z^i_t beta^i_t; O(N) arithmetic, sums over agents of size O(d^2 p^2).
    """
    step = state.step
    target = jnp.where(point.known, point.target, state.target)
    encoder_state, features = program.encoder.encode(
        program.parameters, state.encoder, program.agents, point.inputs, step
    )
    bounds = None if state.bounds is None else state.bounds.see(target)
    participation, present = state.participation, None
    if program.participation is not None:
        participation, present = program.participation.present(participation, program.agents, step)
    present = _tame(program, present, bounds)
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
        told=point.told,
        agents=program.agents,
    )
    policy_state, action = program.policy.act(state.policy, observation)
    control = population.only_present(action.control)
    move, effort = (
        None if value is None else population.only_present(value)
        for value in (action.move, action.effort)
    )
    prediction = action.base + (applied(features, control) if move is None else move)
    wild = None
    if bounds is not None:
        wild = bounds.wild(prediction)
        bounds = Bounds(bounds.tame & ~wild, bounds.largest)
        if program.containment == "clip":
            prediction = bounds.clipped(prediction, target)
        present = _tame(program, present, bounds)
        population = program.population.among(present)
        observation = dataclasses.replace(observation, population=population)
    mixture_state, server = program.mixture.mix(state.mixture, observation, prediction)
    totals = state.totals.score(
        error=state.prediction - target[:, None],
        scored=point.scored,
        known=point.known,
        voters=state.present,
        move=target - state.target,
        effort=jnp.sum(control**2, axis=0) if effort is None else effort,
        features=features,
    )
    mean_field = population.mean(prediction)
    if present is not None:
        # Where nobody is, the last value stands in for everybody's prediction.
        deserted = ~(population.largest(jnp.ones_like(prediction[0])) > 0)
        server, mean_field = (jnp.where(deserted, target, x) for x in (server, mean_field))
    # One agent's overflow or NaN shows in the sum over all agents, where it may come to it.
    lost = ~jnp.all(jnp.isfinite(mean_field))
    noticed = lost if wild is None else program.population.largest(wild.astype(target.dtype)) > 0
    trouble = first(
        state.trouble,
        noticed,
        step,
        program.agents.index,
        program.population,
        # Of controls their squares, which are written down in any case; they are not.
        lambda: (
            features,
            totals.pending_effort,
            ~jnp.all(jnp.isfinite(prediction), axis=0) if wild is None else wild,
        ),
    )
    info = Info(
        server=state.server,
        mean_field=state.mean_field,
        recorded=pick(
            program.recorded_fields,
            program.recorded_agents,
            program.agents.index,
            program.population,
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
        trouble=trouble,
        bounds=bounds,
    )
    return state, info


def _tame(program: Program, present: Array | None, bounds: Bounds | None) -> Array | None:
    """Return who is present once those that ran away are left out, where they are."""
    if bounds is None or program.containment != "exclude":
        return present
    return bounds.tame if present is None else present & bounds.tame


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


def scan_in_chunks(
    body: Callable[[Tree, Tree], tuple[Tree, Tree]], start: Tree, rows: Tree, length: int | None
) -> tuple[Tree, Tree]:
    """Scan `body` as `in_chunks` lives."""
    return in_chunks(functools.partial(lax.scan, body), start, rows, length)


def in_chunks(
    live: Callable[[Tree, Tree], tuple[Tree, Tree]], start: Tree, rows: Tree, length: int | None
) -> tuple[Tree, Tree]:
    """Live through rows; going back, what happened inside of `length` of them is computed again.

    `live` takes a state and some rows; it returns the state after them, and a row found for each.
    A length of None: all at once, every state of which is kept by whoever goes back.
    """
    count = jax.tree.leaves(rows)[0].shape[0]
    if length is None or count < 2 * length:
        return live(start, rows)
    again = jax.checkpoint(live)
    whole = count - count % length
    chunks = jax.tree.map(lambda leaf: leaf[:whole].reshape(-1, length, *leaf.shape[1:]), rows)
    state, found = lax.scan(again, start, chunks)
    found = jax.tree.map(lambda leaf: leaf.reshape(whole, *leaf.shape[2:]), found)
    if whole < count:
        state, rest = again(state, jax.tree.map(lambda leaf: leaf[whole:], rows))
        found = jax.tree.map(lambda *parts: jnp.concatenate(parts), found, rest)
    return state, found


def begin(
    encoder: Encoder,
    policy: Policy,
    mixture: Mixture,
    participation: Participation | None,
    groups: Array | None,
    key: Array,
    first_target: Array,
    recorded_agents: Array,
    *,
    population: Population,
    index: Array,
    dimensions: Dimensions,
    fields: tuple[Field, ...],
    best_readout: bool,
    containment: Containment = "report",
) -> tuple[Program, State]:
    """Draw a block's agents; return the program and the state before step 0 (all predict y_0).

    `index` [N] are the block's places in the population, `groups` [K] the sizes of its groups.
    """
    num_agents, dtype = index.shape[0], first_target.dtype
    population = in_groups(population, index, groups)
    agents = Agents(index=index, key=key, group=population.group)
    parameters = encoder.parameters(agents, dimensions, dtype)
    program = Program(
        encoder=encoder,
        policy=policy,
        mixture=mixture,
        parameters=parameters,
        agents=agents,
        population=population,
        participation=participation,
        recorded_agents=recorded_agents,
        recorded_fields=fields,
        containment=containment,
    )
    somebody_leaves = participation is not None or containment == "exclude"
    tame = jnp.ones(num_agents, bool)
    state = State(
        step=jnp.int32(0),
        prediction=jnp.broadcast_to(first_target[:, None], (dimensions.outputs, num_agents)),
        server=first_target,
        mean_field=first_target * population.counted / population.size,
        target=first_target,
        encoder=encoder.init(parameters, agents, dimensions, dtype),
        policy=policy.init(dimensions, num_agents, dtype),
        mixture=mixture.init(dimensions, num_agents, dtype),
        participation=None
        if participation is None
        else participation.init(agents, dimensions.points),
        present=jnp.ones(num_agents, bool) if somebody_leaves else None,
        totals=AgentTotals.empty(
            dimensions, num_agents, dtype, best_readout=best_readout, everyone=not somebody_leaves
        ),
        status=jnp.int32(Status.OK),
        trouble=Trouble.none(),
        bounds=None if containment == "report" else Bounds(tame, jnp.max(jnp.abs(first_target))),
    )
    return program, state


def points_of(series: Series, start: int, length: int, dtype: str) -> Point:
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
        scored=jnp.asarray(np.arange(start, start + size) >= max(series.scored_from, 1)),
        real=jnp.asarray(np.arange(start, start + size) < stop),
    )
