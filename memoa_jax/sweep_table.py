"""The table of a sweep: a row per run and policy, as columns, CSV and NPZ, and read back."""

from __future__ import annotations

import csv
import io
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memoa_jax.choices import METRICS
from memoa_jax.config import POLICIES
from memoa_jax.config_faults import ConfigError
from memoa_jax.run import policies
from memoa_jax.sweep_batch import FIGURES, Figures, Place
from memoa_jax.sweep_plan import Run
from memoa_jax.types import explain

Columns = dict[str, NDArray[Any]]
"""The table by columns, all of one length."""

COUNTS = ("worst_agent", "diverged_agents", "status")
_DAMAGES = (
    *(OSError, ValueError, KeyError, EOFError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error),
)
"""What NumPy may raise of a file that is no NPZ, or no longer one."""
BASELINES = ("persistence", "running_mean")


Rows = list[tuple[Run, str, POLICIES]]
"""The rows of a table: a run, and one of its policies by label."""


def all_rows(runs: Sequence[Run]) -> Rows:
    """Return the rows of a sweep that ran to its end, in their order."""
    return [(run, label, table) for run in runs for label, table in policies(run.config).items()]


def columns(wanted: Rows, found: Mapping[Place, Figures]) -> Columns:
    """Return the rows that are there, in the order in which they are wanted.

    run, point, one column per axis under its key, seed, policy, kind, game, the metrics,
    worst_agent, diverged_agents, status and its notes, and the baselines of the run's series.
    """
    rows = [row for row in wanted if (row[0].index, row[1]) in found]
    figures = [found[run.index, label] for run, label, _ in rows]
    made: dict[str, Any] = {
        "run": np.array([run.index for run, _, _ in rows], np.int64),
        "point": np.array([run.point for run, _, _ in rows], np.int64),
    }
    for key in wanted[0][0].values:
        made[key] = _values([run.values[key] for run, _, _ in rows])
    made["seed"] = np.array([run.config.seed for run, _, _ in rows], np.int64)
    made["policy"] = np.array([label for _, label, _ in rows], str)
    made["kind"] = np.array([table.kind for _, _, table in rows], str)
    made["game"] = np.array([table.game for _, _, table in rows], str)
    for name in (*METRICS, *COUNTS):
        kind = np.int64 if name in COUNTS else np.float64
        made[name] = np.array([one[name] for one in figures], kind)
    made["notes"] = np.array(["; ".join(explain(int(one["status"]))) for one in figures], str)
    for name in BASELINES:
        made[name] = np.array([one[name] for one in figures], np.float64)
    return made


def _values(values: Sequence[Any]) -> NDArray[Any]:
    """Return an axis' values: numbers, texts or flags as they are, anything else as JSON."""
    kinds = {type(value) for value in values}
    for allowed, kind in (({bool}, bool), ({int}, np.int64), ({int, float}, np.float64)):
        if kinds <= allowed:
            return np.array(values, kind)
    if kinds == {str}:
        return np.array(values, str)
    return np.array([json.dumps(value, ensure_ascii=False) for value in values], str)


def to_csv(table: Columns) -> str:
    """Write the table as CSV, numbers in full; what was not finite is nan or inf."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(table)
    writer.writerows(zip(*(column.tolist() for column in table.values()), strict=True))
    return stream.getvalue()


def to_npz(table: Columns) -> bytes:
    """Write the table as NPZ, an array per column; the same table gives the same bytes."""
    packed = io.BytesIO()
    np.savez_compressed(packed, **table)  # type: ignore[arg-type]
    return packed.getvalue()


def read(path: Path, wanted: Rows) -> dict[Place, Figures]:
    """Read the rows of an NPZ table back; none if the file is not there.

    Raises:
      ConfigError: if the file is no table of these rows.
    """
    if not path.exists():
        return {}
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as packed:
            table = {name: packed[name] for name in packed.files}
        places = zip(table["run"].tolist(), table["policy"].tolist(), strict=True)
        kept = zip(*(table[name].tolist() for name in FIGURES), strict=True)
        found = {
            place: dict(zip(FIGURES, row, strict=True))
            for place, row in zip(places, kept, strict=True)
        }
        same = _equal(columns(wanted, found), table)
    except _DAMAGES:
        same = False
    if not same:
        fault = "is damaged, or not the table of this sweep: allowed is a whole one, or --fresh"
        raise ConfigError([f"{path}: {fault}"])
    return found


def _equal(one: Columns, other: Mapping[str, NDArray[Any]]) -> bool:
    return list(one) == list(other) and all(
        column.dtype == other[name].dtype
        and np.array_equal(column, other[name], equal_nan=column.dtype.kind == "f")
        for name, column in one.items()
    )
