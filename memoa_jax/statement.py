"""What `memoa verify` is made of: statements with a tolerance, and the random games they are of.

Everything is seeded and in float64, so that a statement that holds today holds tomorrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from memoa_jax.analysis import convergence_rate
from memoa_jax.game import FeatureMoments, GameCost
from memoa_jax.types import Array

Game = tuple[GameCost, FeatureMoments, Array]
"""What every solver takes first: cost, moments, targets."""


@dataclass(frozen=True)
class Statement:
    """One sentence, what was measured of it, and what was allowed.

    `holds` is None where nothing is claimed and the figure is only reported. `data` is plain
    (numbers, strings, lists, mappings): what verification.json keeps and the figure draws.
    """

    name: str
    claim: str
    measured: str
    allowed: str
    holds: bool | None
    data: dict[str, Any] = field(default_factory=dict)


def random_moments(rng: np.random.Generator, shape: Sequence[int]) -> FeatureMoments:
    """Draw a law of features, [.., d, p]: the moments of nine points, mean well away from 0."""
    points = 0.6 * rng.normal(size=(9, *shape)) + 0.4 * np.sign(rng.normal(size=shape[-2:]))
    second = np.einsum("s...ak,s...bl->...abkl", points, points) / len(points)
    return FeatureMoments(jnp.asarray(points.mean(0)), jnp.asarray(second))


def random_game(
    seed: int, cost: GameCost, horizon: int = 4, outputs: int = 2, features: int = 3
) -> tuple[Game, Array]:
    """Draw moments, targets and twenty states; the cost is given."""
    rng = np.random.default_rng(seed)
    moments = random_moments(rng, (horizon, outputs, features))
    targets, states = rng.normal(size=(horizon, outputs)), rng.normal(size=(20, outputs))
    return (cost, moments, jnp.asarray(targets)), jnp.asarray(states)


def difference(actual: Any, expected: Any) -> float:
    """Return the largest difference of two pytrees, relative to the largest entry of each leaf."""
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    return max(
        float(np.max(np.abs(np.asarray(a) - np.asarray(b))) / (np.max(np.abs(b)) or 1.0))
        for a, b in pairs
    )


def rate_statement(
    name: str,
    claim: str,
    populations: NDArray[Any],
    errors: dict[str, NDArray[Any]],
    rate: float,
    tolerance: float,
    fitted: tuple[float, float],
) -> Statement:
    """State that errors fall like N^rate, fitted over a range of populations.

    Args:
      name: of the statement.
      claim: its sentence.
      populations: [n].
      errors: [n] per series, by label.
      rate: the slope on logarithmic axes.
      tolerance: how far each fitted slope may be from it.
      fitted: the first and the last population that count.
    """
    within = (populations >= fitted[0]) & (populations <= fitted[1])
    slopes = {
        label: float(convergence_rate(jnp.asarray(populations[within]), jnp.asarray(error[within])))
        for label, error in errors.items()
    }
    return Statement(
        name,
        claim,
        "slope " + ", ".join(f"{label} {slope:.3f}" for label, slope in slopes.items()),
        f"{rate:g} +/- {tolerance:g} over N = {fitted[0]:,.0f}..{fitted[1]:,.0f}",
        all(abs(slope - rate) <= tolerance for slope in slopes.values()),
        {
            "populations": populations.tolist(),
            "errors": {label: error.tolist() for label, error in errors.items()},
            "slopes": slopes,
        },
    )


def bound_statement(
    name: str, claim: str, value: float, bound: float, data: dict[str, Any] | None = None
) -> Statement:
    """State that a figure is at most a bound; NaN is not."""
    return Statement(
        name,
        claim,
        f"{value:.1e}",
        f"<= {bound:.0e}",
        value <= bound,
        {"value": value} | (data or {}),
    )
