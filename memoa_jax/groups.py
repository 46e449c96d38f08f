"""Groups of agents: K contiguous ranges of places, whose agents may see, pay and learn otherwise.

The sizes are data, and who is of which group follows from an agent's place: so it does in every
block, on every device, in both schedules.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from memoa_jax.arguments import whole
from memoa_jax.game import GameCost
from memoa_jax.types import Array, Population, Scalar

Groups = Sequence[int | Scalar] | Array
"""K numbers of agents, in the order of the agents' places."""


def group_sizes(owner: str, groups: Groups | None, num_agents: int) -> Array | None:
    """Return the sizes of a run's groups, [K] int32; only numbers that the host holds are judged.

    Raises:
      ValueError: if a size is no whole number >= 1, or they do not sum to the agents.

    Example:
      >>> group_sizes("simulate", (2, 3), 5).tolist()
      [2, 3]
    """
    if groups is None:
        return None
    sizes = list(groups)
    if not sizes:
        raise ValueError(f"{owner}: groups is empty: allowed is one number of agents or more")
    if any(isinstance(size, jax.core.Tracer) for size in sizes):
        return jnp.stack([jnp.asarray(size, jnp.int32) for size in sizes])
    plain = tuple(np.asarray(size).item() for size in sizes)
    for number, size in enumerate(plain):
        whole(owner, f"groups[{number}]", size)
    if sum(plain) != num_agents:
        raise ValueError(
            f"{owner}: groups = {plain}, together {sum(plain)}: allowed is sizes that sum to "
            f"num_agents = {num_agents}"
        )
    return jnp.asarray(plain, jnp.int32)


def group_of(index: Array, sizes: Array) -> Array:
    """Return of which group the agents at some places are, [N] int32; past the last: the last.

    Example:
      >>> group_of(jnp.arange(4, dtype=jnp.uint32), jnp.array([1, 3])).tolist()
      [0, 1, 1, 1]
    """
    group = jnp.zeros(index.shape, jnp.int32)
    ends = jnp.cumsum(sizes).astype(index.dtype)
    for number in range(sizes.shape[0] - 1):
        group = group + (index >= ends[number]).astype(jnp.int32)
    return group


def in_groups(population: Population, index: Array, sizes: Array | None) -> Population:
    """Tell a block's population of which group its agents are, and how large the groups are."""
    if sizes is None:
        return population
    return dataclasses.replace(
        population, group=group_of(index, sizes), sizes=sizes.astype(population.size.dtype)
    )


def selected(values: Sequence[Array] | Array, group: Array) -> Array:
    """Return every agent's of K values, each a scalar or [..., N]; exact, plain arithmetic.

    A choice between K arrays fuses with what uses it; a gather would run agent by agent on CPU.
    """
    found = values[0]
    for number in range(1, len(values)):
        found = jnp.where(group == number, values[number], found)
    return jnp.broadcast_to(found, group.shape) if found.ndim == 0 else found


def by_agent(value: Any, population: Population, dtype: Any) -> Array:
    """Return a number as it is, and of K numbers every agent's own, [N]."""
    numbers = jnp.asarray(value, dtype)
    if numbers.ndim == 0:
        return numbers
    assert population.group is not None
    return selected(numbers, population.group)


def costs_by_agent(cost: GameCost, population: Population, dtype: Any) -> GameCost:
    """Return what every agent pays: each weight a scalar, or [N]."""
    fields = dataclasses.fields(cost)
    return GameCost(
        **{field.name: by_agent(getattr(cost, field.name), population, dtype) for field in fields}
    )


def several(value: Any) -> bool:
    """Tell whether a weight of a cost is one number per group; known when traced.

    Example:
      >>> several((1.0, 2.0)), several(1.0)
      (True, False)
    """
    return isinstance(value, tuple | list) or getattr(value, "ndim", 0) == 1


def check_costs(owner: str, cost: GameCost, groups: int | None) -> tuple[GameCost, int | None]:
    """Hold a cost against the number of groups that a policy tells apart; one group is none.

    Returns:
      The cost, of scalars if there is one group, and the number of groups, None for one.

    Raises:
      ValueError: if a weight has neither one number nor as many as there are groups.

    Example:
      >>> check_costs("greedy", GameCost(effort=(2.0,)), 1)[0].effort
      2.0
    """
    if groups is not None:
        whole(owner, "groups", groups)
    made = {}
    for field in dataclasses.fields(cost):
        leaf: Any = getattr(cost, field.name)
        if several(leaf):
            if len(leaf) != groups:
                allowed = "one number" if groups is None else f"one number, or {groups}"
                raise ValueError(
                    f"{owner}: cost.{field.name} holds {len(leaf)} numbers with groups = {groups}: "
                    f"allowed is {allowed}"
                )
            leaf = leaf[0] if groups == 1 else leaf
        made[field.name] = leaf
    return GameCost(**made), None if groups == 1 else groups
