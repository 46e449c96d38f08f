"""Config files: read TOML, apply `--set`, check all of it, write the resolved file."""

from __future__ import annotations

import difflib
import json
import operator
import os
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from memoa_jax.config import Config, Study
from memoa_jax.config_faults import (
    ConfigError,
    Keys,
    did_you_mean,
    explain,
    plugins_at,
    tables_at,
)
from memoa_jax.config_kinds import model_of
from memoa_jax.config_plugins import is_file
from memoa_jax.config_sweep import Sweep
from memoa_jax.config_tune import TuneConfig
from memoa_jax.config_tune import faults as tuning_faults
from memoa_jax.plugins import beside, forget_changed, is_full, short

_PATHS = ("path", "cache")
"""The keys that hold file names, in the tables of `_FAMILIES`."""
_FAMILIES = ("series", "encoder", "participation")
_ASSIGNMENT = "allowed is KEY=VALUE with a dotted key, such as policy.0.window=5"
_SEEDS: dict[Keys, str] = {("seed",): "seeds", ("seeds",): "seed"}
"""Which key of a file an override of the other one replaces."""


def load(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Config | Study:
    """Read a config file, apply overrides, and check it against the schema.

    Plug-ins that it names are imported, anew where a source of theirs has changed: see
    `memoa_jax.plugins`.

    File names in the result are absolute: those of the file are taken from its own folder,
    those of an override from the working directory, as on any command line.

    Args:
      path: the TOML file.
      overrides: "a.b=value" each, see `override`. Of `seed` and `seeds` the last one counts.

    Returns:
      A `Sweep` if there is a `[sweep]`, a `TuneConfig` if there is a `[tune]`, a `Study` if
      several series, encoders or seeds are named, else a `Config`.

    Raises:
      ConfigError: with every fault of the file and of the overrides, one line each.
    """
    source = os.fspath(path)
    raw = _read(source)
    forget_changed()
    # The file's own name serves as the run's name, made fit for a folder.
    raw.setdefault("name", re.sub(r"[^A-Za-z0-9._-]+|^[.-]+", "_", Path(source).stem)[:100])
    anchor(raw, Path(source).resolve().parent)
    faults: list[str] = []
    origin: dict[Keys, str] = {}
    for text in overrides:
        said = f"--set {text if text.isprintable() else repr(text)}"
        try:
            place = override(raw, text)
        except ValueError as error:
            faults.append(f"{said}: {error}")
            continue
        origin[place] = said
        if place in _SEEDS:
            raw.pop(_SEEDS[place], None)
    anchor(raw, Path.cwd())
    locate(raw, Path(source).resolve().parent, Path.cwd())
    model = model_of(raw)
    error_found = None
    try:
        config = model.model_validate(raw)
    except ValidationError as error:
        error_found = error
    found = explain(raw, error_found)
    if error_found is None and isinstance(config, TuneConfig):
        found += tuning_faults(config)
    for keys, text in found:
        # map stops at the shorter place: an override is to blame for what it is in, or holds.
        blamed = [o for place, o in origin.items() if all(map(operator.eq, place, keys))]
        faults.append(f"{blamed[-1] if blamed else source}: {text}")
    if faults:
        raise ConfigError(faults)
    return config


def _read(source: str) -> dict[str, Any]:
    """Read a TOML file; every way in which that can fail is one fault."""
    try:
        if Path(source).is_dir():
            raise ConfigError([f"{source}: is a folder; give a .toml file"])
        text = Path(source).read_bytes().decode("utf-8-sig")
        return tomllib.loads(text)
    except FileNotFoundError:
        fault = f"no such file{_sibling(Path(source))}"
    except OSError as error:
        fault = f"cannot be read ({error.strerror})"
    except UnicodeDecodeError as error:
        fault = f"not a text file (byte {error.start} is not UTF-8)"
    except tomllib.TOMLDecodeError as error:
        fault = f"not valid TOML: {error}"
    except (ValueError, RecursionError) as error:  # a null byte in the name, absurd nesting
        fault = f"cannot be read ({error})"
    raise ConfigError([f"{source}: {fault}"])


def _sibling(path: Path) -> str:
    """Suggest a file of the same folder whose name is close."""
    stems = [p.stem for p in path.parent.glob("*.toml")] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.stem, stems, 1)
    return f"; did you mean {path.with_name(close[0] + '.toml')}?" if close else ""


def anchor(raw: dict[str, Any], folder: Path) -> None:
    """Make the relative file names of a raw config absolute, in place."""
    for table, key in _named_files(raw):
        # pathlib's expanduser raises on the home of nobody
        table[key] = os.path.normpath(folder / os.path.expanduser(table[key]))


def locate(raw: dict[str, Any], *folders: Path) -> None:
    """Tell every plug-in which of some folders its module stands in, in place.

    One that is told a folder which has it is left alone; so is one that none of them has, which
    is then among the installed packages.
    """
    for _, table in plugins_at(raw):
        kind, known = table["kind"], table.get("folder")
        if is_full(kind) and not (isinstance(known, str) and beside(kind, Path(known))):
            here = [str(folder) for folder in folders if beside(kind, folder)]
            table |= {"folder": here[0]} if here else {}


