"""A stream's passes: block by block through all time, in memory that does not grow with N.

Agents influence one another through sums over the population alone. What those sums come to at
every step is found by passes over all blocks (`Survey`), each of which leaves n rows of a few
numbers; then every block lives through the whole series knowing them, with the same step
`advance` as a resident run, and hands over what the server and the summary need.

Blocks have a fixed size and are joined in their order, in float64 on the host: every agent's
results are the same bits on any number of devices.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from memoa_jax.arithmetic import computed_once
from memoa_jax.choices import Containment
from memoa_jax.footprint import bytes_of
from memoa_jax.groups import group_of, in_groups
from memoa_jax.loop import Point, advance, begin, points_of, scan_in_chunks
from memoa_jax.meeting import answer_shapes, answers
from memoa_jax.metrics import diverging
from memoa_jax.placement import Blocks, Cut, Together, members
from memoa_jax.recording import Field, Record
from memoa_jax.series import Series
from memoa_jax.totals import Tally, tallies_by_group
from memoa_jax.trouble import Trouble
from memoa_jax.types import (
    Agents,
    Array,
    Dimensions,
    Encoder,
    Mixture,
    MixtureSurvey,
    Observation,
    Policy,
    Population,
    Scalar,
    Survey,
    Tree,
    record,
)


@record
class Parts:
    """What a run is made of: encoder, policy, server, the seed's words [2], sizes of groups [K]."""

    encoder: Encoder
    policy: Policy
    mixture: Mixture
    key: Array
    groups: Array | None = None


def refusals(
    policy: Policy,
    mixture: Mixture,
    choice: Record,
    containment: Containment,
    *,
    participation: bool,
) -> list[str]:
    """Return what of a run cannot be streamed, one line each, and what to do about it."""
    lines = []
    if not hasattr(policy, "surveys"):
        lines.append(f"policy {type(policy).__name__} names no surveys of the population")
    if not hasattr(mixture, "survey"):
        lines.append(f"mixture {type(mixture).__name__} needs every agent's weight at every step")
    if participation:
        lines.append("a participation needs the number of those present at every step")
    if containment == "exclude":
        lines.append('containment = "exclude" needs to know at every step who has run away')
    if "weights" in choice.fields:
        lines.append('record.fields holds "weights", known only when all blocks are done')
    return lines


@dataclasses.dataclass(frozen=True)
class Stream:
    """A stream before it runs: its parts, how its population is cut, and what to keep of it."""

    parts: Parts
    series: Series
    dimensions: Dimensions
    choice: Record
    plan: Cut
    devices: Sequence[Any]
    dtype: str
    best_readout: bool
    keep_costs: bool
    containment: Containment = "report"
    count_costs: bool = False
    steps_kept: int | None = None
    """Steps between two states that are kept for going back (None: nobody goes back)."""

    @functools.cached_property
    def points(self) -> Point:
        """The whole series."""
        length = self.dimensions.points
        points = points_of(self.series, 0, length, self.dtype)
        return jax.tree.map(lambda leaf: leaf[:length], points)

    @property
    def surveys(self) -> tuple[Survey, ...]:
        """What the policy asks of the population."""
        asked: tuple[Survey, ...] = self.parts.policy.surveys  # type: ignore[attr-defined]
        return asked

    def arguments(self, told: tuple[Tree, ...], *more: Tree) -> tuple[Tree, ...]:
        """Return what a call is given, but for its blocks; `told` by the surveys so far."""
        agents = jnp.uint32(self.plan.agents)
        return (self.parts, dataclasses.replace(self.points, told=told), agents, *more)

    def chosen(self) -> tuple[Array, Scalar]:
        """Return what the last pass is given beside: the recorded agents, who has diverged."""
        lost = diverging(np.asarray(self.series.targets))
        return jnp.asarray(self.choice.agents, jnp.int32), lost

    def answers(self, survey: Survey | MixtureSurvey, found: Tree) -> Tree:
        """Return what a survey's sums [n, ...] come to at every step."""
        return answers(
            survey,
            found,
            self.points,
            self.plan.agents,
            self.parts.groups,
            dimensions=self.dimensions,
            dtype=self.dtype,
        )

    def answer_shapes(self, survey: Survey | MixtureSurvey, found: Tree) -> Tree:
        """Return the shapes of those answers; `found` are those of a call."""
        sizes: Any = {"dimensions": self.dimensions, "dtype": self.dtype}
        return answer_shapes(survey, found, self.points, self.parts.groups, **sizes)

    def look(self, number: int) -> functools.partial[Tree]:
        """Return what a pass for a survey calls."""
        return functools.partial(
            _survey,
            number=number,
            dimensions=self.dimensions,
            shape=self.plan.shape,
            steps_kept=self.steps_kept,
        )

    def live(self) -> functools.partial[Tree]:
        """Return what the last pass calls."""
        return functools.partial(
            _live,
            dimensions=self.dimensions,
            shape=self.plan.shape,
            fields=self.choice.fields,
            best_readout=self.best_readout,
            keep_costs=self.keep_costs or self.count_costs,
            containment=self.containment,
            steps_kept=self.steps_kept,
        )

    def together(self, run: functools.partial[Tree]) -> Together:
        """Return a pass (see `look`, `live`) on all devices, compiled once for all runs like it."""
        return _together(run.func, tuple(self.devices), **run.keywords)


