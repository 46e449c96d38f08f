"""The work that every peer does, in numbers: the settings, the series, what a run returns.

One row of the series is one step: score the prediction made for it, draw features, fit each
agent's own window ridge, predict the next row, weigh the agents. One output, one input.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

FEATURES = 8
WINDOW = 20
NOISE = 0.1
EFFORT = 5000.0
"""Large, because a 20-step window integrates a delayed residual. At effort 10 the RMSE of most
agents passes ten times the series' range within 300 steps; here that of none of 50,000 did in
400. The operations, and so the times, are the same."""
KAPPA = 1.0
ETA = 1.0


class Outcome(NamedTuple):
    """What a run returns: per agent `costs` and `efforts` [N], and two paths [n].

    Costs are cumulative squared errors, efforts cumulative squared controls. Row t of `server`
    and `mean_field` is the prediction made at row t, for row t + 1.
    """

    costs: NDArray[np.floating]
    efforts: NDArray[np.floating]
    server: NDArray[np.floating]
    mean_field: NDArray[np.floating]


def targets_of(steps: int) -> Floats:
    """Return the n = steps + 1 rows of `memoa_jax.series.brownian(steps)`, float32.

    Written out again because importing that module imports JAX, which would then stand in the
    memory of every peer.
    """
    moves = 0.1 * np.random.default_rng(0).normal(size=steps)
    return np.concatenate([[0.0], np.cumsum(moves)]).astype(np.float32)


def mix(
    sums: NDArray[np.float64], targets: Floats, agents: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the server's and the mean field's path, [n] each, of the ridge mixture.

    Args:
      sums: [n, 4], over all agents, of e, e^2, a and e a; e = Y_t - y_t is the error of the
        prediction just scored, a = Y_{t+1} - y_t the next prediction seen from the same place.
      targets: [n].
      agents: N.
    """
    y = targets.astype(np.float64)
    error, square, ahead, product = sums.T
    scatter = square - error**2 / agents
    cross = product - error * ahead / agents
    tilt = (y - ETA * (y + error / agents)) / (scatter + KAPPA)
    mean_field = y + ahead / agents
    return ETA * mean_field + tilt * cross, mean_field
