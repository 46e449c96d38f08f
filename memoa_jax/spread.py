"""Mean and scatter of agents' values: what blocks of agents hand over, and what can be joined."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from memoa_jax.arithmetic import computed_once
from memoa_jax.reflection import householder_vector, reflect
from memoa_jax.types import Array, Population, record


@record
class Spread:
    """Mean [m] and scatter [m, m] of `count` agents' values: sum (v - mean)(v - mean)'.

    Taken about the mean, so nothing large is subtracted, and of values reflected about
    `householder` [m] (see `memoa_jax.reflection`; zero: as they are).
    """

    count: Array
    mean: Array
    scatter: Array
    householder: Array

    @classmethod
    def of(cls, values: Array, population: Population, *, reflected: bool = False) -> Spread:
        """Return the spread of ``[m, N]`` values over the agents that the block's sums count.

        Example:
          >>> Spread.of(jnp.array([[1.0, 3.0]]), Population(jnp.array(2.0))).scatter.tolist()
          [[2.0]]
        """
        count = population.counted
        mean = population.total(values) / jnp.maximum(count, 1.0)
        vector = jnp.zeros_like(mean)
        if reflected:
            vector = householder_vector(mean)
            values = computed_once(reflect(values, vector[:, None], 0))
            # Anew: reflecting the mean would leave the rounding of its large part in the rest.
            mean = population.total(values) / jnp.maximum(count, 1.0)
        deviation = values - mean[:, None]
        return cls(count, mean, population.products(deviation, deviation), vector)

    def reflected_back(self) -> Spread:
        """Return the spread of the values as they were; leaves may have leading axes."""
        vector: Any = self.householder
        mean = reflect(self.mean, vector)
        scatter = reflect(reflect(self.scatter, vector[..., :, None], -2), vector[..., None, :])
        return Spread(self.count, mean, scatter, 0 * vector)
