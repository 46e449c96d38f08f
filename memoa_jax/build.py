"""From a checked config to the library's objects. The library itself never sees a config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memoa_jax import download, encoders, mixture, policies
from memoa_jax.config import (
    POLICIES,
    Boc,
    Config,
    Ett,
    GivenFeatures,
    OwnTable,
    Published,
    Table,
    kind_of,
)
from memoa_jax.config_faults import ConfigError
from memoa_jax.game import GameCost
from memoa_jax.recording import Record
from memoa_jax.series import SERIES_KINDS, Series
from memoa_jax.types import Encoder, Mixture, Policy

_DOWNLOADS = {Boc: download.BANK_OF_CANADA, Ett: download.ETT_H1}


def _keys(table: Table, *without: str) -> dict[str, Any]:
    """Return a table's own keys as keyword arguments."""
    return table.model_dump(exclude={"kind", "name", *without})


def series_file(table: Table) -> Path | None:
    """Return the file that a series is read from, downloading it first; None if it has none."""
    if isinstance(table, Published) and table.path is None:
        return download.fetch(_DOWNLOADS[type(table)], url=table.url, cache=table.cache)
    return Path(table.path) if isinstance(table, OwnTable | Published) and table.path else None


def series(table: Table) -> Series:
    """Build the series of a config."""
    keys = _keys(table)
    if isinstance(table, OwnTable | Published):
        keys["path"] = series_file(table)
    if isinstance(table, OwnTable):
        keys |= {"name": table.name, "rows": tuple(table.rows) if table.rows else None}
    return SERIES_KINDS[kind_of(type(table))](**keys)


def encoder(config: Config, points: int) -> Encoder:
    """Build the encoder of a config for a series of `points` points."""
    table = config.encoder
    if isinstance(table, GivenFeatures):
        return encoders.given_features(_given(table, points, config.agents))
    built: Encoder = getattr(encoders, kind_of(type(table)))(**_keys(table, "views"))
    if table.views is None:
        return built
    views = table.views
    return encoders.views(built, max_delay=views.delay, offset=views.offset, noise=views.noise)


def _given(table: GivenFeatures, points: int, agents: int) -> NDArray[Any]:
    """Read precomputed features [n, N, d, p]."""
    where = f"encoder.path = {table.path}"
    try:
        content = np.load(table.path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            features = content
        elif table.array in content.files:
            features = content[table.array]
        else:
            names = ", ".join(content.files)
            raise ConfigError([f"{where}: no array {table.array}; allowed: {names}"])
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError([f"{where}: not a NumPy file ({error})"]) from None
    if features.dtype.kind not in "iuf" or features.ndim != 4:
        shape = f"{features.dtype} of shape {features.shape}"
        raise ConfigError([f"{where}: {shape}: allowed is numbers of shape [n, N, d, p]"])
    if features.shape[:2] != (points, agents):
        found = f"features of {features.shape[0]} points and {features.shape[1]} agents"
        raise ConfigError([f"{where}: {found}: allowed is {points} points and {agents} agents"])
    return features


def policy(table: POLICIES) -> Policy:
    """Build one policy of a config."""
    build = getattr(policies, kind_of(type(table)))
    keys = {key: value for key, value in _keys(table, "cost").items() if value is not None}
    built: Policy = build(cost=GameCost(**table.cost.model_dump()), **keys)
    return built


def server_mixture(config: Config) -> Mixture:
    """Build the server's mixture."""
    return mixture.ridge_mixture(**_keys(config.mixture))


def record(config: Config) -> Record | None:
    """Build the record, or None; agents named by default but not there are left out."""
    table = config.record
    if table is None:
        return None
    return Record(
        agents=tuple(agent for agent in table.agents if agent < config.agents),
        steps=None if table.steps is None else tuple(table.steps),
        fields=tuple(table.fields),
    )
