"""How agents that all differ answer to a mean path, each with its own realised features.

Everything of an agent that enters is its Gram matrices G_t = Z_t Z_t' (d x d), so nothing here
grows with p. An agent's best answer to a mean path is affine in it, with a kernel of its own that
is symmetric in time; averages of kernels over agents are all that crosses agents. Agents are the
last axis.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from memoa_jax.cost_spread import check_own_costs
from memoa_jax.game import GameCost
from memoa_jax.linalg import einsum, is_singular, solve_general, solve_stacked, stacked_product
from memoa_jax.nash_dense import HeterogeneousEquilibrium
from memoa_jax.types import Array, Population, Scalar, Status, real_dtype, record


@record
class Answers:
    """How a block's agents move in a game of T steps, whatever pulls at them; see `answers`.

        Y_{t+1} = keep_t Y_t - reach_t s_t,     s_t = keep_{t+1}' s_{t+1} - pull_t

    Axes: `keep` and `reach` [T, d, d, N]; `price` [T, d, d, N] is P, what a unit of distance at
    t + 1 costs from there on.
    """

    keep: Array
    reach: Array
    price: Array


def solve_heterogeneous_realised(
    costs: GameCost, features: Array, targets: Array, initial: Array
) -> HeterogeneousEquilibrium:
    """Solve the mean-field equilibrium of N agents that all differ, with features that are known.

    What `solve_heterogeneous` gives for the moments Z and Z'QZ of realised features, without the
    moments: exact, O(T^2 d^3 + T d^2 p) per agent and one T d x T d system.

    Axes: N agents, T horizon, d outputs, p features.

    Args:
      costs: what agents pay. Leaves are scalars, or [N] with one entry per agent; `forgetting` is
        a scalar. `effort` > 0, in squared target units per squared control.
      features: [N, T, d, p], every agent's at each step.
      targets: [T, d], in the series' own units; row t is y_{t+1}.
      initial: [N, d], where the agents start.

    Returns:
      HeterogeneousEquilibrium: `own` [N, T, p, d], `offset` [N, T, p], `mean_field` [T, d],
      `expected_paths` [N, T, d] (here the agents' very paths) and `status`.

    Raises:
      ValueError: at trace time, if a shape does not fit or effort is a number not above 0.

    Status:
      INDEFINITE if some agent's cost has no minimum, SINGULAR if the system for the mean path is,
      NON_FINITE if a result is not finite.

    Source: own derivation, tested in tests/test_heterogeneous.py.

    Example:
      >>> features = jnp.stack([jnp.ones((3, 1, 2)), 2 * jnp.ones((3, 1, 2))])
      >>> game = (features, jnp.ones((3, 1)), jnp.ones((2, 1)))
      >>> solve_heterogeneous_realised(GameCost(), *game).mean_field.ravel().round(5).tolist()
      [1.0, 1.0, 1.0]
    """
    dtype = real_dtype(features, targets, initial)
    features, targets, initial = (jnp.asarray(x, dtype) for x in (features, targets, initial))
    if features.ndim != 4 or 0 in features.shape:
        raise ValueError(f"features has shape {features.shape}: allowed is [N, T, d, p], no axis 0")
    agents, horizon, d, _ = features.shape
    for name, given, expected in (
        ("targets", targets, (horizon, d)),
        ("initial", initial, (agents, d)),
    ):
        if given.shape != expected:
            raise ValueError(
                f"{name} has shape {given.shape}: with features of shape {features.shape} "
                f"allowed is {expected}"
            )
    check_own_costs("solve_heterogeneous_realised", costs)
    names = ("tracking", "consensus", "ensemble", "effort", "forgetting")
    leaves = {name: jnp.asarray(getattr(costs, name), dtype) for name in names}
    for name, leaf in leaves.items():
        if leaf.shape not in ((), (agents,)):
            raise ValueError(f"cost.{name} has shape {leaf.shape}: allowed is () or {(agents,)}")
    return _solve_realised(GameCost(**leaves), features, targets, initial)


@jax.jit
def _solve_realised(
    cost: GameCost, features: Array, targets: Array, initial: Array
) -> HeterogeneousEquilibrium:
    agents, horizon, d, _ = features.shape
    z, start = jnp.transpose(features, (1, 2, 3, 0)), initial.T
    grams, order = jax.vmap(gram)(z), jnp.arange(horizon)
    population = Population(size=jnp.asarray(agents, targets.dtype))
    found, delta = answers(cost, grams, order), discounts_of(cost, horizon)
    weights = (jnp.broadcast_to(w, (agents,)) for w in (cost.consensus, cost.tracking))
    pulled, tracked = kernels(found, population, *weights)
    free = population.mean(paths(found, jnp.zeros((horizon, d, agents), z.dtype), start))
    mean_field, singular = mean_path(pulled, tracked, delta, targets, free)
    wanted = needs(found, pulls(cost, delta, targets, mean_field))
    unit = delta[:, None, None, None] * _lanes(cost.effort)[None]
    # H^{-1} Z' = Z' keep' / g
    reaction = einsum("tapn,tban->tpbn", z, found.keep / unit)
    own, offset = (
        einsum("tpbn,tban->tpan", reaction, found.price),
        einsum("tpbn,tbn->tpn", reaction, wanted),
    )
    moved = paths(found, wanted, start)
    results = tuple(jnp.moveaxis(x, -1, 0) for x in (own, offset, moved))
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in (*results, mean_field)]))
    status = jnp.where(jnp.all(definite(found, cost, grams, order)), 0, Status.INDEFINITE)
    status = status | jnp.where(singular, Status.SINGULAR, 0)
    status = (status | jnp.where(finite, 0, Status.NON_FINITE)).astype(jnp.int32)
    return HeterogeneousEquilibrium(results[0], results[1], mean_field, results[2], status)


def gram(features: Array) -> Array:
    """Return every agent's G = Z Z', [d, d, N], for features [d, p, N].

    Example:
      >>> gram(2 * jnp.ones((1, 3, 5)))[0, 0, 0].item()
      12.0
    """
    # Term by term: a reduction over a middle axis runs agent by agent on CPU.
    total = features[:, None, 0] * features[None, :, 0]
    for b in range(1, features.shape[1]):
        total = total + features[:, None, b] * features[None, :, b]
    return total


def discounts_of(cost: GameCost, horizon: int) -> Array:
    """Return delta_t = exp(-forgetting (T-1-t)), [T], in the cost's dtype."""
    age = jnp.arange(horizon - 1, -1, -1, dtype=cost.forgetting.dtype)  # type: ignore[union-attr]
    return jnp.exp(-cost.forgetting * age)


def answers(cost: GameCost, grams: Array, order: Array) -> Answers:
    """Solve every agent's own Riccati recursion, which no other agent enters.

    Exact; O(T d^3) per agent, whatever p is: with Z realised, the p x p inverse of a best answer
    is one of d x d.

        backward from P = 0:  P <- P + delta_t (tracking + consensus) I
                              keep_t  = (I + G_t P / (delta_t effort))^{-1}
                              reach_t = keep_t G_t / (delta_t effort) = Z_t H_t^{-1} Z_t'
                              P <- P keep_t,      H_t = Z_t'P Z_t + delta_t effort I

    Args:
      cost: of the block's agents, leaves scalars or [N]; `forgetting` a scalar.
      grams: [slots, d, d, N], a ring.
      order: [T], where the steps of the game stand in it, oldest first.

    Source: own derivation, tested in tests/test_heterogeneous.py.
    """
    horizon, (_, d, _, agents) = order.shape[0], grams.shape
    eye = jnp.broadcast_to(jnp.eye(d, dtype=grams.dtype)[..., None], (d, d, agents))
    weight, effort = _lanes(cost.tracking + cost.consensus) * eye, _lanes(cost.effort)
    delta = discounts_of(cost, horizon)

    def back(P: Array, t: Array) -> tuple[Array, Answers]:
        P = P + delta[t] * weight
        unit, G = delta[t] * effort, grams[order[t]]
        keep = solve_stacked(unit * eye + stacked_product(G, P), unit * eye)
        reach = stacked_product(keep, G) / unit
        before = stacked_product(P, keep)
        if d > 1:  # symmetric but for rounding
            reach, before = (0.5 * (x + jnp.swapaxes(x, 0, 1)) for x in (reach, before))
        return before, Answers(keep, reach, P)

    found: Answers = lax.scan(back, jnp.zeros_like(eye), jnp.arange(horizon), reverse=True)[1]
    return found


def kernels(found: Answers, population: Population, *weights: Array | None) -> list[Array]:
    """Average the agents' kernels, each with every given weight.

    Pulled at time tau by a unit, an agent's path is moved by kernel[t, tau] at its end of step t:
    the inverse of the second derivative of its cost in its path. Exact; O(T^2 d^3) per agent.

        kernel[t, t] = keep_t kernel[t-1, t-1] keep_t' + reach_t
        kernel[t, tau] = keep_t kernel[t-1, tau] = kernel[tau, t]',     tau < t

    Args:
      found: of `answers`.
      population: whose mean is asked for.
      weights: [N] each, or None for 1.

    Returns:
      [T, d, T, d] for every weight: sum_i weight_i kernel^i / N, over the population's agents.
    """
    horizon, d, _, agents = found.keep.shape

    def ahead(columns: Array, t: Array) -> tuple[Array, Any]:
        keep = found.keep[t]
        last = columns[jnp.maximum(t - 1, 0)]
        here = stacked_product(stacked_product(keep, last), jnp.swapaxes(keep, 0, 1))
        moved = _each(keep, columns).at[t].set(here + found.reach[t])
        rows = [moved if w is None else moved * w[None, None, None] for w in weights]
        return moved, [population.mean(row) for row in rows]

    start = jnp.zeros((horizon, d, d, agents), found.keep.dtype)
    lower = lax.scan(ahead, start, jnp.arange(horizon))[1]
    return [_mirrored(one) for one in lower]


def _lanes(leaf: Scalar) -> Array:
    """Bring a scalar or [N] to an array that goes with [.., .., N]."""
    return jnp.reshape(leaf, (1, 1, -1))


def _each(keep: Array, columns: Array) -> Array:
    """Return keep column for all columns [T, d, d, N]."""
    total = keep[None, :, 0, None] * columns[:, None, 0]
    for b in range(1, keep.shape[0]):
        total = total + keep[None, :, b, None] * columns[:, None, b]
    return total


def _mirrored(lower: Array) -> Array:
    """Complete a symmetric kernel from its blocks [t, tau, d, d] of tau <= t; to [T, d, T, d]."""
    horizon = lower.shape[0]
    below = jnp.tril(jnp.ones((horizon, horizon), lower.dtype), -1)[..., None, None]
    diagonal = jnp.eye(horizon, dtype=lower.dtype)[..., None, None]
    blocks = (below + diagonal) * lower + jnp.transpose(below * lower, (1, 0, 3, 2))
    return jnp.transpose(blocks, (0, 2, 1, 3))


def mean_path(
    pulled: Array, tracked: Array, delta: Array, targets: Array, free: Array | None = None
) -> tuple[Array, Array]:
    """Solve for the mean path to which the agents' answers have that very mean.

        mbar = pulled delta mbar + tracked delta y + free

    Exact; one system of size T d.

    Args:
      pulled: [T, d, T, d], the mean kernel, each agent's times its consensus.
      tracked: [T, d, T, d], each agent's times its tracking.
      delta: [T], discounts.
      targets: [T, d], y at the ends of the steps.
      free: [T, d], the mean path of agents at which nothing pulls; None: they start at zero.

    Returns:
      The path [T, d] at the ends of the steps, and whether the system is singular.
    """
    steps, d = targets.shape
    size = steps * d
    matrix = (pulled * delta[None, None, :, None]).reshape(size, size)
    matrix = jnp.eye(size, dtype=matrix.dtype) - matrix
    wanted = (delta[:, None] * targets)[None, None]
    right = jnp.sum(tracked * wanted, axis=(2, 3))
    right = right if free is None else right + free
    path = solve_general(matrix, right.reshape(size)).reshape(steps, d)
    return path, is_singular(matrix)


def pulls(cost: GameCost, delta: Array, targets: Array, path: Array) -> Array:
    """Return what pulls at agents, delta (tracking y + consensus mbar), [T, d, N] or [T, d, 1].

    Args:
      cost: leaves scalars or [N].
      delta: [T], discounts.
      targets: [T, d].
      path: [T, d], the mean path.
    """
    tracked, pulled = targets[..., None], path[..., None]
    both = _lanes(cost.tracking) * tracked + _lanes(cost.consensus) * pulled
    return delta[:, None, None] * both


def needs(found: Answers, pull: Array) -> Array:
    """Return s_t at every step, [T, d, N]: minus the pull of what is still to come."""
    steps, d, _, agents = found.keep.shape

    def back(s: Array, t: Array) -> tuple[Array, Array]:
        s = s - jnp.broadcast_to(pull[t], s.shape)
        return stacked_product(jnp.swapaxes(found.keep[t], 0, 1), s[:, None])[:, 0], s

    nothing = jnp.zeros((d, agents), found.keep.dtype)
    return lax.scan(back, nothing, jnp.arange(steps), reverse=True)[1]


def paths(found: Answers, wanted: Array, start: Array) -> Array:
    """Return where every agent is at the ends of the steps, [T, d, N], from start [d, N]."""

    def ahead(state: Array, t: Array) -> tuple[Array, Array]:
        state = stacked_product(found.keep[t], state[:, None])[:, 0]
        state = state - stacked_product(found.reach[t], wanted[t][:, None])[:, 0]
        return state, state

    return lax.scan(ahead, start, jnp.arange(found.keep.shape[0]))[1]


def definite(found: Answers, cost: GameCost, grams: Array, order: Array) -> Array:
    """Tell of every agent whether its cost has a minimum: every H_t positive definite, [N].

    H = Z'P Z + g I is positive definite just if g P + P G P has as many negative directions as P:
    both are what remains, about one block or the other, of one matrix of size d + p.
    """
    delta = lax.stop_gradient(discounts_of(cost, order.shape[0]))

    def look(good: Array, t: Array) -> tuple[Array, None]:
        P, G = found.price[t], grams[order[t]]
        unit = delta[t] * _lanes(cost.effort)
        both = unit * P + stacked_product(stacked_product(P, G), P)
        return good & (_negative(both) == _negative(P)), None

    agents = grams.shape[-1]
    return lax.scan(look, jnp.ones(agents, bool), jnp.arange(order.shape[0]))[0]


def _negative(matrix: Array) -> Array:
    """Return how many negative directions every agent's symmetric matrix [d, d, N] has."""
    d = matrix.shape[0]
    rows = [[lax.stop_gradient(matrix[a, b]) for b in range(a + 1)] for a in range(d)]
    count = jnp.zeros(matrix.shape[-1:], jnp.int32)
    for a in range(d):
        pivot = rows[a][a]
        count = count + (pivot < 0)
        for b in range(a + 1, d):
            share = rows[b][a] / pivot
            for c in range(a + 1, b + 1):
                rows[b][c] = rows[b][c] - share * rows[c][a]
    return count
