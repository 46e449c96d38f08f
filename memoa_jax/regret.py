"""Regret on recorded predictions: against agents, fixed mixtures, switching sequences; bounds.

`regret` says how far a server stayed behind what was best in hindsight, and `theorem_bound` how
far its theorem lets it (`memoa_jax.mixture.play` runs a mixture on given predictions). All but
the bounds' formulas runs on the host in float64.

Axes: T rounds, N agents, d outputs. Row t of weights and outputs is what was made for row t of
targets (a run records the weights of step t, which are for y_{t+1}: shift them by one). Rows
whose target is missing (NaN) count in nothing.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from memoa_jax.arguments import whole
from memoa_jax.experts import (
    AdaptiveHedge,
    Bernstein,
    ExpertMixture,
    FixedShare,
    Hedge,
    Polynomial,
)
from memoa_jax.mixture import check_shapes
from memoa_jax.types import Array, Mixture, Scalar, real_dtype, record

Numbers = Array | np.ndarray
"""An array, of either library."""


@record
class BestMixture:
    """The best fixed mixture in hindsight: `weights` [N] on the simplex, their `loss`.

    No mixture on the simplex has a loss below ``loss - gap``.
    """

    weights: np.ndarray
    loss: float
    gap: float


@record
class Regret:
    """By how much the server's cumulative squared error, `loss`, exceeds that of others.

    `agents` [N]: of each agent, in the rounds it was present. `mixture`: of the best fixed
    mixture, `best_mixture`. `switching` [m+1]: of the best sequence of agents with at most
    0, 1, .., m switches.
    """

    loss: float
    agents: np.ndarray
    mixture: float
    best_mixture: BestMixture
    switching: np.ndarray


def regret(
    predictions: Numbers,
    targets: Numbers,
    outputs: Numbers,
    switches: int = 0,
    present: Numbers | None = None,
) -> Regret:
    """Compare a server's outputs with the best agent, fixed mixture and switching sequence.

    Exact up to the stated gap; O(T N (d + m)) and, for the mixture, O(T N d) per iteration. An
    absent agent is taken to have predicted what the server did (sleeping experts). An agent with
    a prediction that is not finite has infinite loss and no part in the best mixture.

    Args:
      predictions: [T, N, d].
      targets: [T, d]; NaN where missing.
      outputs: [T, d], the server's predictions.
      switches: m, the most switches of a sequence.
      present: [T, N] bool, who predicted; None: everybody.

    Raises:
      ValueError: if shapes do not fit, switches is negative or no target is known.

    Example:
      >>> predictions = np.array([[[0.0], [2.0]], [[0.0], [2.0]]])
      >>> result = regret(predictions, np.array([[0.0], [2.0]]), np.ones((2, 1)), switches=1)
      >>> result.agents.tolist(), result.mixture, result.switching.tolist()
      ([-2.0, -2.0], 0.0, [-2.0, 2.0])
    """
    whole("regret", "switches", switches, 0)
    kept, values, here = _known(predictions, targets, present)
    outputs = np.asarray(outputs, np.float64)
    check_shapes(np.shape(predictions), {"outputs": outputs.shape}, None)
    miss = outputs[kept] - values
    errors = np.asarray(predictions, np.float64)[kept] - values[:, None]
    if here is not None:
        errors = np.where(here[..., None], errors, miss[:, None])
    squares = np.nan_to_num(np.sum(errors**2, axis=2), nan=np.inf, posinf=np.inf)
    loss = float(np.sum(miss**2))
    best = _best_mixture(errors, 1e-10)
    return Regret(
        loss=loss,
        agents=loss - np.sum(squares, axis=0),
        mixture=loss - best.loss,
        best_mixture=best,
        switching=loss - switching_losses(squares, switches),
    )


def switching_losses(losses: Numbers, switches: int) -> np.ndarray:
    """Return the least loss of a sequence of agents with at most 0, 1, .., m switches, [m+1].

    Exact, by dynamic programming: O(T N m) time, O(N m) memory.

    Args:
      losses: [T, N], any numbers or +inf.
      switches: m.

    Example:
      >>> switching_losses(np.array([[0.0, 1.0], [1.0, 0.0]]), 1).tolist()
      [1.0, 0.0]
    """
    best = np.tile(losses[0], (switches + 1, 1))
    for row in np.asarray(losses, np.float64)[1:]:
        switched = np.concatenate([[np.inf], best.min(axis=1)[:-1]])
        best = np.minimum(best, switched[:, None]) + row
    return best.min(axis=1)


def best_mixture(predictions: Numbers, targets: Numbers, tolerance: float = 1e-10) -> BestMixture:
    """Return the weights on the simplex that would have served best all along.

        min sum_t |y_t - sum_i w_i U_i,t|^2    s.t.   w >= 0, sum_i w_i = 1

    That is the point nearest to the origin in the convex hull of the agents' error vectors:
    Wolfe's algorithm, which is exact after finitely many steps, each O(T N d).

    Args:
      predictions: [T, N, d]; agents with one that is not finite get weight 0.
      targets: [T, d]; NaN where missing.
      tolerance: stop when the gap is below this part of the best agent's loss.

    Returns:
      BestMixture; its gap is a certificate, whatever the algorithm did: by convexity, loss minus
      optimum is at most max_i <gradient, w - e_i>.

    Raises:
      ValueError: if shapes do not fit, no target is known or no agent is always finite.

    Source: Wolfe 1976, finding the nearest point in a polytope.

    Example:
      >>> best_mixture(np.array([[[0.0], [2.0]]]), np.array([[0.5]])).weights.tolist()
      [0.75, 0.25]
    """
    kept, values, _ = _known(predictions, targets, None)
    errors = np.asarray(predictions, np.float64)[kept] - values[:, None]
    return _best_mixture(errors, tolerance)


def _best_mixture(errors: np.ndarray, tolerance: float) -> BestMixture:
    """Return `best_mixture` for errors [T, N, d]."""
    count = errors.shape[1]
    points: Any = np.moveaxis(errors, 1, 2).reshape(-1, count)
    sound = np.isfinite(points).all(axis=0)
    if not sound.any():
        raise ValueError("best_mixture: every agent has a prediction that is not finite")
    points = points[:, sound]
    if len(points) > len(points[0]):
        points = np.linalg.qr(points, mode="r")  # same products, fewer rows
    squares = np.sum(points**2, axis=0)
    corral, share = [int(np.argmin(squares))], np.ones(1)
    nearest = points[:, corral[0]]
    while True:
        products = nearest @ points
        newest = int(np.argmin(products))
        gap = 2 * float(nearest @ nearest - products[newest])
        if gap <= tolerance * squares.min() or newest in corral:
            break
        trial = _shrink(points, [*corral, newest], np.append(share, 0.0))
        nearer = points[:, trial[0]] @ trial[1]
        if nearer @ nearer >= nearest @ nearest:
            break  # no progress left in this precision: the gap tells what that means
        (corral, share), nearest = trial, nearer
    weights = np.zeros(count)
    weights[np.flatnonzero(sound)[corral]] = share / share.sum()
    return BestMixture(weights=weights, loss=float(nearest @ nearest), gap=max(gap, 0.0))


def _shrink(points: np.ndarray, corral: list[int], share: Any) -> tuple[list[int], Any]:
    """Move to the nearest point of the corral's affine hull, dropping whom the way leads out."""
    while len(corral) > 1:
        first, rest = points[:, corral[0]], points[:, corral[1:]]
        others = np.linalg.lstsq(rest - first[:, None], -first, rcond=None)[0]
        goal = np.append(1 - others.sum(), others)
        leaving = goal <= 0
        if not leaving.any():
            return corral, goal
        steps = np.full(len(goal), np.inf)
        steps[leaving] = share[leaving] / np.maximum(share[leaving] - goal[leaving], 1e-300)
        share = share + steps.min() * (goal - share)
        stays = np.arange(len(goal)) != int(np.argmin(steps))
        corral, share = [i for i, stay in zip(corral, stays, strict=True) if stay], share[stays]
        share = np.maximum(share, 0.0)
        share = share / share.sum()
    return corral, np.ones(1)


