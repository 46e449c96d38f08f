"""A sweep: many points of one config, each with every seed, in as few calls as their shapes allow.

After each call the files are written again, so that whatever ends a sweep, what finished stays;
the same command takes it up where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from memoa_jax import canary, sweep_report, sweep_table
from memoa_jax._version import __version__
from memoa_jax.config import Config
from memoa_jax.config_faults import ConfigError
from memoa_jax.config_file import load, resolved, to_toml
from memoa_jax.config_sweep import Sweep
from memoa_jax.figure_style import FigureError
from memoa_jax.identity import difference, identity
from memoa_jax.policy_run import compile_clock
from memoa_jax.progress import SILENT, Watch
from memoa_jax.report import to_json, write_files
from memoa_jax.run import finishing, in_one_line, input_files, manifest
from memoa_jax.sweep_batch import Batch, Figures, Place, Programs, batches
from memoa_jax.sweep_figures import draw_marginals
from memoa_jax.sweep_plan import Run, plan
from memoa_jax.sweep_table import Rows

FILES = (
    *("config.toml", "summary.json", "runs.jsonl", "table.npz", "table.csv", "best.toml"),
    *("marginals.png", "manifest.json"),
)


def run_sweep(
    sweep: Sweep,
    folder: Path,
    say: Callable[[str], None],
    fresh: bool = False,
    *,
    watch: Watch = SILENT,
) -> dict[str, Any]:
    """Run every point of a sweep with every seed, and return the summary.

    What the folder already holds of the same sweep is not run again. A keyboard interrupt ends
    the sweep early: the calls that finished are written.

    Args:
      sweep: as loaded; x64 must be on already if its dtype is float64.
      folder: an existing folder for `FILES`.
      say: receives one line of progress per call.
      fresh: start again, whatever sweep the folder holds.
      watch: told how far it is after each call.

    Raises:
      ConfigError: if a point is refused, or the folder holds other results.
      RunError: if the installed jax computes wrong numbers, or the environment fails.
      KeyboardInterrupt: if interrupted before the first call finished.
    """
    runs = plan(sweep)
    _claim(sweep, runs, folder, fresh)
    wanted = sweep_table.all_rows(runs)
    found = sweep_table.read(folder / "table.npz", wanted)
    with in_one_line():
        canary.check_build()
        store = _Store(sweep, runs, wanted, folder)

    def there() -> str:
        return f"{len(found):,} of {len(wanted):,} rows"

    if found:
        say(f"{there()} are there")
    summary: dict[str, Any] = {}
    with compile_clock() as compiling:
        with finishing(found, lambda: f"{there()} are in {folder}"):
            calls = batches(runs)
            see = _watched(watch, calls, found, lambda: sum(compiling))
            for call, one in _play(calls, found, store):
                found.update(one)
                summary = store.write(found, sum(compiling))
                see(call, summary)
                say(f"call {call} of {len(calls)}: {there()}")
        summary = summary or store.write(found, sum(compiling))
    try:
        draw_marginals(sweep, sweep_table.columns(wanted, found), folder / "marginals.png")
    except FigureError as error:
        say(f"no figure: {error}")
    return summary


def _watched(
    watch: Watch,
    calls: Sequence[Batch],
    found: Mapping[Place, Figures],
    compiling: Callable[[], float],
) -> Callable[[int, Mapping[str, Any]], None]:
    """Return what is told every call that is over; the work is that of the calls to come."""
    work = [0 if all(place in found for place in one.places) else one.agent_steps for one in calls]
    see = watch.steps("agent_step", sum(work), agent_steps=1, compiling=compiling)
    see(0, call=0, calls=len(calls))

    def told(call: int, summary: Mapping[str, Any]) -> None:
        best = summary["best"] or {"policy": None, "mean": None}
        lost = sum(one["diverged_agents"] > 0 for one in found.values())
        facts = {"rows": len(found), "diverged_rows": lost, "best_policy": best["policy"]}
        see(sum(work[:call]), call=call, calls=len(calls), best=best["mean"], **facts)

    return told


def _play(
    calls: Sequence[Batch], found: dict[Place, Figures], store: _Store
) -> Iterator[tuple[int, dict[Place, Figures]]]:
    """Run call after call, numbered, except those whose rows are all there."""
    programs = Programs()
    for call, batch in enumerate(calls, start=1):
        if not all(place in found for place in batch.places):
            with in_one_line():
                one = programs.run(batch)
            store.compilations = programs.compiled
            yield call, one


class _Store:
    """Writes a sweep's files; what does not change between two writes is made once."""

    def __init__(self, sweep: Sweep, runs: Sequence[Run], wanted: Rows, folder: Path) -> None:
        self.sweep, self.runs, self.wanted, self.folder = sweep, runs, wanted, folder
        self.start = time.perf_counter()
        self.compilations = 0
        self.digest = _digest(runs)
        lines = [
            {
                "run": run.index,
                "point": run.point,
                "values": run.values,
                "seed": run.config.seed,
                "config": resolved(run.config, folder),
            }
            for run in runs
        ]
        self.listed = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        files = {
            f"{table}: {file.name}": file
            for run in runs
            for table, file in input_files(run.config).items()
        }
        self.facts = {**manifest(sweep, files), "seeds": sweep.all_seeds}

    def write(self, found: dict[Place, Figures], compile_seconds: float) -> dict[str, Any]:
        """Write what is there so far, and return the summary."""
        table = sweep_table.columns(self.wanted, found)
        missing = len(self.wanted) - len(found)
        summary = {
            **sweep_report.summarise(self.sweep, self.runs, table, missing),
            "seconds": time.perf_counter() - self.start,
            "compile_seconds": compile_seconds,
            "compilations": self.compilations,
            "sweep_sha256": self.digest,
        }
        files = {
            "config.toml": to_toml(self.sweep, self.folder).encode(),
            "runs.jsonl": self.listed.encode(),
            "summary.json": to_json(summary).encode(),
            "table.npz": sweep_table.to_npz(table),
            "table.csv": sweep_table.to_csv(table).encode(),
        }
        if summary["best"] is None:
            (self.folder / "best.toml").unlink(missing_ok=True)
        else:
            files["best.toml"] = to_toml(self._best(summary["best"]["point"]), self.folder).encode()
        write_files(self.folder, files, self.facts)
        return summary

    def _best(self, point: int) -> Config:
        """Return the config of a point, under a name of its own: it shares no folder."""
        config = self.runs[point * len(self.sweep.all_seeds)].config
        name = f"{self.sweep.name[:95]}-best"
        return config.model_copy(update={"name": name, "seed": self.sweep.seed})


