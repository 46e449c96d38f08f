"""Forward mode block by block: a gradient of a run in memory that does not grow with N.

The passes of `memoa_jax.stream` once more, each carrying one derivative per parameter beside its
numbers. Blocks hand over sums, and so do their derivatives; what the sums come to is
differentiated on the host, in float64.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from memoa_jax.arithmetic import cast_floating
from memoa_jax.choices import Measure
from memoa_jax.metrics import rmse
from memoa_jax.placement import deal
from memoa_jax.simulate import prepare
from memoa_jax.spread import Spread
from memoa_jax.stream import Parts, Stream, held, meet
from memoa_jax.timeseries import Series
from memoa_jax.types import Array, Encoder, Mixture, Policy, Tree

Made = Callable[[Mapping[str, Any]], tuple[Encoder, Policy, Mixture]]


class Dual(NamedTuple):
    """Numbers, and beside them their derivatives: the same tree with a leading axis [m]."""

    value: Tree
    slopes: Tree


class RawMoments(NamedTuple):
    """A `Spread` as sums that only add up: of ones, of values [m], of their products [m, m]."""

    ones: Array
    first: Array
    second: Array


def stream_gradient(
    series: Series,
    made: Made,
    start: Mapping[str, float],
    measure: Measure,
    temperature: float = 0.0,
    *,
    num_agents: int,
    key: Array,
    dtype: str = "float32",
    block: int | None = None,
) -> Callable[[Mapping[str, Any]], tuple[float, dict[str, float]]]:
    """Return the function that gives a stream's `tuning.objective_of` and its gradient.

    Exact, in forward mode: about one more stream per parameter, in memory O(block) times one more
    than parameters. Compiled once, whatever the parameters. Where several agents share the
    maximum, the derivative is that of the first.

    Args:
      series: n points; its scored rows count.
      made: encoder, policy and mixture of parameters.
      start: the m parameters by name, at values that they may have.
      measure: see `tuning.objective_of`.
      temperature: of the smooth maximum.
      num_agents: N.
      key: the run's.
      dtype: of the run.
      block: agents per block.

    Raises:
      ValueError: as `simulate` with ``schedule = "stream"``.

    Example:
      >>> from memoa_jax import GameCost, greedy, random_features, ridge_mixture, series
      >>> made = lambda p: (random_features(2), greedy(GameCost(effort=p["e"])), ridge_mixture())
      >>> how = {"num_agents": 5, "key": jax.random.key(0)}
      >>> follow = stream_gradient(series.periodic(8), made, {"e": 2.0}, "server_rmse", **how)
      >>> value, gradient = follow({"e": 3.0})
      >>> value > 0, sorted(gradient)
      (True, ['e'])
    """
    how: dict[str, Any] = {"num_agents": num_agents, "key": key, "dtype": dtype, "block": block}
    stream = prepare(series, *made(start), schedule="stream", keep_costs=True, **how)
    assert isinstance(stream, Stream)
    passes = _Passes(stream, made, tuple(start), measure, temperature)

    def follow(parameters: Mapping[str, Any]) -> tuple[float, dict[str, float]]:
        value, slopes = passes.run(np.asarray([float(parameters[name]) for name in start]))
        return float(value), {name: float(slopes[k]) for k, name in enumerate(start)}

    return follow


@dataclasses.dataclass(eq=False)
class _Passes:
    """The passes of a stream with derivatives; compiled functions are kept with it."""

    stream: Stream
    made: Made
    names: Sequence[str]
    measure: Measure
    temperature: float

    def parts(self, values: Array) -> Parts:
        """Make the parts of parameters [m]."""
        made = self.made({name: values[k] for k, name in enumerate(self.names)})
        return Parts(*made, self.stream.parts.key)

    def run(self, values: np.ndarray) -> Dual:
        """Return the objective and its slopes [m]."""
        told: tuple[Dual, ...] = ()
        for number in range(len(self.stream.surveys)):
            total = _Total()
            for found in self.calls(self.looks[number], values, told):
                total.add(found)
            told = (*told, self.met(self.answers[number], values, total))
        if self.measure == "server_rmse":
            total = _Total()
            for found in self.calls(self.live, values, told):
                total.add(found)
            return self.met(self.server, values, total)
        reduction = _Reduction(self.measure, self._smooth)
        for found in self.calls(self.live, values, told):
            reduction.add(found)
        scale = 1 / self.stream.plan.agents if self.measure == "mean_agent_cost" else 1.0
        scale = self.temperature if self._smooth else scale
        return Dual(scale * reduction.value, scale * reduction.slopes)

    @property
    def _smooth(self) -> bool:
        return self.measure == "worst_agent_cost" and self.temperature > 0

    def calls(
        self, run: Callable[..., Dual], values: np.ndarray, told: tuple[Dual, ...]
    ) -> Iterator[Dual]:
        """Deal the calls of a pass to the devices."""
        stream = self.stream
        known = tuple(one.value for one in told), tuple(one.slopes for one in told)
        point = jnp.asarray(values, stream.dtype)
        arguments = (point, *known, stream.points, jnp.uint32(stream.plan.agents))
        return deal(run, stream.plan, stream.devices, arguments)

    def met(self, answer: Callable[..., Dual], values: np.ndarray, total: _Total) -> Dual:
        """Turn what a pass found into answers, in float64, and bring them to the dtype."""
        with jax.enable_x64(True):
            exact = answer(jnp.asarray(values), total.value, total.slopes)
            dtype = self.stream.dtype
            return jax.tree.map(lambda leaf: cast_floating(np.asarray(leaf), dtype), exact)

    @functools.cached_property
    def looks(self) -> list[Callable[..., Dual]]:
        """The pass for every survey."""
        return [
            self._pass(self.stream.look(number), lambda found, *_: found)
            for number in range(len(self.stream.surveys))
        ]

    @functools.cached_property
    def live(self) -> Callable[..., Dual]:
        """The last pass: what blocks hand to the server, or what a call's agents come to."""
        chosen = self.stream.chosen()
        rows, size = max(int(self.stream.series.scored.sum()), 1), self.stream.plan.size
        live = self.stream.live()

        def kept(found: Any, agents: Array, firsts: Array) -> Tree:
            if self.measure == "server_rmse":
                return found.shares["server"]
            exists = firsts[:, None] + jnp.arange(size, dtype=jnp.uint32)[None] < agents
            costs = found.costs / rows
            if self.measure == "mean_agent_cost":
                return jnp.sum(jnp.where(exists, costs, 0.0))
            if not self._smooth:
                return jnp.max(jnp.where(exists, costs, -jnp.inf))
            return jax.nn.logsumexp(jnp.where(exists, costs / self.temperature, -jnp.inf))

        def run(parts: Parts, points: Any, agents: Array, firsts: Array) -> Any:
            return live(parts, points, agents, *chosen, firsts)

        return self._pass(run, kept)

    def _pass(self, run: Callable[..., Any], kept: Callable[..., Tree]) -> Callable[..., Dual]:
        """Compile a pass that takes derivatives along."""

        @jax.jit
        def along(
            point: Array, told: Tree, slopes: Tree, points: Any, agents: Array, firsts: Array
        ) -> Dual:
            def found(point: Array, told: Tree) -> Tree:
                here = dataclasses.replace(points, told=told)
                return kept(run(self.parts(point), here, agents, firsts), agents, firsts)

            return _along(found, (point, told), (jnp.eye(len(point), dtype=point.dtype), slopes))

        return along

    @functools.cached_property
    def answers(self) -> list[Callable[..., Dual]]:
        """What is made of the sums of each survey's pass."""
        count = len(self.stream.surveys)

        def asked(number: int, parts: Parts) -> Any:
            return parts.policy.surveys[number]  # type: ignore[attr-defined]

        each = [functools.partial(asked, number) for number in range(count)]
        return [self._answer(one, lambda found: found) for one in each]

    @functools.cached_property
    def server(self) -> Callable[..., Dual]:
        """What is made of the last pass's sums: the server's RMSE."""
        series = self.stream.series
        targets, scored = np.nan_to_num(series.targets), series.scored

        def judge(outputs: Array) -> Array:
            first = jnp.asarray(targets[:1], outputs.dtype)
            server = jnp.concatenate([first, outputs[:-1]])
            return rmse(server, jnp.asarray(targets, outputs.dtype), jnp.asarray(scored))

        def server(parts: Parts) -> Any:
            return parts.mixture.survey  # type: ignore[attr-defined]

        return self._answer(server, judge)

    def _answer(
        self, surveyed: Callable[[Parts], Any], made_of: Callable[[Tree], Tree]
    ) -> Callable[..., Dual]:
        """Compile what turns sums into answers."""
        stream = self.stream

        @jax.jit
        def answer(point: Array, value: Tree, slopes: Tree) -> Dual:
            sights = jax.tree.map(
                lambda leaf: cast_floating(leaf, jnp.float64), held(stream.points)
            )

            def met(point: Array, sums: Tree) -> Tree:
                found = jax.tree.map(
                    _spread, sums, is_leaf=lambda leaf: isinstance(leaf, RawMoments)
                )
                survey = surveyed(self.parts(point))
                size = jnp.float64(stream.plan.agents)
                return made_of(meet(survey, found, sights, size, dimensions=stream.dimensions))

            return _along(met, (point, value), (jnp.eye(len(point), dtype=point.dtype), slopes))

        return answer


