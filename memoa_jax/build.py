"""From a checked config to the library's objects. The library itself never sees a config."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from memoa_jax import build_plugins as plugins
from memoa_jax import (
    download,
    encoder_groups,
    encoders,
    experts,
    mixture,
    participation,
    policies,
    scaling,
)
from memoa_jax.config import (
    ENCODERS,
    POLICIES,
    Config,
    Game,
    GivenFeatures,
    Group,
    Heterogeneous,
    ParticipationFile,
    PluginEncoder,
)
from memoa_jax.config_affine import Affine
from memoa_jax.config_faults import ConfigError
from memoa_jax.config_file import put
from memoa_jax.config_plugins import PluginMixture, PluginPolicy, PluginTable
from memoa_jax.config_series import SERIES, Boc, Ett, OwnTable, PluginSeries, PublicData
from memoa_jax.config_values import Table, kind_of
from memoa_jax.contracts import Sizes, check_encoder, check_mixture, check_policy, check_series
from memoa_jax.cost_spread import CostSpread
from memoa_jax.draws import seed_words
from memoa_jax.game import GameCost
from memoa_jax.recording import Record
from memoa_jax.series import SERIES_KINDS
from memoa_jax.timeseries import Series, part
from memoa_jax.types import Agents, Encoder, Mixture, Participation, Policy

MIXTURE_KINDS: Mapping[str, Callable[..., Mixture]] = {
    "ridge": mixture.ridge_mixture,
    "uniform": mixture.uniform_mixture,
    "ewa": experts.exponential_weights,
    "boa": experts.bernstein_aggregation,
    "mlpoly": experts.polynomial_potentials,
    "fixed_share": experts.fixed_share,
}
PARTICIPATION_KINDS: Mapping[str, Callable[..., Participation]] = {
    "bernoulli": participation.bernoulli,
    "markov": participation.markov,
    "late": participation.late_joiners,
}
_DOWNLOADS = {Boc: download.BANK_OF_CANADA, Ett: download.ETT_H1}


Changes = Mapping[str, Any]
"""Values in place of a config's, traced or not, by dotted keys: "policy.cost.effort"."""
UNCHANGED: Changes = {}


def _keys(table: Table, *without: str) -> dict[str, Any]:
    """Return a table's own keys as keyword arguments."""
    return table.model_dump(exclude={"kind", "name", *without})


def _changed(keys: dict[str, Any], changes: Changes, family: str) -> dict[str, Any]:
    """Return keys with the values of the changes that belong to a family's table."""
    for key, value in changes.items():
        owner, _, rest = key.partition(".")
        if owner == family:
            put(keys, rest, value)
    return keys


def series_file(table: SERIES) -> Path | None:
    """Return the file that a series is read from, downloading it first; None if it has none."""
    if isinstance(table, PublicData) and table.path is None:
        return download.fetch(_DOWNLOADS[type(table)], url=table.url, cache=table.cache)
    return Path(table.path) if isinstance(table, OwnTable | PublicData) and table.path else None


def series(table: SERIES) -> Series:
    """Build the series of a config, under the name that the config gives it."""
    keys = _keys(table, "standardise", "published", "scored_from")
    if isinstance(table, OwnTable | PublicData):
        keys["path"] = series_file(table)
    if isinstance(table, OwnTable):
        keys["rows"] = tuple(table.rows) if table.rows else None
    if isinstance(table, PluginSeries):
        with plugins.told(table):
            built = check_series(plugins.made(table))
    else:
        built = SERIES_KINDS[kind_of(type(table))](**keys)
    if table.standardise:
        wanted = "levels" if table.standardise is True else table.standardise
        built = scaling.standardise(built, wanted)
    if table.scored_from >= built.num_points:
        allowed = f"allowed is 1..{built.num_points - 1}, the rows that are predicted"
        raise ConfigError([f"series.scored_from = {table.scored_from}: {allowed}"])
    built = part(built, table.scored_from)
    return dataclasses.replace(built, name=table.name) if table.name else built


def encoder(
    config: Config, points: int, changes: Changes = UNCHANGED, series: Series | None = None
) -> Encoder:
    """Build the encoder of a config for a series of `points` points; of groups that differ, all.

    A plug-in may be made of the series, and is held to its contract on it.
    """
    common, groups = _encoder(config, config.encoder, points, changes, series), config.group or []
    if not any(group.encoder for group in groups):
        return common
    return encoder_groups.grouped(
        [
            common
            if group.encoder is None
            else _encoder(config, group.encoder, points, UNCHANGED, series)
            for group in groups
        ]
    )


