"""What has a say in a run's numbers, as plain data: to tell whether two runs are one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from memoa_jax._version import __version__
from memoa_jax.config import Config, Study
from memoa_jax.config_faults import plugins_at, show, tables_at
from memoa_jax.config_plugins import is_file
from memoa_jax.files import file_hash
from memoa_jax.plugins import find

PACKAGES = ("jax", "jaxlib", "numpy")


def versions() -> dict[str, str]:
    """Return the versions of this program and of what computes for it."""
    return {"memoa_jax": __version__, **{name: version(name) for name in PACKAGES}}


def identity(
    config: Config | Study, known: dict[str, str] | None = None, *, record: bool = True
) -> dict[str, Any]:
    """Return a config as plain data, files by their content; what it is called has no say.

    Args:
      config: as loaded.
      known: the hashes of files by path; grows.
      record: whether what is kept of single agents has a say.
    """
    known = {} if known is None else known
    without: dict[str, Any] = {"name": True, "sweep": {"metric", "top"}}
    raw = config.model_dump(exclude=without if record else {**without, "record": True})
    for _, table in tables_at(raw, ("series", "encoder", "participation")):
        table.pop("cache", None)
        path = table.get("path")
        if path is not None and Path(path).is_file():
            with contextlib.suppress(OSError):  # whoever reads it will tell
                known[path] = known.get(path) or file_hash(Path(path))
                table["path"] = known[path]
    for place, table in plugins_at(raw):
        for key in [key for key in table if is_file(key) and Path(str(table[key])).is_file()]:
            table[key] = known[table[key]] = known.get(table[key]) or file_hash(Path(table[key]))
        table["plug-in"] = _source(table, str(place[0]))
        table.pop("folder", None)
    return raw


def plugins(config: Config | Study) -> dict[str, dict[str, str | None]]:
    """Return the plug-ins of a config by what names them: their source's hash, their version."""
    raw = config.model_dump(exclude_none=True)
    return {
        ".".join(map(str, place)): {"kind": table["kind"], **_source(table, str(place[0]))}
        for place, table in plugins_at(raw)
    }


def _source(table: Mapping[str, Any], family: str) -> dict[str, str | None]:
    plugin = find(table["kind"], family, table.get("folder"))
    return {"sha256": plugin.digest(), "version": plugin.version}


def difference(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """Return the first key in which two identities differ, with both values; None if in none.

    Example:
      >>> difference({"agents": 5, "cost": {"effort": 1.0}}, {"agents": 5, "cost": {"effort": 2.0}})
      'cost.effort = 2.0 where this has 1.0'
    """
    here, there = (dict(_flat(one, "")) for one in (mine, theirs))
    for key in dict.fromkeys([*here, *there]):
        if here.get(key) != there.get(key) or (key in here) != (key in there):
            other, own = (show(one[key]) if key in one else "none" for one in (there, here))
            return f"{key} = {other} where this has {own}"
    return None


def _flat(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the values of nested tables under their dotted keys."""
    if isinstance(node, dict | list | tuple) and node:
        pairs = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in pairs:
            yield from _flat(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node