@functools.lru_cache(maxsize=256)
def _together(run: Callable[..., Tree], devices: tuple[Any, ...], **settings: Any) -> Together:
    """Return a pass on the given devices; passes of the same settings share their programs."""
    return Together(functools.partial(run, **settings), devices)


def stream_bytes(stream: Stream) -> int:
    """Return the bytes that each device holds in a run; compiles it.

    On CPU the devices share the machine's memory: each of them needs as much.
    """
    told: tuple[Tree, ...] = ()
    most = 0

    def held(run: functools.partial[Tree], arguments: tuple[Tree, ...]) -> int:
        together = stream.together(run)

        def there(leaf: Any) -> Any:
            # What was computed is known by its shape alone; the rest goes where a run puts it.
            if not isinstance(leaf, jax.ShapeDtypeStruct):
                return jax.device_put(leaf, together.alike)
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=together.alike)

        firsts = together.dealt([stream.plan.firsts(0)] * len(together.ours))
        return bytes_of(together.compiled.lower(jax.tree.map(there, arguments), firsts))

    for number, survey in enumerate(stream.surveys):
        look, arguments = stream.look(number), stream.arguments(told)
        most = max(most, held(look, arguments))
        found = jax.eval_shape(look, *arguments, stream.plan.firsts(0))
        told = (*told, stream.answer_shapes(survey, found))
    return max(most, held(stream.live(), stream.arguments(told, *stream.chosen())))


def _survey(
    parts: Parts,
    points: Point,
    agents: Array,
    firsts: Array,
    *,
    number: int,
    dimensions: Dimensions,
    shape: Blocks,
    steps_kept: int | None,
) -> Tree:
    """Let the blocks of a call look, for one survey, at all steps; return their shares."""
    survey = parts.policy.surveys[number]  # type: ignore[attr-defined]
    dtype = points.target.dtype

    def one(first: Array) -> Tree:
        index, population = members(shape, agents, first, dtype)
        population = in_groups(population, index, parts.groups)
        block = Agents(index=index, key=parts.key, group=population.group)
        parameters = parts.encoder.parameters(block, dimensions, dtype)
        nobody = jnp.zeros((dimensions.outputs, shape.size), dtype)

        def body(carry: Tree, point: Point) -> tuple[Tree, Tree]:
            step, target, encoder_state, state = carry
            target = jnp.where(point.known, point.target, target)
            encoder_state, features = parts.encoder.encode(
                parameters, encoder_state, block, point.inputs, step
            )
            observation = Observation(
                step=step,
                target=target,
                known=point.known,
                prediction=nobody,
                features=computed_once(population.only_present(features)),
                population=population,
                voters=population,
                told=point.told,
                agents=block,
            )
            state, found = survey.look(state, observation)
            return (step + 1, target, encoder_state, state), found

        start = (
            jnp.int32(0),
            points.target[0],
            parts.encoder.init(parameters, block, dimensions, dtype),
            survey.init(dimensions, shape.size, dtype),
        )
        found: Tree = scan_in_chunks(body, start, points, steps_kept)[1]
        return found

    return lax.map(one if steps_kept is None else jax.checkpoint(one), firsts)


