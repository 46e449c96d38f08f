"""Numerical care in one place: precise products, symmetric parts, solves of tiny systems.

Two families. *Matrices* (`matmul`, `solve_spd`, `solve_general`) serve the equilibrium
recursions: one small system at a time, batched by vmap. *Lanes* (`solve_lanes`) serve the
agents: one p x p system per agent, agents last, so that the elimination is unrolled over
rows and every operation is a vector over agents.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from memoa_jax.arithmetic import added
from memoa_jax.types import Array

UNROLLED_FEATURES = 16
"""Largest p solved by unrolled elimination; above it the library's Cholesky serves."""
SOLVE_BLOCK = 16384
"""Largest number of systems handed to the library's batched Cholesky at once."""


def symmetrise(matrix: Array) -> Array:
    """Return (Q + Q')/2 over the last two axes.

    Example:
      >>> symmetrise(jnp.array([[1.0, 2.0], [0.0, 1.0]])).tolist()
      [[1.0, 1.0], [1.0, 1.0]]
    """
    return 0.5 * (matrix + jnp.swapaxes(matrix, -1, -2))


def matmul(*factors: Array) -> Array:
    """Multiply left to right at full precision (accelerators default to TF32 or bfloat16).

    Example:
      >>> matmul(jnp.eye(2), 2 * jnp.eye(2), jnp.ones(2)).tolist()
      [2.0, 2.0]
    """
    product = factors[0]
    for factor in factors[1:]:
        product = jnp.matmul(product, factor, precision=lax.Precision.HIGHEST)
    return product


def einsum(subscripts: str, *operands: Array) -> Array:
    """Contract at full precision (see `matmul`)."""
    return jnp.einsum(subscripts, *operands, precision=lax.Precision.HIGHEST)


def solve_spd(matrix: Array, right: Array) -> Array:
    """Solve a symmetric positive definite system by Cholesky; NaN where it is not definite.

    Args:
      matrix: [m, m], symmetric.
      right: [m] or [m, r].
    """
    if matrix.shape == (1, 1):
        # The library's routine would cost more than the agents' arithmetic.
        return right / jnp.where(matrix > 0, matrix, jnp.nan).reshape((1,) * right.ndim)
    factor = jnp.linalg.cholesky(matrix)
    return jax.scipy.linalg.cho_solve((factor, True), right)


def solve_general(matrix: Array, right: Array) -> Array:
    """Solve a general square system by LU with partial pivoting; [m, m] and [m] or [m, r]."""
    return jnp.linalg.solve(matrix, right)


def smallest_eigenvalue(matrix: Array) -> Array:
    """Return the smallest eigenvalue of the symmetric part, outside differentiation."""
    return jnp.linalg.eigvalsh(lax.stop_gradient(symmetrise(matrix)))[..., 0]


def is_singular(matrix: Array) -> Array:
    """Tell whether a square matrix is singular to working precision, outside differentiation.

    Judged by the pivots of LU after each row is scaled to largest entry 1; over the last two
    axes. A matrix with a NaN is not called singular (that is another trouble).

    Example:
      >>> is_singular(jnp.array([[1.0, 2.0], [2.0, 4.0]])).item(), is_singular(jnp.eye(2)).item()
      (True, False)
    """
    matrix = lax.stop_gradient(matrix)
    scale = jnp.max(jnp.abs(matrix), axis=-1, keepdims=True)
    factor = lax.linalg.lu(matrix / jnp.where(scale > 0, scale, 1.0))[0]
    pivots = jnp.abs(jnp.diagonal(factor, axis1=-2, axis2=-1))
    rounding = matrix.shape[-1] * float(np.finfo(matrix.dtype).eps)
    return jnp.min(pivots, axis=-1) <= rounding * jnp.max(pivots, axis=-1)


def applied(features: Array, control: Array) -> Array:
    """Return every agent's Z beta, [d, N], for features [d, p, N] and controls [p, N].

    Example:
      >>> applied(jnp.ones((1, 2, 3)), jnp.ones((2, 3))).tolist()
      [[2.0, 2.0, 2.0]]
    """
    # Term by term: a reduction over a leading axis runs agent by agent on CPU.
    total = features[:, 0] * control[0][None]
    for b in range(1, features.shape[1]):
        total = total + features[:, b] * control[b][None]
    return total


