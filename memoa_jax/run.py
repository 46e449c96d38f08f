"""One run of a config: build once, simulate each policy on the same draws, compare, write."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.monitoring
import numpy as np
from numpy.typing import NDArray

from memoa_jax import build, canary, preflight
from memoa_jax.checkpoint import Checkpoint, DamagedError
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
from memoa_jax.files import file_hash
from memoa_jax.identity import versions
from memoa_jax.keeping import Keeper
from memoa_jax.metrics import Summary
from memoa_jax.report import Comparison, Finished, platform_facts, summarise, write
from memoa_jax.series import Series
from memoa_jax.session import Session
from memoa_jax.simulate import Result, simulate
from memoa_jax.trouble import told
from memoa_jax.types import Encoder, explain


class RunError(Exception):
    """A run that failed for its numbers or its environment, in one line."""


class Common(NamedTuple):
    """What is the same for every policy of a run: it follows from the series alone."""

    scored_steps: int
    persistence: float
    running_mean: float

    @classmethod
    def of(cls, summary: Summary) -> Common:
        """Take it from one policy's figures."""
        return cls(
            scored_steps=int(summary.scored_steps),
            persistence=float(summary.persistence_rmse),
            running_mean=float(summary.running_mean_rmse),
        )


def run(
    config: Config, folder: Path, say: Callable[[str], None], session: Session | None = None
) -> dict[str, Any]:
    """Run every policy of a config, write the result files, and return the summary.

    A keyboard interrupt ends the run early: what there is of it is written, and the summary says
    what is not. Whenever a session keeps the run, so are the results so far.

    Args:
      config: as loaded; x64 must be on already if its dtype is float64.
      folder: an existing folder for the four files.
      say: receives one line of progress per policy.
      session: keeps the run, and knows what to go on from.

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
        files = {file.name: file for file in input_files(config).values()}
        facts = {**manifest(config.dtype, files), "seed": config.seed}

    def written(found: Comparison) -> dict[str, Any]:
        summary = summarise(found)
        write(folder, summary, _arrays(series, found.policies), to_toml(config, folder), facts)
        return summary

    summary = written(compare(config, series, encoder, say, session, on_partial=written))
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
    on_partial: Callable[[Comparison], Any] | None = None,
) -> Comparison:
    """Run every policy of a config on the same draws.

    Args:
      config: as loaded.
      series: built of it.
      encoder: likewise.
      say: receives one line of progress per policy.
      session: keeps each policy's run.
      within: begins the names under which it does.
      on_partial: given all that is known whenever a run is kept on its way.

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
        one = _Run(config, series, encoder, label, table, session, f"{within}policy-{index}")
        with in_one_line(f"policy {label}: "):
            words = one.prepare()
        say(f"{label}: {words}")
        runs.append(one)
    with finishing(common), nullcontext() if session is None else session.looking():
        for one in runs:

            def partial(done: int, _: int, result: Result, one: _Run = one) -> None:
                under_way[:] = [(one.finished(result, done), done)]
                common.append(Common.of(result.summary))
                if on_partial is not None:
                    on_partial(found())

            with in_one_line(f"policy {one.label}: "):
                ready, same = one.play(partial)
            under_way.clear()
            finished.append(ready)
            common.append(same)
            say(
                f"{one.label}: server RMSE {ready.metrics['server_rmse']:.5g}, worst agent "
                f"{ready.metrics['worst_agent_rmse']:.5g}, {ready.seconds:.1f} s "
                f"({len(finished)} of {len(planned)})"
            )
    return found()


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


@dataclass
class _Run:
    """One policy's run, from its preflight to what is kept of it."""

    config: Config
    series: Series
    encoder: Encoder
    label: str
    table: POLICIES
    session: Session | None
    name: str
    seconds: float = 0.0
    compile_seconds: float = 0.0
    kept: Checkpoint | None = None

    def prepare(self) -> str:
        """Compile it and compare what it needs with what there is, unless it is done already."""
        self.kept = None if self.session is None else self.session.finished(self.name)
        if self.kept is not None:
            return "is there"
        with self._clocked():
            return preflight.check(*self._arguments())

    def play(self, partial: Callable[[int, int, Any], None]) -> tuple[Finished, Common]:
        """Simulate it and bring what is kept of it to the host; its state is let go."""
        if self.kept is not None:
            facts = dict(self.kept.facts)
            same = Common(*facts.pop("common"))
            return Finished(**facts, trajectories=self.kept.arrays), same
        keeper = self._keeper(partial)
        with self._clocked():
            arguments, options = self._arguments()
            result = simulate(*arguments, **options, keeper=keeper)
            jax.block_until_ready((result.server, result.mean_field, result.summary))
        found, same = self.finished(result), Common.of(result.summary)
        if self.session is not None:
            facts = {**vars(found), "common": list(same)}
            self.session.finish(self.name, facts.pop("trajectories"), facts)
        return found, same

    def finished(self, result: Result, rows: int | None = None) -> Finished:
        """Return what is kept of a result; of one that was cut off, the rows there are."""
        measured, label = result.summary, self.label
        trajectories = {
            f"server/{label}": np.asarray(result.server)[:rows],
            f"mean_field/{label}": np.asarray(result.mean_field)[:rows],
        }
        for field, values in (result.recorded or {}).items():
            trajectories[f"recorded/{label}/{field}"] = np.asarray(values)[: self._recorded(rows)]
        names = (*METRICS, "best_readout_worst_cost")
        notes = explain(result.status) + told(result.trouble, self.config.run.containment)
        return Finished(
            label=label,
            kind=self.table.kind,
            game=self.table.game,
            metrics={name: float(getattr(measured, name)) for name in names},
            worst_agent=int(measured.worst_agent),
            diverged_agents=int(measured.diverged_agents),
            status=int(result.status),
            notes=notes,
            seconds=self.seconds,
            compile_seconds=min(self.compile_seconds, self.seconds),
            trajectories=trajectories,
        )

    def _recorded(self, rows: int | None) -> int | None:
        """Return how many of the recorded steps are among the first rows."""
        steps = None if self.config.record is None else self.config.record.steps
        return rows if rows is None or steps is None else sum(step < rows for step in steps)

    def _arguments(self) -> tuple[Any, dict[str, Any]]:
        return build.simulation(self.config, self.series, self.encoder, self.table)

    def _keeper(self, partial: Callable[[int, int, Any], None]) -> Keeper | None:
        """Return what keeps the run, unless somebody has asked to stop before it."""
        if self.session is None:
            return None
        self.session.look()
        return self.session.keeper(self.name, self.label, partial)

    @contextmanager
    def _clocked(self) -> Iterator[None]:
        """Add to the seconds spent, and to those of them that went in compilation."""
        start = time.perf_counter()
        with compile_clock() as compiling:
            try:
                yield
            finally:
                self.seconds += time.perf_counter() - start
                self.compile_seconds += sum(compiling)


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
    return {table: file for table, file in files.items() if file is not None}


def manifest(dtype: str, files: Mapping[str, Path]) -> dict[str, Any]:
    """Return what is needed to repeat a run; no path, no time, no name of the machine.

    Args:
      dtype: of the run.
      files: read by it, by the names to give them.
    """
    device = jax.devices()[0]
    return {
        **versions(),
        **platform_facts(),
        "backend": jax.default_backend(),
        "device": device.device_kind,
        "devices": jax.device_count(),
        "dtype": dtype,
        "inputs": {name: file_hash(file) for name, file in files.items()},
    }
