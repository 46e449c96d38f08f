"""The runs of a sweep, many in one call: those whose shapes agree share one compiled program.

What a policy, an encoder, a mixture and a participation hold are numbers and shapes. Runs whose
shapes agree are one `vmap` of `simulate` over the numbers and the seed; what is the same number
for number is run once, such as a policy that no axis changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from memoa_jax import build
from memoa_jax.choices import METRICS, Containment
from memoa_jax.config import POLICIES, Config
from memoa_jax.config_values import Table
from memoa_jax.footprint import bytes_of, free_bytes
from memoa_jax.metrics import Summary
from memoa_jax.preflight import size
from memoa_jax.run import RunError, in_one_line, policies
from memoa_jax.series import Series
from memoa_jax.simulate import simulate
from memoa_jax.sweep_plan import Run
from memoa_jax.types import Array, Tree

MOST_PLACES = 65_536
"""Agents that one call advances, over all its runs: it bounds the memory of a sweep, and what an
interruption loses. On a CPU fewer are a little faster, for the cache; many more are slower."""

FIGURES = (*METRICS, "worst_agent", "diverged_agents", "persistence", "running_mean", "status")
"""What is kept of a policy's run."""
_SPELLED = {"persistence": "persistence_rmse", "running_mean": "running_mean_rmse"}

Place = tuple[int, str]
"""A run's index and a policy's label: a row of the table."""
Figures = dict[str, float]
"""`FIGURES` of one row; counts are whole."""


class Shape(NamedTuple):
    """What one compiled program serves: equal shapes, and the same series."""

    series: str
    agents: int
    dtype: str
    structure: Any
    leaves: tuple[Any, ...]
    containment: Containment


@dataclass
class Job:
    """One policy's run: its parts, its seed, and the rows of the table that it fills."""

    series: Series
    parts: tuple[Tree, ...]
    config: Config
    table: POLICIES
    places: list[Place] = field(default_factory=list)

    @property
    def numbers(self) -> tuple[Any, ...]:
        """The plain numbers among the leaves, which differ between the runs of a batch."""
        return tuple(leaf for leaf in jax.tree.leaves(self.parts) if not _is_array(leaf))

    @property
    def arrays(self) -> tuple[Array, ...]:
        """The arrays among the leaves, which the runs of a batch share."""
        return tuple(leaf for leaf in jax.tree.leaves(self.parts) if _is_array(leaf))


@dataclass
class Batch:
    """Jobs of one shape that run in one call, `size` of them with what pads the last one."""

    shape: Shape
    jobs: list[Job]
    size: int
    alone: bool

    @property
    def places(self) -> list[Place]:
        """The rows that the batch fills."""
        return [place for job in self.jobs for place in job.places]

    @property
    def agent_steps(self) -> int:
        """How much there is to compute, what pads the batch included."""
        return self.size * self.shape.agents * self.jobs[0].series.num_points


def _is_array(leaf: Any) -> bool:
    return not isinstance(leaf, int | float)


class _Builder:
    """Builds what the runs are made of, each part that several share once."""

    def __init__(self) -> None:
        self.built: dict[tuple[Any, ...], Any] = {}

    def once(self, build_it: Callable[[], Any], *key: Any) -> Any:
        words = tuple(k.model_dump_json() if isinstance(k, Table) else k for k in key)
        if words not in self.built:
            self.built[words] = build_it()
        return self.built[words]

    def jobs(self, run: Run) -> Iterator[tuple[str, Job]]:
        """Yield the policies of a run by label, built."""
        config = run.config
        with in_one_line(f"run {run.index}: "):
            series = self.once(lambda: build.series(config.series), config.series)
            points, agents = series.num_points, config.agents
            groups = repr(config.group)
            encoder = self.once(
                lambda: build.encoder(config, points, series=series),
                *("encoder", config.encoder, config.series, points, agents, groups),
            )
            present = self.once(
                lambda: build.present(config, points), "who", config.participation, points, agents
            )
        mixture = build.server_mixture(config)
        for label, table in policies(config).items():
            with in_one_line(f"run {run.index}, policy {label}: "):
                made = build.policy(table, groups=config.group)
                parts = (encoder, made, mixture, present, config.sizes)
                build.hold(config, table, series, encoder)
            yield label, Job(series, parts, config, table, [(run.index, label)])


def batches(runs: Sequence[Run]) -> list[Batch]:
    """Return the calls that fill every row of a sweep.

    They follow from the runs alone, so a sweep that is taken up again makes the same calls.

    Raises:
      ConfigError: if the library refuses what a run asks for.
    """
    builder = _Builder()
    shapes: dict[Shape, dict[tuple[Any, ...], dict[tuple[Any, ...], Job]]] = {}
    for run in runs:
        for label, job in builder.jobs(run):
            # The builder holds the arrays, so no id is used twice.
            kind = (*map(id, job.arrays), _alone(job.config))
            group = shapes.setdefault(_shape(job), {}).setdefault(kind, {})
            same = group.setdefault((*job.numbers, job.config.seed), job)
            if same is not job:
                same.places.append((run.index, label))
    return [batch for shape, groups in shapes.items() for batch in _cut(shape, groups)]


