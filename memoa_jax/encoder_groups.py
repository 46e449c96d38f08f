"""An encoder of several: every group of agents sees the series through its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from memoa_jax.groups import selected
from memoa_jax.types import Agents, Array, Dimensions, Encoder, Tree, record


@record
class Grouped:
    """See `grouped`."""

    encoders: tuple[Encoder, ...]

    @property
    def features(self) -> int:
        """Number p of features per output: the most that a group has."""
        return max(encoder.features for encoder in self.encoders)

    @property
    def shared_input(self) -> bool:
        """Whether one input drives all features of an output alike: the zeros of none, too."""
        return all(
            getattr(encoder, "shared_input", False) and encoder.features == self.features
            for encoder in self.encoders
        )

    @property
    def groups(self) -> int:
        """Number K of groups."""
        return len(self.encoders)

    def parameters(self, agents: Agents, dimensions: Dimensions, dtype: Any) -> tuple[Tree, ...]:
        """Draw the parameters of every encoder, for all agents of the block."""
        self._check(agents)
        return tuple(one.parameters(agents, dimensions, dtype) for one in self.encoders)

    def init(
        self, parameters: tuple[Tree, ...], agents: Agents, dimensions: Dimensions, dtype: Any
    ) -> tuple[Tree, ...]:
        """Return the states of every encoder before step 0."""
        return tuple(
            one.init(own, agents, dimensions, dtype)
            for one, own in zip(self.encoders, parameters, strict=True)
        )

    def encode(
        self,
        parameters: tuple[Tree, ...],
        state: tuple[Tree, ...],
        agents: Agents,
        inputs: Array,
        step: Array,
    ) -> tuple[tuple[Tree, ...], Array]:
        """Let every encoder encode, and take from each the features of its own group."""
        group = self._check(agents)
        states, each = [], []
        for number, (own, before) in enumerate(zip(parameters, state, strict=True)):
            after, features = self._encode(number, own, before, agents, inputs, step, group)
            states.append(after)
            each.append(features)
        return tuple(states), selected(each, group)

    def _encode(
        self,
        number: int,
        own: Tree,
        before: Tree,
        agents: Agents,
        inputs: Array,
        step: Array,
        group: Array,
    ) -> tuple[Tree, Array]:
        """Return one encoder's next state, and its features with zeros for those it has not."""
        encoder = self.encoders[number]
        missing = self.features - encoder.features

        def encode() -> tuple[Tree, Array]:
            after, features = encoder.encode(own, before, agents, inputs, step)
            return after, jnp.pad(features, ((0, 0), (0, missing), (0, 0)))

        shape: Any = jax.eval_shape(encode)[1]
        # A block or a device that holds nobody of the group is spared its encoder.
        found: tuple[Tree, Array] = lax.cond(
            jnp.any(group == number), encode, lambda: (before, jnp.zeros(shape.shape, shape.dtype))
        )
        return found

    def _check(self, agents: Agents) -> Array:
        if agents.group is None:
            raise ValueError(
                f"grouped: {self.groups} encoders in a run without groups: allowed is "
                f"simulate(..., groups=...) with {self.groups} sizes"
            )
        return agents.group


def grouped(encoders: Sequence[Encoder]) -> Grouped:
    """Give every group of agents its own encoder: one run of agents that see differently.

        Z^i_t = [ encoder_k's features of agent i | 0 ],   i of group k

    Groups with fewer features than the largest have columns of zeros in their place. That is exact,
    not an approximation: a zero column has zero rows and columns in every Gram matrix and every
    matrix of moments, and a zero right-hand side; the ridge or the effort, > 0, stands alone on its
    diagonal. So its control is exactly 0 in the greedy fit, the forecast and the games, and the
    elimination adds nothing but zeros to the other columns' numbers.

    An agent's draws depend on the seed and its own place only: K equal encoders are one encoder, up
    to how the compiler rounds. A block of a stream, or a device, evaluates the encoders of those
    groups that it holds agents of; a resident run on one device all K, for all agents. Either holds
    the parameters of all K for each of its agents.

    Axes: N agents, d outputs, p features, K groups.

    Args:
      encoders: K of them, in the order of `simulate`'s `groups`.

    Raises:
      ValueError: if there is none; when a run begins, if it has another number of groups.

    Source: own derivation, tested in tests/test_groups.py.

    Example:
      >>> from memoa_jax.encoders import echo_state, random_features
      >>> grouped([random_features(8), echo_state(3)]).features
      8
    """
    if not encoders:
        raise ValueError("grouped: encoders is empty: allowed is one encoder per group")
    return Grouped(encoders=tuple(encoders))
