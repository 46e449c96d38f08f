"""What policies remember: each agent's last steps, and what the population went through.

Both are rings over time: slot s mod L holds step s. A step is entered when its target is seen,
at the start of the next one; until then it waits. Agents are the last axis.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from memoa_jax.arithmetic import computed_once
from memoa_jax.game import FeatureMoments
from memoa_jax.reflection import householder_vector, reflect
from memoa_jax.types import Array, Dimensions, Observation, Population, Sight, record


@record
class Window:
    """A block's last L completed steps and the one in progress; slot s mod (L + 1) holds step s.

    `features` [L + 1, d, p, N] are Z_s, `residuals` [L + 1, d, N] are y_{s+1} - Y_s (Y_s the value
    the increment was added to, `base` [d, N] that of the step in progress), `known` [L + 1] says
    whether y_{s+1} was seen: not yet, of the step in progress.
    """

    features: Array
    residuals: Array
    known: Array
    base: Array

    @classmethod
    def empty(cls, steps: int, dimensions: Dimensions, num_agents: int, dtype: Any) -> Window:
        """Return a window of L steps in which nothing has happened."""
        d, p = dimensions.outputs, dimensions.features
        return cls(
            features=jnp.zeros((steps + 1, d, p, num_agents), dtype),
            residuals=jnp.zeros((steps + 1, d, num_agents), dtype),
            known=jnp.zeros((steps + 1,), bool),
            base=jnp.zeros((d, num_agents), dtype),
        )

    @property
    def slots(self) -> int:
        """How many there are, L + 1."""
        return self.features.shape[0]

    def advance(self, observation: Observation) -> Window:
        """Complete the step in progress, whose target has been observed; begin the next one.

        Everything that reads the ring reads it after this: what was read before, in a slot that
        might be the one about to be overwritten, would make XLA copy the ring at every step.
        """
        begun, slot = observation.step % self.slots, (observation.step - 1) % self.slots
        residual = observation.target[:, None] - self.base
        seen = observation.known & (observation.step > 0)
        return Window(
            features=self.features.at[begun].set(observation.features),
            residuals=self.residuals.at[slot].set(residual),
            known=self.known.at[begun].set(False).at[slot].set(seen),
            base=self.base,
        )

    def onto(self, base: Array) -> Window:
        """Say onto what the step in progress adds its increment."""
        return Window(self.features, self.residuals, self.known, base)


@record
class Reflected:
    """The moments of features that were reflected about `householder` [p].

    See `memoa_jax.reflection`; zero: they are as they were.
    """

    moments: FeatureMoments
    householder: Array

    @classmethod
    def of(cls, features: Array, population: Population) -> Reflected:
        """Return those of the population's realised features [d, p, N]."""
        d, p, count = features.shape
        vector = householder_vector(jnp.sum(population.mean(features), axis=0))
        features = computed_once(reflect(features, vector[None, :, None], -2))
        flat = features.reshape(d * p, count)
        products = population.products(flat, flat) / population.size
        # Their mean anew: one that was reflected has the rounding of what all agents share in the
        # small rest, too.
        second = jnp.moveaxis(products.reshape(d, p, d, p), 2, 1)
        return cls(FeatureMoments(population.mean(features), second), vector)


@record
class History:
    """What the population as a whole went through in the last L steps; rings like `Window`.

    `features`, leaves [L, ...], are the moments of the realised features of step s, `origins`
    [L, d] is y_s and `targets` [L, d] is y_{s+1}; `origins_known` and `targets_known` [L] say
    whether they were observed. The step in progress waits: its moments `pending`, y_t in `last`
    and its flag in `last_known`. Of several groups the moments have a further axis, [L, K, ...].
    """

    features: Reflected
    origins: Array
    targets: Array
    origins_known: Array
    targets_known: Array
    pending: Reflected
    last: Array
    last_known: Array

    @classmethod
    def empty(
        cls, length: int, dimensions: Dimensions, dtype: Any, groups: int | None = None
    ) -> History:
        """Return a history in which nothing has happened; of several groups' moments each."""
        d, p = dimensions.outputs, dimensions.features
        lead = () if groups is None else (groups,)
        none = FeatureMoments(
            jnp.zeros((*lead, d, p), dtype), jnp.zeros((*lead, d, d, p, p), dtype)
        )
        pending = Reflected(none, jnp.zeros((*lead, p), dtype))
        return cls(
            features=jax.tree.map(lambda leaf: jnp.stack([leaf] * length), pending),
            origins=jnp.zeros((length, d), dtype),
            targets=jnp.zeros((length, d), dtype),
            origins_known=jnp.zeros((length,), bool),
            targets_known=jnp.zeros((length,), bool),
            pending=pending,
            last=jnp.zeros((d,), dtype),
            last_known=jnp.zeros((), bool),
        )

    def complete(self, sight: Sight, begun: Reflected) -> History:
        """Enter the step in progress, whose target has now been seen; begin that of `begun`.

        Args:
          sight: of the step that begins.
          begun: its realised moments, over the agents that are present.
        """
        slot = (sight.step - 1) % self.origins.shape[0]
        seen = sight.known & (sight.step > 0)
        enter = functools.partial(jax.tree.map, lambda ring, new: ring.at[slot].set(new))
        return History(
            features=enter(self.features, self.pending),
            origins=self.origins.at[slot].set(self.last),
            targets=self.targets.at[slot].set(sight.target),
            origins_known=self.origins_known.at[slot].set(self.last_known),
            targets_known=self.targets_known.at[slot].set(seen),
            pending=begun,
            last=sight.target,
            last_known=sight.known,
        )


@record
class Seen:
    """The last T + 1 targets, a ring over time, and whether each was observed."""

    targets: Array
    known: Array

    @classmethod
    def nothing(cls, horizon: int, outputs: int, dtype: Any) -> Seen:
        """Return a ring in which nothing was seen."""
        return cls(jnp.zeros((horizon + 1, outputs), dtype), jnp.zeros((horizon + 1,), bool))

    def see(self, sight: Sight) -> Seen:
        """Enter y_t."""
        slot = sight.step % self.known.shape[0]
        return Seen(self.targets.at[slot].set(sight.target), self.known.at[slot].set(sight.known))

    def order(self, step: Array) -> Array:
        """Return where the steps t-T .. t stand in rings of this length, [T + 1], oldest first."""
        return (step + 1 + jnp.arange(self.known.shape[0])) % self.known.shape[0]
