"""Running totals: one block's agents over time, and then many blocks over the population.

Per-agent totals are compensated sums, so that float32 loses nothing over 10^5 steps; nothing of
shape [time, agents] exists. A `Tally` is what is left of a block's agents when its run is over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from memoa_jax.regression import NormalEquations
from memoa_jax.types import Array, Dimensions, Scalar, record


def root(value: Array) -> Array:
    """Return sqrt, with gradient 0 instead of infinity at 0."""
    positive = value > 0
    # A comparison with NaN is false: it must come out as NaN, not as 0.
    return jnp.where(
        positive, jnp.sqrt(jnp.where(positive, value, 1.0)), jnp.where(value == 0, 0.0, value)
    )


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
        scored: Array,
        known: Array,
        voters: Array | None,
        move: Array,
        effort: Array,
        features: Array,
    ) -> AgentTotals:
        """Score the predictions whose target has just been seen, and begin the next step.

        Args:
          error: [d, N], prediction minus target.
          scored: whether the step is one of those that count.
          known: whether its target was observed.
          voters: [N], whose predictions count; None for everybody's.
          move: [d], the target minus the one observed before it.
          effort: [N], |control|^2 of the step now beginning.
          features: [d, p, N], of the step now beginning.
        """
        counted = scored & known
        by_agent = counted if voters is None else counted & voters
        squared = jnp.where(by_agent, jnp.sum(error**2, axis=0), 0.0)
        return AgentTotals(
            cost=self.cost.add(squared),
            effort=self.effort.add(jnp.where(scored, self.pending_effort, 0.0)),
            pending_effort=effort,
            steps=self.steps + counted.astype(jnp.int32),
            taken=None if self.taken is None else self.taken + by_agent.astype(jnp.int32),
            readout=None if self.readout is None else self.readout.add(move, by_agent, features),
        )


@record
class Tally:
    """What a block's agents come to; every entry is a scalar, and tallies of blocks can be joined.

    `agents` counts those that took part, `cost`, `effort` and `rmse` are means over them and
    `cost_scatter` is sum (cost - mean)^2. The worst agent is the one of largest RMSE (not finite
    counts as largest), `worst` its index. `best_readout` is the largest cost under the best fixed
    read-out, NaN where that was not computed.
    """

    agents: Array
    cost: Array
    cost_scatter: Array
    effort: Array
    rmse: Array
    worst: Array
    worst_rmse: Array
    worst_cost: Array
    best_rmse: Array
    best_cost: Array
    diverged: Array
    best_readout: Array

    @classmethod
    def of(
        cls,
        totals: AgentTotals,
        outputs: int,
        lost: Scalar,
        index: Array | None = None,
        among: Array | None = None,
        tame: Array | None = None,
    ) -> Tally:
        """Take a block's totals together; exact, O(N).

        Args:
          totals: of the block.
          outputs: d.
          lost: the RMSE above which an agent has diverged.
          index: [N], the agents' places in the population; None: 0..N-1.
          among: [N] bool, which of them exist; None: all.
          tame: [N] bool, which of them were never out of bounds; None: there were none.
        """
        cost, effort = totals.cost.result(), totals.effort.result()
        taken = totals.steps if totals.taken is None else totals.taken
        counted = jnp.broadcast_to(taken > 0, cost.shape) | (totals.steps == 0)
        counted = counted if among is None else counted & among
        agents = root(cost / (jnp.maximum(taken, 1) * outputs))
        not_finite = ~jnp.isfinite(cost) & (True if among is None else among)
        diverged = not_finite | (counted & (agents > lost))
        if tame is not None:
            diverged |= ~tame & (True if among is None else among)
        worst = jnp.argmax(jnp.where(not_finite, jnp.inf, jnp.where(counted, agents, -jnp.inf)))
        nan = jnp.asarray(jnp.nan, cost.dtype)
        readout = nan
        if totals.readout is not None:
            costs = totals.readout.costs()
            readout = jnp.max(costs if among is None else jnp.where(among, costs, -jnp.inf))
        mean = jnp.mean(cost, where=counted)
        return cls(
            agents=jnp.sum(counted),
            cost=mean,
            cost_scatter=jnp.sum((cost - mean) ** 2, where=counted),
            effort=jnp.mean(effort, where=counted),
            rmse=jnp.mean(agents, where=counted),
            worst=worst if index is None else index[worst],
            worst_rmse=agents[worst],
            worst_cost=cost[worst],
            best_rmse=jnp.nanmin(jnp.where(counted, agents, jnp.nan)),
            best_cost=jnp.nanmin(jnp.where(counted, cost, jnp.nan)),
            diverged=jnp.sum(diverged),
            best_readout=readout,
        )


def tallies_by_group(tally: Callable[[Array], Tally], group: Array, groups: int) -> Tally:
    """Return what the agents of every group come to, leaves [K].

    Args:
      tally: of those among the agents that it is given, [N] bool.
      group: [N], of which group each of them is.
      groups: K.
    """
    # One after the other: a batched look-up of the worst agent has no sharding on some meshes.
    return jax.lax.map(lambda number: tally(group == number), jnp.arange(groups))


def joined_by_group(tallies: Sequence[Tally]) -> Tally:
    """Join the tallies of blocks, leaves [K] each: every group's as `joined` does the whole's."""

    def of_group(number: int) -> Tally:
        mine = [jax.tree.map(lambda leaf: np.asarray(leaf)[number], one) for one in tallies]
        return joined(mine)

    each = [of_group(number) for number in range(len(tallies[0].agents))]
    both: Tally = jax.tree.map(lambda *leaves: np.asarray(leaves), *each)
    return both


def joined(tallies: Sequence[Tally]) -> Tally:
    """Join the tallies of blocks, in their order, in float64 on the host.

    Example:
      >>> one = Tally(*[np.float32(1.0)] * 12)
      >>> float(joined([one, one]).agents), float(joined([one, one]).cost_scatter)
      (2.0, 2.0)
    """
    each: Tally = jax.tree.map(lambda *leaves: np.asarray(leaves, np.float64), *tallies)
    filled = each.agents > 0
    share = each.agents / np.maximum(np.sum(each.agents), 1.0)

    def mean(values: Any) -> Any:
        return np.sum(share * np.where(filled, values, 0.0))

    cost = mean(each.cost)
    # A cost that is not finite is the worst there is.
    order = np.where(np.isfinite(each.worst_cost), each.worst_rmse, np.inf)
    worst = int(np.argmax(np.where(filled, order, -np.inf)))
    spread = np.where(filled, each.cost_scatter + each.agents * (each.cost - cost) ** 2, 0.0)
    host = Tally(
        agents=each.agents.sum(),
        cost=cost,
        cost_scatter=spread.sum(),
        effort=mean(each.effort),
        rmse=mean(each.rmse),
        worst=each.worst[worst],
        worst_rmse=each.worst_rmse[worst],
        worst_cost=each.worst_cost[worst],
        best_rmse=_least(each.best_rmse),
        best_cost=_least(each.best_cost),
        diverged=each.diverged.sum(),
        best_readout=np.max(np.where(filled, each.best_readout, -np.inf)),
    )
    return host


def _least(values: Any) -> Any:
    """Return the smallest that is a number; NaN where none is."""
    found = values[~np.isnan(values)]
    return found.min() if found.size else np.nan
