"""One run of a config: build once, simulate each policy on the same draws, compare, write."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.monitoring
import numpy as np
from numpy.typing import NDArray

from memoa_jax import build, canary, preflight
from memoa_jax._version import __version__
from memoa_jax.choices import METRICS
from memoa_jax.config import (
    POLICIES,
    Config,
    Cost,
    Decentralized,
    Game,
    GivenFeatures,
    ParticipationFile,
)
from memoa_jax.config_faults import ConfigError
from memoa_jax.config_file import to_toml
from memoa_jax.download import DownloadError
from memoa_jax.metrics import Summary
from memoa_jax.report import (
    Comparison,
    Finished,
    file_hash,
    platform_facts,
    summarise,
    write,
)
from memoa_jax.series import Series
from memoa_jax.simulate import simulate
from memoa_jax.types import Encoder, explain


class RunError(Exception):
    """A run that failed for its numbers or its environment, in one line."""


def run(config: Config, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Run every policy of a config, write the result files, and return the summary.

    A keyboard interrupt ends the run early: what finished is written, and the summary says
    what did not.

    Args:
      config: as loaded; x64 must be on already if its dtype is float64.
      folder: an existing folder for the four files.
      say: receives one line of progress per policy.

    Raises:
      ConfigError: if the library refuses what the config asks for.
      RunError: if the installed jax computes wrong numbers, or the environment fails.
      KeyboardInterrupt: if interrupted before the first policy finished.
    """
    with in_one_line():
        canary.check_build()
        series = build.series(config.series)
        encoder = build.encoder(config, series.num_points)
        build.present(config, series.num_points)
    found = compare(config, series, encoder, say)
    summary = summarise(found)
    files = {file.name: file for file in input_files(config).values()}
    facts = {**manifest(config.dtype, files), "seed": config.seed}
    write(folder, summary, _arrays(series, found.policies), to_toml(config, folder), facts)
    return summary


def compare(
    config: Config, series: Series, encoder: Encoder, say: Callable[[str], None]
) -> Comparison:
    """Run every policy of a config on the same draws.

    Raises:
      ConfigError, RunError, KeyboardInterrupt: as `run`, which see.
    """
    planned = policies(config)
    finished: list[Finished] = []
    measured: Summary
    spent = {}
    for label, table in planned.items():  # all of them, before any computes
        with in_one_line(f"policy {label}: "), compile_clock() as compiling:
            start = time.perf_counter()
            words = preflight.check(*build.simulation(config, series, encoder, table))
            spent[label] = time.perf_counter() - start, sum(compiling)
        say(f"{label}: {words}")
    with finishing(finished):
        for label, table in planned.items():
            with in_one_line(f"policy {label}: "):
                one, measured = _finish(config, series, encoder, label, table, spent[label])
            finished.append(one)
            say(
                f"{label}: server RMSE {one.metrics['server_rmse']:.5g}, worst agent "
                f"{one.metrics['worst_agent_rmse']:.5g}, {one.seconds:.1f} s "
                f"({len(finished)} of {len(planned)})"
            )
    return Comparison(
        name=config.name,
        agents=config.agents,
        seed=config.seed,
        dtype=config.dtype,
        series=series.name,
        steps=series.num_points - 1,
        outputs=series.targets.shape[1],
        policies=finished,
        not_run=list(planned)[len(finished) :],
        # the same for every policy: they follow from the series alone
        scored_steps=int(measured.scored_steps),
        persistence=float(measured.persistence_rmse),
        running_mean=float(measured.running_mean_rmse),
    )


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
        if isinstance(table, Game) and table.game == "hindsight"
    }
    missing: dict[str, Decentralized] = {}
    named = [_uncoupled(game) for game in games.values() if not _is_coupled(game.cost)]
    for label, game in games.items():
        if _uncoupled(game) not in [*named, *missing.values()]:
            missing[f"uncoupled:{label}"] = _uncoupled(game)
    if len(missing) == 1:
        missing = {"uncoupled": next(iter(missing.values()))}
    return {**planned, **missing} if config.run.uncoupled else planned


def _is_coupled(cost: Cost) -> bool:
    return cost.consensus != 0 or cost.ensemble != 0


def _uncoupled(game: Game) -> Decentralized:
    keys = game.model_dump(include={"horizon", "window", "sync_every", "greedy_effort"})
    cost = game.cost.model_copy(update={"consensus": 0.0, "ensemble": 0.0})
    return Decentralized(kind="decentralized", name="uncoupled", cost=cost, **keys)


def _finish(
    config: Config,
    series: Series,
    encoder: Encoder,
    label: str,
    table: POLICIES,
    spent: tuple[float, float],
) -> tuple[Finished, Summary]:
    """Simulate one policy and bring what is kept of it to the host; its state is let go.

    `spent` are the seconds that the preflight took, and those of them that went in compilation.
    """
    start = time.perf_counter()
    with compile_clock() as compiling:
        arguments, options = build.simulation(config, series, encoder, table)
        result = simulate(*arguments, **options)
        jax.block_until_ready((result.server, result.mean_field, result.summary))
    seconds = time.perf_counter() - start + spent[0]
    measured = result.summary
    trajectories = {
        f"server/{label}": np.asarray(result.server),
        f"mean_field/{label}": np.asarray(result.mean_field),
    }
    for field, values in (result.recorded or {}).items():
        trajectories[f"recorded/{label}/{field}"] = np.asarray(values)
    names = (*METRICS, "best_readout_worst_cost")
    return Finished(
        label=label,
        kind=table.kind,
        game=table.game,
        metrics={name: float(getattr(measured, name)) for name in names},
        worst_agent=int(measured.worst_agent),
        diverged_agents=int(measured.diverged_agents),
        status=int(result.status),
        notes=explain(result.status),
        seconds=seconds,
        compile_seconds=min(sum(compiling) + spent[1], seconds),
        trajectories=trajectories,
    ), measured


@contextmanager
def compile_clock() -> Iterator[list[float]]:
    """Collect the seconds that JAX spends on lowering and compiling."""
    durations: list[float] = []

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        # Tracing is left out: traces nest, and their durations would count twice.
        if event.endswith(("/jaxpr_to_mlir_module_duration", "/backend_compile_duration")):
            durations.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield durations
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


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
    except DownloadError as error:
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
    return {table: file for table, file in files.items() if file is not None}


def manifest(dtype: str, files: Mapping[str, Path]) -> dict[str, Any]:
    """Return what is needed to repeat a run; no path, no time, no name of the machine.

    Args:
      dtype: of the run.
      files: read by it, by the names to give them.
    """
    device = jax.devices()[0]
    return {
        "memoa_jax": __version__,
        **{package: version(package) for package in ("jax", "jaxlib", "numpy")},
        **platform_facts(),
        "backend": jax.default_backend(),
        "device": device.device_kind,
        "devices": jax.device_count(),
        "dtype": dtype,
        "inputs": {name: file_hash(file) for name, file in files.items()},
    }
