"""How agents that differ fare online, on a series, by the policy that they play: realised errors.

Features are drawn and given to the run (`encoders.given_features`), so that populations that
differ in any respect are one compiled program per policy.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from memoa_jax.encoders import GivenFeatures
from memoa_jax.game import GameCost
from memoa_jax.metrics import Summary, baselines
from memoa_jax.mixture import ridge_mixture
from memoa_jax.policies import decentralized, heterogeneous
from memoa_jax.simulate import simulate
from memoa_jax.timeseries import Series
from memoa_jax.types import Array, Policy
from memoa_jax.unlike import Unlike

MEASURED = ("mean_agent_rmse", "worst_agent_rmse", "server_rmse")
"""What is kept of every run."""


def _homogeneous(cost: GameCost, own: GameCost, horizon: int) -> Policy:
    average = jax.tree.map(jnp.mean, own)
    return decentralized(average, horizon=horizon, greedy_effort=cost.effort)


def _heterogeneous(cost: GameCost, own: GameCost, horizon: int) -> Policy:
    return heterogeneous(_by_agent(own), horizon=horizon, greedy_effort=cost.effort)


def _uncoupled(cost: GameCost, own: GameCost, horizon: int) -> Policy:
    alone = GameCost(own.tracking, 0.0, 0.0, own.effort, 0.0)
    return heterogeneous(_by_agent(alone), horizon=horizon, greedy_effort=cost.effort)


def _forecast(cost: GameCost, own: GameCost, horizon: int) -> Policy:
    return decentralized(game="forecast")


def _by_agent(own: GameCost) -> GameCost:
    """Leave to agents what may differ, and one number of what may not."""
    same = {name: jnp.mean(jnp.asarray(getattr(own, name))) for name in ("ensemble", "forgetting")}
    return GameCost(own.tracking, own.consensus, same["ensemble"], own.effort, same["forgetting"])


POLICIES: dict[str, Callable[[GameCost, GameCost, int], Policy]] = {
    "homogeneous": _homogeneous,
    "heterogeneous": _heterogeneous,
    "uncoupled": _uncoupled,
    "forecast": _forecast,
}
"""What is compared: the closed form for averages, everybody's own answer to the mean path, the same
without consensus, and the decentralized forecast game on its defaults."""


class Runs:
    """Online runs on one series: compiled once per policy, whatever the populations are.

    Args:
      series: with one output.
      cost: what agents pay in the games, but for their own factors; the greedy steps' effort, too.
      horizon: T of the games.
    """

    def __init__(self, series: Series, cost: GameCost, horizon: int) -> None:
        self.series: Series = series
        self.cost: GameCost = cost
        self._play = {name: jax.jit(self._one(make, horizon)) for name, make in POLICIES.items()}

    def _one(
        self, make: Callable[[GameCost, GameCost, int], Policy], horizon: int
    ) -> Callable[[Array, GameCost, Array], Summary]:
        def one(features: Array, own: GameCost, seed: Array) -> Summary:
            return simulate(
                self.series,
                GivenFeatures(features),
                make(self.cost, own, horizon),
                ridge_mixture(),
                num_agents=features.shape[-1],
                key=jax.random.key(seed),
                dtype="float64",
            ).summary

        return one

    def play(self, population: Unlike, seed: int) -> dict[str, dict[str, float]]:
        """Run a population: the figures of `MEASURED`, by policy.

        Args:
          population: of the same size and number of features as the first one that was run.
          seed: of the noise of the features.
        """
        inputs = np.asarray(self.series.inputs, np.float64)
        features = population.features(inputs, np.random.default_rng([seed, 41]))
        table = jnp.asarray(np.moveaxis(features, 1, 3))
        found: dict[str, dict[str, float]] = {}
        for name, play in self._play.items():
            summary = play(table, population.costs(self.cost), jnp.asarray(seed))
            found[name] = {key: float(getattr(summary, key)) for key in MEASURED}
        return found

    def persistence(self) -> float:
        """Return the RMSE of predicting the last value."""
        targets = np.asarray(self.series.targets, np.float64)
        error = (baselines(targets)["persistence"] - targets)[1:]
        return float(np.sqrt(np.mean(error**2)))
