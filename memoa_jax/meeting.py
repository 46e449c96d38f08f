"""The meeting after a pass: sums over a population's blocks, turned into everybody's answers."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from memoa_jax.arithmetic import cast_floating
from memoa_jax.loop import Point
from memoa_jax.types import Array, Dimensions, MixtureSurvey, Sight, Survey, Tree


def answers(
    survey: Survey | MixtureSurvey,
    found: Tree,
    points: Point,
    agents: int,
    groups: Array | None = None,
    *,
    dimensions: Dimensions,
    dtype: str,
) -> Tree:
    """Turn what a pass found, float64 [n, ...], into the answers for every step, in `dtype`.

    In float64 throughout: sums that bursts have made large leave a float32 recursion, of a game
    or of a regression, too few digits, and once for the whole population it costs nothing.
    """
    with jax.enable_x64(True):
        sights, size = held(points), np.float64(agents)
        sizes = None if groups is None else np.asarray(groups, np.float64)
        exact = functools.partial(_on_host, dtype=np.float64)
        arguments = jax.tree.map(exact, (survey, found, sights, size, sizes))
        met = meet(*arguments, dimensions=dimensions)
    return jax.tree.map(functools.partial(_on_host, dtype=dtype), met)


def answer_shapes(
    survey: Survey | MixtureSurvey,
    found: Tree,
    points: Point,
    groups: Array | None = None,
    *,
    dimensions: Dimensions,
    dtype: str,
) -> Tree:
    """Return the shapes of what `answers` gives; `found` are those of a call, [blocks, n, ...]."""

    def to(dtype: Any, skip: int, leaf: Any) -> jax.ShapeDtypeStruct:
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        return jax.ShapeDtypeStruct(leaf.shape[skip:], np.dtype(dtype if floating else leaf.dtype))

    with jax.enable_x64(True):
        exact = functools.partial(_on_host, dtype=np.float64)
        sums = jax.tree.map(functools.partial(to, np.float64, 1), found)
        sizes = None if groups is None else np.asarray(groups, np.float64)
        others = jax.tree.map(exact, (survey, held(points), np.float64(0), sizes))
        meeting = functools.partial(meet, dimensions=dimensions)
        met = jax.eval_shape(meeting, others[0], sums, *others[1:])
    return jax.tree.map(functools.partial(to, dtype, 0), met)


def held(points: Point) -> Sight:
    """Return what everybody sees at each step, [n, ...]: the last target that was observed."""
    rows = np.where(np.asarray(points.known), np.arange(points.known.shape[0]), 0)
    held = points.target[np.maximum.accumulate(rows)]
    steps = jnp.arange(points.known.shape[0], dtype=jnp.int32)
    return Sight(step=steps, target=held, known=points.known, size=jnp.zeros(steps.shape))


@functools.partial(jax.jit, static_argnames="dimensions")
def meet(
    survey: Survey | MixtureSurvey,
    found: Tree,
    sights: Sight,
    size: Array,
    sizes: Array | None = None,
    *,
    dimensions: Dimensions,
) -> Tree:
    """Turn what a pass found, [n, ...], into the answers for every step.

    `size` is that of the population, `sizes` [K] are those of its groups.
    """

    def body(common: Tree, row: tuple[Tree, Sight]) -> tuple[Tree, Tree]:
        here, sight = row
        sight = Sight(sight.step, sight.target, sight.known, size, sizes)
        return survey.meet(common, here, sight)

    start = survey.begin(dimensions, sights.target.dtype)
    met: Tree = lax.scan(body, start, (found, sights))[1]
    return met


def _on_host(leaf: Any, dtype: Any) -> np.ndarray:
    found: np.ndarray = cast_floating(np.asarray(leaf), dtype)
    return found
