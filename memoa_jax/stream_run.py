"""The stream schedule: pass after pass over all blocks, on the host; see `memoa_jax.stream`.

Between two calls a stream is a handful of numbers per step of the series, whatever N: it can be
kept there, and gone on with.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from memoa_jax.cost_counts import BINS, CostCounts
from memoa_jax.keeping import Keeper, Kept
from memoa_jax.placement import deal
from memoa_jax.stream import Stream
from memoa_jax.sums import Sums, shapes
from memoa_jax.totals import Tally, joined, joined_by_group
from memoa_jax.trouble import Trouble, earliest
from memoa_jax.types import MixtureSurvey, Tree
from memoa_jax.watching import Live, Moment, Watcher

_COUNTS = CostCounts(
    *(jax.ShapeDtypeStruct(shape, np.dtype(np.int64)) for shape in ((BINS,), ()))  # type: ignore[arg-type]
)


class Streamed(NamedTuple):
    """What a stream returns: rows over time, what the agents came to, and what was kept of them."""

    server: np.ndarray
    mean_field: np.ndarray
    forecast: np.ndarray
    tally: Tally
    groups: Tally | None
    steps: int
    costs: np.ndarray | None
    counts: CostCounts | None
    recorded: dict[str, np.ndarray]
    status: int
    trouble: Trouble


@dataclasses.dataclass
class Going:
    """A stream under way: `calls` of pass `number` are over, and `told` was found by those before.

    `total` are the sums of the pass so far; the rest is of the last pass.
    """

    number: int = 0
    calls: int = 0
    told: tuple[Tree, ...] = ()
    total: Sums = dataclasses.field(default_factory=Sums)
    tally: Tally | None = None
    groups: Tally | None = None
    costs: list[np.ndarray] = dataclasses.field(default_factory=list)
    counts: CostCounts | None = None
    status: int = 0
    steps: int = 0
    trouble: tuple[int, int, int] = (-1, 0, 0)

    def enter(self, found: Any, stream: Stream) -> None:
        """Enter a call of the last pass."""
        self.total.add(found.shares)
        tally = joined(_each(found.tally))
        self.tally = tally if self.tally is None else joined([self.tally, tally])
        if found.groups is not None:
            by_group = joined_by_group(_each(found.groups))
            both = [by_group] if self.groups is None else [self.groups, by_group]
            self.groups = joined_by_group(both)
        self.status |= int(np.bitwise_or.reduce(found.status))
        self.steps = int(found.steps[0])
        here = earliest(jax.tree.map(lambda *both: np.append(*both), found.trouble, self._trouble))
        self.trouble = (int(here.step), int(here.agent), int(here.quantity))
        if stream.keep_costs:
            self.costs.append(found.costs.reshape(-1))
        if stream.count_costs:
            there = max(stream.plan.agents - self.calls * found.costs.size, 0)
            counts = CostCounts.none() if self.counts is None else self.counts
            self.counts = counts.add(found.costs.reshape(-1)[:there], self.steps)

    @property
    def _trouble(self) -> Trouble:
        return Trouble(*map(np.asarray, self.trouble))  # type: ignore[arg-type]

    def kept(self) -> Kept:
        """Return the stream as it stands."""
        tree = {
            "told": self.told,
            "total": self.total.leaves,
            "tally": self.tally,
            "groups": self.groups,
            "costs": np.concatenate(self.costs) if self.costs else None,
            "counts": self.counts,
        }
        names = ("number", "calls", "status", "steps", "trouble")
        return Kept(tree, {name: getattr(self, name) for name in names})


def run_stream(
    stream: Stream,
    on_call: Callable[[int, int], None] | None,
    keeper: Keeper | None = None,
    watch: Watcher | None = None,
) -> Streamed:
    """Run all blocks through all time; exact, O(n N) for every pass: one, and one per survey."""
    plan, choice, surveys = stream.plan, stream.choice, stream.surveys
    every, blocks = (len(surveys) + 1) * plan.calls, -(-plan.agents // plan.size)
    going = Going() if keeper is None else _resumed(stream, keeper)

    def show() -> None:
        if watch is not None:
            over = min(going.calls * plan.blocks, blocks)
            figures = functools.partial(_glance, going)
            watch(Moment(over, blocks, figures, going.number + 1, len(surveys) + 1, "block"))

    def called() -> None:
        going.calls += 1
        show()
        done = going.number * plan.calls + going.calls
        if on_call is not None:
            on_call(done, every)
        # Several processes take up a pass at the beginning of a round of calls only.
        between = jax.process_count() == 1 or going.calls % len(stream.devices) == 0
        if keeper is not None and done < every and between:
            keeper.offer(done, every, going.kept)

    for number in range(going.number, len(surveys)):
        arguments = stream.arguments(going.told)
        run = stream.together(stream.look(number))
        show()
        for found in deal(run, plan, arguments, begun=going.calls):
            going.total.add(found)
            called()
        told = stream.answers(surveys[number], going.total.result())
        going = Going(number + 1, told=(*going.told, told))

    arguments = stream.arguments(going.told, *stream.chosen())
    run = stream.together(stream.live())
    show()
    for found in deal(run, plan, arguments, begun=going.calls):
        going.enter(found, stream)
        called()
    shares = going.total.result()
    server: MixtureSurvey = stream.parts.mixture.survey  # type: ignore[attr-defined]
    outputs = np.asarray(stream.answers(server, shares.pop("server")))
    outputs = np.concatenate([np.asarray(stream.points.target[:1]), outputs])
    shares = {name: share.astype(stream.dtype) for name, share in shares.items()}
    assert going.tally is not None
    return Streamed(
        server=outputs[:-1],
        mean_field=shares["mean_field"],
        forecast=outputs[-1],
        tally=going.tally,
        groups=going.groups,
        steps=going.steps,
        costs=np.concatenate(going.costs)[: plan.agents] if stream.keep_costs else None,
        counts=going.counts,
        recorded={name: shares[name] for name in choice.fields},
        status=going.status,
        trouble=going._trouble,
    )


def _glance(going: Going) -> Live:
    """Return what is known of the agents whose blocks are over."""
    tally = going.tally
    if tally is None or not going.steps:
        return Live()
    return Live(None, float(tally.worst_rmse), int(tally.worst), int(tally.diverged))


def _resumed(stream: Stream, keeper: Keeper) -> Going:
    """Return the stream as it was kept, or at its beginning."""
    like: Tree = None

    def template(facts: dict[str, Any]) -> Tree:
        nonlocal like
        told, found = _shapes(stream, facts["number"])
        live, begun = facts["number"] == len(stream.surveys), facts["calls"] > 0
        like = found.shares if live else found
        places = facts["calls"] * stream.plan.blocks * stream.plan.size
        costs = jax.ShapeDtypeStruct((places,), np.dtype(stream.dtype))
        number: Any = jax.ShapeDtypeStruct((), np.dtype(np.float64))
        sizes = stream.parts.groups
        shape = () if sizes is None else sizes.shape
        several: Any = jax.ShapeDtypeStruct(shape, np.dtype(np.float64))
        grouped = live and begun and sizes is not None
        return {
            "told": told,
            "total": shapes(like) if begun else [],
            "tally": Tally(*[number] * 12) if live and begun else None,
            "groups": Tally(*[several] * 12) if grouped else None,
            "costs": costs if live and begun and stream.keep_costs else None,
            "counts": _COUNTS if live and begun and stream.count_costs else None,
        }

    kept = keeper.resume(template)
    if kept is None:
        return Going()
    tree = kept.tree
    return Going(
        told=tree["told"],
        total=Sums.of(tree["total"], like),
        tally=tree["tally"],
        groups=tree["groups"],
        costs=[] if tree["costs"] is None else [tree["costs"]],
        counts=tree["counts"],
        **kept.facts,
    )


def _shapes(stream: Stream, number: int) -> tuple[tuple[Tree, ...], Any]:
    """Return the shapes of what surveys before pass `number` tell, and of what its calls find."""
    firsts = jax.ShapeDtypeStruct((stream.plan.blocks,), np.uint32)
    told: tuple[Tree, ...] = ()
    for k, survey in enumerate(stream.surveys[:number]):
        found = jax.eval_shape(stream.look(k), *stream.arguments(told), firsts)
        told = (*told, stream.answer_shapes(survey, found))
    if number < len(stream.surveys):
        return told, jax.eval_shape(stream.look(number), *stream.arguments(told), firsts)
    arguments = stream.arguments(told, *stream.chosen())
    return told, jax.eval_shape(stream.live(), *arguments, firsts)


def _each(tallies: Tally) -> list[Tally]:
    """Take apart the tallies of a call's blocks; blocks without agents count as nothing."""
    count = tallies.agents.shape[0]
    return [jax.tree.map(lambda leaf, b=b: leaf[b], tallies) for b in range(count)]