def hedge_bound(num_agents: Scalar, rate: Scalar, squared_ranges: Scalar) -> Array:
    """Return ln N / rate + (rate/8) sum_t b_t^2: regret of `exponential_weights` at a fixed rate.

    Args:
      num_agents: N.
      rate: its rate.
      squared_ranges: sum over rounds of (largest - smallest loss)^2; T range^2 at most.

    Source: Cesa-Bianchi and Lugosi 2006, theorem 2.2.

    Example:
      >>> round(float(hedge_bound(2, 0.1, 100.0)), 3)
      8.181
    """
    return jnp.log(num_agents) / rate + rate * squared_ranges / 8


def adahedge_bound(num_agents: Scalar, variance: Scalar, loss_range: Scalar) -> Array:
    """Return 2 sqrt(V ln N) + S (4/3 ln N + 2): regret of self-tuned `exponential_weights`.

    Args:
      num_agents: N.
      variance: V, sum over rounds of the variance of the losses under the weights; T S^2/4 at most.
      loss_range: S, largest range of the losses in a round.

    Source: de Rooij, van Erven, Grunwald and Koolen 2014, section 2.

    Example:
      >>> round(float(adahedge_bound(2, 25.0, 1.0)), 3)
      11.25
    """
    log_count = jnp.log(num_agents)
    return 2 * jnp.sqrt(variance * log_count) + loss_range * (4 / 3 * log_count + 2)


