"""Faults of a config in plain words: dotted key, value, what is allowed, a suggestion."""

from __future__ import annotations

import datetime
import difflib
import json
import os
from collections.abc import Iterator, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from memoa_jax.config import FAMILIES, PLUGINS, Config, Study
from memoa_jax.config_groups import all_agents
from memoa_jax.config_groups import between_keys as between_groups
from memoa_jax.config_kinds import KINDS, command_of
from memoa_jax.config_plugins import TAG, is_plugin, plugin_faults
from memoa_jax.config_sweep import between_keys
from memoa_jax.config_values import Table, kind_of
from memoa_jax.plugins import registered, short

Keys = tuple[str | int, ...]
"""Where a value stands in a config: ("policy", 0, "window")."""


class ConfigError(Exception):
    """A config that cannot be run; `faults` holds one line per fault."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults: list[str] = list(faults)


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
    for family in ("series", "encoder", "policy"):
        yield from _labels(raw, family)
    for keys, node in tables_at(raw, ("series", "encoder", "participation")):
        path, table = node.get("path"), FAMILIES[str(keys[0])].get(str(node.get("kind")))
        if table is not None and "path" not in table.model_fields:
            continue  # an unknown key, and told as one
        if is_plugin(node.get("kind"), str(keys[0]), FAMILIES[str(keys[0])]):
            continue
        if isinstance(path, str) and path and not os.path.isfile(path):
            yield (*keys, "path"), f"{_dotted(keys)}.path = {json.dumps(path)}: no such file"
    yield from _plugins(raw)
    yield from between_keys(raw)
    default = Config.model_fields["agents"].default
    yield from between_groups(raw, default)
    if "seed" in raw and "seeds" in raw and command_of(raw) == "run":
        yield ("seeds",), "seeds: seed is given too; allowed is one of them"
    for keys, policy in tables_at(raw, ["policy"]):
        late = policy.get("staleness")
        offline = policy.get("information") == "offline" and policy.get("game") != "forecast"
        if offline and type(late) is int and late > 0:
            fault = f'{_dotted(keys)}.staleness = {late}: allowed is 0 with information = "offline"'
            yield (*keys, "staleness"), fault
        if policy.get("features") == "moments" and policy.get("game") == "forecast":
            allowed = 'allowed is "realised" with game = "forecast"'
            yield (*keys, "features"), f'{_dotted(keys)}.features = "moments": {allowed}'
    late = raw.get("participation")
    first, last = (late.get(key) if isinstance(late, dict) else None for key in ("first", "last"))
    if type(first) is int and type(last) is int and 0 <= last < first:
        fault = f"participation.last = {last}: allowed is a whole number >= first, {first}"
        yield ("participation", "last"), fault
    record, agents = raw.get("record"), all_agents(raw, default)
    wanted = record.get("agents") if isinstance(record, dict) else None
    for index, agent in enumerate(wanted if isinstance(wanted, list) else []):
        if type(agent) is int and type(agents) is int and agents > 0 and agent >= agents:
            place = f"record.agents.{index} = {agent}"
            yield ("record", "agents", index), f"{place}: allowed is 0 to {agents - 1}"


def plugins_at(raw: dict[str, Any]) -> Iterator[tuple[Keys, dict[str, Any]]]:
    """Yield the tables of a raw config that name plug-ins, with their places."""
    for keys, table in tables_at(raw, list(PLUGINS)):
        family = str(keys[0])
        if is_plugin(table.get("kind"), family, FAMILIES[family]):
            yield keys, table


def _plugins(raw: dict[str, Any]) -> Iterator[tuple[Keys, str]]:
    """Yield what is wrong with plug-ins, which are imported for it."""
    for keys, table in plugins_at(raw):
        family = str(keys[0])
        for key, fault in plugin_faults(family, table, PLUGINS[family].model_fields):
            shown = f" = {show(table[key])}" if key in table else ""
            yield (*keys, key), f"{_dotted((*keys, key))}{shown}: {fault}"


def tables_at(
    raw: dict[str, Any], families: Sequence[str]
) -> Iterator[tuple[Keys, dict[str, Any]]]:
    """Yield the tables of some families with their places, one or several of each."""
    for family in families:
        node = raw.get(family)
        if isinstance(node, dict):
            yield (family,), node
        for index, one in enumerate(node if isinstance(node, list) else []):
            if isinstance(one, dict):
                yield (family, index), one


def _labels(raw: dict[str, Any], family: str) -> Iterator[tuple[Keys, str]]:
    """Yield the labels of a list of tables that another one has, or that the run itself uses."""
    seen: set[str] = set()
    for keys, table in tables_at(raw, [family]):
        kind, known = table.get("kind"), FAMILIES[family]
        bundled = str(kind) in known
        if not isinstance(raw[family], list) or not (bundled or is_plugin(kind, family, known)):
            continue
        label = str(table.get("name", kind if bundled else short(str(kind))))
        place = f"{_dotted(keys)}.name = {show(label)}"
        kept = label in ("persistence", "running_mean") or label.startswith("uncoupled")
        if family == "policy" and kept:
            yield (*keys, "name"), f"{place}: kept for the run's own comparisons"
        if label in seen:
            yield (*keys, "name"), f"{place}: taken by another {family}; give each its own"
        seen.add(label)


def _dotted(keys: Keys) -> str:
    return ".".join(key if key and key.isprintable() else repr(key) for key in map(str, keys))


def _explain(raw: dict[str, Any], details: ErrorDetails) -> tuple[Keys, str]:
    """Say one fault found by the schema."""
    keys = _place(raw, details["loc"])
    dotted = _dotted(keys)
    owner, annotation = _walk(raw, keys)
    match details["type"]:
        case "extra_forbidden" if keys == ("record",):
            return keys, "record: allowed in a run of one series, one encoder and one seed only"
        case "extra_forbidden" if keys[0] in KINDS and len(keys) == 1:
            return keys, f"{dotted}: {command_of(raw)} is given too; allowed is one of them"
        case "extra_forbidden" if keys == ("seeds",):
            return keys, f"seeds: allowed is {command_of(raw)}.seeds"
        case "extra_forbidden":
            known = list(owner.model_fields) if owner else []
            known += [*Study.model_fields, *KINDS] if owner is Config else []
            known.sort(key=lambda name: {"kind": 0, "name": 1}.get(name, 2))
            return keys, f"{dotted}: unknown key{did_you_mean(str(keys[-1]), known)}"
        case "union_tag_not_found":
            kinds = ", ".join(FAMILIES[_family(keys)])
            return (*keys, "kind"), f"{dotted}.kind: missing; allowed: {kinds}"
        case "union_tag_invalid":
            kind = details["input"].get("kind")  # the tag is its text
            family = _family(keys)
            known = [*FAMILIES[family], *(registered(family) if family in PLUGINS else [])]
            hint = did_you_mean(str(kind), known)
            if family in PLUGINS and "." in str(kind):
                hint = "; a plug-in is package.module:function"
            return (*keys, "kind"), f"{dotted}.kind = {show(kind)}: unknown kind{hint}"
        case "missing":
            return keys, f"{dotted}: missing; allowed is {describe(annotation)}"
    value, choices = details["input"], [str(choice) for choice in _choices(annotation)]
    close = difflib.get_close_matches(value, choices, 1) if isinstance(value, str) else []
    hint = f"; did you mean {close[0]}?" if close else ""
    most = details["ctx"]["le"] if details["type"] == "less_than_equal" else None
    bound = "" if most is None or f"{most:.17g}" in describe(annotation) else f", at most {most}"
    return keys, f"{dotted} = {show(value)}: allowed is {describe(annotation)}{bound}{hint}"


def _family(keys: Keys) -> str:
    """Return the family that a table belongs to: the last of its keys that is one's name."""
    return next(str(key) for key in reversed(keys) if key in FAMILIES)


