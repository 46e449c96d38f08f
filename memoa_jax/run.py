"""One run of a config: build once, simulate each policy on the same draws, compare, write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import jax
import jax.monitoring
import numpy as np
from numpy.typing import NDArray

from memoa_jax import build, canary
from memoa_jax.checkpoint import DamagedError
from memoa_jax.config import (
    POLICIES,
    Config,
    Cost,
    Decentralized,
    Game,
    GivenFeatures,
    Heterogeneous,
    ParticipationFile,
    Study,
)
from memoa_jax.config_faults import ConfigError
from memoa_jax.config_file import to_toml
from memoa_jax.config_plugins import PluginTable
from memoa_jax.download import DownloadError
from memoa_jax.files import file_hash
from memoa_jax.identity import plugins, versions
from memoa_jax.policy_run import Common, PolicyRun, sizes_by_name
from memoa_jax.progress import SILENT, Watch
from memoa_jax.report import Comparison, Finished, platform_facts, summarise, write
from memoa_jax.series import Series
from memoa_jax.session import Session
from memoa_jax.simulate import Result
from memoa_jax.types import Encoder


class RunError(Exception):
    """A run that failed for its numbers or its environment, in one line."""


def run(
    config: Config,
    folder: Path,
    say: Callable[[str], None],
    session: Session | None = None,
    *,
    debug: bool = False,
    watch: Watch = SILENT,
) -> dict[str, Any]:
    """Run every policy of a config, write the result files, and return the summary.

    A keyboard interrupt ends the run early: what there is of it is written, and the summary says
    what is not. Whenever a session keeps the run, so are the results so far.

    Args:
      config: as loaded; x64 must be on already if its dtype is float64.
      folder: an existing folder for the four files.
      say: receives one line of progress per policy.
      session: keeps the run, and knows what to go on from.
      debug: whether to name the operation that first makes a number that is none; slow, and
        nothing is kept on the way.
      watch: told how each policy goes.

    Raises:
      ConfigError: if the library refuses what the config asks for.
      RunError: if the installed jax computes wrong numbers, or the environment fails.
      KeyboardInterrupt: if interrupted before the first policy finished.
    """
    with in_one_line():
        canary.check_build()
        series = build.series(config.series)
        encoder = build.encoder(config, series.num_points, series=series)
        build.present(config, series.num_points)
        files = {file.name: file for file in input_files(config).values()}
        facts = {**manifest(config, files), "seed": config.seed}

    def written(found: Comparison) -> dict[str, Any]:
        summary = summarise(found)
        write(folder, summary, _arrays(series, found.policies), to_toml(config, folder), facts)
        return summary

    options: dict[str, Any] = {
        "on_partial": written,
        "debug": debug,
        "watch": watch,
        "sampled": True,
    }
    summary = written(compare(config, series, encoder, say, session, **options))
    if session is not None and not summary["interrupted"]:
        session.clear()
    return summary


def compare(
    config: Config,
    series: Series,
    encoder: Encoder,
    say: Callable[[str], None],
    session: Session | None = None,
    *,
    within: str = "",
    sampled: bool = False,
    on_partial: Callable[[Comparison], Any] | None = None,
    debug: bool = False,
    watch: Watch = SILENT,
) -> Comparison:
    """Run every policy of a config on the same draws.

    Args:
      config: as loaded.
      series: built of it.
      encoder: likewise.
      say: receives one line of progress per policy.
      session: keeps each policy's run.
      within: begins the names under which it does.
      sampled: whether to keep what a report shows of single agents.
      on_partial: given all that is known whenever a run is kept on its way.
      debug: see `run`.
      watch: likewise.

    Raises:
      ConfigError, RunError, KeyboardInterrupt: as `run`, which see.
    """
    planned = policies(config)
    finished: list[Finished] = []
    common: list[Common] = []
    under_way: list[tuple[Finished, int]] = []

    def found() -> Comparison:
        there = [*finished, *(one for one, _ in under_way)]
        return Comparison(
            name=config.name,
            agents=config.agents,
            groups=sizes_by_name(config),
            seed=config.seed,
            dtype=config.dtype,
            series=series.name,
            steps=series.num_points - 1,
            outputs=series.targets.shape[1],
            policies=there,
            not_run=list(planned)[len(there) :],
            partial={one.label: steps for one, steps in under_way},
            **common[-1]._asdict(),
        )

    runs = []
    for index, (label, table) in enumerate(planned.items()):  # all of them, before any computes
        name = f"{within}policy-{index}"
        one = PolicyRun(config, series, encoder, label, table, session, name, debug, sampled)
        with in_one_line(f"policy {label}: "):
            words = one.prepare()
        say(f"{label}: {words}")
        runs.append(one)
    size = config.agents * series.num_points
    with finishing(common), nullcontext() if session is None else session.looking():
        for number, one in enumerate(runs, start=1):
            seen = watch.policy(one.label, number, len(runs), size, one.compiled)

            def partial(done: int, _: int, result: Result, one: PolicyRun = one) -> None:
                under_way[:] = [(one.finished(result, done), done)]
                common.append(Common.of(result.summary))
                if on_partial is not None:
                    on_partial(found())

            with in_one_line(f"policy {one.label}: "):
                ready, same = one.play(partial, seen)
            under_way.clear()
            finished.append(ready)
            common.append(same)
            _told(watch, ready, number, len(runs))
            say(
                f"{one.label}: server RMSE {ready.metrics['server_rmse']:.5g}, worst agent "
                f"{ready.metrics['worst_agent_rmse']:.5g}, {ready.seconds:.1f} s "
                f"({len(finished)} of {len(planned)})"
            )
    return found()


def _told(watch: Watch, one: Finished, number: int, of: int) -> None:
    """Tell the events of a policy that has finished."""
    facts = {"metrics": dict(one.metrics), "diverged_agents": one.diverged_agents}
    times = {"seconds": one.seconds, "compile_seconds": one.compile_seconds}
    watch.event("policy", policy=one.label, number=number, policies=of, **facts, **times)
    if one.notes:
        watch.event("trouble", policy=one.label, notes=list(one.notes))


def policies(config: Config) -> dict[str, POLICIES]:
    """Return the policies to run by label: those of the config, then the uncoupled games.

    Beside every hindsight game the same game without coupling (consensus = ensemble = 0) is
    run: most of the game's gain is its re-anchoring, and this shows what the coupling adds.
    Without coupling the information and the population's size have no influence, so one run
    serves all games that differ in these alone; and none is needed where the config names it.
    """
    planned: dict[str, POLICIES] = {policy.name: policy for policy in config.policy}
    games = {
        label: table
        for label, table in planned.items()
        if isinstance(table, Game | Heterogeneous) and table.game == "hindsight"
    }
    missing: dict[str, Decentralized | Heterogeneous] = {}
    named = [_uncoupled(game) for game in games.values() if not _is_coupled(config, game)]
    for label, game in games.items():
        if _uncoupled(game) not in [*named, *missing.values()]:
            missing[f"uncoupled:{label}"] = _uncoupled(game)
    if len(missing) == 1:
        missing = {"uncoupled": next(iter(missing.values()))}
    return {**planned, **missing} if config.run.uncoupled else planned


def _is_coupled(config: Config, game: Game | Heterogeneous) -> bool:
    """Tell whether some group's agents play for more than themselves."""
    groups = [] if config.group is None or game.groups == "pooled" else config.group
    if not groups:
        return _couples(game.cost)
    return any(
        _couples(game.cost.model_copy(update=group.cost.model_dump(exclude_none=True)))
        for group in groups
    )


