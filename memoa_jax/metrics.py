"""Metrics: streaming per-agent totals, the summary of a run, and the baselines beside it.

Errors are always those of the prediction made before the target was seen. Per-agent totals
are compensated sums, so that float32 loses nothing over 10^5 steps; nothing of shape
[time, agents] exists.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from memoa_jax.regression import NormalEquations
from memoa_jax.types import Array, Dimensions, Scalar, record

DIVERGED_RANGES = 10.0
"""An agent whose RMSE exceeds this many times the targets' range is counted as diverged."""


@record
class Total:
    """A compensated running sum: `value` plus the rounding error `lost` so far."""

    value: Array
    lost: Array

    @classmethod
    def zero(cls, shape: tuple[int, ...], dtype: Any) -> Total:
        """Return an empty sum."""
        return cls(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

    def add(self, increment: Array) -> Total:
        """Add, keeping what the addition rounds away (Neumaier).

        Example:
          >>> total = Total.zero((), jnp.float32)
          >>> for _ in range(3):
          ...     total = total.add(jnp.float32(1e8)).add(jnp.float32(1.0)).add(jnp.float32(-1e8))
          >>> float(total.result())
          3.0
        """
        value = self.value + increment
        larger = jnp.abs(self.value) >= jnp.abs(increment)
        lost = jnp.where(larger, (self.value - value) + increment, (increment - value) + self.value)
        # Once a sum is infinite its compensation would turn it into NaN.
        return Total(value, jnp.where(jnp.isfinite(value), self.lost + lost, 0.0))

    def result(self) -> Array:
        """Return the sum."""
        return self.value + self.lost


@record
class ReadOut:
    """Normal equations of the best fixed read-out in hindsight, one problem per agent.

    `equations` hold sum Z'Z and sum Z'm, `energy` [N] is sum |m|^2 for the moves
    m = y_{t+1} - y_t; `features` [d, p, N] are those of the step in progress.
    """

    equations: NormalEquations
    energy: Array
    features: Array

    @classmethod
    def empty(cls, dimensions: Dimensions, num_agents: int, dtype: Any) -> ReadOut:
        """Return the equations before the first move."""
        d, p = dimensions.outputs, dimensions.features
        return cls(
            equations=NormalEquations.empty(p, num_agents, dtype),
            energy=jnp.zeros((num_agents,), dtype),
            features=jnp.zeros((d, p, num_agents), dtype),
        )

    def add(self, move: Array, counted: Array, features: Array) -> ReadOut:
        """Enter the move just seen, explained by the step in progress; begin a new step.

        `counted` is one answer for all agents, or one for each, [N].
        """
        weight = counted.astype(features.dtype)
        return ReadOut(
            equations=self.equations.add(self.features, move, weight),
            energy=self.energy + weight * jnp.sum(move**2),
            features=features,
        )

    def costs(self) -> Array:
        """Return min over theta of sum |m - Z theta|^2 for every agent, [N].

        Up to a ridge of rounding size, which keeps rank-deficient features solvable and can
        only raise the minimum (by a relative 1e-5 in float32).
        """
        trace = self.equations.trace()
        ridge = 8 * jnp.finfo(trace.dtype).eps * jnp.where(trace > 0, trace, 1.0)
        theta = self.equations.solve(ridge)
        surplus = self.equations.multiply(theta) - 2 * self.equations.moment
        return jnp.clip(self.energy + jnp.sum(theta * surplus, axis=0), 0.0)


@record
class AgentTotals:
    """One block's running totals: squared error and effort [N], and the optional read-out.

    `pending_effort` [N] is |beta_t|^2 of the step in progress: it is counted when its target's
    time has come, so that the forecast beyond the series' end costs nothing. `steps` counts
    the scored steps, `taken` [N] those that each agent took part in (None: all of them).
    """

    cost: Total
    effort: Total
    pending_effort: Array
    steps: Array
    taken: Array | None
    readout: ReadOut | None

    @classmethod
    def empty(
        cls,
        dimensions: Dimensions,
        num_agents: int,
        dtype: Any,
        *,
        best_readout: bool,
        everyone: bool = True,
    ) -> AgentTotals:
        """Return totals of nothing; `everyone` says whether all agents are always present."""
        return cls(
            cost=Total.zero((num_agents,), dtype),
            effort=Total.zero((num_agents,), dtype),
            pending_effort=jnp.zeros((num_agents,), dtype),
            steps=jnp.int32(0),
            taken=None if everyone else jnp.zeros((num_agents,), jnp.int32),
            readout=ReadOut.empty(dimensions, num_agents, dtype) if best_readout else None,
        )

    def score(
        self,
        error: Array,
        counted: Array,
        voters: Array | None,
        move: Array,
        control: Array,
        features: Array,
    ) -> AgentTotals:
        """Score the predictions whose target has just been seen, and begin the next step.

        Args:
          error: [d, N], prediction minus target.
          counted: whether the target was observed and the step counts.
          voters: [N], whose predictions count; None for everybody's.
          move: [d], the target minus the one observed before it.
          control: [p, N], chosen in the step now beginning.
          features: [d, p, N], of the step now beginning.
        """
        by_agent = counted if voters is None else counted & voters
        squared = jnp.where(by_agent, jnp.sum(error**2, axis=0), 0.0)
        return AgentTotals(
            cost=self.cost.add(squared),
            effort=self.effort.add(self.pending_effort),
            pending_effort=jnp.sum(control**2, axis=0),
            steps=self.steps + counted.astype(jnp.int32),
            taken=None if self.taken is None else self.taken + by_agent.astype(jnp.int32),
            readout=None if self.readout is None else self.readout.add(move, by_agent, features),
        )


@record
class Summary:
    """The figures of one run; every entry is a scalar.

    RMSE is over steps and outputs, sqrt(mean e^2), in target units; cost is the cumulative
    squared error sum_t |y_{t+1} - Y^i_{t+1}|^2 of an agent, in squared target units; effort is
    sum_t |beta^i_t|^2 apart. The worst agent has the largest cost per step that it took part in;
    an agent that took part in none counts nowhere. `best_readout_worst_cost`
    is the worst agent's cost under its best fixed read-out in hindsight, NaN where that was
    not computed. `diverged_agents` counts those whose RMSE is not finite or above
    `DIVERGED_RANGES` times the targets' range. Persistence predicts the last observed value,
    the running mean the mean of all observed ones.
    """

    server_rmse: Array
    mean_field_rmse: Array
    mean_agent_rmse: Array
    worst_agent_rmse: Array
    best_agent_rmse: Array
    mean_agent_cost: Array
    worst_agent_cost: Array
    best_agent_cost: Array
    agent_cost_variance: Array
    worst_agent: Array
    mean_agent_effort: Array
    best_readout_worst_cost: Array
    diverged_agents: Array
    scored_steps: Array
    persistence_rmse: Array
    running_mean_rmse: Array


def root(value: Array) -> Array:
    """Return sqrt, with gradient 0 instead of infinity at 0."""
    positive = value > 0
    # A comparison with NaN is false: it must come out as NaN, not as 0.
    return jnp.where(
        positive, jnp.sqrt(jnp.where(positive, value, 1.0)), jnp.where(value == 0, 0.0, value)
    )


def rmse(predictions: Array, targets: Array, known: Array) -> Array:
    """Return sqrt(mean e^2) over outputs and the known rows after row 0.

    Args:
      predictions: [n, d]; row t is the prediction of row t of targets.
      targets: [n, d]; rows that are not known are ignored.
      known: [n] bool.

    Example:
      >>> y = jnp.array([[0.0], [1.0], [1.0]])
      >>> float(rmse(jnp.zeros((3, 1)), y, jnp.ones(3, bool)))
      1.0
    """
    counted = known & (jnp.arange(known.shape[0]) > 0)
    error = jnp.where(counted[:, None], predictions - jnp.nan_to_num(targets), 0.0)
    return root(jnp.sum(error**2) / (jnp.maximum(jnp.sum(counted), 1) * targets.shape[1]))


def baselines(targets: np.ndarray) -> dict[str, np.ndarray]:
    """Return what persistence and the running mean predict, each [n, d]; row 0 is row 0.

    Exact, in float64, O(n d). Rows with a missing output (NaN) are neither used nor predicted
    from: persistence holds the last complete row, the running mean averages complete rows.

    Args:
      targets: [n, d]; NaN where missing.

    Example:
      >>> baselines(np.array([[1.0], [3.0], [5.0]]))["running_mean"].ravel().tolist()
      [1.0, 1.0, 2.0]
    """
    targets = np.asarray(targets, np.float64)
    known = np.isfinite(targets).all(axis=1)
    row = np.maximum.accumulate(np.where(known, np.arange(len(targets)), 0))
    held = targets[row]
    counts = np.maximum(np.cumsum(known), 1)[:, None]
    mean = np.cumsum(np.where(known[:, None], targets, 0.0), axis=0) / counts
    return {
        "persistence": np.concatenate([held[:1], held[:-1]]),
        "running_mean": np.concatenate([mean[:1], mean[:-1]]),
    }


def summarise(
    totals: AgentTotals, targets: np.ndarray, server: Array, mean_field: Array
) -> Summary:
    """Turn a run's totals and trajectories into its figures; exact, O(N + n d).

    Args:
      totals: of all agents.
      targets: [n, d], NaN where missing.
      server: [n, d], row t the server's prediction of y_t.
      mean_field: [n, d], likewise the mean over agents.
    """
    targets = np.asarray(targets, np.float64)
    known = np.isfinite(targets).all(axis=1)
    seen = targets[known]
    spread = max(float(np.ptp(seen)), 1e-6 * float(np.max(np.abs(seen))), 1e-30)
    plain = baselines(targets)
    return _figures(
        totals,
        jnp.asarray(np.nan_to_num(targets), server.dtype),
        jnp.asarray(known),
        server,
        mean_field,
        DIVERGED_RANGES * spread,
        _plain_rmse(plain["persistence"], targets, known),
        _plain_rmse(plain["running_mean"], targets, known),
    )


@jax.jit
def _figures(
    totals: AgentTotals,
    targets: Array,
    known: Array,
    server: Array,
    mean_field: Array,
    lost: Scalar,
    persistence: Array,
    running_mean: Array,
) -> Summary:
    """Compute a summary; `targets` [n, d] are filled, `lost` is the RMSE that is divergence."""
    cost = totals.cost.result()
    taken = totals.steps if totals.taken is None else totals.taken
    counted = jnp.broadcast_to(taken > 0, cost.shape) | (totals.steps == 0)
    agents = root(cost / (jnp.maximum(taken, 1) * targets.shape[1]))
    not_finite = ~jnp.isfinite(cost)
    worst = jnp.argmax(jnp.where(not_finite, jnp.inf, jnp.where(counted, agents, -jnp.inf)))
    nan = jnp.asarray(jnp.nan, cost.dtype)
    return Summary(
        server_rmse=rmse(server, targets, known),
        mean_field_rmse=rmse(mean_field, targets, known),
        mean_agent_rmse=jnp.mean(agents, where=counted),
        worst_agent_rmse=agents[worst],
        best_agent_rmse=jnp.nanmin(jnp.where(counted, agents, jnp.nan)),
        mean_agent_cost=jnp.mean(cost, where=counted),
        worst_agent_cost=cost[worst],
        best_agent_cost=jnp.nanmin(jnp.where(counted, cost, jnp.nan)),
        agent_cost_variance=jnp.var(cost, where=counted),
        worst_agent=worst,
        mean_agent_effort=jnp.mean(totals.effort.result(), where=counted),
        best_readout_worst_cost=nan if totals.readout is None else totals.readout.costs().max(),
        diverged_agents=jnp.sum(not_finite | (counted & (agents > lost))),
        scored_steps=totals.steps,
        persistence_rmse=persistence,
        running_mean_rmse=running_mean,
    )


def _plain_rmse(predictions: np.ndarray, targets: np.ndarray, known: np.ndarray) -> Array:
    """Return `rmse` in float64 on the host."""
    counted = known & (np.arange(len(known)) > 0)
    squared = (predictions - targets)[counted] ** 2
    return jnp.asarray(np.sqrt(np.mean(squared)) if counted.any() else 0.0)