def stacked_product(left: Array, right: Array) -> Array:
    """Multiply every agent's matrices, [a, b, N] and [b, c, N], agents last.

    Example:
      >>> stacked_product(jnp.ones((1, 2, 3)), jnp.ones((2, 1, 3))).tolist()
      [[[2.0, 2.0, 2.0]]]
    """
    # Term by term, as in `applied`.
    total = left[:, 0, None] * right[None, 0]
    for b in range(1, left.shape[1]):
        total = total + left[:, b, None] * right[None, b]
    return total


def solve_stacked(matrix: Array, right: Array) -> Array:
    """Solve every agent's general square system, [d, d, N] against [d, m, N], agents last.

    By elimination with row pivoting, unrolled: for d of a few. Exact; O(d^2 (d + m)) per agent.
    Gradients solve a second system instead of differentiating the elimination.

    Example:
      >>> swap = jnp.array([[0.0, 1.0], [2.0, 0.0]])[..., None]
      >>> solve_stacked(swap, jnp.array([[3.0], [4.0]])[..., None]).ravel().tolist()
      [2.0, 3.0]
    """
    if matrix.shape[0] == 1:
        return right / matrix
    solution: Array = lax.custom_linear_solve(
        lambda x: stacked_product(matrix, x),
        right,
        solve=lambda _, b: _eliminate_stacked(matrix, b),
        transpose_solve=lambda _, b: _eliminate_stacked(jnp.swapaxes(matrix, 0, 1), b),
    )
    return solution


def _eliminate_stacked(matrix: Array, right: Array) -> Array:
    """Solve by elimination; every chain ends in a division, see `_factor_ldl`."""
    d = matrix.shape[0]
    rows = [[*matrix[a], *right[a]] for a in range(d)]
    for a in range(d):
        for b in range(a + 1, d):
            better = jnp.abs(rows[b][a]) > jnp.abs(rows[a][a])
            pairs = list(zip(rows[a], rows[b], strict=True))
            rows[a] = [jnp.where(better, y, x) for x, y in pairs]
            rows[b] = [jnp.where(better, x, y) for x, y in pairs]
        rows[a][a + 1 :] = [x / rows[a][a] for x in rows[a][a + 1 :]]
        for b in range(a + 1, d):
            rows[b] = [y - rows[b][a] * x for x, y in zip(rows[a], rows[b], strict=True)]
    found = [row[d:] for row in rows]
    for a in reversed(range(d)):
        for b in range(a + 1, d):
            pairs = list(zip(found[a], found[b], strict=True))
            found[a] = [x - rows[a][b] * y for x, y in pairs]
    return jnp.stack([jnp.stack(row) for row in found])


Lanes = Sequence[Array]
"""A vector per agent: one [N] array per component."""
SymmetricLanes = Sequence[Sequence[Array]]
"""A symmetric matrix per agent: row a holds its entries [a][0..a], each an [N] array."""


def solve_lanes(matrix: SymmetricLanes, right: Lanes) -> list[Array]:
    """Solve one symmetric positive definite p x p system per agent; exact, O(p^3) per agent.

        matrix_i x_i = right_i        for every agent i, by LDL' without pivoting

    Eliminated row by row in arithmetic over agents: the way to go for p up to about
    `UNROLLED_FEATURES` (see `memoa_jax.regression`). Gradients solve a second system with the same
    matrix instead of differentiating the elimination.

    Args:
      matrix: lower triangle, ``matrix[a][b]`` for b <= a, each [N].
      right: ``right[a]``, each [N].

    Returns:
      The solution's p components, each [N].

    Example:
      >>> two, one = jnp.full(3, 2.0), jnp.ones(3)
      >>> [float(x[0]) for x in solve_lanes([[two], [one, two]], [two, one])]
      [1.0, 0.0]
    """
    p = len(right)
    symmetric = [[matrix[max(a, b)][min(a, b)] for b in range(p)] for a in range(p)]

    def multiply(x: Lanes) -> list[Array]:
        return [sum((row[b] * x[b] for b in range(1, p)), row[0] * x[0]) for row in symmetric]

    solution: list[Array] = lax.custom_linear_solve(
        multiply, list(right), solve=lambda _, b: _solve_ldl(matrix, b), symmetric=True
    )
    return solution


