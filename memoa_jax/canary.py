"""Refuse, before anything is computed, a jax build that computes wrong numbers.

jax and jaxlib 0.10.2 return wrong values on CPU for a vmapped matrix-vector product followed
by a reduction (jax issue 39103): silently, for thousands of agents. pyproject.toml excludes
the release; this catches it, and any relapse, on machines where it was installed anyway.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

FIX = "pip install 'jax!=0.10.2' 'jaxlib!=0.10.2' (or any newer release)"
TELLING_SHAPES = ((32769, "float32"), (16385, "float64"))
"""Population sizes and dtypes, at d = 3, at which the bad build is known to be wrong."""


@functools.partial(jax.jit, static_argnames="size")
def _energies(gains: jax.Array, size: int) -> jax.Array:
    """Return sum((gains @ y_i)^2) for `size` agents, [size]; the pattern that goes wrong."""
    d = gains.shape[0]
    states = jnp.sin(jnp.arange(1, size * d + 1, dtype=gains.dtype)).reshape(size, d)
    return jax.vmap(lambda y: jnp.sum((gains @ y) ** 2))(states)


def largest_error(size: int, outputs: int, dtype: str) -> float:
    """Return the largest relative error over all agents of a compiled population, against numpy.

    Example:
      >>> largest_error(100, 2, "float32") < 1e-4
      True
    """
    gains = np.cos(np.arange(outputs * outputs, dtype=dtype)).reshape(outputs, outputs)
    with jax.default_matmul_precision("highest"):
        computed = np.asarray(_energies(jnp.asarray(gains), size), np.float64)
    states = np.sin(np.arange(1, size * outputs + 1, dtype=dtype)).reshape(size, outputs)
    expected = ((states.astype(np.float64) @ gains.astype(np.float64).T) ** 2).sum(axis=1)
    return float(np.max(np.abs(computed - expected)) / np.max(expected))


def check_build() -> None:
    """Raise if this jax computes wrong numbers; about 0.1 s, once at the start of a run.

    Raises:
      RuntimeError: one line naming the versions and the fix.

    Example:
      >>> check_build()
    """
    for size, dtype in TELLING_SHAPES:
        if dtype == "float64" and jnp.result_type(float) != jnp.float64:
            continue
        error = largest_error(size, 3, dtype)
        # sin of a large float32 argument is accurate to a few units in the last place
        if not error < 1e-3:
            raise RuntimeError(
                f"jax {jax.__version__} computes wrong numbers here (a population of {size} "
                f"agents, {dtype}: relative error {error:.1e}); install another build: {FIX}"
            )
