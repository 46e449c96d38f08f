"""Arithmetic whose order and number of times XLA must not change, and its precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def computed_once(values: jax.Array) -> jax.Array:
    """Return the same values, computed once and kept, however many computations use them.

    XLA copies cheap arithmetic into each of its consumers (an agent's features would be drawn
    anew for every use), but never a division. So this divides by a 1 that XLA cannot see
    through: exact, bit for bit, NaN and infinity included (a device that takes numbers below the
    smallest normal one for zero does so here). An optimization barrier does not
    help: on CPU it is gone before XLA decides what to copy.

    Example:
      >>> computed_once(jnp.array([0.0, 3.0])).tolist()
      [0.0, 3.0]
    """
    one = jnp.where(lax.stop_gradient(values == values), 1.0, 2.0).astype(values.dtype)
    return values / one


def apart(compute: Callable[..., Any], *operands: Any) -> Any:
    """Return compute(*operands), floating-point arrays, compiled as a computation of its own.

    XLA then copies nothing of it into what uses it, and nothing of what it uses into it. It is
    the branch of a condition that always holds, which XLA is kept from knowing.

    Example:
      >>> apart(lambda x: x + 1, jnp.ones(2)).tolist()
      [2.0, 2.0]
    """
    compute = jax.jit(compute)  # traced once for its shapes and its branch
    found = jax.eval_shape(compute, *operands)
    always = lax.optimization_barrier(jnp.asarray(True))

    def never(*_: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.full(leaf.shape, jnp.nan, leaf.dtype), found)

    return lax.cond(always, compute, never, *operands)


def added(terms: Sequence[jax.Array]) -> jax.Array:
    """Add a few arrays, one after the other.

    On CPU a reduction over a leading axis would run agent by agent.

    Example:
      >>> added([jnp.ones(2), jnp.ones(2), jnp.ones(2)]).tolist()
      [3.0, 3.0]
    """
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


SLICES = 8
"""Of what is summed over agents: enough for a processor's vectors."""


def summed(values: jax.Array) -> jax.Array:
    """Sum over the last axis, agents: slices of them first, then what these come to.

    On CPU a library's sum goes agent by agent; slices are added as vectors, in a quarter of the
    time, and rounded less.

    Example:
      >>> float(summed(jnp.arange(100.0)))
      4950.0
    """
    width = values.shape[-1] // SLICES
    if width < SLICES:
        return jnp.sum(values, axis=-1)
    slices = [values[..., k * width : (k + 1) * width] for k in range(SLICES)]
    total = jnp.sum(added(slices), axis=-1)
    rest = values[..., SLICES * width :]
    return total + jnp.sum(rest, axis=-1) if rest.shape[-1] else total


def in_order(parts: jax.Array) -> jax.Array:
    """Sum over the last axis in a fixed order that zeros appended do not change.

    Neighbours first, as in a tournament, and then their sums; a single part is returned as it is.

    Example:
      >>> float(in_order(jnp.array([1.0, 2.0, 3.0])))
      6.0
    """
    while parts.shape[-1] > 1:
        if parts.shape[-1] % 2:
            parts = jnp.pad(parts, [(0, 0)] * (parts.ndim - 1) + [(0, 1)])
        # Left to itself, the compiler would write out all rounds as one expression.
        parts = computed_once(parts[..., 0::2] + parts[..., 1::2])
    return parts[..., 0]


def halved(values: jax.Array) -> jax.Array:
    """Sum over the last axis, a power of two, in a fixed order: the halves first.

    Additions of whole arrays only: how a library's sum goes depends on the array's size.

    Example:
      >>> float(halved(jnp.array([1.0, 2.0, 3.0, 4.0])))
      10.0
    """
    while (half := values.shape[-1] // 2) > 0:
        values = computed_once(values[..., :half] + values[..., half:])
    return values[..., 0]


def cast_floating(leaf: Any, dtype: Any) -> Any:
    """Return an array in `dtype` if it is of floating-point numbers, else as it is.

    Example:
      >>> cast_floating(jnp.array([1], "int32"), "float32").dtype.name
      'int32'
    """
    return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
