"""Run a population of agents through a series: `simulate`.

`memoa_jax.resident` advances all agents together, step by step; `memoa_jax.stream` takes them
block by block through all time instead. Both drive the same step, `memoa_jax.loop.advance`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from memoa_jax.arguments import one_of, whole
from memoa_jax.choices import Containment
from memoa_jax.cost_counts import CostCounts
from memoa_jax.draws import seed_words
from memoa_jax.groups import Groups, group_sizes
from memoa_jax.keeping import Keeper
from memoa_jax.loop import State
from memoa_jax.mesh import everything
from memoa_jax.metrics import GroupSummary, Summary, summarise
from memoa_jax.placement import cut
from memoa_jax.recording import Record, check
from memoa_jax.resident import Lived, Prepared, run_resident
from memoa_jax.series import Series
from memoa_jax.stream import Parts, Stream, refusals
from memoa_jax.stream_run import Streamed, run_stream
from memoa_jax.trouble import Trouble
from memoa_jax.types import (
    Array,
    Dimensions,
    Encoder,
    Mixture,
    Participation,
    Policy,
    record,
)
from memoa_jax.watching import Watcher

Schedule = Literal["resident", "stream"]


@record
class Result:
    """What a run returns.

    `server` [n, d] and `mean_field` [n, d]: row t is the prediction of y_t made before it was
    seen (row 0 is y_0); `forecast` [d] is the server's prediction of the point after the last.
    `agent_costs` [N] are cumulative squared errors (None where they were not kept; in NumPy, on
    the host, from a stream), `cost_counts` how many agents had which cost per row (None unless
    asked for). `recorded`
    maps fields to arrays [steps, agents, ...]. `state` is what a continuation would start from
    (None for a stream). `status` holds the bits of `Status`, `trouble` the first agent that was
    no number (or, where wild agents are contained, ran away): when, who, and in what. `groups`
    are the figures of each group of agents, None where there are none.
    """

    server: Array
    mean_field: Array
    forecast: Array
    agent_costs: Array | np.ndarray | None
    cost_counts: CostCounts | None
    summary: Summary
    recorded: dict[str, Array]
    state: State | None
    status: Array
    trouble: Trouble
    groups: GroupSummary | None = None


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
    groups: Groups | None = None,
    on_chunk: Callable[[int, int], None] | None = None,
    schedule: Schedule = "resident",
    block: int | None = None,
    mesh: Mesh | None = None,
    reproducible: bool = False,
    keep_costs: bool | None = None,
    count_costs: bool = False,
    containment: Containment = "report",
    keeper: Keeper | None = None,
    watch: Watcher | None = None,
) -> Result:
    """Run a population of agents through a series, one step at a time, and score it.

    Exact; O(n N) for the bundled parts, memory O(N), nothing of shape [time, agents] unless
    recorded. A pure function of its arguments: it may be differentiated and mapped over the
    numbers inside encoder, policy and mixture, and changing those compiles nothing.

        Y^i_{t+1} = base^i_t + Z^i_t beta^i_t,     server_{t+1} = sum_i w_i Y^i_{t+1}

    Axes: n points, N agents, d outputs, k inputs, p features.

    Args:
      series: inputs [n, k] and targets [n, d]; a row with NaN in its target is missing: it
        gives no error, no regression row and no new weights. `series.scored_from` is the first
        row that counts in the summary and the costs.
      encoder: makes Z^i_t of x_t.
      policy: chooses beta^i_t and what it is added to.
      mixture: the server.
      num_agents: N.
      key: a JAX key, the run's seed. Agent i's draws depend on it, on i and on t alone.
      record: what to keep of single agents; None keeps nothing.
      chunk: steps per compiled call (default 512, or fewer if agents are many; the whole series
        under a transformation); the last chunk is padded. It changes no bit of the result. Reverse
        mode keeps the states at the chunks' ends and computes what was between them again: a chunk
        of about sqrt(n) steps takes the least memory.
      dtype: "float32", or "float64" where 64-bit is enabled.
      best_readout: also accumulate the best fixed read-out in hindsight (p^2 numbers per agent).
      participation: who is present when (see `memoa_jax.participation`); None: everybody, always.
      groups: K numbers of agents that sum to N; the agents of a group stand next to each other.
        Groups may have an encoder each (`grouped`), a cost each and a game that tells them apart
        (`groups` of a policy), and are judged apart (`Result.groups`). They are numbers: other
        sizes compile nothing.
      on_chunk: called with (steps done, steps in all) after every chunk, but under a
        transformation; in a stream with (compiled calls done, calls in all).
      schedule: "resident" advances all agents together, memory O(N). "stream" takes them block
        by block through all time, memory O(block), with one more pass over all agents for every
        population-wide question of the policy (forecast game and offline hindsight game one,
        feedback hindsight game two). Both give every agent the same numbers up to rounding;
        those of a stream are the same bits for any number of devices.
      block: agents per block of a stream; default what suits the device.
      mesh: devices, in a `jax.sharding.Mesh` with an axis "agents", on which the agents live; N
        need not be a multiple of their number. They may be those of several processes
        (`jax.distributed`), each of which calls this and is given the whole result. Default for
        a resident run one device, for a stream all, to which it deals its blocks.
      reproducible: of a resident run, take every sum over agents in an order that depends on N
        alone: every agent's life and the mean field are then the same bits on any number of
        devices, and what the server makes of them is the same up to rounding. Else all of it is
        the same up to the rounding of sums over N. A stream is always the same bits.
      keep_costs: whether to return every agent's cost; default True for a resident run.
      count_costs: whether to return how many agents had which cost (`Result.cost_counts`), which
        takes a stream no memory that grows with N. Not under a transformation.
      containment: of agents whose predictions are no finite numbers or, but for "report", exceed
        `trouble.FAR` times the largest target seen. "report" leaves them where they are: one that
        is no number then shows in every sum over the population. "exclude" leaves them out from
        the step on in which they ran away; in a resident run only. "clip" brings their predictions
        back. They are told (`Result.trouble`) and counted (`Summary.diverged_agents`) in any case.
      keeper: keeps the run between compiled calls, and may know where to go on from (see
        `memoa_jax.keeping`); a run that is gone on with gives the same bits. Not under a
        transformation.
      watch: shown, at the beginning and after every compiled call, how far the run is and, if it
        asks, the figures so far (see `memoa_jax.watching`); it changes no bit of the result. Not
        under a transformation.

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
    prepared = prepare(
        series,
        encoder,
        policy,
        mixture,
        num_agents=num_agents,
        key=key,
        record=record,
        chunk=chunk,
        dtype=dtype,
        best_readout=best_readout,
        participation=participation,
        groups=groups,
        schedule=schedule,
        block=block,
        mesh=mesh,
        reproducible=reproducible,
        keep_costs=keep_costs,
        count_costs=count_costs,
        containment=containment,
    )
    record = Record(agents=(), fields=()) if record is None else record
    if isinstance(prepared, Stream):
        return _streamed(run_stream(prepared, on_chunk, keeper, watch), record, series)

    def result(lived: Lived, rows: int | None = None) -> Result:
        info = lived.info
        figures = (lived.tally, lived.steps, series, info.server, info.mean_field, rows)
        return Result(
            server=info.server,
            mean_field=info.mean_field,
            forecast=lived.forecast,
            agent_costs=None if keep_costs is False else lived.costs,
            cost_counts=_counted(lived, num_agents) if count_costs else None,
            summary=summarise(*figures),
            recorded=_kept(record, info.recorded),
            state=lived.state,
            status=lived.status,
            trouble=lived.trouble,
            groups=GroupSummary.of(lived.groups),
        )

    options: dict[str, Any] = {"chunk": chunk, "on_chunk": on_chunk, "watch": watch}
    return result(run_resident(prepared, series, **options, keeper=keeper, told=result))