def _along(function: Callable[..., Tree], at: tuple[Tree, ...], slopes: tuple[Tree, ...]) -> Dual:
    """Differentiate along m directions; what is no floating-point number has slopes of zero."""
    leaves, structure = jax.tree.flatten(at)
    moves = jax.tree.leaves(slopes)
    smooth = [k for k, leaf in enumerate(leaves) if _is_smooth(leaf)]
    count = moves[0].shape[0]
    shape: list[Any] = []

    def moving(values: list[Array]) -> tuple[list[Array], list[Array]]:
        whole = list(leaves)
        for k, value in zip(smooth, values, strict=True):
            whole[k] = value
        found, made = jax.tree.flatten(function(*jax.tree.unflatten(structure, whole)))
        shape[:] = [made, [_is_smooth(leaf) for leaf in found]]
        return [one for one in found if _is_smooth(one)], [o for o in found if not _is_smooth(o)]

    def one(move: list[Array]) -> tuple[list[Array], list[Array], list[Array]]:
        return jax.jvp(moving, ([leaves[k] for k in smooth],), (move,), has_aux=True)

    value, slope, rest = jax.vmap(one, out_axes=(None, 0, None))([moves[k] for k in smooth])
    made, kinds = shape
    values, along, others = iter(value), iter(slope), iter(rest)
    none = jnp.zeros((count,))
    pairs = [(next(values), next(along)) if kind else (next(others), none) for kind in kinds]
    return Dual(
        jax.tree.unflatten(made, [pair[0] for pair in pairs]),
        jax.tree.unflatten(made, [pair[1] for pair in pairs]),
    )


