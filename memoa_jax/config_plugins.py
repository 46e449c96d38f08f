"""Plug-ins in a config: their tables, and what is wrong with one before anything is built.

A plug-in's table holds the keys of its family, `kind` and `folder`; every other key is an argument
of its function. An argument named `path`, or whose name ends in `_path`, is a file that it reads.
Nothing here imports JAX; a plug-in that is named is imported, and may.
"""

from __future__ import annotations

import difflib
import inspect
import math
import os
import typing
from collections.abc import Container, Iterator, Mapping
from pathlib import Path as FilePath
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

from pydantic import ConfigDict, Field, GetCoreSchemaHandler, model_validator
from pydantic_core import CoreSchema, core_schema

from memoa_jax.config_values import Label, Path, Table, kind_of
from memoa_jax.plugins import (
    GROUPS,
    Plugin,
    PluginError,
    find,
    is_full,
    package_of,
    registered,
    short,
)

TAG = "<plug-in>"
"""What stands in a fault's place for the kind of a plug-in; no kind is written so."""
PROVIDED = {"encoder": ("series",)}
"""The parameters that a run fills in, by table; a config cannot."""


class PluginTable(Table):
    """The keys of every plug-in: what it is, and in which folder a module of its own stands."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")

    kind: Annotated[str, Field(description="the name of a kind, or package.module:function")]
    folder: Path | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """The other keys, which the function is given."""
        return dict(self.model_extra or {})

    def files(self) -> dict[str, FilePath]:
        """Return the files that it reads, by the arguments that name them."""
        return {
            key: FilePath(value)
            for key, value in self.arguments.items()
            if is_file(key) and isinstance(value, str)
        }

    def found(self) -> Plugin:
        """Import it.

        Raises:
          PluginError: as `plugins.find`.
        """
        return find(self.kind, family_of(type(self)), self.folder)


class PluginMixture(PluginTable):
    """a server of your own"""


class PluginPolicy(PluginTable):
    """a policy of your own; what the tables of results call it is its function's name"""

    game: ClassVar[str] = "none"

    name: Label

    @model_validator(mode="before")
    @classmethod
    def _default_name(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and isinstance(raw.get("kind"), str):
            return {"name": short(raw["kind"]), **raw}
        return raw


def family_of(table: type[PluginTable]) -> str:
    """Return the table of a config that a plug-in's table is for."""
    return table.__name__.removeprefix("Plugin").lower()


def is_file(argument: str) -> bool:
    """Tell whether an argument names a file, by its own name.

    Example:
      >>> is_file("path"), is_file("expert_path"), is_file("paths")
      (True, True, False)
    """
    return argument == "path" or argument.endswith("_path")


def is_plugin(kind: Any, family: str, bundled: Container[str]) -> bool:
    """Tell whether a kind of a table is a plug-in's. A built-in's name is the built-in's."""
    if not isinstance(kind, str) or kind in bundled or family not in GROUPS:
        return False
    return is_full(kind) or kind in registered(family)


class ByKind:
    """Marks a union of tables of which `kind` selects one: a bundled one, or the plug-in's.

    Args:
      family: the table of the config that it is for.
    """

    def __init__(self, family: str) -> None:
        self.family = family

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Return the schema of a union that is told apart by `kind`."""
        tables = {kind_of(table) or TAG: table for table in get_args(source)}
        bundled = {kind for kind in tables if kind != TAG}

        def tag(value: Any) -> str | None:
            if isinstance(value, Table):
                return kind_of(type(value)) or TAG
            if not isinstance(value, dict):
                return next(iter(tables))  # any table refuses it
            kind = value.get("kind")
            if is_plugin(kind, self.family, bundled):
                return TAG
            return None if kind is None else str(kind)

        choices = {kind: handler.generate_schema(table) for kind, table in tables.items()}
        return core_schema.tagged_union_schema(choices, discriminator=tag)


def plugin_faults(
    family: str, table: Mapping[str, Any], fields: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a plug-in of a raw config: the key to blame, and why.

    Args:
      family: the table that it stands in.
      table: its keys as given.
      fields: the keys that are the table's own, not arguments.
    """
    folder = table.get("folder")
    try:
        plugin = find(str(table["kind"]), family, folder if isinstance(folder, str) else None)
    except PluginError as error:
        yield "kind", str(error)
        return
    given = {key: value for key, value in table.items() if key not in fields}
    for key, value in given.items():
        if is_file(key) and isinstance(value, str) and not os.path.isfile(value):
            yield key, "no such file"
        elif not _is_plain(value):
            yield key, "allowed is a finite number, a text, true, false, or a list or table of them"
    yield from _signature_faults(plugin, given, PROVIDED.get(family, ()), fields)


def _signature_faults(
    plugin: Plugin,
    given: Mapping[str, Any],
    provided: tuple[str, ...],
    fields: Mapping[str, Any],
) -> Iterator[tuple[str, str]]:
    parameters = signature(plugin)
    if parameters is None:
        return
    kinds = {one.kind for one in parameters.values()}
    named = [
        name
        for name, one in parameters.items()
        if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    ]
    known = [name for name in named if name not in provided and name not in fields]
    for name, one in parameters.items():
        needed = one.default is one.empty and one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)
        if needed and one.kind is one.POSITIONAL_ONLY:
            yield "kind", f"{name} is positional only; allowed are parameters given by name"
        elif needed and name in fields and name not in provided:
            yield "kind", f"its parameter {name} is a key of the table's own; give it another name"
        elif needed and name not in provided and name not in given:
            yield name, f"missing; {plugin.name} needs it"
    for key, value in given.items():
        if key in provided:
            yield key, "is filled in by the run; leave it out"
        elif key not in known and inspect.Parameter.VAR_KEYWORD not in kinds:
            yield key, f"unknown argument of {plugin.name}{_nearest(key, known)}"
        elif key in known:
            wanted = _wanted(parameters[key])
            if wanted is not None and not _fits(value, wanted):
                yield key, f"allowed is {_WORDS.get(wanted) or ', '.join(map(str, wanted))}"


