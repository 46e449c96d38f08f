"""What to keep of single agents' lives, and nothing else: the choice, its check, the picking."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import jax.numpy as jnp

from memoa_jax.types import Array, record, static

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
    fields: tuple[Field, ...], agents: Array, sources: Mapping[Field, Callable[[], Array]]
) -> dict[str, Array]:
    """Return the chosen agents' fields at one step, agents first; nothing else is computed.

    Args:
      fields: which of the sources.
      agents: [m] int32.
      sources: each gives a block's ``[..., N]`` array.
    """
    return {
        name: jnp.moveaxis(jnp.take(sources[name](), agents, axis=-1), -1, 0) for name in fields
    }
