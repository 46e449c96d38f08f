"""Who takes part at each step: masks of present agents, drawn or given.

An absent agent does not act: it has no features, no control and no say in the mean field, the
server's output or any metric, and learns nothing from the step. On its return it goes on from
what it had. Without a participation everybody is always present, at no cost.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from memoa_jax.arguments import number
from memoa_jax.draws import Stream, uniforms
from memoa_jax.types import Agents, Array, Participation, Scalar, Tree, record


def _chance(agents: Agents, step: Array | int) -> Array:
    """Return one uniform number of [0, 1] per agent."""
    return uniforms(agents, Stream.PARTICIPATION, step, 1, jnp.float32)[0] + 0.5


@record
class Bernoulli:
    """See `bernoulli`."""

    probability: Scalar

    def init(self, agents: Agents, points: int) -> Tree:
        """Return nothing: steps are independent."""
        return ()

    def present(self, state: Tree, agents: Agents, step: Array) -> tuple[Tree, Array]:
        """Draw every agent anew."""
        return state, _chance(agents, step) < self.probability


def bernoulli(probability: Scalar) -> Bernoulli:
    """Let every agent be present with one probability, independently over agents and steps.

    Args:
      probability: in (0, 1]; may be traced.

    Raises:
      ValueError: if probability is a number outside (0, 1].

    Example:
      >>> bernoulli(0.9).probability
      0.9
    """
    number("bernoulli", "probability", probability, "in (0, 1]", lambda p: 0 < p <= 1)
    return Bernoulli(probability)


@record
class Markov:
    """See `markov`."""

    leave: Scalar
    join: Scalar

    def init(self, agents: Agents, points: int) -> Array:
        """Return who is there before step 0: a draw of the stationary law."""
        # A stream of steps that no run reaches.
        return _chance(agents, 2**32 - 1) * (self.leave + self.join) < self.join

    def present(self, state: Array, agents: Agents, step: Array) -> tuple[Array, Array]:
        """Let those present leave and those absent return, each by its own chance."""
        chance = _chance(agents, step)
        state = jnp.where(state, chance >= self.leave, chance < self.join)
        return state, state


def markov(leave: Scalar, join: Scalar) -> Markov:
    """Let agents come and go: on and off in runs of geometric length, stationary from the start.

        present stays with probability 1 - leave, absent returns with probability join
        share present = join / (leave + join)

    Args:
      leave: probability in (0, 1) that a present agent is absent at the next step.
      join: probability in (0, 1] that an absent agent is present at the next step.

    Raises:
      ValueError: if a number is outside its range.

    Example:
      >>> markov(leave=0.1, join=0.4).join
      0.4
    """
    number("markov", "leave", leave, "in (0, 1)", lambda p: 0 < p < 1)
    number("markov", "join", join, "in (0, 1]", lambda p: 0 < p <= 1)
    return Markov(leave, join)


@record
class LateJoiners:
    """See `late_joiners`."""

    first: Scalar
    last: Scalar

    def init(self, agents: Agents, points: int) -> Array:
        """Return the step at which each agent joins, [N]."""
        return jnp.floor(self.first + _chance(agents, 0) * (self.last - self.first + 1))

    def present(self, state: Array, agents: Agents, step: Array) -> tuple[Array, Array]:
        """Tell who has joined; nobody leaves."""
        return state, state <= step


def late_joiners(first: Scalar, last: Scalar) -> LateJoiners:
    """Let agents join one after the other, each at a step drawn from first..last, and stay.

    Args:
      first: the first step at which an agent may join, >= 0.
      last: the last, >= first.

    Raises:
      ValueError: if first is below 0 or last below first.

    Example:
      >>> late_joiners(first=0, last=50).last
      50
    """
    number("late_joiners", "first", first, ">= 0", lambda step: step >= 0)
    if isinstance(first, int | float):
        number("late_joiners", "last", last, f">= first = {first}", lambda step: step >= first)
    return LateJoiners(first, last)


@record
class GivenParticipation:
    """See `given_participation`; `mask` [n, N] bool."""

    mask: Array

    def init(self, agents: Agents, points: int) -> Tree:
        """Check the mask's size.

        Raises:
          ValueError: at trace time, if the mask has too few rows or agents.
        """
        if self.mask.shape[1] < agents.index.shape[0]:
            raise ValueError(
                f"given_participation: mask has {self.mask.shape[1]} agents: allowed is one column "
                f"for each of {agents.index.shape[0]}"
            )
        if self.mask.shape[0] < points:
            raise ValueError(
                f"given_participation: mask has {self.mask.shape[0]} rows: allowed is one for each "
                f"of the {points} points of the series"
            )
        return ()

    def present(self, state: Tree, agents: Agents, step: Array) -> tuple[Tree, Array]:
        """Read the step's row."""
        return state, self.mask[step, agents.index]


def given_participation(mask: Any) -> GivenParticipation:
    """Take participation from data: row t says who is present at step t.

    Args:
      mask: [n, N], boolean (or 0 and 1).

    Raises:
      ValueError: if mask has another number of axes, or entries other than 0 and 1.

    Example:
      >>> given_participation([[True, True], [True, False]]).mask.shape
      (2, 2)
    """
    values = np.asarray(mask)
    if values.ndim != 2:
        raise ValueError(f"given_participation: mask has shape {values.shape}: allowed is [n, N]")
    if values.dtype != bool and not np.isin(values, (0, 1)).all():
        raise ValueError("given_participation: mask: allowed is True and False, or 1 and 0")
    return GivenParticipation(jnp.asarray(values.astype(bool)))


def attendance(participation: Participation, agents: Agents, points: int) -> Array:
    """Return whose predictions count, [points, N] bool; O(points N).

    Row t holds who was present at step t - 1, when y_t was predicted; in row 0 everybody counts.

    Example:
      >>> given = given_participation([[True, False], [True, True], [True, True]])
      >>> some = Agents(index=jnp.arange(2, dtype=jnp.uint32), key=jnp.zeros(2, jnp.uint32))
      >>> attendance(given, some, 3).tolist()
      [[True, True], [True, False], [True, True]]
    """

    def body(state: Tree, step: Array) -> tuple[Tree, Array]:
        return participation.present(state, agents, step)

    start = participation.init(agents, points)
    _, present = lax.scan(body, start, jnp.arange(points, dtype=jnp.int32))
    return jnp.concatenate([jnp.ones_like(present[:1]), present[:-1]])