def bernstein_bound(
    num_agents: Scalar,
    rounds: Scalar,
    loss_range: Scalar,
    second_order: Scalar,
    growth: Scalar = 1.0,
) -> Array:
    """Return the bound stated at `bernstein_aggregation` on the regret against one agent.

    Args:
      num_agents: N.
      rounds: T.
      loss_range: B, largest |r| of any agent in any round; at most the range of the losses.
      second_order: V, sum over rounds of r^2 of that agent; any shape.
      growth: B over the largest |r| in the first round where it was not zero.

    Example:
      >>> round(float(bernstein_bound(2, 100, 1.0, 25.0)), 2)
      17.79
    """
    log_count = jnp.log(jnp.maximum(num_agents, 2))
    excess = 1 + 1 / (4 * log_count)
    jumps = jnp.sqrt(excess) * (growth - 1)
    steady = excess / 2 * (jnp.log1p(rounds / (4 * log_count)) + 2 * jnp.log(growth))
    prior = log_count + jnp.log1p((jumps + steady) / jnp.e)
    slack = jnp.sqrt(second_order / log_count + 4 * loss_range**2)
    return 2 * jnp.sqrt(log_count * second_order) + prior * slack + loss_range


def polynomial_bound(
    num_agents: Scalar,
    rounds: Scalar,
    loss_range: Scalar,
    second_order: Scalar,
    growth: Scalar = 1.0,
) -> Array:
    """Return the bound stated at `polynomial_potentials` on the regret against one agent.

    Args:
      num_agents: N.
      rounds: T.
      loss_range: B.
      second_order: V; any shape.
      growth: these three as in `bernstein_bound`.

    Example:
      >>> round(float(polynomial_bound(2, 100, 1.0, 25.0)), 2)
      18.09
    """
    logarithm = 1 + jnp.log1p(rounds) + 4 * jnp.log(growth)
    return jnp.sqrt(num_agents * logarithm * (loss_range**2 + second_order)) + loss_range


def fixed_share_bound(
    num_agents: Scalar,
    rate: Scalar,
    share: Scalar,
    switches: Scalar,
    rounds: Scalar,
    squared_ranges: Scalar,
) -> Array:
    """Return the bound stated at `fixed_share` on the regret against m switches.

    Args:
      num_agents: N.
      rate: its rate.
      share: its share.
      switches: m.
      rounds: T.
      squared_ranges: as in `hedge_bound`.

    Example:
      >>> round(float(fixed_share_bound(2, 0.1, 0.01, 0, 100, 100.0)), 2)
      18.13
    """
    stays = jnp.maximum(rounds - switches - 1, 0)
    path = (switches + 1) * jnp.log(num_agents)
    path = path - switches * jnp.log(share) - stays * jnp.log1p(-share)
    return path / rate + rate * squared_ranges / 8