def _factor_ldl(matrix: SymmetricLanes) -> tuple[list[list[Array]], list[Array]]:
    """Factor LDL' unrolled over rows; return the rows of LD below its diagonal, and the pivots.

    Every chain ends in a division here and in `_solve_ldl`. XLA copies cheap arithmetic into
    each of its consumers, which makes the elimination's work exponential in p, but never copies
    a division: with multiplications by inverse pivots the solve is 20 times slower on CPU.
    """
    scaled: list[list[Array]] = []  # scaled[a][b] = L[a][b] D[b]
    lower: list[list[Array]] = []
    pivots: list[Array] = []
    for a in range(len(matrix)):
        scaled.append([])
        for b in range(a):
            entry = matrix[a][b]
            for c in range(b):
                entry = entry - scaled[a][c] * lower[b][c]
            scaled[a].append(entry)
        lower.append([entry / pivots[b] for b, entry in enumerate(scaled[a])])
        pivot = matrix[a][a]
        for b in range(a):
            pivot = pivot - scaled[a][b] * lower[a][b]
        pivots.append(pivot)
    return scaled, pivots


def smallest_pivot(matrix: SymmetricLanes) -> Array:
    """Return each agent's smallest pivot, [N]: positive where its matrix is positive definite.

    Example:
      >>> smallest_pivot([[jnp.ones(1)], [2 * jnp.ones(1), jnp.ones(1)]]).tolist()
      [-3.0]
    """
    pivots = lax.stop_gradient(_factor_ldl(matrix)[1])
    smallest = pivots[0]
    for pivot in pivots[1:]:
        smallest = jnp.minimum(smallest, pivot)
    return smallest


def _solve_ldl(matrix: SymmetricLanes, right: Lanes) -> list[Array]:
    """Solve by LDL' unrolled over rows: no branch, no gather, one lane per agent."""
    p = len(right)
    scaled, pivots = _factor_ldl(matrix)
    forward: list[Array] = []  # L^{-1} right, and the same over the pivots
    divided: list[Array] = []
    for a in range(p):
        value = right[a]
        for b in range(a):
            value = value - scaled[a][b] * divided[b]
        forward.append(value)
        divided.append(value / pivots[a])
    solution = list(forward)
    for a in reversed(range(p)):
        for b in range(a + 1, p):
            solution[a] = solution[a] - scaled[b][a] * solution[b]
        solution[a] = solution[a] / pivots[a]
    return solution


def solve_positive_lanes(matrix: SymmetricLanes, right: Lanes) -> list[Array]:
    """Solve one small positive semidefinite system per agent, by Cholesky; see `solve_lanes`.

    A fifth cheaper than LDL': an entry is computed in one piece. A component whose pivot is of
    rounding's size is one that those before it explain as far as the dtype can tell: it is left
    out (0), and no rounding, be it such that the matrix is indefinite, makes the solution large.
    Not differentiated; the caller says what the gradient is.

    Example:
      >>> two, one = jnp.full(3, 2.0), jnp.ones(3)
      >>> [round(float(x[0]), 6) for x in solve_positive_lanes([[two], [one, two]], [two, one])]
      [1.0, 0.0]
    """
    p = len(right)
    finfo = jnp.finfo(right[0].dtype)
    rounding, infinite = p * float(finfo.eps), float(finfo.max)
    lower: list[list[Array]] = []
    roots: list[Array] = []
    # As in `_factor_ldl`, every chain ends in what XLA does not copy: a division or a root.
    for a in range(p):
        lower.append([])
        for b in range(a):
            entry = matrix[a][b]
            for c in range(b):
                entry = entry - lower[a][c] * lower[b][c]
            lower[a].append(entry / roots[b])
        pivot = matrix[a][a]
        for entry in lower[a]:
            pivot = pivot - entry * entry
        roots.append(jnp.sqrt(jnp.where(pivot <= rounding * matrix[a][a], infinite, pivot)))
    solution: list[Array] = []
    for a in range(p):
        value = right[a]
        for b in range(a):
            value = value - lower[a][b] * solution[b]
        solution.append(value / roots[a])
    for a in reversed(range(p)):
        for b in range(a + 1, p):
            solution[a] = solution[a] - lower[b][a] * solution[b]
        solution[a] = solution[a] / roots[a]
    return solution