def _encoder(
    config: Config, table: ENCODERS, points: int, changes: Changes, series: Series | None
) -> Encoder:
    """Build the encoder of one table."""
    if isinstance(table, PluginEncoder):
        return _plugin_encoder(config, table, series)
    if isinstance(table, GivenFeatures):
        return encoders.given_features(_given(table, points, config.agents))
    keys = _changed(_keys(table), changes, "encoder")
    views = keys.pop("views")
    built: Encoder = getattr(encoders, kind_of(type(table)))(**keys)
    return _seen(built, views)


def _seen(built: Encoder, views: Mapping[str, Any] | None) -> Encoder:
    """Return an encoder whose agents see the inputs in their own ways, if they do."""
    if views is None:
        return built
    return encoders.views(
        built, max_delay=views["delay"], offset=views["offset"], noise=views["noise"]
    )


def _plugin_encoder(config: Config, table: PluginEncoder, series: Series | None) -> Encoder:
    built: Encoder = plugins.made(table, series)
    views = None if table.views is None else table.views.model_dump()
    if series is not None:
        sizes = _sizes(config, table, series, getattr(built, "features", 1))
        plugins.hold(table, built, sizes, check_encoder, own_inputs=views is not None)
    return _seen(built, views)


def _sizes(config: Config, table: PluginTable, series: Series, features: int) -> Sizes:
    """Return what a plug-in is checked for."""
    with plugins.told(table) as plugin:
        return Sizes.of(series, features, config.agents, config.dtype, plugin.files)


def _given(table: GivenFeatures, points: int, agents: int) -> NDArray[Any]:
    """Read precomputed features [n, N, d, p]."""
    where = f"encoder.path = {table.path}"
    features = _array(where, table.path, table.array)
    if features.dtype.kind not in "iuf" or features.ndim != 4:
        shape = f"{features.dtype} of shape {features.shape}"
        raise ConfigError([f"{where}: {shape}: allowed is numbers of shape [n, N, d, p]"])
    if features.shape[:2] != (points, agents):
        found = f"features of {features.shape[0]} points and {features.shape[1]} agents"
        raise ConfigError([f"{where}: {found}: allowed is {points} points and {agents} agents"])
    return features


