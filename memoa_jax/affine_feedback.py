"""The affine policy: gains that are given, applied at every step to what an agent sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from memoa_jax.arithmetic import computed_once
from memoa_jax.linalg import matmul
from memoa_jax.types import Action, Array, Dimensions, Observation, Scalar, Status, record

Matrix: TypeAlias = Array | NDArray[Any] | Sequence[Sequence[Scalar]]
Vector: TypeAlias = Array | NDArray[Any] | Sequence[Scalar]


@record
class Affine:
    """See `memoa_jax.policies.affine`. None stands for zeros, whose size only a run knows.

    Gains stay as they were given: those in plain lists are numbers, one leaf each, so that any
    of them may be traced alone.

    There are no `surveys`: where the mean field comes to lie depends on what every agent did at
    every step before, which no pass over blocks of agents knows in advance.
    """

    own: Matrix | None
    mean: Matrix | None
    target: Matrix | None
    offset: Vector | None

    def init(self, dimensions: Dimensions, num_agents: int, dtype: Any) -> tuple[()]:
        """Remember nothing; refuse gains that do not fit the run."""
        self._gains(dimensions.features, dimensions.outputs, dtype)
        return ()

    def act(self, state: tuple[()], observation: Observation) -> tuple[tuple[()], Action]:
        """Apply the gains to the agent's own prediction, the mean one, and the last target."""
        own_state = observation.prediction
        outputs, features, _ = observation.features.shape
        own, mean, target, offset = self._gains(features, outputs, own_state.dtype)
        average = observation.population.mean(own_state)
        common = matmul(mean, average) + matmul(target, observation.target) + offset
        # Term by term, which rounds alike for any number of agents on a device.
        total = jnp.broadcast_to(common[:, None], (features, own_state.shape[1]))
        for a in range(outputs):
            total = total + own[:, a, None] * own_state[a][None]
        # The prediction, the effort and the record all use it.
        control = computed_once(-total)
        return state, Action(base=own_state, control=control, status=jnp.int32(Status.OK))

    def _gains(self, features: int, outputs: int, dtype: Any) -> list[Array]:
        """Return the gains as arrays in the order of the fields.

        Raises:
          ValueError: if a size does not fit.
        """
        rows = [
            _array(name, getattr(self, name), (features, outputs), dtype)
            for name in ("own", "mean", "target")
        ]
        return [*rows, _array("offset", self.offset, (features,), dtype)]


def _array(name: str, given: Any, shape: tuple[int, ...], dtype: Any) -> Array:
    """Return one gain as an array of a shape that it must have; None is zeros."""
    if given is None:
        return jnp.zeros(shape, dtype)
    axes = "[p, d], features by outputs," if len(shape) == 2 else "[p], one per feature,"
    try:
        gain = jnp.asarray(given, dtype)
    except (TypeError, ValueError):
        fault = "is no array"
    else:
        fault = f"has shape {np.shape(gain)}"
        if gain.shape == shape:
            return gain
    raise ValueError(f"affine: {name} {fault}: allowed is {axes} {shape}")
