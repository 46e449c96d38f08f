"""Agents that differ in what they pay: costs of their own, given one by one or drawn.

A drawn cost is a function of (seed, agent) alone, as every draw (`memoa_jax.draws`), so an agent
pays the same in any population, block or shard.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from memoa_jax.arguments import number
from memoa_jax.draws import Stream, normals
from memoa_jax.game import GameCost
from memoa_jax.groups import costs_by_agent, several
from memoa_jax.types import Agents, Observation, Scalar, record

_FIELDS = ("tracking", "consensus", "effort")
"""What may differ from agent to agent; their order is that of the draws."""


@record
class CostSpread:
    """How far apart agents' costs are: standard deviations of the logarithms of their factors.

        tracking^i = tracking exp(spread.tracking z^i),   z^i standard normal, once per agent

    and so for `consensus` and `effort`. The cost itself is the median agent's; a factor keeps its
    sign. With 0.5 two thirds of the agents lie within a factor of 1.65, with 1 of 2.7.

    Leaves are numbers >= 0; None: nothing differs, and nothing is drawn.

    Raises:
      ValueError: if a field given as a Python number is negative or not finite.

    Example:
      >>> CostSpread(effort=0.5).effort
      0.5
    """

    tracking: Scalar | None = None
    consensus: Scalar | None = None
    effort: Scalar | None = None

    def __post_init__(self) -> None:
        for name in _FIELDS:
            value = getattr(self, name)
            number("CostSpread", name, value, ">= 0", lambda width: width >= 0)


def own_costs(
    cost: GameCost, spread: CostSpread | None, observation: Observation, groups: int | None = None
) -> GameCost:
    """Return what a block's agents pay: leaves are scalars, or [N] where agents differ.

    Exact; three normals per agent where all of the costs are drawn.

    Args:
      cost: leaves are scalars, or one number per agent of the whole population; with `groups`,
        one per group.
      spread: by what factors costs differ beside; None: by none.
      observation: whose block it is; its dtype is the costs'.
      groups: how many groups are told apart; None: none are.

    Raises:
      ValueError: if agents differ and nobody said who they are.
    """
    dtype, agents = observation.features.dtype, observation.agents
    if groups is not None:
        return drawn_costs(
            costs_by_agent(cost, observation.population, dtype), spread, agents, dtype
        )
    leaves = {}
    for name in ("tracking", "consensus", "ensemble", "effort", "forgetting"):
        leaves[name] = jnp.asarray(getattr(cost, name), dtype)
        if leaves[name].ndim:
            # A place past the last agent stands for nobody, and takes what is there.
            leaves[name] = jnp.take(leaves[name], _known(agents).index, mode="clip")
    return drawn_costs(GameCost(**leaves), spread, agents, dtype)


def drawn_costs(
    cost: GameCost, spread: CostSpread | None, agents: Agents | None, dtype: Any
) -> GameCost:
    """Return a block's costs times every agent's own factors; see `CostSpread`.

    Example:
      >>> drawn_costs(GameCost(effort=2.0), None, None, jnp.float32).effort
      2.0
    """
    found = {}
    for draw, name in enumerate(_FIELDS):
        width = None if spread is None else getattr(spread, name)
        if width is not None:
            z = normals(_known(agents), Stream.COSTS, draw, 1, dtype)[0]
            found[name] = getattr(cost, name) * jnp.exp(jnp.asarray(width, dtype) * z)
    return dataclasses.replace(cost, **found)


def _known(agents: Agents | None) -> Agents:
    if agents is None:
        raise ValueError(
            "cost: agents have costs of their own and the observation does not say who they are: "
            "allowed is an Observation with `agents`"
        )
    return agents


def differing(cost: GameCost, spread: CostSpread | None, *names: str) -> bool:
    """Tell whether any of the named costs differs from agent to agent; known when traced.

    Example:
      >>> differing(GameCost(), CostSpread(effort=0.1), "tracking", "consensus")
      False
    """
    return any(
        several(getattr(cost, name))
        or (spread is not None and getattr(spread, name, None) is not None)
        for name in names
    )


def most_agents(cost: GameCost) -> int | None:
    """Return how many agents costs are given for; None where no cost is given one by one.

    Example:
      >>> most_agents(GameCost(effort=np.ones(5))), most_agents(GameCost())
      (5, None)
    """
    given = [np.shape(getattr(cost, name)) for name in _FIELDS]
    return min((shape[0] for shape in given if shape), default=None)


def check_own_costs(owner: str, cost: GameCost) -> None:
    """Refuse costs that no population could pay; numbers that are traced pass.

    Raises:
      ValueError: if a cost is neither a number nor [N], differs where it may not, is not finite,
        or is an effort not above 0.
    """
    for name in ("tracking", "consensus", "ensemble", "effort", "forgetting"):
        value, own = getattr(cost, name), name in _FIELDS
        shape = np.shape(value)
        if len(shape) > own:
            allowed = "a number, or one per agent [N]" if own else "a number, the same for all"
            raise ValueError(f"{owner}: cost.{name} has shape {shape}: allowed is {allowed}")
        if not shape or isinstance(value, jax.core.Tracer):
            continue
        least = 0.0 if name == "effort" else -math.inf
        wrong = np.flatnonzero(~(np.isfinite(value) & (np.asarray(value) > least)))
        if wrong.size:
            allowed = "finite numbers > 0" if name == "effort" else "finite numbers"
            found = f"{np.asarray(value)[wrong[0]]} for agent {wrong[0]}"
            raise ValueError(f"{owner}: cost.{name} is {found}: allowed is {allowed}")