def _cut(shape: Shape, groups: Mapping[tuple[Any, ...], Mapping[Any, Job]]) -> Iterator[Batch]:
    """Cut the jobs of one shape into batches of one size; those that go alone, one by one."""
    most, longest = max(MOST_PLACES // shape.agents, 1), max(map(len, groups.values()))
    most = -(-longest // -(-longest // most))  # as many calls, with the least to pad
    for (*_, alone), group in groups.items():
        jobs, size = list(group.values()), most if alone is None else 1
        for start in range(0, len(jobs), size):
            yield Batch(shape, jobs[start : start + size], size, alone is not None)


def _shape(job: Job) -> Shape:
    leaves = tuple(
        (leaf.shape, str(leaf.dtype)) if _is_array(leaf) else type(leaf).__name__
        for leaf in jax.tree.leaves(job.parts)
    )
    config = job.config
    structure = jax.tree.structure(job.parts)
    how = config.run.containment
    return Shape(
        config.series.model_dump_json(), config.agents, config.dtype, structure, leaves, how
    )


def _alone(config: Config) -> str | None:
    """Return how a run is driven, if in a way that no batch is: streams, devices."""
    run = config.run
    alone = run.schedule == "stream" or run.devices is not None or run.reproducible
    return run.model_dump_json() if alone else None


class Programs:
    """Runs batches, and keeps the program of the last shape: batches of a shape come in a row."""

    def __init__(self) -> None:
        self.compiled: int = 0
        self._shape: tuple[Shape, int] | None = None
        self._program: Callable[..., Any] | None = None

    def run(self, batch: Batch) -> dict[Place, Figures]:
        """Return the figures of every row that a batch fills.

        Raises:
          RunError: if the batch needs more memory than there is.
        """
        if batch.alone:
            found = [_run_alone(batch.jobs[0])]
        else:
            arguments = _arguments(batch)
            if self._shape != (batch.shape, batch.size):
                self._program = None  # let go before another one is made
                self._program = _compile(batch, arguments)
                self._shape = (batch.shape, batch.size)
                self.compiled += 1
            assert self._program is not None
            summary, status = jax.tree.map(np.asarray, self._program(*arguments))
            found = [_figures(summary, status, index) for index in range(len(batch.jobs))]
        return {
            place: figures
            for job, figures in zip(batch.jobs, found, strict=True)
            for place in job.places
        }


def _arguments(batch: Batch) -> tuple[Any, ...]:
    """Return what a batch's program is called with: numbers and seeds stacked, arrays shared."""
    padded = [*batch.jobs, *[batch.jobs[-1]] * (batch.size - len(batch.jobs))]
    columns = zip(*(job.numbers for job in padded), strict=True)
    words = [np.asarray(jax.random.key_data(jax.random.key(job.config.seed))) for job in padded]
    return (
        tuple(_column(values, batch.shape.dtype) for values in columns),
        np.stack(words),
        padded[0].arrays,
    )


def _column(values: tuple[Any, ...], dtype: str) -> NDArray[Any]:
    """Stack one number of every run. A number that is no argument would be compiled in."""
    whole = isinstance(values[0], int)
    return np.asarray(
        values, type(values[0]) if isinstance(values[0], bool) else (np.int32 if whole else dtype)
    )


def _compile(batch: Batch, arguments: tuple[Any, ...]) -> Callable[..., Any]:
    """Compile the program of a batch ahead: given anything of another shape it raises."""
    job = batch.jobs[0]
    leaves, structure = jax.tree.flatten(job.parts)
    shared = [_is_array(leaf) for leaf in leaves]

    def one(numbers: Sequence[Array], words: Array, arrays: Sequence[Array]) -> Any:
        sources = iter(numbers), iter(arrays)
        parts = jax.tree.unflatten(structure, [next(sources[is_array]) for is_array in shared])
        encoder, policy, mixture, present, groups = parts
        result = simulate(
            job.series,
            encoder,
            policy,
            mixture,
            num_agents=batch.shape.agents,
            key=jax.random.wrap_key_data(words),
            dtype=batch.shape.dtype,
            participation=present,
            groups=groups,
            keep_costs=False,
            containment=batch.shape.containment,
        )
        return result.summary, result.status

    lowered = jax.jit(jax.vmap(one, in_axes=(0, 0, None))).lower(*arguments)
    need, free = bytes_of(lowered), free_bytes(jax.local_devices()[0])
    if free is not None and need > free:
        found = (
            f"{batch.size} runs at a time need {size(need)} of memory, and {size(free)} are free"
        )
        raise RunError(f'{found}: allowed is fewer agents, or run.schedule = "stream"')
    return lowered.compile()


def _run_alone(job: Job) -> Figures:
    """Run a job as `memoa run` does, without what a sweep does not keep."""
    arguments, options = build.simulation(job.config, job.series, job.parts[0], job.table)
    kept = {**options, "record": None, "best_readout": False, "keep_costs": False}
    result = simulate(*arguments, **kept)
    return _figures(result.summary, result.status, ())


def _figures(summary: Summary, status: Any, index: Any) -> Figures:
    """Return the figures of one run out of a batch's."""
    found = {
        name: np.asarray(getattr(summary, _SPELLED.get(name, name)))[index].item()
        for name in FIGURES[:-1]
    }
    return {**found, "status": np.asarray(status)[index].item()}