def _couples(cost: Cost) -> bool:
    return cost.consensus != 0 or cost.ensemble != 0


def _uncoupled(game: Game | Heterogeneous) -> Decentralized | Heterogeneous:
    keys = game.model_dump(include={"horizon", "window", "sync_every", "greedy_effort", "groups"})
    cost = game.cost.model_copy(update={"consensus": 0.0, "ensemble": 0.0})
    if isinstance(game, Heterogeneous):  # its agents go by their own features alone, too
        keys |= game.model_dump(include={"features", "memory"})
        return Heterogeneous(
            kind="heterogeneous", name="uncoupled", cost=cost, spread=game.spread, **keys
        )
    return Decentralized(kind="decentralized", name="uncoupled", cost=cost, **keys)


@contextmanager
def in_one_line(where: str = "") -> Iterator[None]:
    """Turn refusals of the library and failures of the machine into one line each.

    A ValueError that does not say what is allowed is a bug, and keeps its traceback.
    """
    try:
        yield
    except ConfigError as error:
        raise ConfigError([where + fault for fault in error.faults]) from error
    except RunError as error:
        raise RunError(f"{where}{error}") from error
    except ValueError as error:
        if "allowed is" not in str(error):
            raise
        raise ConfigError([where + _line(error)]) from error
    except (DownloadError, DamagedError) as error:
        raise RunError(where + _line(error)) from error
    except OSError as error:
        raise ConfigError([where + _line(error)]) from error
    except (RuntimeError, MemoryError) as error:
        raise RunError(where + (_line(error) or "out of memory")) from error


@contextmanager
def finishing(done: Sized, told: Callable[[], str] | None = None) -> Iterator[None]:
    """Keep what a loop has done when it is cut short; as long as that is nothing, change nothing.

    An interrupt ends the loop and no more; a failure says in its line what is kept.

    Args:
      done: what the loop has finished so far; it grows meanwhile.
      told: says how much of it is where; None if a failure keeps nothing.
    """
    try:
        yield
    except KeyboardInterrupt:
        if not done:
            raise
    except RunError as error:
        if not done or told is None:
            raise
        raise RunError(f"{error}; {told()}") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:1000]


def _arrays(series: Series, finished: Sequence[Finished]) -> Mapping[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {"targets": np.asarray(series.targets)}
    for one in finished:
        arrays |= one.trajectories
    return arrays


def input_files(config: Config) -> dict[str, Path]:
    """Return the files that a run reads, by the table that names them."""
    files = {"series": build.series_file(config.series)}
    if isinstance(config.encoder, GivenFeatures):
        files["encoder"] = Path(config.encoder.path)
    if isinstance(config.participation, ParticipationFile):
        files["participation"] = Path(config.participation.path)
    tables = {"series": config.series, "encoder": config.encoder, "mixture": config.mixture}
    for place, table in [*tables.items(), *((f"policy {one.name}", one) for one in config.policy)]:
        if isinstance(table, PluginTable):
            files |= {f"{place} {key}": file for key, file in table.files().items()}
    return {table: file for table, file in files.items() if file is not None}


def manifest(config: Config | Study, files: Mapping[str, Path]) -> dict[str, Any]:
    """Return what is needed to repeat a run; no path, no time, no name of the machine.

    Args:
      config: of the run.
      files: read by it, by the names to give them.
    """
    device = jax.devices()[0]
    return {
        **versions(),
        **platform_facts(),
        "backend": jax.default_backend(),
        "device": device.device_kind,
        "devices": jax.device_count(),
        "dtype": config.dtype,
        "inputs": {name: file_hash(file) for name, file in files.items()},
        **({"plug-ins": found} if (found := plugins(config)) else {}),
    }
