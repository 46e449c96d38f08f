"""One policy's run in a command: its preflight, its simulation, and what is kept of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.monitoring
import numpy as np

from memoa_jax import build, preflight, sample
from memoa_jax.checkpoint import Checkpoint
from memoa_jax.choices import METRICS
from memoa_jax.config import POLICIES, Config
from memoa_jax.debug import watched
from memoa_jax.keeping import Keeper
from memoa_jax.metrics import GroupSummary, Summary
from memoa_jax.recording import Record, check
from memoa_jax.report import GROUP_FIGURES, Finished
from memoa_jax.series import Series
from memoa_jax.session import Session
from memoa_jax.simulate import Result, simulate
from memoa_jax.trouble import told
from memoa_jax.types import Encoder, explain
from memoa_jax.watching import Watcher

LOG = logging.getLogger(__name__)


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
    sampled: bool = False
    seconds: float = 0.0
    compile_seconds: float = 0.0
    kept: Checkpoint | None = None
    watched: str | None = None
    compiling: Sequence[float] = ()

    def prepare(self) -> str:
        """Compile it and compare what it needs with what there is, unless it is done already."""
        self.kept = None if self.session is None else self.session.finished(self.name)
        if self.kept is not None:
            return "is there"
        with self._clocked():
            return preflight.check(*self._arguments())

    def play(
        self, partial: Callable[[int, int, Any], None], watch: Watcher | None = None
    ) -> tuple[Finished, Common]:
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
                result = simulate(*arguments, **options, keeper=keeper, watch=watch)
            jax.block_until_ready((result.server, result.mean_field, result.summary))
        found, same = self.finished(result), Common.of(result.summary)
        if self.session is not None:
            facts = {**vars(found), "common": list(same)}
            self.session.finish(self.name, facts.pop("trajectories"), facts)
        return found, same

    def compiled(self) -> float:
        """Return the seconds that compilation took since the run last began."""
        return sum(self.compiling)

    def finished(self, result: Result, rows: int | None = None) -> Finished:
        """Return what is kept of a result; of one that was cut off, the rows there are."""
        measured, label = result.summary, self.label
        trajectories = {
            f"server/{label}": np.asarray(result.server)[:rows],
            f"mean_field/{label}": np.asarray(result.mean_field)[:rows],
        }
        trajectories |= self._of_agents(result, rows)
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

    def _of_agents(self, result: Result, rows: int | None) -> dict[str, Any]:
        """Return what is kept of single agents: those recorded, the sample's band, all costs."""
        arrays, label = {}, self.label
        recorded = {name: np.asarray(values)[:rows] for name, values in result.recorded.items()}
        asked = build.record(self.config)
        if asked is not None:
            steps = range(self.series.num_points) if asked.steps is None else asked.steps
            kept = [step for step in steps if rows is None or step < rows]
            for name in asked.fields:
                own = recorded[name][:, : len(asked.agents)]
                arrays[f"recorded/{label}/{name}"] = own[kept]
        agents = self._sample
        if agents:
            places = [self._record(asked).agents.index(agent) for agent in agents]
            present = build.attendance(self.config, self.series.num_points, agents)
            present = None if present is None else present[:rows]
            middle, lost = sample.band(recorded["prediction"][:, places], present)
            arrays["band/agents"] = np.array(agents)
            arrays["band/levels"] = np.array(sample.LEVELS)
            arrays[f"band/{label}/quantiles"], arrays[f"band/{label}/lost"] = middle, lost
        if result.cost_counts is not None:
            edges, counts = result.cost_counts.coarse()
            arrays[f"costs/{label}/edges"], arrays[f"costs/{label}/counts"] = edges, counts
            arrays[f"costs/{label}/lost"] = result.cost_counts.lost
        return arrays

    @property
    def _sample(self) -> tuple[int, ...]:
        """The agents that the report's band is of."""
        if not self.sampled:
            return ()
        asked, outputs = build.record(self.config), self.series.targets.shape[1]
        features = self.encoder.features
        sizes = {"control": features, "features": outputs * features, "weights": 1}
        others = () if asked is None else asked.fields
        width = outputs + sum(sizes.get(name, 0) for name in others)
        most = self.config.run.sample
        return sample.chosen(self.config.agents, most, self.series.num_points, width)

    def _record(self, asked: Record | None) -> Record:
        """Return what to record: for the user, whose agents come first, and for the sample.

        At all steps: those that the user asked for are picked from them.
        """
        asked = Record(agents=(), fields=()) if asked is None else asked
        check(asked, self.config.agents, self.series.num_points)
        fields = asked.fields
        if self._sample and "prediction" not in fields:
            fields = (*fields, "prediction")
        others = (agent for agent in self._sample if agent not in asked.agents)
        return Record(agents=(*asked.agents, *others), fields=fields)

    def _arguments(self) -> tuple[Any, dict[str, Any]]:
        arguments, options = build.simulation(self.config, self.series, self.encoder, self.table)
        if self._sample or options["record"] is not None:
            options["record"] = self._record(options["record"])
        return arguments, {**options, "count_costs": self.sampled}

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
        with compile_clock() as self.compiling:
            try:
                yield
            finally:
                self.seconds += time.perf_counter() - start
                self.compile_seconds += sum(self.compiling)
                LOG.debug("%s: %.1f s of compilation so far", self.label, self.compile_seconds)


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
