"""A few agents in place of all: who they are, and the band that their predictions lie in.

A report shows the agents of a run as quantiles at each step. Those of all agents would need
every prediction at every step; those of a fixed sample, a hundred agents whatever the
population, need next to nothing. Up to that number the sample is the population.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LEVELS = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
"""The quantiles of a band."""
MOST_NUMBERS, LEAST_AGENTS = 1 << 18, 16
"""A long series has fewer agents in its sample: so many numbers in all, but so many agents."""


def chosen(agents: int, most: int, points: int, width: int) -> tuple[int, ...]:
    """Return the agents of the sample: evenly spread over the population, by index.

    Args:
      agents: N.
      most: how many at most; 0 for none.
      points: n.
      width: numbers that are kept of an agent at each step.

    Example:
      >>> chosen(10, 5, points=100, width=1), chosen(3, 5, points=100, width=1)
      ((1, 3, 5, 7, 9), (0, 1, 2))
    """
    room = max(MOST_NUMBERS // (points * width), LEAST_AGENTS)
    count = min(agents, most, room)
    return tuple((2 * k + 1) * agents // (2 * count) for k in range(count))


def band(
    predictions: NDArray[np.floating], present: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the quantiles of predictions at each step, [n, LEVELS, d], and who has none, [n].

    Linear between order statistics, over the agents whose predictions are finite; the others
    are counted, NaN where nobody is left.

    Args:
      predictions: [n, m, d].
      present: [n, m], whose predictions count; None: everybody's.

    Example:
      >>> middle, lost = band(np.array([[[1.0], [2.0], [9.0]], [[1.0], [np.nan], [3.0]]]))
      >>> middle[:, 3, 0].tolist(), lost.tolist()
      ([2.0, 2.0], [0, 1])
    """
    values = np.asarray(predictions, np.float64)
    here = np.ones(values.shape[:2], bool) if present is None else present
    finite = np.isfinite(values).all(axis=2)
    counted = (finite & here)[:, :, None]
    ordered = np.sort(np.where(counted, values, np.nan), axis=1)  # NaN comes last
    count = counted.sum(axis=1)  # [n, 1]
    place = np.asarray(LEVELS) * np.maximum(count - 1, 0)  # [n, LEVELS]
    below = np.floor(place).astype(int)
    above = np.minimum(below + 1, np.maximum(count - 1, 0))
    low, high = (np.take_along_axis(ordered, at[:, :, None], axis=1) for at in (below, above))
    # Not low + (high - low) * share: that would round equal ends apart.
    share = (place - below)[:, :, None]
    found = np.where(low == high, low, low * (1 - share) + high * share)
    return found.astype(np.float32), (here & ~finite).sum(axis=1)