def solve_in_one_loop(matrix: SymmetricLanes, right: Lanes) -> list[Array]:
    """Solve as `solve_positive_lanes`, where all that is made of the solution is one array.

    By LDL' with one division per pivot. XLA then writes a single loop over agents, on CPU twice as
    fast as going to memory for every entry; where several arrays are made of the solution it is
    computed anew for each, or in pieces.

    Example:
      >>> two, one = jnp.full(3, 2.0), jnp.ones(3)
      >>> [round(float(x[0]), 6) for x in solve_in_one_loop([[two], [one, two]], [two, one])]
      [1.0, 0.0]
    """
    lower, inverses = _factor_in_one_loop(matrix)
    forward = _forward(lower, right)
    solution = [value * inverse for value, inverse in zip(forward, inverses, strict=True)]
    for a in reversed(range(len(right))):
        for b in range(a + 1, len(right)):
            solution[a] = solution[a] - lower[b][a] * solution[b]
    return solution


def bilinear_in_one_loop(left: Lanes, matrix: SymmetricLanes, right: Lanes) -> Array:
    """Return left' matrix^{-1} right of every agent, [N]; cheaper than to solve, see there.

    Example:
      >>> two, one = jnp.full(3, 2.0), jnp.ones(3)
      >>> round(float(bilinear_in_one_loop([one, one], [[two], [one, two]], [two, one])[0]), 6)
      1.0
    """
    lower, inverses = _factor_in_one_loop(matrix)
    both = zip(_forward(lower, left), _forward(lower, right), inverses, strict=True)
    return added([x * y * inverse for x, y, inverse in both])


def _factor_in_one_loop(matrix: SymmetricLanes) -> tuple[list[list[Array]], list[Array]]:
    """Factor LDL'; return the rows of L below its diagonal, and the inverse pivots.

    Pivots of rounding's size have the inverse 0. What is used more than once must be neither a
    division nor a root, which XLA keeps apart: it is a product of such.
    """
    finfo = jnp.finfo(matrix[0][0].dtype)
    rounding, smallest = len(matrix) * float(finfo.eps), float(finfo.tiny)
    lower: list[list[Array]] = []
    inverses: list[Array] = []
    for a in range(len(matrix)):
        scaled: list[Array] = []  # of L D
        for b in range(a):
            entry = matrix[a][b]
            for c in range(b):
                entry = entry - scaled[c] * lower[b][c]
            scaled.append(entry)
        lower.append([entry * inverse for entry, inverse in zip(scaled, inverses, strict=True)])
        pivot = matrix[a][a]
        for entry, factor in zip(scaled, lower[a], strict=True):
            pivot = pivot - entry * factor
        above = (pivot - rounding * matrix[a][a]) * float(finfo.max)
        told_apart = jnp.minimum(jnp.maximum(above, 0.0), 1.0)
        inverses.append(told_apart * (1.0 / jnp.maximum(pivot, smallest)))
    return lower, inverses


def _forward(lower: Sequence[Lanes], right: Lanes) -> list[Array]:
    """Return L^{-1} right."""
    forward: list[Array] = []
    for a, value in enumerate(right):
        for b in range(a):
            value = value - lower[a][b] * forward[b]
        forward.append(value)
    return forward


def solve_library(matrices: Array, right: Array) -> Array:
    """Solve [N, p, p] against [N, p] with the library's Cholesky.

    In bounded blocks: very large batches of tiny factorizations can fail on GPUs.
    """
    return lax.map(lambda pair: solve_spd(*pair), (matrices, right), batch_size=SOLVE_BLOCK)