def _array(where: str, path: str, name: str) -> NDArray[Any]:
    """Read one array of a NumPy file; `where` is what to call it in a fault."""
    try:
        with open(path, "rb") as stream:  # NumPy's own leaves a damaged archive open
            content = np.load(stream, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return content
            if name in content.files:
                return np.asarray(content[name])
            raise ConfigError([f"{where}: no array {name}; allowed: {', '.join(content.files)}"])
    except ConfigError:
        raise
    except Exception as error:  # whatever zipfile and NumPy come upon in a damaged file
        said = " ".join(str(error).split())
        raise ConfigError([f"{where}: not a NumPy file ({said})"]) from None


def policy(
    table: POLICIES, changes: Changes = UNCHANGED, groups: Sequence[Group] | None = None
) -> Policy:
    """Build one policy of a config, which tells the groups apart unless it is to pool them."""
    if isinstance(table, PluginPolicy):
        made: Policy = plugins.made(table)
        return made
    build = getattr(policies, kind_of(type(table)))
    keys = _changed(_keys(table), changes, "policy")
    pooled = keys.pop("groups", None) == "pooled"
    if groups and not pooled and not isinstance(table, Affine):
        keys |= _apart(table, keys, groups)
    if "cost" in keys:
        keys["cost"] = GameCost(**keys["cost"])
    if keys.get("spread") is not None:
        keys["spread"] = CostSpread(**keys["spread"])
    built: Policy = build(**{k: v for k, v in keys.items() if v is not None})
    return built


def _apart(table: POLICIES, keys: dict[str, Any], groups: Sequence[Group]) -> dict[str, Any]:
    """Return the keys of a policy in which groups differ, one number per group."""
    forecast = keys["game"] == "forecast"
    alone = [group.greedy for group in groups]
    own = (
        [group.cost for group in groups]
        if isinstance(table, Game | Heterogeneous) or forecast
        else alone
    )
    cost = {name: _each(own, name, value) for name, value in keys["cost"].items()}
    if table.name == "uncoupled":  # the run's own comparison, whatever couples the groups
        cost |= {"consensus": 0.0, "ensemble": 0.0}
    found: dict[str, Any] = {"groups": len(groups), "cost": cost}
    if not forecast:
        found["window"] = _each(alone, "window", keys["window"])
    if (
        isinstance(table, Game | Heterogeneous)
        and not forecast
        and any(one.effort for one in alone)
    ):
        effort = keys["greedy_effort"]
        base = cost["effort"] if effort is None else effort
        each = base if isinstance(base, tuple) else (base,) * len(groups)
        found["greedy_effort"] = tuple(
            number if one.effort is None else one.effort
            for one, number in zip(alone, each, strict=True)
        )
    return found


def _each(own: Sequence[Table], name: str, common: Any) -> Any:
    """Return what stands at a key in each of some tables, a tuple; or what they have in common."""
    given = [getattr(one, name, None) for one in own]
    if all(value is None for value in given):
        return common
    return tuple(common if value is None else value for value in given)


def check_gains(config: Config, table: POLICIES, series: Series, encoder: Encoder) -> None:
    """Hold the gains of an affine policy against the run's sizes, known once it is built.

    Raises:
      ConfigError: if one does not fit.
    """
    if isinstance(table, Affine):
        place = [one.name for one in config.policy].index(table.name)
        faults = list(table.misfits(encoder.features, series.targets.shape[1]))
        if faults:
            raise ConfigError([f"policy.{place}.{fault}" for fault in faults])
    hold(config, table, series, encoder)


def hold(config: Config, table: POLICIES, series: Series, encoder: Encoder) -> None:
    """Hold a plug-in that is the policy or the mixture of a run to its contract.

    Raises:
      ConfigError: naming the plug-in and the contract that it breaks.
    """
    if isinstance(table, PluginPolicy):
        sizes = _sizes(config, table, series, encoder.features)
        streamed = config.run.schedule == "stream"
        plugins.hold(table, policy(table), sizes, check_policy, streamed=streamed)
    if isinstance(config.mixture, PluginMixture):
        sizes = _sizes(config, config.mixture, series, encoder.features)
        plugins.hold(config.mixture, server_mixture(config), sizes, check_mixture)


def server_mixture(config: Config, changes: Changes = UNCHANGED) -> Mixture:
    """Build the server's mixture."""
    if isinstance(config.mixture, PluginMixture):
        made: Mixture = plugins.made(config.mixture)
        return made
    keys = _changed(_keys(config.mixture), changes, "mixture")
    return MIXTURE_KINDS[kind_of(type(config.mixture))](**keys)


def present(config: Config, points: int) -> Participation | None:
    """Build who takes part when, in a run of `points` points; None is everybody, always."""
    table = config.participation
    if table is None:
        return None
    if not isinstance(table, ParticipationFile):
        return PARTICIPATION_KINDS[kind_of(type(table))](**_keys(table))
    where = f"participation.path = {table.path}"
    mask = _array(where, table.path, table.array)
    if mask.dtype != bool or mask.ndim != 2:
        shape = f"{mask.dtype} of shape {mask.shape}"
        raise ConfigError([f"{where}: {shape}: allowed is true and false of shape [n, N]"])
    if not mask[:points].any():
        raise ConfigError([f"{where}: nobody is ever present: allowed is somebody, some time"])
    if mask.shape[0] < points or mask.shape[1] != config.agents:
        found = f"{mask.shape[0]} points and {mask.shape[1]} agents"
        allowed = f"{points} points or more and {config.agents} agents"
        raise ConfigError([f"{where}: {found}: allowed is {allowed}"])
    return participation.given_participation(mask[:points])


def attendance(config: Config, points: int, agents: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """Return whose predictions count at each of `points` points, [n, m]; None is everybody's."""
    built = present(config, points)
    if built is None:
        return None
    key = seed_words(jax.random.key(config.seed))
    some = Agents(index=jnp.asarray(agents, jnp.uint32), key=key)
    return np.asarray(participation.attendance(built, some, points))


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


def mesh(config: Config) -> jax.sharding.Mesh | None:
    """Build the mesh of the devices that a config asks for; None leaves it to the schedule.

    Of several processes all devices take part.
    """
    devices = jax.devices()
    count = config.run.devices
    if count is None and jax.process_count() == 1:
        return None
    if count is not None and count > len(devices):
        allowed = f"allowed is 1..{len(devices)}, the devices that are here"
        raise ConfigError([f"run.devices = {count}: {allowed}"])
    return jax.sharding.Mesh(np.array(devices[:count]), ("agents",))


def simulation(
    config: Config, series: Series, encoder: Encoder, table: POLICIES
) -> tuple[tuple[Series, Encoder, Policy, Mixture], dict[str, Any]]:
    """Build the arguments of `simulate` for one policy of a config."""
    check_gains(config, table, series, encoder)
    options = {
        "num_agents": config.agents,
        "key": jax.random.key(config.seed),
        "record": record(config),
        "participation": present(config, series.num_points),
        "groups": config.sizes,
        "dtype": config.dtype,
        "mesh": mesh(config),
        **config.run.model_dump(exclude={"uncoupled", "devices", "sample"}),
    }
    made = policy(table, groups=config.group)
    return (series, encoder, made, server_mixture(config)), options
