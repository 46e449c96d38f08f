"""Agents that listen to experts: forecasts that were computed elsewhere, read from a file.

    Z^i_t = [f^e_t - y_t  for the p experts e that agent i hears]     f^e_t: e's forecast of y_{t+1}

The file holds the moves that the experts expect, once for all agents, [n, d, E]: memory does not
grow with N. An agent hears p of the E experts, drawn for it alone, and its read-out learns how far
to trust each. (Features that differ from agent to agent in any other way, [n, N, d, p], need no
plug-in: `kind = "given"` reads them from a file.)

Make the file, then run the agents:

    python configs/plugins/expert_features.py
    memoa run configs/plugins/experts.toml
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from memoa_jax.draws import Stream, uniforms
from memoa_jax.types import Agents, Array, Dimensions, Tree, record, static


@record
class Heard:
    """What the experts expect, [n, d, E], and whom each agent hears, [p, N]."""

    moves: Array
    experts: Array


@record
class Experts:
    """See `experts`."""

    moves: Array
    features: int = static()

    def parameters(self, agents: Agents, dimensions: Dimensions, dtype: Any) -> Heard:
        """Draw the experts that every agent hears."""
        points, outputs, count = self.moves.shape
        if points < dimensions.points or outputs != dimensions.outputs:
            raise ValueError(
                f"the file has {points} points and {outputs} outputs: allowed is "
                f"{dimensions.points} or more and {dimensions.outputs}, as the series"
            )
        lots = uniforms(agents, Stream.INPUT_WEIGHTS, 0, count, dtype)
        order = jnp.argsort(lots, axis=0)
        return Heard(moves=self.moves.astype(dtype), experts=order[: self.features])

    def init(self, parameters: Heard, agents: Agents, dimensions: Dimensions, dtype: Any) -> Tree:
        """Return the empty state."""
        del parameters, agents, dimensions, dtype
        return ()

    def encode(
        self, parameters: Heard, state: Tree, agents: Agents, inputs: Array, step: Array
    ) -> tuple[Tree, Array]:
        """Return what each agent hears at step t, [d, p, N]; the inputs are not used."""
        del agents, inputs
        return state, jnp.take(parameters.moves[step], parameters.experts, axis=1)


def experts(path: str, heard: int = 4, array: str = "moves") -> Experts:
    """Read what experts expect, and make agents that hear some of them.

    Row t belongs to y_t: it may use everything up to time t and nothing later. That is the
    promise of whoever wrote the file.

    Args:
      path: an .npz file; it counts with its content when a run is gone on with.
      heard: p, the experts that an agent hears, of E.
      array: the name of the array [n, d, E] in the file.

    Raises:
      ValueError: if the array is not there, not of that shape, or not finite.
    """
    with np.load(path) as file:
        if array not in file.files:
            raise ValueError(f"{path}: no array {array}: allowed is one of {', '.join(file.files)}")
        moves = file[array]
    if moves.ndim != 3 or moves.dtype.kind != "f" or not np.isfinite(moves).all():
        raise ValueError(f"{path}: {array}: allowed is finite numbers of shape [n, d, experts]")
    if not 1 <= heard <= moves.shape[2]:
        raise ValueError(
            f"heard = {heard}: allowed is 1 to {moves.shape[2]}, the experts there are"
        )
    return Experts(moves=jnp.asarray(moves), features=heard)


def expected_moves(targets: np.ndarray, season: int) -> Mapping[str, np.ndarray]:
    """Return the next moves that classical forecasters expect, [n] each; row t uses rows <= t.

    Args:
      targets: [n], NaN where missing: the last value stands in.
      season: steps, for the forecaster that repeats what followed a season ago.
    """
    place = np.maximum.accumulate(np.where(np.isnan(targets), 0, np.arange(len(targets))))
    y = targets[place]
    found = {f"ar{order}": autoregression(y, order) for order in (1, 2, 4, 12)}
    for window in (3, 12):
        sums = np.cumsum(np.concatenate([np.full(window, y[0]), y]))
        found[f"mean{window}"] = (sums[window:] - sums[:-window]) / window - y
    earlier = np.concatenate([np.full(season, y[0]), y])
    found["season"] = earlier[1 : len(y) + 1] - earlier[: len(y)]
    found["trend"] = y - np.concatenate([[y[0]], y[:-1]])
    return found


def autoregression(y: np.ndarray, order: int, ridge: float = 1.0) -> np.ndarray:
    """Return the moves [n] that follow from the last `order` values, refitted at every step.

    Ridge regression on all moves up to y_t, by rank-one updates of the normal equations.
    """
    lags = np.stack([np.concatenate([np.full(k, y[0]), y[: len(y) - k]]) for k in range(order)], 1)
    lags = np.concatenate([lags, np.ones((len(y), 1))], axis=1)
    gram, moment = ridge * np.eye(order + 1), np.zeros(order + 1)
    found = np.empty(len(y))
    for t in range(len(y)):
        if t > 0:
            gram += np.outer(lags[t - 1], lags[t - 1])
            moment += lags[t - 1] * (y[t] - y[t - 1])
        found[t] = lags[t] @ np.linalg.solve(gram, moment)
    return found


def main(out: Path) -> None:
    """Write what the forecasters expect of the monthly sunspots."""
    from memoa_jax.series import sunspots

    targets = sunspots().targets
    found = expected_moves(targets[:, 0], season=132)
    moves = np.stack(list(found.values()), axis=1)[:, None]
    np.savez_compressed(out, moves=moves, names=np.array(list(found)))
    print(f"{out}: {moves.shape[2]} experts on {len(moves)} points: {', '.join(found)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("experts.npz"))
