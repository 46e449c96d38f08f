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
LANES = 16
"""Whole vectors: what is left over after them may be rounded differently."""


def in_cache(compute: Callable[..., Tree], *operands: Tree) -> Tree:
    """Return compute(*operands), some thousand agents after the other."""
    count = _agents(operands)
    if count < 4 * CACHED_AGENTS:
        return compute(*operands)

    def body(number: Array, filled: Tree) -> Tree:
        # The last block overlaps the one before it, and finds the same.
        start = jnp.minimum(number * CACHED_AGENTS, count - CACHED_AGENTS)
        found = compute(*jax.tree.map(lambda x: _read(x, start, CACHED_AGENTS), operands))
        return _entered(filled, jax.tree.map(computed_once, found), start)

    empty = _blank(jax.eval_shape(compute, *operands))
    found: Tree = lax.fori_loop(0, -(-count // CACHED_AGENTS), body, empty)
    return found


def updated_in_cache(
    update: Callable[..., Tree], compute: Callable[..., Tree], kept: Tree, *operands: Tree
) -> tuple[Tree, Tree]:
    """Return kept = update(kept, *operands), in the old one's memory, and compute(kept, *operands).

    All at once where the agents cannot be cut into equal blocks of whole vectors: everybody must
    be updated once, and rounded as everybody else is.
    """
    count = _agents((kept, operands))
    size = block_size(count)
    if size is None:
        kept = update(kept, *operands)
        return kept, compute(kept, *operands)
    blocks = count // size

    def body(number: Array, filled: tuple[Tree, Tree]) -> tuple[Tree, Tree]:
        start = number * size
        there = jax.tree.map(lambda x: _read(x, start, size), operands)
        here = jax.tree.map(lambda x: _cut(x, start, size), filled[0])
        # Always so; but what a branch returns is computed once and kept, where XLA would copy
        # the update into all its uses.
        here = lax.cond(number < blocks, lambda: update(here, *there), lambda: here)
        found = jax.tree.map(computed_once, compute(here, *there))
        return _entered(filled, (here, found), start)

    empty = _blank(jax.eval_shape(compute, kept, *operands))
    found: tuple[Tree, Tree] = lax.fori_loop(0, blocks, body, (kept, empty))
    return found


def block_size(count: int) -> int | None:
    """Return agents per block, about `CACHED_AGENTS`, that cut a large population evenly.

    Example:
      >>> block_size(10**6), block_size(10**5), block_size(100_003), block_size(1000)
      (8000, 10000, None, None)
    """
    if count < 4 * CACHED_AGENTS or count % LANES:
        return None
    near = (
        *range(CACHED_AGENTS, CACHED_AGENTS // 2, -LANES),
        *range(CACHED_AGENTS, 2 * CACHED_AGENTS, LANES),
    )
    return next((size for size in near if count % size == 0), None)


def _cut(lanes: Array, start: Array, size: int) -> Array:
    return lax.dynamic_slice_in_dim(lanes, start, size, axis=-1) if jnp.ndim(lanes) else lanes


def _read(lanes: Array, start: Array, size: int) -> Array:
    # Read in place by all that follows, a moving slice would be slow.
    return computed_once(_cut(lanes, start, size)) if jnp.ndim(lanes) else lanes


def _entered(filled: Tree, parts: Tree, start: Array) -> Tree:
    def enter(all_of_it: Array, part: Array) -> Array:
        return lax.dynamic_update_slice_in_dim(all_of_it, part, start, axis=-1)

    return jax.tree.map(enter, filled, parts)


def _blank(shapes: Tree) -> Tree:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def _agents(operands: Any) -> int:
    leaves = [leaf for leaf in jax.tree.leaves(operands) if jnp.ndim(leaf)]
    return max((leaf.shape[-1] for leaf in leaves), default=0)
