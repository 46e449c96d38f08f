"""The tables `[[group]]` of a config: agents that see, pay or learn otherwise than the others.

Nothing here imports JAX.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from memoa_jax.config_values import Count, Label, NonNegative, Number, Positive, Share, Table

Keys = tuple[str | int, ...]


class GroupCost(Table):
    """What the group's agents pay in the games and as forecasters, where they pay otherwise."""

    tracking: Number | None = None
    consensus: Number | None = None
    ensemble: Number | None = None
    effort: Positive | None = None
    forgetting: NonNegative | None = None


class GroupGreedy(Table):
    """The group's greedy policy, and its greedy steps between games; `forgetting` of the former."""

    effort: Positive | None = None
    forgetting: NonNegative | None = None
    window: Count | None = None


class GroupTable(Table):
    """A group's name, its size and what its agents pay; what they see stands in `Group`."""

    name: Label
    agents: Count | None = None
    share: Share | None = None
    cost: GroupCost = GroupCost()
    greedy: GroupGreedy = GroupGreedy()


def sizes(groups: Sequence[GroupTable], agents: int) -> tuple[int, ...]:
    """Return the groups' numbers of agents: those given, or what their shares of all come to.

    Shares are rounded so that all agents are spent: those who lose most are rounded up.

    Example:
      >>> halves = [GroupTable(name="a", share=0.5), GroupTable(name="b", share=0.5)]
      >>> sizes(halves, 7)
      (4, 3)
    """
    if all(group.agents is not None for group in groups):
        return tuple(group.agents or 0 for group in groups)
    return _parted([group.share or 0.0 for group in groups], agents)


def _parted(shares: Sequence[float], agents: int) -> tuple[int, ...]:
    exact = [share * agents for share in shares]
    whole = [math.floor(size + 1e-9) for size in exact]
    order = sorted(range(len(exact)), key=lambda k: (whole[k] - exact[k], k))
    for k in order[: max(agents - sum(whole), 0)]:
        whole[k] += 1
    return tuple(whole)


def filled(raw: Any) -> Any:
    """Return a raw config whose `agents` is the sum of its groups', where those give their own."""
    counts = _counts(raw)
    if counts is None or "agents" in raw:
        return raw
    return {**raw, "agents": sum(counts)}


def all_agents(raw: dict[str, Any], default: int) -> Any:
    """Return the number of agents of a raw config, whatever stands there."""
    counts = _counts(raw)
    return raw.get("agents", default if counts is None else sum(counts))


def _counts(raw: Any) -> list[int] | None:
    """Return the groups' numbers of agents, if every one of them gives a number."""
    groups = raw.get("group") if isinstance(raw, dict) else None
    if not isinstance(groups, list) or not groups:
        return None
    counts = [one.get("agents") if isinstance(one, dict) else None for one in groups]
    return [n for n in counts if type(n) is int] if all(type(n) is int for n in counts) else None


def between_keys(raw: dict[str, Any], default: int) -> Iterator[tuple[Keys, str]]:
    """Yield the faults of the groups that no single key shows, with their places.

    Args:
      raw: the config as read; it may be wrong in any other way too.
      default: the number of agents of a config that gives none.
    """
    groups = raw.get("group")
    if not isinstance(groups, list) or not groups:
        policies = raw.get("policy")
        for index, policy in enumerate(policies if isinstance(policies, list) else []):
            if isinstance(policy, dict) and "groups" in policy:
                place, shown = f"policy.{index}.groups", json.dumps(policy["groups"], default=str)
                fault = "allowed is a run with [[group]] tables"
                yield ("policy", index, "groups"), f"{place} = {shown}: {fault}"
        return
    if "tune" in raw:
        yield ("group",), "group: allowed in a run, a study or a sweep, not beside [tune]"
    seen: set[Any] = set()
    for index, group in enumerate(groups):
        if not isinstance(group, dict):
            continue
        name, encoder = group.get("name"), group.get("encoder")
        if isinstance(name, str) and name in seen:
            fault = "taken by another group; give each its own"
            yield ("group", index, "name"), f'group.{index}.name = "{name}": {fault}'
        seen.add(name if isinstance(name, str) else None)
        if isinstance(encoder, dict) and encoder.get("kind") == "given":
            place = f'group.{index}.encoder.kind = "given"'
            fault = (
                "allowed is random_features, echo_state; features that are given are [encoder]'s"
            )
            yield ("group", index, "encoder", "kind"), f"{place}: {fault}"
    yield from _size_faults(raw, [group for group in groups if isinstance(group, dict)], default)


def _size_faults(
    raw: dict[str, Any], groups: Sequence[dict[str, Any]], default: int
) -> Iterator[tuple[Keys, str]]:
    """Yield what is wrong with the groups' sizes."""
    by_share = any("share" in group for group in groups)
    key, other = ("share", "agents") if by_share else ("agents", "share")
    complete = True
    for index, group in enumerate(groups):
        if other in group:
            fault = "another group has a share; allowed is agents for all groups, or share for all"
            yield ("group", index, other), f"group.{index}.{other} = {group[other]}: {fault}"
        if key not in group:
            complete = False
            if other not in group:
                allowed = "a whole number >= 1" if key == "agents" else "a number > 0 and <= 1"
                yield ("group", index, key), f"group.{index}.{key}: missing; allowed is {allowed}"
    if not complete:
        return
    counts, agents = _counts(raw), all_agents(raw, default)
    if not by_share:
        if counts is not None and type(agents) is int and agents != sum(counts):
            fault = f"allowed is {sum(counts)}, the sum of the groups' agents, or no such key"
            yield ("agents",), f"agents = {agents}: {fault}"
        return
    shares = [group["share"] for group in groups]
    if not all(type(share) in (int, float) and 0 < share <= 1 for share in shares):
        return
    if abs(sum(shares) - 1) > 1e-9:
        fault = f"the groups' shares sum to {sum(shares):.6g}: allowed is shares that sum to 1"
        yield ("group", 0, "share"), f"group.0.share = {shares[0]}: {fault}"
    elif type(agents) is int and agents >= 1:
        for index, size in enumerate(_parted(shares, agents)):
            if size < 1:
                fault = f"nobody of {agents} agents: allowed is a share of one agent or more"
                yield ("group", index, "share"), f"group.{index}.share = {shares[index]}: {fault}"
