"""A stream as a chain of functions of a run's parameters, each of which can be differentiated.

    told_k = answer_k(parameters, sum over blocks of look_k(parameters, told_1 .. told_{k-1}))

Sums over blocks are all that couples agents, so block after block can be differentiated alone.
The chain ends in an objective: of the server, or of what the agents' costs come to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from memoa_jax.arithmetic import cast_floating
from memoa_jax.choices import Measure
from memoa_jax.meeting import held, meet
from memoa_jax.metrics import rmse
from memoa_jax.placement import Together, deal
from memoa_jax.spread import Spread
from memoa_jax.stream import Parts, Stream
from memoa_jax.types import Array, Encoder, Mixture, Policy, Tree

Made = Callable[[Mapping[str, Any]], tuple[Encoder, Policy, Mixture]]


@dataclasses.dataclass(frozen=True, eq=False)
class Chain:
    """What a stream's objective is made of.

    Parameters are a `point` [m], named by `names`; `made` turns them into the run's parts.
    """

    stream: Stream
    made: Made
    names: Sequence[str]
    measure: Measure
    temperature: float

    @property
    def surveys(self) -> int:
        """How many surveys of the population the policy asks for."""
        return len(self.stream.surveys)

    @property
    def answered(self) -> int:
        """How many passes end in an answer: those of the surveys, and the server's if asked."""
        return self.surveys + (self.measure == "server_rmse")

    def parts(self, point: Array) -> Parts:
        """Make the parts of a point."""
        made = self.made({name: point[k] for k, name in enumerate(self.names)})
        return Parts(*made, self.stream.parts.key, self.stream.parts.groups)

    def calls(self, run: Together, values: np.ndarray, told: Tree, *more: Tree) -> Iterator[Tree]:
        """Deal the calls of a pass to the devices: run(point, told, *more, points, N, firsts)."""
        stream = self.stream
        point = jnp.asarray(values, stream.dtype)
        arguments = (point, told, *more, stream.points, jnp.uint32(stream.plan.agents))
        return deal(run, stream.plan, arguments)

    def together(self, run: Callable[..., Tree]) -> Together:
        """Return what `calls` deals."""
        return Together(run, self.stream.devices)

    def look(self, number: int, *here: Any) -> Tree:
        """Return what a call's blocks hand over in a pass, leaves [blocks, ...]."""
        if number == self.surveys:
            return self._live(*here).shares["server"]
        point, told, points, agents, firsts = here
        points = dataclasses.replace(points, told=told)
        return self.stream.look(number)(self.parts(point), points, agents, firsts)

    def amount(self, *here: Any) -> Array:
        """Return what the costs of a call's agents come to: see `join`.

        A sum, the largest (of several that share it, the first), or the logarithm of a sum of
        exponentials.
        """
        agents, firsts = here[-2:]
        rows, size = max(int(self.stream.series.scored.sum()), 1), self.stream.plan.size
        exists = firsts[:, None] + jnp.arange(size, dtype=jnp.uint32)[None] < agents
        costs = self._live(*here).costs / rows
        if self.measure == "mean_agent_cost":
            return jnp.sum(jnp.where(exists, costs, 0.0))
        costs = jnp.where(exists, costs, -jnp.inf).reshape(-1)
        if self.temperature > 0:
            return jax.nn.logsumexp(costs / self.temperature)
        return costs[jnp.argmax(costs)]

    def join(self, amounts: Sequence[Any]) -> tuple[float, np.ndarray]:
        """Return the objective that calls' amounts come to, and its derivatives by them."""
        each = np.asarray(amounts, np.float64)
        if self.measure == "mean_agent_cost":
            return float(each.mean() * len(each) / self.stream.plan.agents), np.full(
                len(each), 1 / self.stream.plan.agents
            )
        if self.temperature > 0:
            joint = np.logaddexp.reduce(each)
            return float(self.temperature * joint), self.temperature * np.exp(each - joint)
        return float(each.max()), (np.arange(len(each)) == each.argmax()).astype(np.float64)

    def answer(self, number: int, point: Array, sums: Tree) -> Tree:
        """Turn what a pass found, float64 [n, ...], into answers; the last is the objective."""
        stream, parts = self.stream, self.parts(point)
        served = number == self.surveys
        survey: Any = parts.mixture.survey if served else parts.policy.surveys[number]  # type: ignore[attr-defined]
        sights = jax.tree.map(lambda leaf: cast_floating(leaf, jnp.float64), held(stream.points))
        size = jnp.float64(stream.plan.agents)
        sizes = None if parts.groups is None else jnp.asarray(parts.groups, jnp.float64)
        answers = meet(survey, sums, sights, size, sizes, dimensions=stream.dimensions)
        return self._judge(answers) if served else answers

    def narrow(self, answers: Tree) -> Tree:
        """Bring answers to the run's dtype."""
        dtype = self.stream.dtype
        return jax.tree.map(lambda leaf: cast_floating(np.asarray(leaf), dtype), answers)

    def _live(self, point: Array, told: Tree, points: Any, agents: Array, firsts: Array) -> Any:
        """Let a call's blocks live through the series."""
        points = dataclasses.replace(points, told=told)
        chosen = self.stream.chosen()
        return self.stream.live()(self.parts(point), points, agents, *chosen, firsts)

    def _judge(self, outputs: Array) -> Array:
        """Return the RMSE of the server's outputs [n, d]."""
        series = self.stream.series
        targets = jnp.asarray(np.nan_to_num(series.targets), outputs.dtype)
        server = jnp.concatenate([targets[:1], outputs[:-1]])
        return rmse(server, targets, jnp.asarray(series.scored))


