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
    count = _agents(operands)
    if count < 4 * CACHED_AGENTS:
        return compute(*operands)
    compute = jax.jit(compute)  # traced once for its shapes and its loop

    def body(number: Array, filled: Tree) -> Tree:
        # The last block overlaps the one before it, and finds the same.
        start = jnp.minimum(number * CACHED_AGENTS, count - CACHED_AGENTS)
        found = compute(*jax.tree.map(lambda x: _read(x, start, CACHED_AGENTS), operands))
        return _entered(filled, jax.tree.map(computed_once, found), start)

    empty = _blank(compute, operands, CACHED_AGENTS)
    found: Tree = lax.fori_loop(0, -(-count // CACHED_AGENTS), body, empty)
    return found


def _read(lanes: Array, start: Array, size: int) -> Array:
    if not jnp.ndim(lanes):
        return lanes
    # Read in place by all that follows, a moving slice would be slow.
    return computed_once(lax.dynamic_slice_in_dim(lanes, start, size, axis=-1))


def _entered(filled: Tree, parts: Tree, start: Array) -> Tree:
    def enter(all_of_it: Array, part: Array) -> Array:
        return lax.dynamic_update_slice_in_dim(all_of_it, part, start, axis=-1)

    return jax.tree.map(enter, filled, parts)


def _blank(compute: Callable[..., Tree], operands: tuple[Tree, ...], size: int) -> Tree:
    """Return zeros for what `compute` finds of all agents, asked of as many as a block has."""

    def one_block(lanes: Any) -> Any:
        shape = (*lanes.shape[:-1], size) if jnp.ndim(lanes) else jnp.shape(lanes)
        return jax.ShapeDtypeStruct(shape, jnp.result_type(lanes))

    count = _agents(operands)
    shapes = jax.eval_shape(compute, *jax.tree.map(one_block, operands))
    return jax.tree.map(lambda leaf: jnp.zeros((*leaf.shape[:-1], count), leaf.dtype), shapes)


def _agents(operands: Any) -> int:
    leaves = [leaf for leaf in jax.tree.leaves(operands) if jnp.ndim(leaf)]
    return max((leaf.shape[-1] for leaf in leaves), default=0)
