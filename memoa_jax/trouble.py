"""Agents that run away: noticed in the step in which it happens, told, and kept apart if asked.

An agent is wild when its prediction is no finite number or, where wild agents are contained,
farther from zero than `FAR` times the largest target seen so far.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from memoa_jax.choices import Containment
from memoa_jax.types import Array, Population, record

FAR = 1e3
"""Times the largest target seen: beyond, a prediction is no opinion any more."""
QUANTITIES = ("features", "control", "prediction", "mean field")
"""In which trouble shows, in the order in which a step computes them."""


@record
class Trouble:
    """The first trouble of a run: at step t, whose, and in which of `QUANTITIES`.

    `step` is -1 as long as there is none. Where only the sum over all agents overflowed, `agent`
    means nothing.
    """

    step: Array
    agent: Array
    quantity: Array

    @classmethod
    def none(cls) -> Trouble:
        """Return no trouble."""
        return cls(jnp.int32(-1), jnp.uint32(0), jnp.int32(0))


@record
class Bounds:
    """What contains a block's agents: who never was wild, `tame` [N], and the `largest` |y|."""

    tame: Array
    largest: Array

    def see(self, target: Array) -> Bounds:
        """Return the bounds after a target [d] was seen."""
        return Bounds(self.tame, jnp.maximum(self.largest, jnp.max(jnp.abs(target))))

    def wild(self, prediction: Array) -> Array:
        """Tell whose predictions [d, N] are out of bounds, [N]."""
        return ~jnp.all(jnp.isfinite(prediction) & (jnp.abs(prediction) <= self._far), axis=0)

    def clipped(self, prediction: Array, target: Array) -> Array:
        """Bring predictions into bounds; what is no number becomes the last target."""
        there = jnp.where(jnp.isnan(prediction), target[:, None], prediction)
        return jnp.clip(there, -self._far, self._far)

    @property
    def _far(self) -> Array:
        # As long as all targets were zero, there is no scale to be far in.
        most = jnp.finfo(self.largest.dtype).max
        return jnp.where(self.largest > 0, jnp.minimum(FAR * self.largest, most), most)


def first(
    before: Trouble,
    happened: Array,
    step: Array,
    index: Array,
    population: Population,
    values: Callable[[], tuple[Array, Array, Array]],
) -> Trouble:
    """Return the first trouble, looked for only in the step in which something happened.

    Args:
      before: the trouble so far.
      happened: whether there is some now, the same in all blocks that run together.
      step: t.
      index: [N], the agents' places in the population.
      population: of which they are.
      values: returns features [d, p, N], |beta|^2 of the controls [N], and who is wild [N].
    """

    def look() -> Trouble:
        features, effort, wild = values()
        bad = jnp.stack([_no_number(features), ~jnp.isfinite(effort), wild])
        bad = population.only_present(bad.astype(jnp.uint32)) > 0
        whose = jnp.any(bad, axis=0)
        place = jnp.argmax(whose)
        nobody = np.uint32(np.iinfo(np.uint32).max)
        mine = jnp.where(whose[place], index[place], nobody)
        # The smallest of all: the largest of the complements.
        agent = ~population.widest(~mine)
        kind = jnp.where(mine == agent, jnp.argmax(bad[:, place]), 0).astype(jnp.int32)
        kind = jnp.where(agent == nobody, 3, population.widest(kind))
        return Trouble(step, agent, kind)

    return lax.cond(happened & (before.step < 0), look, lambda: before)


def _no_number(values: Array) -> Array:
    return ~jnp.all(jnp.isfinite(values), axis=tuple(range(values.ndim - 1)))


def told(trouble: Trouble, containment: Containment) -> list[str]:
    """Tell of a run's first trouble; an empty list where there was none.

    Example:
      >>> told(Trouble.none(), "report")
      []
      >>> told(Trouble(jnp.int32(3), jnp.uint32(17), jnp.int32(1)), "report")
      ["first trouble: agent 17's control is not finite at step 3"]
    """
    if int(trouble.step) < 0:
        return []
    quantity, step = QUANTITIES[int(trouble.quantity)], int(trouble.step)
    if quantity == "mean field":
        return [f"first trouble: the mean field is not finite at step {step}"]
    contained = containment != "report" and quantity == "prediction"
    how = "is out of bounds" if contained else "is not finite"
    then = {"report": "", "exclude": "; it is left out from there on", "clip": "; it is clipped"}
    whose = f"agent {int(trouble.agent)}'s {quantity}"
    return [f"first trouble: {whose} {how} at step {step}{then[containment]}"]


def earliest(troubles: Trouble) -> Trouble:
    """Return the first trouble of many blocks, leaves [blocks], on the host.

    Example:
      >>> steps = np.array([-1, 5, 4, 4])
      >>> found = earliest(Trouble(steps, np.array([0, 1, 9, 2]), np.array([0, 1, 1, 2])))
      >>> int(found.step), int(found.agent)
      (4, 2)
    """
    step, agent = np.asarray(troubles.step), np.asarray(troubles.agent)
    late = np.where(step < 0, np.iinfo(np.int32).max, step)
    place = int(np.lexsort((agent, late))[0])
    found: Trouble = jax.tree.map(lambda leaf: np.asarray(leaf)[place], troubles)
    return found