def _place(raw: dict[str, Any], loc: Sequence[str | int]) -> Keys:
    """Return the place of a fault in the file, without what the schema put in between."""
    first, *rest = loc
    depth = 1 if rest and isinstance(rest[0], int) else 0
    family = FAMILIES.get(str(first), {})
    # A group's own encoder stands deeper.
    if (
        first == "group"
        and rest[1:2] == ["encoder"]
        and rest[2:3]
        and rest[2] in FAMILIES["encoder"]
    ):
        del rest[2]
    # The kind of a family's table; a family of one is no union: nothing was added.
    if len(family) > 1 and len(rest) > depth and rest[depth] in (*family, TAG):
        del rest[depth]
    # The number of a table that stands alone in the file, in a study of one series.
    if depth and isinstance(raw.get(str(first)), dict):
        del rest[0]
    return (first, *rest)


def _walk(raw: Any, keys: Keys) -> tuple[type[Table] | None, Any]:
    """Return the table that holds `keys`, and the annotation of the value there."""
    owner: type[Table] | None = None
    # What a study has several of is a list only there.
    listed = keys[0] in ("series", "encoder") and isinstance(raw.get(keys[0]), list)
    several = keys[0] == "seeds" or listed
    annotation: Any = KINDS.get(command_of(raw), Study if several else Config)
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
        # Where a kind may be left out, it is the family's first.
        kind = kind_of(found[0]) if kind is None else kind
        found = [table for table in found if kind_of(table) in (kind, "")]
        found.sort(key=kind_of, reverse=True)  # a plug-in's, of any kind, comes last
        found = found[:1]
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