def _is_smooth(leaf: Any) -> bool:
    return bool(jnp.issubdtype(jnp.result_type(leaf), jnp.floating))


def _is_spread(leaf: Any) -> bool:
    return isinstance(leaf, Spread)


def _is_raw(leaf: Any) -> bool:
    return isinstance(leaf, RawMoments)


def _sum_blocks(leaf: Any) -> Any:
    """Bring a call's blocks, leaves [blocks, ...], to sums."""
    if not _is_spread(leaf):
        return jnp.sum(leaf, axis=0)
    spread = leaf.reflected_back()
    first = spread.count[..., None] * spread.mean
    second = spread.scatter + first[..., :, None] * spread.mean[..., None, :]
    return RawMoments(*(jnp.sum(one, axis=0) for one in (spread.count, first, second)))


def _spread(leaf: Any) -> Any:
    """Return the spread that sums come to."""
    if not _is_raw(leaf):
        return leaf
    mean = leaf.first / jnp.maximum(leaf.ones, 1.0)[..., None]
    scatter = leaf.second - leaf.first[..., :, None] * mean[..., None, :]
    return Spread(leaf.ones, mean, scatter, householder=jnp.zeros_like(mean))


@jax.jit
def _summed(value: Tree, slopes: Tree) -> Dual:
    """Sum over the blocks of a call."""

    def summed(found: Tree) -> Tree:
        return jax.tree.map(_sum_blocks, found, is_leaf=_is_spread)

    return _along(summed, (value,), (slopes,))


class _Total:
    """Sums over calls, in float64."""

    def __init__(self) -> None:
        self.value: Tree = None
        self.slopes: Tree = None

    def add(self, found: Dual) -> None:
        """Enter a call's blocks."""
        with jax.enable_x64(True):
            exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), found)
            one = jax.tree.map(np.asarray, _summed(*exact))
        if self.value is None:
            self.value, self.slopes = one
        else:
            self.value = jax.tree.map(np.add, self.value, one.value)
            self.slopes = jax.tree.map(np.add, self.slopes, one.slopes)


class _Reduction:
    """What agents come to over calls: a sum, the largest, or the log of a sum of exponentials."""

    def __init__(self, measure: Measure, smooth: bool) -> None:
        self.measure, self.smooth = measure, smooth
        self.value: Any = None
        self.slopes: Any = None

    def add(self, found: Dual) -> None:
        """Enter a call's."""
        value, slopes = (np.asarray(one, np.float64) for one in found)
        if self.value is None:
            self.value, self.slopes = value, slopes
        elif self.measure == "mean_agent_cost":
            self.value, self.slopes = self.value + value, self.slopes + slopes
        elif self.smooth:
            joint = np.logaddexp(self.value, value)
            old, new = np.exp(self.value - joint), np.exp(value - joint)
            self.value, self.slopes = joint, old * self.slopes + new * slopes
        elif value > self.value:
            self.value, self.slopes = value, slopes
