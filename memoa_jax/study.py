"""Many runs of one config: every series, encoder and seed, in an order that compiles least.

Runs whose series have equal sizes share compiled programs, seeds always do. After each run
the files are written again, so that whatever ends a study, what finished stays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from memoa_jax import build, canary, study_report
from memoa_jax.config import Cell, Study, label
from memoa_jax.config_file import to_toml
from memoa_jax.progress import SILENT, Watch, duration
from memoa_jax.report import summarise, to_json, without_partial, write_files
from memoa_jax.run import compare, finishing, in_one_line, input_files, manifest, policies
from memoa_jax.series import Series
from memoa_jax.session import Session
from memoa_jax.study_report import Done

MOST_PROGRAMS = 64
"""Compiled programs are let go once more policies than these have been compiled."""


def run_study(
    study: Study,
    folder: Path,
    say: Callable[[str], None],
    session: Session | None = None,
    *,
    watch: Watch = SILENT,
) -> dict[str, Any]:
    """Run every cell of a study, write the result files as they come, and return the summary.

    A keyboard interrupt ends the study early: what finished is written, the cut cell's
    policies included, and the summary says what did not.

    Args:
      study: as loaded; x64 must be on already if its dtype is float64.
      folder: an existing folder for the files: summary.json, table.csv, table.md, config.toml
        and manifest.json.
      say: receives one line of progress per cell.
      session: keeps the cells, and knows what to go on from.
      watch: told how each policy goes.

    Raises:
      ConfigError: if the library refuses what the config asks for.
      RunError: if the installed jax computes wrong numbers, or the environment fails.
      KeyboardInterrupt: if interrupted before the first policy finished.
    """
    start = time.perf_counter()
    with in_one_line():
        canary.check_build()
    series = _build_all(study)
    cells = _in_order(study, series)
    planned = list(policies(cells[0].config))
    places = [cell.place for cell in study.cells()]
    facts = _manifest(study)
    done: list[Done] = []

    def write() -> dict[str, Any]:
        seconds = time.perf_counter() - start
        summary = study_report.summarise(study, planned, done, seconds)
        listed = sorted(done, key=lambda one: places.index(one.cell.place))
        files = {
            "config.toml": to_toml(study, folder),
            "summary.json": to_json(summary),
            "table.csv": study_report.to_csv(listed, summary),
            "table.md": study_report.to_markdown(summary),
        }
        write_files(folder, {name: text.encode() for name, text in files.items()}, facts)
        return summary

    with finishing(done, lambda: f"{len(done)} of {len(cells)} runs are in {folder}"):
        for one in _play(cells, series, len(planned), session, watch):
            done.append(one)
            write()
            if not one.summary["not_run"]:
                say(f"{one.cell.place}: {one.seconds:.1f} s ({_progress(done, cells, series)})")
    summary = write()
    if session is not None and not summary["interrupted"]:
        session.clear()
    return summary


def _build_all(study: Study) -> dict[str, Series]:
    """Build everything once, so that what cannot be built is refused before anything runs."""
    built: dict[str, Series] = {}
    for table in study.series:
        with in_one_line(f"series {label(table)}: "):
            built[label(table)] = build.series(table)
    for cell in _once_each(study):
        with in_one_line(f"{cell.series}, {cell.encoder}: "):
            own = built[cell.series]
            encoder = build.encoder(cell.config, own.num_points, series=own)
            for policy in cell.config.policy:
                build.check_gains(cell.config, policy, built[cell.series], encoder)
            build.present(cell.config, built[cell.series].num_points)
    for policy in study.policy:
        with in_one_line(f"policy {policy.name}: "):
            build.policy(policy, groups=study.group)
    return built


def _once_each(study: Study) -> list[Cell]:
    """Return every series with every encoder, at the first seed."""
    return [cell for cell in study.cells() if cell.config.seed == study.all_seeds[0]]


def _sizes(series: Series) -> tuple[int, ...]:
    """Return what a compiled program depends on."""
    return (*series.inputs.shape, series.targets.shape[1])


def _in_order(study: Study, series: Mapping[str, Series]) -> list[Cell]:
    """Return the cells, those that share compiled programs beside one another."""
    sizes = list(dict.fromkeys(map(_sizes, series.values())))
    encoders = [label(table) for table in study.encoder]

    def order(cell: Cell) -> tuple[int, int]:
        return sizes.index(_sizes(series[cell.series])), encoders.index(cell.encoder)

    return sorted(study.cells(), key=order)


def _play(
    cells: Sequence[Cell],
    series: Mapping[str, Series],
    policies: int,
    session: Session | None,
    watch: Watch = SILENT,
) -> Iterator[Done]:
    """Run cell after cell; one that was cut short is the last."""
    held = 0
    for index, (cell, compiles) in enumerate(zip(cells, _compiles(cells, series), strict=True)):
        name = f"cell-{index}"
        kept = None if session is None else session.finished(name)
        if kept is not None:
            yield Done(cell, **kept.facts)
            continue
        if compiles:
            if held + policies > MOST_PROGRAMS:
                jax.clear_caches()
                held = 0
            held += policies
        start = time.perf_counter()
        with in_one_line(f"{cell.place}: "):
            own = series[cell.series]
            encoder = build.encoder(cell.config, own.num_points, series=own)
            found = compare(
                cell.config,
                series[cell.series],
                encoder,
                say=lambda _: None,
                session=session,
                within=f"{name}-",
                watch=watch.within(cell.place, index * policies, len(cells) * policies),
            )
        one = Done(cell, summarise(without_partial(found)), time.perf_counter() - start)
        if session is not None and not one.summary["interrupted"]:
            session.finish(name, {}, {"summary": one.summary, "seconds": one.seconds})
            session.forget(f"{name}-")
        yield one
        if one.summary["interrupted"]:
            return


def _compiles(cells: Sequence[Cell], series: Mapping[str, Series]) -> list[bool]:
    """Tell which cells compile: those that differ from the one before in sizes or encoder."""
    kinds = [(_sizes(series[cell.series]), cell.encoder) for cell in cells]
    return [index == 0 or kinds[index - 1] != kind for index, kind in enumerate(kinds)]


def _progress(done: Sequence[Done], cells: Sequence[Cell], series: Mapping[str, Series]) -> str:
    """Count the cells, and estimate the rest by time per point and time to compile."""
    count = len(done)
    if count == len(cells):
        return f"{count} of {count}"
    points = [series[cell.series].num_points for cell in cells]
    compiles = _compiles(cells, series)
    timed = [i for i in range(count) if not compiles[i]]
    if not timed and not all(compiles):
        return f"{count} of {len(cells)}"  # all that is known of yet is mostly compilation
    timed = timed or list(range(count))
    pace = sum(done[i].seconds for i in timed) / sum(points[i] for i in timed)
    first = [max(done[i].seconds - pace * points[i], 0.0) for i in range(count) if compiles[i]]
    left = pace * sum(points[count:]) + sum(first) / len(first) * sum(compiles[count:])
    return f"{count} of {len(cells)}, about {duration(left)} left"


def _manifest(study: Study) -> dict[str, Any]:
    """Return what is needed to repeat the study, input files by the labels of their tables."""
    files: dict[str, Path] = {}
    for cell in _once_each(study):
        for place, file in input_files(cell.config).items():
            owner = {"series": f"series {cell.series}", "encoder": f"encoder {cell.encoder}"}
            files[f"{owner.get(place, place)}: {file.name}"] = file
    return {**manifest(study, files), "seeds": study.all_seeds}