def prepare(
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
    groups: Groups | None = None,
    schedule: Schedule = "resident",
    block: int | None = None,
    mesh: Mesh | None = None,
    reproducible: bool = False,
    keep_costs: bool | None = None,
    count_costs: bool = False,
    containment: Containment = "report",
) -> Prepared | Stream:
    """Check the arguments of `simulate`, which see, and prepare the run that they ask for.

    Raises:
      ValueError: as `simulate`.
    """
    points, outputs = np.shape(series.targets)
    whole("simulate", "num_agents", num_agents, 1, 2**31 - 1)
    most = getattr(policy, "most_agents", None)
    if most is not None and num_agents > most:
        raise ValueError(
            f"simulate: num_agents = {num_agents}: allowed is 1..{most}, as many as the policy's "
            "cost is given for"
        )
    if chunk is not None:
        whole("simulate", "chunk", chunk)
    one_of("simulate", "dtype", dtype, ("float32", "float64"))
    if dtype == "float64" and jnp.result_type(float) != jnp.float64:
        raise ValueError(
            "simulate: dtype = 'float64' while 64-bit is off: allowed is 'float32', or call "
            "jax.config.update('jax_enable_x64', True) first"
        )
    one_of("simulate", "containment", containment, get_args(Containment))
    one_of("simulate", "schedule", schedule, get_args(Schedule))
    if block is not None:
        whole("simulate", "block", block)
    sizes = group_sizes("simulate", groups, num_agents)
    for name, told in (("encoder", encoder), ("policy", policy)):
        apart = getattr(told, "groups", None)
        if apart is not None and (sizes is None or sizes.shape[0] != apart):
            given = "none are given" if sizes is None else f"{sizes.shape[0]} are given"
            raise ValueError(
                f"simulate: {name} tells {apart} groups apart, and {given}: allowed is groups with "
                f"{apart} sizes"
            )
    record = Record(agents=(), fields=()) if record is None else record
    check(record, num_agents, points)
    dimensions = Dimensions(
        points=points,
        inputs=series.inputs.shape[1],
        outputs=outputs,
        features=encoder.features,
        shared_input=getattr(encoder, "shared_input", False),
    )
    words = seed_words(key)
    if schedule == "resident":
        return Prepared.of(
            (encoder, policy, mixture, participation, sizes, words),
            np.asarray(series.targets)[0],
            dimensions,
            record,
            agents=num_agents,
            mesh=mesh,
            reproducible=reproducible,
            dtype=dtype,
            best_readout=best_readout,
            containment=containment,
        )
    parts = Parts(encoder, policy, mixture, words, sizes)
    lines = refusals(policy, mixture, record, containment, participation=participation is not None)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(parts)):
        lines.append("a run under jit, vmap or grad cannot come back to the host between blocks")
    if lines:
        raise ValueError(
            f"simulate: schedule = 'stream' cannot do this: {'; '.join(lines)}: "
            "allowed is schedule = 'resident'"
        )
    devices = jax.devices() if mesh is None else list(mesh.devices.flat)
    plan = cut(num_agents, block, devices[0].platform)
    if jax.process_count() == 1:
        devices = devices[: plan.calls]  # the others would have nothing to do
    return Stream(
        parts=parts,
        series=series,
        dimensions=dimensions,
        choice=record,
        plan=plan,
        devices=devices,
        dtype=dtype,
        best_readout=best_readout,
        keep_costs=bool(keep_costs),
        containment=containment,
        count_costs=count_costs,
    )


