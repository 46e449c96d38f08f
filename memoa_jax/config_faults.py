"""Faults of a config in plain words: dotted key, value, what is allowed, a suggestion."""

from __future__ import annotations

import datetime
import difflib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from memoa_jax.config import FAMILIES, Config, Table

Keys = tuple[str | int, ...]
"""Where a value stands in a config: ("policy", 0, "window")."""


class ConfigError(Exception):
    """A config that cannot be run; `faults` holds one line per fault."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = list(faults)


def explain(raw: dict[str, Any], error: ValidationError | None) -> list[tuple[Keys, str]]:
    """Return every fault of a raw config with its place, in the order of the schema.

    Args:
      raw: the config as read.
      error: what the schema found, or None; faults between keys are looked for in any case.
    """
    details = [] if error is None else error.errors(include_url=False)
    return [_explain(raw, one) for one in details] + list(_between_keys(raw))


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return "; did you mean NAME?", or what is allowed where nothing is close.

    Example:
      >>> did_you_mean("windw", ["cost", "window"])
      '; did you mean window?'
      >>> did_you_mean("x", ["cost", "window"])
      '; allowed: cost, window'
    """
    known = list(dict.fromkeys(known))
    close = difflib.get_close_matches(name, known, 1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; allowed: {', '.join(known)}" if known else ""


def show(value: Any) -> str:
    """Write a value as TOML would, shortened, on one line.

    Example:
      >>> show("a"), show(True), show([1, 2])
      ('"a"', 'true', '[1, 2]')
    """
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    text = repr(value) if isinstance(value, float) else json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _between_keys(raw: dict[str, Any]) -> Iterator[tuple[Keys, str]]:
    """Yield the faults that no single key shows. `raw` may be wrong in any other way too."""
    policies = raw.get("policy")
    seen: set[str] = set()
    for index, policy in enumerate(policies if isinstance(policies, list) else []):
        if not isinstance(policy, dict) or policy.get("kind") not in FAMILIES["policy"]:
            continue
        label = str(policy.get("name", policy["kind"]))
        if label in ("persistence", "running_mean") or label.startswith("uncoupled"):
            fault = f"policy.{index}.name = {show(label)}: kept for the run's own comparisons"
            yield ("policy", index, "name"), fault
        if label in seen:
            fault = (
                f"policy.{index}.name = {show(label)}: taken by another policy; give each its own"
            )
            yield ("policy", index, "name"), fault
        seen.add(label)
    for table in ("series", "encoder"):
        node = raw.get(table)
        path = node.get("path") if isinstance(node, dict) else None
        if isinstance(path, str) and path and not Path(path).is_file():
            yield (table, "path"), f"{table}.path = {json.dumps(path)}: no such file"
    record, agents = raw.get("record"), raw.get("agents", Config.model_fields["agents"].default)
    wanted = record.get("agents") if isinstance(record, dict) else None
    for index, agent in enumerate(wanted if isinstance(wanted, list) else []):
        if type(agent) is int and type(agents) is int and agents > 0 and agent >= agents:
            place = f"record.agents.{index} = {agent}"
            yield ("record", "agents", index), f"{place}: allowed is 0 to {agents - 1}"


def _explain(raw: dict[str, Any], details: ErrorDetails) -> tuple[Keys, str]:
    """Say one fault found by the schema."""
    keys = _strip_kind(details["loc"])
    dotted = ".".join(key if key.isprintable() else repr(key) for key in map(str, keys))
    owner, annotation = _walk(raw, keys)
    match details["type"]:
        case "extra_forbidden":
            known = list(owner.model_fields) if owner else []
            return keys, f"{dotted}: unknown key{did_you_mean(str(keys[-1]), known)}"
        case "union_tag_not_found":
            kinds = ", ".join(FAMILIES[str(keys[0])])
            return (*keys, "kind"), f"{dotted}.kind: missing; allowed: {kinds}"
        case "union_tag_invalid":
            kind = details["ctx"]["tag"]
            hint = did_you_mean(kind, list(FAMILIES[str(keys[0])]))
            return (*keys, "kind"), f"{dotted}.kind = {show(kind)}: unknown kind{hint}"
        case "missing":
            return keys, f"{dotted}: missing; allowed is {describe(annotation)}"
    value, choices = details["input"], [str(choice) for choice in _choices(annotation)]
    close = difflib.get_close_matches(value, choices, 1) if isinstance(value, str) else []
    hint = f"; did you mean {close[0]}?" if close else ""
    return keys, f"{dotted} = {show(value)}: allowed is {describe(annotation)}{hint}"


def _strip_kind(loc: Sequence[str | int]) -> Keys:
    """Drop the kind that pydantic adds to the place of a fault inside a family's table."""
    depth = 2 if loc[0] == "policy" else 1
    family = FAMILIES.get(str(loc[0]), {})
    # A family of one is no union: nothing was added.
    if len(family) > 1 and len(loc) > depth and loc[depth] in family:
        return (*loc[:depth], *loc[depth + 1 :])
    return tuple(loc)


def _walk(raw: Any, keys: Keys) -> tuple[type[Table] | None, Any]:
    """Return the table that holds `keys`, and the annotation of the value there."""
    owner: type[Table] | None = None
    annotation: Any = Config
    for key in keys:
        owner = _table(annotation, raw)
        if owner is not None:
            field = owner.model_fields.get(str(key))
            annotation = None if field is None else Annotated[field.annotation, field]
        else:
            lists = [a for a in _alternatives(annotation) if get_origin(a) is list]
            annotation = get_args(lists[0])[0] if lists else None
        try:
            raw = raw[key]
        except (KeyError, IndexError, TypeError):
            raw = None
    return owner, annotation


def _alternatives(annotation: Any) -> Iterator[Any]:
    """Yield the bare members of a union, nested or annotated, without None."""
    if get_origin(annotation) is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for member in get_args(annotation):
            yield from _alternatives(member)
    elif annotation is not type(None):
        yield annotation


def _table(annotation: Any, raw: Any) -> type[Table] | None:
    """Return the table that an annotation stands for, by the value's kind if it is a family."""
    found = [a for a in _alternatives(annotation) if isinstance(a, type) and issubclass(a, Table)]
    if len(found) > 1:
        kind = raw.get("kind") if isinstance(raw, dict) else None
        found = [
            table for table in found if kind in get_args(table.model_fields["kind"].annotation)
        ]
    return found[0] if len(found) == 1 else None


def _choices(annotation: Any) -> list[Any]:
    literals = [a for a in _alternatives(annotation) if get_origin(a) is Literal]
    return [choice for literal in literals for choice in get_args(literal)]


def describe(annotation: Any) -> str:
    """Say what a key may hold: its own description, or what follows from its type.

    Example:
      >>> describe(list[Literal["a", "b"]] | None)
      'a list of: a, b'
    """
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        described = [e.description for e in inner[1:] if isinstance(e, FieldInfo) and e.description]
        return described[0] if described else describe(inner[0])
    if origin in (Union, UnionType):
        texts = [describe(member) for member in inner if member is not type(None)]
        return " or ".join(dict.fromkeys(texts))
    if origin is Literal:
        return ", ".join(map(str, inner))
    if origin is list:
        return f"a list of: {describe(inner[0])}"
    return (
        "a table" if isinstance(annotation, type) and issubclass(annotation, Table) else "a value"
    )
