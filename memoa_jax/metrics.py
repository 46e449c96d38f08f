"""Metrics: the summary of a run, and the baselines beside it.

Errors are always those of the prediction made before the target was seen.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from memoa_jax.timeseries import Series
from memoa_jax.totals import Tally, root
from memoa_jax.types import Array, record

DIVERGED_RANGES = 10.0
"""An agent whose RMSE exceeds this many times the targets' range is counted as diverged."""


@record
class AgentFigures:
    """What some agents came to: all of a run's, a scalar each, or those of its groups, [K] each.

    RMSE is over steps and outputs, sqrt(mean e^2), in target units; cost is the cumulative
    squared error sum_t |y_{t+1} - Y^i_{t+1}|^2 of an agent, in squared target units; effort is
    sum_t |beta^i_t|^2 apart. The worst agent has the largest cost per step that it took part in;
    an agent that took part in none counts nowhere. `best_readout_worst_cost`
    is the worst agent's cost under its best fixed read-out in hindsight, NaN where that was
    not computed. `diverged_agents` counts those whose RMSE is not finite or above
    `DIVERGED_RANGES` times the targets' range.
    """

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


@record
class Summary(AgentFigures):
    """The figures of one run; every entry is a scalar, those of `AgentFigures` are of all agents.

    RMSE is over steps and outputs, in target units. Persistence predicts the last observed value,
    the running mean the mean of all observed ones.
    """

    server_rmse: Array
    mean_field_rmse: Array
    scored_steps: Array
    persistence_rmse: Array
    running_mean_rmse: Array


@record
class GroupSummary(AgentFigures):
    """The figures of one run's groups of agents: those of `AgentFigures` are [K] each.

    `agents` [K] counts those that took part. `mean_gap` and `worst_gap` are scalars: the RMSE of
    the group that fares worst minus that of the one that fares best, of the mean agents and of the
    worst ones, in target units; not finite where a group's is not.
    """

    agents: Array
    mean_gap: Array
    worst_gap: Array

    @classmethod
    def of(cls, tally: Tally | None) -> GroupSummary | None:
        """Take the tallies of groups, leaves [K]; None of none."""
        if tally is None:
            return None
        return cls(
            **_of_agents(tally),
            agents=tally.agents,
            mean_gap=jnp.max(tally.rmse) - jnp.min(tally.rmse),
            worst_gap=jnp.max(tally.worst_rmse) - jnp.min(tally.worst_rmse),
        )


def _of_agents(tally: Tally) -> dict[str, Array]:
    """Return the fields of `AgentFigures`."""
    return {
        "mean_agent_rmse": tally.rmse,
        "worst_agent_rmse": tally.worst_rmse,
        "best_agent_rmse": tally.best_rmse,
        "mean_agent_cost": tally.cost,
        "worst_agent_cost": tally.worst_cost,
        "best_agent_cost": tally.best_cost,
        "agent_cost_variance": tally.cost_scatter / tally.agents,
        "worst_agent": tally.worst,
        "mean_agent_effort": tally.effort,
        "best_readout_worst_cost": tally.best_readout,
        "diverged_agents": tally.diverged,
    }


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


def diverging(targets: np.ndarray) -> float:
    """Return the RMSE above which an agent has diverged, in target units."""
    seen = np.asarray(targets, np.float64)
    seen = seen[np.isfinite(seen).all(axis=1)]
    spread = max(float(np.ptp(seen)), 1e-6 * float(np.max(np.abs(seen))), 1e-30)
    return DIVERGED_RANGES * spread


def summarise(
    tally: Tally,
    steps: Array,
    series: Series,
    server: Array,
    mean_field: Array,
    rows: int | None = None,
) -> Summary:
    """Turn what the agents came to and the run's trajectories into its figures; exact, O(n d).

    Args:
      tally: of all agents.
      steps: how many were scored.
      series: n points, and which of them count.
      server: [n, d], row t the server's prediction of y_t.
      mean_field: [n, d], likewise the mean over agents.
      rows: of a run that was cut off, how many of them there are; the others are not looked at.
    """
    targets, known = np.asarray(series.targets, np.float64), series.scored
    if rows is not None:
        known = known & (np.arange(len(known)) < rows)
    plain = baselines(targets)
    return _figures(
        tally,
        steps,
        jnp.asarray(np.nan_to_num(targets), server.dtype),
        jnp.asarray(known),
        server,
        mean_field,
        _plain_rmse(plain["persistence"], targets, known),
        _plain_rmse(plain["running_mean"], targets, known),
    )


@jax.jit
def _figures(
    tally: Tally,
    steps: Array,
    targets: Array,
    known: Array,
    server: Array,
    mean_field: Array,
    persistence: Array,
    running_mean: Array,
) -> Summary:
    """Compute a summary; `targets` [n, d] are filled."""
    return Summary(
        **_of_agents(tally),
        server_rmse=rmse(server, targets, known),
        mean_field_rmse=rmse(mean_field, targets, known),
        scored_steps=steps,
        persistence_rmse=persistence,
        running_mean_rmse=running_mean,
    )


def _plain_rmse(predictions: np.ndarray, targets: np.ndarray, known: np.ndarray) -> Array:
    """Return `rmse` in float64 on the host."""
    counted = known & (np.arange(len(known)) > 0)
    squared = (predictions - targets)[counted] ** 2
    return jnp.asarray(np.sqrt(np.mean(squared)) if counted.any() else 0.0)