def _counted(lived: Lived, agents: int) -> CostCounts:
    """Count the agents of a resident run by their cost per row, on the host."""
    taken = lived.state.totals.taken
    rows = lived.steps if taken is None else everything(taken)[:agents]
    return CostCounts.none().add(lived.costs, rows)


def _streamed(found: Streamed, choice: Record, series: Series) -> Result:
    """Bring a stream's results into the shape of a resident run's."""
    server, mean_field = jnp.asarray(found.server), jnp.asarray(found.mean_field)
    both = (found.tally, found.groups)
    tally, by_group = jax.tree.map(lambda leaf: jnp.asarray(leaf, server.dtype), both)
    return Result(
        server=server,
        mean_field=mean_field,
        forecast=jnp.asarray(found.forecast),
        agent_costs=found.costs,
        cost_counts=found.counts,
        summary=summarise(tally, jnp.int32(found.steps), series, server, mean_field),
        recorded=_kept(choice, found.recorded),
        state=None,
        status=jnp.int32(found.status),
        trouble=found.trouble,
        groups=GroupSummary.of(by_group),
    )


def _kept(choice: Record, recorded: dict[str, Any]) -> dict[str, Array]:
    """Return the chosen steps of what was recorded."""
    if choice.steps is None:
        return {name: jnp.asarray(values) for name, values in recorded.items()}
    kept = np.asarray(choice.steps, np.int32)
    return {name: jnp.asarray(values[kept]) for name, values in recorded.items()}