def _claim(sweep: Sweep, runs: Sequence[Run], folder: Path, fresh: bool) -> None:
    """Refuse a folder that holds other results; `fresh` empties it of a sweep's files.

    Raises:
      ConfigError: naming the first key that differs.
    """
    if fresh:
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
        return
    if not (folder / "summary.json").exists():
        if (folder / "table.npz").exists():
            raise ConfigError([f"{folder} holds another table.npz: allowed is --fresh"])
        return
    allowed = "allowed is another --out, or --fresh to start again in this one"
    try:
        digest = json.loads((folder / "summary.json").read_text()).get("sweep_sha256")
    except (OSError, ValueError, AttributeError):
        raise ConfigError([f"{folder / 'summary.json'} is damaged: {allowed}"]) from None
    if digest is None:
        raise ConfigError([f"{folder} holds other results: {allowed}"])
    if digest != _digest(runs):
        raise ConfigError(
            [f"{folder} holds another sweep, {_difference(sweep, folder)}: {allowed}"]
        )


def _digest(runs: Sequence[Run]) -> str:
    """Return the SHA-256 of what has a say in a sweep's rows: versions and every run's config."""
    known: dict[str, str] = {}
    whole = hashlib.sha256(f"{__version__} {version('jax')}".encode())
    for run in runs:
        one = identity(run.config, known, record=False)
        whole.update(json.dumps(one, sort_keys=True).encode())
    return whole.hexdigest()


def _difference(sweep: Sweep, folder: Path) -> str:
    """Return the first key in which the sweep of a folder differs, with both values."""
    try:
        other = load(folder / "config.toml")
    except ConfigError:
        return "of a config that cannot be read"
    if not isinstance(other, Sweep):
        return "of another kind of config"
    found = difference(*(identity(one, record=False) for one in (sweep, other)))
    return f"with {found}" if found else "of other input files, defaults or versions"
