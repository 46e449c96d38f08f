"""Arithmetic of each agent's own, for some thousand agents after the other.

What lies between stays in a core's cache: for a million agents on CPU, going to memory for it
costs as much as the arithmetic. Agents are the last axis of all arrays; a scalar is the same for
all of them. Nothing here is to be differentiated: whoever calls it says what the gradient is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from memoa_jax.arithmetic import computed_once
from memoa_jax.types import Array, Tree

CACHED_AGENTS = 8192
"""Agents whose elimination fits a core's cache."""


def in_cache(compute: Callable[..., Tree], *operands: Tree) -> Tree:
    """Return compute(*operands), some thousand agents after the other."""

    def without(_: None, *rest: Tree) -> Tree:
        return compute(*rest)

    return updated_in_cache(lambda kept, *_: kept, without, None, *operands)[1]


def updated_in_cache(
    update: Callable[..., Tree], compute: Callable[..., Tree], kept: Tree, *operands: Tree
) -> tuple[Tree, Tree]:
    """Return kept = update(kept, *operands), in the old one's memory, and compute(kept, *operands).

    Some thousand agents after the other, of which each is updated once: `update` may add to a sum.
    """
    count = _agents((kept, operands))
    if count < 4 * CACHED_AGENTS:
        kept = update(kept, *operands)
        return kept, compute(kept, *operands)

    def body(number: Array, filled: tuple[Tree, Tree]) -> tuple[Tree, Tree]:
        # The last block overlaps the one before it.
        first = number * CACHED_AGENTS
        start = jnp.minimum(first, count - CACHED_AGENTS)

        def cut(lanes: Array) -> Array:
            if not lanes.ndim:
                return lanes
            return lax.dynamic_slice_in_dim(lanes, start, CACHED_AGENTS, axis=-1)

        def read(lanes: Array) -> Array:
            # Read in place by all that follows, a moving slice would be slow.
            return computed_once(cut(lanes)) if lanes.ndim else lanes

        def enter(all_of_it: Array, part: Array) -> Array:
            return lax.dynamic_update_slice_in_dim(all_of_it, part, start, axis=-1)

        there = jax.tree.map(read, operands)

        def all_new() -> Tree:
            return update(jax.tree.map(cut, filled[0]), *there)

        def some_new() -> Tree:
            before = jax.tree.map(cut, filled[0])
            new = start + jnp.arange(CACHED_AGENTS) >= first

            def choose(after: Array, before: Array) -> Array:
                return jnp.where(jnp.broadcast_to(new, after.shape), after, before)

            return jax.tree.map(choose, update(before, *there), before)

        # A branch also keeps what it returns, once; XLA would copy an update into all its uses.
        here = lax.cond(start == first, all_new, some_new)
        found = jax.tree.map(computed_once, compute(here, *there))
        return jax.tree.map(enter, filled, (here, found))

    shapes = jax.eval_shape(compute, kept, *operands)
    empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    found: tuple[Tree, Tree] = lax.fori_loop(0, -(-count // CACHED_AGENTS), body, (kept, empty))
    return found


def _agents(operands: Any) -> int:
    leaves = [leaf for leaf in jax.tree.leaves(operands) if jnp.ndim(leaf)]
    return max((leaf.shape[-1] for leaf in leaves), default=0)