def signature(plugin: Plugin) -> Mapping[str, inspect.Parameter] | None:
    """Return the parameters of a plug-in's function; None where Python cannot tell."""
    for resolved in (True, False):  # annotations may name what is there for a type checker only
        try:
            return inspect.signature(plugin.function, eval_str=resolved).parameters
        except (ValueError, TypeError):
            return None
        except Exception:  # whatever evaluating an annotation raises
            continue
    return None


def converted(plugin: Plugin, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments as the function takes them: a whole number for a float becomes one."""
    parameters = signature(plugin) or {}
    return {
        key: float(value)
        if type(value) is int and key in parameters and _wanted(parameters[key]) is float
        else value
        for key, value in given.items()
    }


def takes_whole(table: PluginTable, key: str) -> bool:
    """Tell whether an argument is a whole number: by its annotation, its default or its value."""
    try:
        parameter = (signature(table.found()) or {}).get(key)
    except PluginError:
        return False
    wanted = None if parameter is None else _wanted(parameter)
    default = None if parameter is None else parameter.default
    return wanted is int or (wanted is None and type(table.arguments.get(key, default)) is int)


_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a finite number",
    str: "a text",
    bool: "true or false",
}


def _wanted(parameter: inspect.Parameter) -> Any:
    """Return what a parameter takes: int, float, str, bool, the choices of a Literal, or None."""
    found = [one for one in _alternatives(parameter.annotation) if one is not type(None)]
    for one in found:
        if get_origin(one) is Literal:
            return get_args(one)
    plain = [one for one in found if one in _WORDS]
    if float in plain and set(plain) <= {int, float}:  # also an array or a float
        return float
    if len(found) == len(plain) == 1:
        return plain[0]
    # Without an annotation the default tells; one that is whole may stand for any number.
    default = parameter.default
    unsaid = parameter.annotation is parameter.empty and type(default) is not int
    return type(default) if unsaid and type(default) in _WORDS else None


def _alternatives(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) in (Union, UnionType):
        for one in get_args(annotation):
            yield from _alternatives(one)
    elif get_origin(annotation) is Annotated:
        yield from _alternatives(typing.get_args(annotation)[0])
    else:
        yield annotation


def _fits(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, tuple):
        return any(type(value) is type(one) and value == one for one in wanted)
    return type(value) is wanted or (wanted is float and type(value) is int)


def _is_plain(value: Any) -> bool:
    """Tell whether a value can be written back: TOML also has dates, and numbers that are none."""
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | str) or (
        isinstance(value, float) and math.isfinite(value)
    )


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; allowed: {', '.join(known)}" if known else "; it takes none"


def plugin_lines(family: str, bundled: Container[str]) -> Iterator[str]:
    """Yield a line for every plug-in that an installed package registers, for `memoa list`.

    None is imported for it; a name that is taken is refused.
    """
    for name, points in sorted(registered(family).items() if family in GROUPS else []):
        named = ", ".join(f"{point.value} ({package_of(point)})" for point in points)
        if name in bundled:
            yield f"{name:16} REFUSED, the name of a built-in: {named}; give its full name"
        elif len(points) > 1:
            yield f"{name:16} REFUSED, registered more than once: {named}; give a full name"
        else:
            yield f"{name:16} plug-in {named}"
