"""From a plug-in's table to the object that its function returns, held to its contract."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from memoa_jax.config_faults import ConfigError
from memoa_jax.config_plugins import PROVIDED, PluginTable, converted, family_of, signature
from memoa_jax.contracts import Sizes
from memoa_jax.plugins import Plugin
from memoa_jax.series import Series

MOST_KEPT = 8
_made: dict[tuple[Any, ...], Any] = {}
"""What the last plug-ins returned: a study and a descent build the same encoder many times."""
_checked: set[Any] = set()
"""What has been held to its contract, by source, structure and sizes."""


def made(table: PluginTable, series: Series | None = None) -> Any:
    """Return what a plug-in's function makes of its table.

    It is called once for the same arguments, outside of any program that is being traced.

    Args:
      table: the plug-in's.
      series: the run's; given to a function that has a parameter for it.

    Raises:
      ConfigError: if it is not found, or raises.
    """
    with told(table) as plugin:
        arguments: dict[str, Any] = converted(plugin, table.arguments)
        key: list[Any] = [
            plugin.digest(),
            table.kind,
            table.folder,
            json.dumps(arguments, sort_keys=True),
        ]
        key += [file.stat().st_mtime_ns for file in table.files().values()]
        wanted = PROVIDED.get(family_of(type(table)), ())
        if series is not None and "series" in wanted and "series" in (signature(plugin) or {}):
            arguments["series"] = series
            key.append(_content(series))
        if tuple(key) not in _made:
            with jax.ensure_compile_time_eval():
                found = plugin(**arguments)
            while len(_made) >= MOST_KEPT:
                del _made[next(iter(_made))]
            _made[tuple(key)] = found
        return _made[tuple(key)]


def hold(
    table: PluginTable, part: Any, sizes: Sizes, check: Callable[..., None], **how: Any
) -> None:
    """Hold what a plug-in returned to its contract, once for its source, structure and sizes.

    Raises:
      ConfigError: naming the plug-in and the contract that it breaks.
    """
    with told(table) as plugin:
        leaves, structure = jax.tree.flatten(part)
        types = [(np.shape(leaf), str(getattr(leaf, "dtype", type(leaf)))) for leaf in leaves]
        dims = sizes.dimensions
        about = (dims.inputs, dims.outputs, dims.features, sizes.agents, str(sizes.dtype))
        source = (table.kind, table.folder, plugin.digest())
        key = repr((source, str(structure), types, about, sorted(how.items())))
        if key not in _checked:
            check(part, sizes, **how)
            _checked.add(key)


@contextlib.contextmanager
def told(table: PluginTable) -> Iterator[Plugin]:
    """Find a plug-in, and tell whatever is wrong with it under its name.

    Raises:
      ConfigError: for every ValueError; a plug-in's own errors have become one.
    """
    place = f"{family_of(type(table))}.kind = {json.dumps(table.kind)}"
    try:
        yield table.found()
    except ValueError as error:
        said = " ".join(str(error).split())[:1000]
        raise ConfigError([f"{place}: {said}"]) from error


def _content(series: Series) -> str:
    """Return the SHA-256 of a series."""
    found = hashlib.sha256(f"{series.name} {series.scored_from} {series.targets.shape}".encode())
    for values in (series.inputs, series.targets):
        found.update(np.ascontiguousarray(values).tobytes())
    return found.hexdigest()
