"""The policies that benchmarks measure: what they are, what a step costs, how a run is checked.

Imports JAX and the package only when something is run, as `harness` does, so that a parent of
measuring processes holds no device.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import oracle
import work
from hand_count import (
    Count,
    Sizes,
    decentralized_counts,
    forecast_counts,
    greedy_counts,
    heterogeneous_counts,
)

if TYPE_CHECKING:
    from memoa_jax import Result, Series

POLICIES = ("greedy", "decentralized", "offline", "heterogeneous", "forecast")
CHECKED = 64
"""How many agents of a run are recomputed in float64."""
GREEDY_STEPS = 1
"""Window of the steps before a first game: a longer one can run away at a game's effort."""
RESIDENT_BYTES = 2500
"""About what a resident run holds per agent at its peak."""


class Sample(NamedTuple):
    """What is checked of a run: places and costs of a few agents, and the mean field [n]."""

    agents: Sequence[int]
    costs: Sequence[float]
    mean_field: Sequence[float]

    @classmethod
    def of(cls, result: Result, count: int = CHECKED) -> Sample:
        """Take random agents of a run that kept its costs."""
        costs = np.asarray(result.agent_costs)
        draw = np.random.default_rng(0)
        chosen = np.sort(draw.choice(len(costs), min(count, len(costs)), replace=False))
        return cls(chosen.tolist(), costs[chosen].tolist(), np.ravel(result.mean_field).tolist())


@dataclasses.dataclass(frozen=True)
class Case:
    """A policy that is measured: a name of `POLICIES`, and the sizes that its step depends on.

    `horizon` is T of the hindsight games (decentralized: with feedback; offline: without;
    heterogeneous: by each agent's own features), `window` W of greedy, `features` p. With `bursts`
    the series is a hundred times as large in every 250th row and the two after it.
    """

    policy: str
    horizon: int = 5
    window: int = work.WINDOW
    features: int = work.FEATURES
    bursts: bool = False

    def series(self, points: int) -> Series:
        """Return the series of a number of rows that is lived through."""
        from memoa_jax import series

        plain = series.brownian(points - 1)
        if not self.bursts:
            return plain
        row = np.arange(points)
        large = np.where((row > 3) & (row % 250 < 3), 100.0, 1.0)[:, None]
        return series.make_series(large * plain.inputs, large * plain.targets, "bursts")

    @property
    def label(self) -> str:
        """Return the name of tables and figures."""
        if self.policy == "forecast":
            return self.policy
        size = f"W={self.window}" if self.policy == "greedy" else f"T={self.horizon}"
        return f"{self.policy} {size}"

    def make(self) -> Any:
        """Return the policy."""
        import memoa_jax

        if self.policy == "greedy":
            return memoa_jax.greedy(memoa_jax.GameCost(effort=work.EFFORT), window=self.window)
        if self.policy == "forecast":
            return memoa_jax.decentralized(game="forecast")
        if self.policy == "heterogeneous":
            return memoa_jax.heterogeneous(horizon=self.horizon, window=GREEDY_STEPS)
        information = "offline" if self.policy == "offline" else "feedback"
        return memoa_jax.decentralized(
            horizon=self.horizon, window=GREEDY_STEPS, information=information
        )

    def counts(self, points: int) -> list[Count]:
        """Return the hand counts of the ways in which a step can be taken; see `hand_count`."""
        sizes = Sizes(1, self.features, 1, self.window, self.horizon, points)
        if self.policy == "greedy":
            return greedy_counts(sizes)
        if self.policy == "heterogeneous":
            return heterogeneous_counts(sizes)
        return forecast_counts(sizes) if self.policy == "forecast" else decentralized_counts(sizes)

    def simulate(self, agents: int, points: int, key: Any, **how: Any) -> Result:
        """Live through a series of a number of rows.

        `how` are further arguments of `memoa_jax.simulate`: schedule, chunk, block, keep_costs.
        """
        import memoa_jax

        return memoa_jax.simulate(
            self.series(points),
            memoa_jax.random_features(self.features, work.NOISE),
            self.make(),
            memoa_jax.ridge_mixture(work.KAPPA, work.ETA),
            num_agents=agents,
            key=key,
            **how,
        )

    def run(self, agents: int, points: int, **how: Any) -> Result:
        """Do so with the key 0, and wait for the result."""
        import jax

        return jax.block_until_ready(self.simulate(agents, points, jax.random.key(0), **how))

    def error(self, agents: int, points: int, sample: Sample) -> float:
        """Return the largest relative difference of a sample's costs to float64 NumPy.

        The draws are the run's own (see `oracle`). What the population tells an agent is
        recomputed from all draws for the hindsight games, and taken from the run's mean field
        for the forecast game.
        """
        import jax

        key, lived = jax.random.key(0), self.series(points)
        inputs, targets = oracle.rounded(lived.inputs), oracle.rounded(lived.targets)
        exact = oracle.live(
            oracle.draws_of(np.asarray(sample.agents), key, points, features=self.features),
            inputs,
            targets,
            self._recomputed(agents, key, inputs, targets, sample),
            noise=work.NOISE,
        )
        return oracle.largest_difference(np.asarray(sample.costs, np.float64), exact.costs)

    def _recomputed(
        self, agents: int, key: Any, inputs: np.ndarray, targets: np.ndarray, sample: Sample
    ) -> oracle.Policy:
        """Return the policy in float64."""
        if self.policy == "greedy":
            return oracle.Greedy(targets, self.window, work.EFFORT)
        cost = self.make().cost
        if self.policy == "forecast":
            mean_field = np.asarray(sample.mean_field, np.float64)[:, None]
            # What stands in for the move after the last row decides nothing that is scored.
            moves = np.append(mean_field[1:], targets[-1:], axis=0) - targets
            return oracle.Forecast(
                targets, moves, tracking=cost.tracking, pull=cost.consensus, effort=cost.effort
            )
        import oracle_game

        before = oracle.Greedy(targets, GREEDY_STEPS, cost.effort)
        sizes = {"features": self.features, "noise": work.NOISE}
        if self.policy == "heterogeneous":
            game = (agents, key, inputs, targets, cost, self.horizon)
            found = oracle_game.own_paths(*game, **sizes)
            return oracle.Heterogeneous(before, self.horizon, cost, found)
        gains, paths = oracle_game.told(
            agents,
            key,
            inputs,
            targets,
            cost,
            self.horizon,
            offline=self.policy == "offline",
            **sizes,
        )
        return oracle.Hindsight(before, self.horizon, gains, paths=paths)


def not_finite(costs: Any) -> int:
    """Return how many agents' costs are not finite."""
    return int(np.sum(~np.isfinite(np.asarray(costs))))