@record
class Handed:
    """A block's server: it weighs nothing, and hands over what the real one needs."""

    survey: MixtureSurvey

    def init(self, dimensions: Dimensions, num_agents: int, dtype: Any) -> Tree:
        """Return the survey's state for the block."""
        return self.survey.init(dimensions, num_agents, dtype)

    def mix(
        self, state: Tree, observation: Observation, next_prediction: Array
    ) -> tuple[Tree, Tree]:
        """Return the block's share in place of an output."""
        return self.survey.look(state, observation, next_prediction)

    def weights(self, state: Tree, population: Population) -> Array:
        """Refuse: see `refusals`."""
        raise NotImplementedError


class Found(NamedTuple):
    """What a call's blocks hand over, a row each."""

    shares: dict[str, Tree]
    tally: Tally
    groups: Tally | None
    status: Array
    trouble: Trouble
    steps: Array
    costs: Array | None


def _live(
    parts: Parts,
    points: Point,
    agents: Array,
    chosen: Array,
    lost: Scalar,
    firsts: Array,
    *,
    dimensions: Dimensions,
    shape: Blocks,
    fields: tuple[Field, ...],
    best_readout: bool,
    keep_costs: bool,
    containment: Containment,
    steps_kept: int | None,
) -> Found:
    """Let the blocks of a call live through the series, told what the surveys found."""
    dtype = points.target.dtype
    handed = Handed(parts.mixture.survey)  # type: ignore[attr-defined]

    def one(first: Array) -> Found:
        index, population = members(shape, agents, first, dtype)
        program, state = begin(
            parts.encoder,
            parts.policy,
            handed,
            None,
            parts.groups,
            parts.key,
            points.target[0],
            chosen,
            population=population,
            index=index,
            dimensions=dimensions,
            fields=fields,
            best_readout=best_readout,
            containment=containment,
        )
        first_point = jax.tree.map(lambda leaf: leaf[0], points)
        shares = jax.eval_shape(advance, program, state, first_point)[0].server
        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shares)
        state = dataclasses.replace(state, server=nothing)
        step = functools.partial(advance, program)
        state, info = scan_in_chunks(step, state, points, steps_kept)
        made = jax.tree.map(
            lambda rows, last: jnp.concatenate([rows[1:], last[None]]), info.server, state.server
        )
        exists, tame = population.exists, None if state.bounds is None else state.bounds.tame
        tally = functools.partial(
            Tally.of, state.totals, dimensions.outputs, lost, index, tame=tame
        )
        by_group = None
        if parts.groups is not None:
            by_group = tallies_by_group(
                lambda mine: tally(among=mine if exists is None else mine & exists),
                group_of(index, parts.groups),
                parts.groups.shape[0],
            )
        return Found(
            shares={"server": made, "mean_field": info.mean_field, **info.recorded},
            tally=tally(among=exists),
            groups=by_group,
            status=state.status,
            trouble=state.trouble,
            steps=state.totals.steps,
            costs=state.totals.cost.result() if keep_costs else None,
        )

    return lax.map(one if steps_kept is None else jax.checkpoint(one), firsts)