class RawMoments(NamedTuple):
    """A `Spread` as sums that only add up, of values v about a centre c, all [..., m]:

    count, sum (v - c) and sum (v - c)(v - c)'.
    """

    ones: Array
    first: Array
    second: Array


def centres_of(sums: Tree) -> Tree:
    """Return the mean of every spread, and zero beside everything else."""
    return jax.tree.map(
        lambda leaf: leaf.mean if _is_spread(leaf) else np.zeros(()), sums, is_leaf=_is_spread
    )


def raw(found: Tree, centres: Tree = None) -> Tree:
    """Turn spreads into raw moments about their centres (None: about zero)."""

    def one(leaf: Any, centre: Any) -> Any:
        if not _is_spread(leaf):
            return leaf
        spread = leaf.reflected_back()
        apart = spread.mean - jnp.broadcast_to(centre, spread.mean.shape)
        first = spread.count[..., None] * apart
        second = spread.scatter + first[..., :, None] * apart[..., None, :]
        return RawMoments(spread.count, first, second)

    return _each(one, found, centres, _is_spread)


def spreads(sums: Tree, centres: Tree = None) -> Tree:
    """Turn raw moments into spreads; the inverse of `raw`."""

    def one(leaf: Any, centre: Any) -> Any:
        if not _is_raw(leaf):
            return leaf
        apart = leaf.first / jnp.maximum(leaf.ones, 1.0)[..., None]
        scatter = leaf.second - leaf.first[..., :, None] * apart[..., None, :]
        return Spread(leaf.ones, centre + apart, scatter, householder=jnp.zeros_like(apart))

    return _each(one, sums, centres, _is_raw)


def _each(one: Callable[..., Any], tree: Tree, centres: Tree, is_leaf: Callable[..., bool]) -> Tree:
    if centres is None:
        centres = jax.tree.map(lambda _: 0.0, tree, is_leaf=is_leaf)
    return jax.tree.map(one, tree, centres, is_leaf=is_leaf)


def sum_blocks(found: Tree) -> Tree:
    """Sum leaves [blocks, ...] over a call's blocks."""
    return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), found)


class Smooth(NamedTuple):
    """A function of the floating-point leaves of its arguments, the others held where they are.

    `of` maps the `values` to the floating-point leaves of what the function returns, and to the
    others beside them; `whole` puts leaves for the two in their places again.
    """

    of: Callable[[list[Array]], tuple[list[Array], list[Array]]]
    values: list[Array]
    whole: Callable[[Sequence[Any], Sequence[Any]], Tree]


def smooth(function: Callable[..., Tree], at: tuple[Tree, ...]) -> Smooth:
    """Return a function of its floating-point leaves alone; `whole` works once it was called."""
    leaves, structure = jax.tree.flatten(at)
    places = [k for k, leaf in enumerate(leaves) if is_smooth(leaf)]
    made: list[Any] = []

    def of(values: list[Array]) -> tuple[list[Array], list[Array]]:
        moved = list(leaves)
        for k, value in zip(places, values, strict=True):
            moved[k] = value
        found, shape = jax.tree.flatten(function(*jax.tree.unflatten(structure, moved)))
        made[:] = [shape, [is_smooth(leaf) for leaf in found]]
        return [one for one in found if is_smooth(one)], [o for o in found if not is_smooth(o)]

    def whole(values: Sequence[Any], others: Sequence[Any]) -> Tree:
        shape, kinds = made
        first, second = iter(values), iter(others)
        return jax.tree.unflatten(shape, [next(first) if kind else next(second) for kind in kinds])

    return Smooth(of, [leaves[k] for k in places], whole)


def smooth_leaves(tree: Tree) -> list[Any]:
    """Return the floating-point leaves of a tree."""
    return [leaf for leaf in jax.tree.leaves(tree) if is_smooth(leaf)]


def is_smooth(leaf: Any) -> bool:
    """Tell whether a leaf is of floating-point numbers."""
    return bool(jnp.issubdtype(jnp.result_type(leaf), jnp.floating))


def _is_spread(leaf: Any) -> bool:
    return isinstance(leaf, Spread)


def _is_raw(leaf: Any) -> bool:
    return isinstance(leaf, RawMoments)
