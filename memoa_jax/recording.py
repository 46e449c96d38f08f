"""What to keep of single agents' lives, and nothing else: the choice, its check, the picking."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import jax.numpy as jnp

from memoa_jax.types import Array, Population, record, static

Field = Literal["prediction", "control", "features", "weights"]


@record
class Record:
    """What to keep of single agents' lives: which agents, which steps, which fields.

    `agents` are indices; `steps` are the time steps to keep (None is all); `fields` are any of
    "prediction" (of y_t, as scored), "control" (beta_t), "features" (Z_t), "weights" (the
    server's, applied to the predictions for t + 1).

    Example:
      >>> Record(agents=(0, 5), fields=("prediction",)).agents
      (0, 5)
    """

    agents: tuple[int, ...] = static(default=(0,))
    steps: tuple[int, ...] | None = static(default=None)
    fields: tuple[Field, ...] = static(default=("prediction",))


def check(choice: Record, num_agents: int, points: int) -> None:
    """Refuse agents, steps or fields that a run does not have.

    Raises:
      ValueError: naming the entry and what is allowed.
    """
    for name, values, bound in (
        ("agents", choice.agents, num_agents),
        ("steps", choice.steps or (), points),
    ):
        wrong = [value for value in values if not 0 <= value < bound]
        if wrong:
            raise ValueError(f"simulate: record.{name} holds {wrong[0]}: allowed is 0..{bound - 1}")
    unknown = [name for name in choice.fields if name not in get_args(Field)]
    if unknown:
        allowed = ", ".join(get_args(Field))
        raise ValueError(f"simulate: record.fields holds {unknown[0]!r}: allowed is {allowed}")


def pick(
    fields: tuple[Field, ...],
    agents: Array,
    index: Array,
    population: Population,
    sources: Mapping[Field, Callable[[], Array]],
) -> dict[str, Array]:
    """Return the chosen agents' fields at one step, agents first; nothing else is computed.

    Args:
      fields: which of the sources.
      agents: [m] int32, places in the population.
      index: [N] uint32, the places of the block's agents, one after the other.
      population: to which the block belongs. Of an agent in another block the block's share is
        zero, and shares add up.
      sources: each gives a block's ``[..., N]`` array.
    """
    place = agents - index[0].astype(agents.dtype)
    here = (place >= 0) & (place < index.shape[0])
    place = jnp.clip(place, 0, index.shape[0] - 1)

    def share(values: Array) -> Array:
        found = jnp.moveaxis(jnp.take(values, place, axis=-1), -1, 0)
        mine = here.reshape((-1,) + (1,) * (found.ndim - 1))
        return population.combine(jnp.where(mine, found, 0.0)[..., None])

    return {name: share(sources[name]()) for name in fields}