def _named_files(raw: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the tables of a raw config that name files, with the keys that hold the names."""
    plugged = [table for _, table in plugins_at(raw)]
    for table in plugged:
        for key in [key for key in table if key == "folder" or is_file(key)]:
            if isinstance(table[key], str) and table[key]:
                yield table, key
    for _, table in tables_at(raw, _FAMILIES):
        for key in _PATHS:
            if isinstance(table.get(key), str) and table[key] and table not in plugged:
                yield table, key


def override(raw: dict[str, Any], text: str) -> Keys:
    """Apply one "a.b=value" to a raw config, in place; return the place that it changed.

    The value is read as TOML and, failing that, taken as text. Lists are indexed by number,
    the tables in them also by name or kind. Tables on the way are created.

    Raises:
      ValueError: if the text is no assignment, or its path leads through something that is no
        table or to a list element that is not there.

    Example:
      >>> raw = {"policy": [{"kind": "greedy"}]}
      >>> override(raw, "policy.greedy.window=5"), raw["policy"][0]["window"]
      (('policy', 0, 'window'), 5)
    """
    path, equals, value = text.partition("=")
    if not equals:
        raise ValueError(_ASSIGNMENT)
    return put(raw, path, _value(value.strip()))


def put(raw: dict[str, Any], path: str, value: Any) -> Keys:
    """Set the value at a dotted key of a raw config, in place; return its place.

    Raises:
      ValueError: as `override`, which see.
    """
    names = [name.strip() for name in path.split(".")]
    if not all(names):
        raise ValueError(_ASSIGNMENT)
    node: Any = raw
    keys: list[str | int] = []
    for remaining, name in zip(range(len(names) - 1, -1, -1), names, strict=True):
        where = ".".join(map(str, keys))
        if not isinstance(node, dict | list):
            raise ValueError(f"{where} is no table")
        key: Any = _element(node, name, where) if isinstance(node, list) else name
        keys.append(key)
        if not remaining:
            node[key] = value
        elif isinstance(node, dict):
            node = node.setdefault(name, {})
        else:
            node = node[key]
    return tuple(keys)


def _element(items: list[Any], name: str, where: str) -> int:
    """Return the index of a list's element given by number, or by a table's name or kind."""
    if name.isdecimal():
        if int(name) < len(items):
            return int(name)
        raise ValueError(f"{where} has {len(items)} elements, counted from 0")
    known: list[str] = []
    tables = [item if isinstance(item, dict) else {} for item in items]
    # A table without a name goes by its kind; after that, any that is the only one of its kind.
    for values in (
        [table.get("name", short(str(table.get("kind")))) for table in tables],
        [table.get("kind") for table in tables],
    ):
        if values.count(name) == 1:
            return values.index(name)
        if name in values:
            raise ValueError(f"{where} has {values.count(name)} elements {name}; use a number")
        known += [value for value in values if isinstance(value, str)]
    raise ValueError(f"{where} has no element {name}{did_you_mean(name, known)}")


def _value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return parsed["value"] if list(parsed) == ["value"] else text


def to_toml(config: Config | Study, folder: Path) -> str:
    """Write a config with every default filled in; loading it gives the same config.

    The base of a sweep is written as it was given: which defaults hold may differ from point to
    point.

    Args:
      config: as loaded.
      folder: where the file will lie; file names are written relative to it.
    """
    if isinstance(config, Sweep):
        table = config.sweep.model_dump(exclude_none=True)
        raw = {**_relocated(config.written, folder), "sweep": table}
    else:
        raw = resolved(config, folder)
    return "\n".join(_lines(raw, ())) + "\n"


def resolved(config: Config | Study, folder: Path) -> dict[str, Any]:
    """Return a config as plain data, defaults filled in, file names relative to a folder."""
    raw = config.model_dump(exclude_none=True)
    if "seeds" in raw:
        del raw["seed"]
    return _relocated(raw, folder)


def _relocated(raw: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Make the file names of a raw config relative to a folder, in place, and return it."""
    for table, key in _named_files(raw):
        table[key] = _relative(table[key], folder)
    return raw


def _relative(path: str, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path, folder.resolve())).as_posix()
    except ValueError:  # another drive
        return path


def _lines(table: dict[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    """Yield a table's lines: its own values first (kind, then name, ahead), then its tables."""
    for key in sorted(table, key=lambda key: {"kind": 0, "name": 1}.get(key, 2)):
        value = table[key]
        if not isinstance(value, dict) and not _is_tables(value):
            yield f"{_key(key)} = {_toml(value)}"
    for key, value in table.items():
        dotted = ".".join((*path, _key(key)))
        if isinstance(value, dict):
            yield from ("", f"[{dotted}]", *_lines(value, (*path, _key(key))))
        elif _is_tables(value):
            for item in value:
                yield from ("", f"[[{dotted}]]", *_lines(item, (*path, _key(key))))


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml(key)


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def _toml(value: Any) -> str:
    """Write one value. JSON's strings, numbers and flags are TOML's, bar the delete character."""
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_key(key)} = {_toml(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
