"""A basis in which what all agents share stands alone.

Features often have a large part in common, above all where the series bursts: their moments are
then near to a matrix of rank one, and the differences that a game's gains depend on drown in the
rounding of that one large number. A Householder reflection that maps the mean to the first axis
leaves the large number in one corner, and every other entry as precise as its own size.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def householder_vector(mean: jax.Array) -> jax.Array:
    """Return the unit vector [p] whose reflection maps `mean` to a multiple of the first axis.

    It is zero, and the reflection nothing, where the mean is. Derivatives do not pass: nothing
    that is reflected back depends on the vector.

    Example:
      >>> householder_vector(jnp.array([0.0, 0.0])).tolist()
      [0.0, 0.0]
    """
    mean = lax.stop_gradient(mean)
    largest = jnp.max(jnp.abs(mean))
    direction = mean / jnp.where(largest > 0, largest, 1.0)
    length = jnp.sqrt(jnp.sum(direction**2))
    # Away from the first axis, so that nothing cancels.
    direction = direction.at[0].add(jnp.where(direction[0] >= 0, length, -length))
    return direction / jnp.maximum(jnp.sqrt(jnp.sum(direction**2)), 1.0)


def reflect(values: Any, vector: Any, over: int = -1) -> Any:
    """Return (I - 2 h h') v for unit vectors h (or zero); its own inverse. Takes NumPy's, too.

    Args:
      values: vectors v along the dimension `over`.
      vector: h along the same dimension; as many dimensions as `values`, and broadcasts.
      over: which dimension.

    Example:
      >>> mean = jnp.array([3.0, 4.0])
      >>> reflect(mean, householder_vector(mean)).round(3).tolist()
      [-5.0, 0.0]
    """
    return values - 2 * vector * (vector * values).sum(axis=over, keepdims=True)