def theorem_bound(
    mixture: Mixture,
    predictions: Numbers,
    targets: Numbers,
    weights: Numbers,
    switches: int = 0,
    present: Numbers | None = None,
) -> np.ndarray:
    """Return what the theorem of a mixture allows as regret on one recorded sequence, [N].

    Entry k bounds the regret against agent k; with the gradient's losses, also sum_k q_k times
    entry k that against the mixture q. Fixed share: against any sequence with that many switches.

    Args:
      mixture: one of `memoa_jax.experts`.
      predictions: [T, N, d].
      targets: [T, d]; NaN where missing.
      weights: [T, N], those that row t's output was made with.
      switches: m, for fixed share.
      present: [T, N] bool; None: everybody.

    Raises:
      ValueError: if shapes do not fit, or no theorem is known for the mixture.

    Source: see the functions that make the mixtures.

    Example:
      >>> from memoa_jax.experts import exponential_weights
      >>> from memoa_jax.mixture import play
      >>> predictions, targets = np.array([[[0.0], [1.0]]] * 4), np.zeros((4, 1))
      >>> mixture = exponential_weights(rate=1.0, gradient=False)
      >>> weights = play(mixture, predictions, targets)[1]
      >>> [round(float(x), 2) for x in theorem_bound(mixture, predictions, targets, weights)]
      [1.19, 1.19]
    """
    if not isinstance(mixture, ExpertMixture):
        raise ValueError(f"theorem_bound: no theorem is known for {type(mixture).__name__}")
    rule = mixture.rule
    excess, variance, squares = _excess(mixture, predictions, targets, weights, present)
    rounds, count = excess.shape
    if isinstance(rule, Hedge):
        bound = hedge_bound(count, rule.rate, squares.sum())
    elif isinstance(rule, FixedShare):
        bound = fixed_share_bound(count, rule.rate, rule.share, switches, rounds, squares.sum())
    elif isinstance(rule, AdaptiveHedge):
        bound = adahedge_bound(count, variance, np.sqrt(squares.max()))
    elif isinstance(rule, Bernstein | Polynomial):
        spans = np.abs(excess).max(axis=1)
        first = spans[np.argmax(spans > 0)]
        growth = spans.max() / first if first > 0 else 1.0
        formula = bernstein_bound if isinstance(rule, Bernstein) else polynomial_bound
        bound = formula(count, rounds, spans.max(), np.sum(excess**2, axis=0), growth)
    else:
        raise ValueError(f"theorem_bound: no theorem is known for {type(rule).__name__}")
    return np.broadcast_to(np.asarray(bound), (count,))


def _excess(
    mixture: ExpertMixture, predictions: Numbers, targets: Numbers, weights: Any, present: Any
) -> tuple[np.ndarray, float, np.ndarray]:
    """Return r [T, N], sum w r^2, and the squared ranges of the losses [T], of known rounds."""
    ceiling = 1e-10 * float(np.finfo(real_dtype(predictions)).max)
    kept, values, present = _known(predictions, targets, present)
    check_shapes(np.shape(predictions), {}, weights)
    weights = np.asarray(weights, np.float64)[kept]
    errors = np.asarray(predictions, np.float64)[kept] - values[:, None]
    awake = np.sum(errors**2, axis=2) < ceiling  # false for NaN
    if present is not None:
        awake &= present
    errors = np.where(awake[..., None], errors, 0.0)
    if mixture.gradient:
        miss = np.einsum("ti,tid->td", weights, errors)
        losses = 2 * np.einsum("td,tid->ti", miss, errors)
    else:
        losses = np.sum(errors**2, axis=2)
    excess = np.where(awake, np.sum(weights * losses, axis=1, keepdims=True) - losses, 0.0)
    most = np.max(excess, axis=1, where=awake, initial=-np.inf)
    least = np.min(excess, axis=1, where=awake, initial=np.inf)
    ranges = np.where(awake.any(axis=1), most - least, 0.0)
    return excess, float(np.sum(weights * excess**2)), ranges**2


def _known(predictions: Numbers, targets: Numbers, present: Any) -> tuple[Any, Any, Any]:
    """Return which rows have a target, and the targets and the presence of those rows."""
    values = np.asarray(targets, np.float64)
    check_shapes(np.shape(predictions), {"targets": values.shape}, present)
    kept = np.isfinite(values).all(axis=1)
    if not kept.any():
        raise ValueError("targets: every row is missing; allowed is at least one known row")
    return kept, values[kept], None if present is None else np.asarray(present, bool)[kept]
