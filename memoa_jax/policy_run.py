"""One policy's run in a command: its preflight, its simulation, and what is kept of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.monitoring
import numpy as np

from memoa_jax import build, preflight
from memoa_jax.checkpoint import Checkpoint
from memoa_jax.choices import METRICS
from memoa_jax.config import POLICIES, Config
from memoa_jax.debug import watched
from memoa_jax.keeping import Keeper
from memoa_jax.metrics import GroupSummary, Summary
from memoa_jax.report import GROUP_FIGURES, Finished
from memoa_jax.series import Series
from memoa_jax.session import Session
from memoa_jax.simulate import Result, simulate
from memoa_jax.trouble import told
from memoa_jax.types import Encoder, explain


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


@dataclass
class PolicyRun:
    """One policy's run, from its preflight to what is kept of it."""

    config: Config
    series: Series
    encoder: Encoder
    label: str
    table: POLICIES
    session: Session | None
    name: str
    debug: bool
    seconds: float = 0.0
    compile_seconds: float = 0.0
    kept: Checkpoint | None = None
    watched: str | None = None

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
            if self.debug:
                result, self.watched = watched(arguments, options)
            else:
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
        if self.debug:
            notes.append(f"debug: {self.watched or 'no operation made a number that is none'}")
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
            groups=by_group(result.groups, sizes_by_name(self.config)),
            gaps=gaps(result.groups),
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


def sizes_by_name(config: Config) -> dict[str, int]:
    """Return the groups' numbers of agents by name; nothing where there are none."""
    names = [group.name for group in config.group or []]
    return dict(zip(names, config.sizes or (), strict=True))


def by_group(found: GroupSummary | None, names: Iterable[str]) -> dict[str, dict[str, float]]:
    """Return the figures of every group by its name."""
    if found is None:
        return {}
    return {
        name: {figure: np.asarray(getattr(found, figure))[k].item() for figure in GROUP_FIGURES}
        for k, name in enumerate(names)
    }


def gaps(found: GroupSummary | None) -> dict[str, float]:
    """Return how far apart the groups are."""
    if found is None:
        return {}
    return {name: float(getattr(found, name)) for name in ("mean_gap", "worst_gap")}


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
