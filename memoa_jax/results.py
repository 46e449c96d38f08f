"""Results read back: what `memoa run`, `sweep` and `tune` left in a folder, as plain data.

import memoa_jax
found = memoa_jax.results.load("runs/quickstart")
print(found.summary["policies"]["greedy"]["server_rmse"], found.arrays["server/greedy"].shape)
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tomllib
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["run", "study", "sweep", "tune"]
TABLES: dict[Kind, str] = {
    "run": "trajectories.npz",
    "study": "table.csv",
    "sweep": "table.npz",
    "tune": "history.csv",
}
"""The file that holds the arrays of each kind of results."""
_MARKS: dict[str, Kind] = {"axes": "sweep", "origins": "tune", "regret_reference": "run"}
"""A key of its summary that no other kind has; a study's `series` is a table."""
_DAMAGES = (
    *(OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, EOFError),
    *(NotImplementedError, zipfile.BadZipFile, zlib.error),
)
"""What JSON, TOML, NumPy and zipfile may raise of a file that is not what it should be."""


@dataclass(frozen=True)
class Results:
    """What a folder holds.

    `arrays` are the trajectories of a run ("targets", "server/LABEL", "mean_field/LABEL",
    "recorded/LABEL/FIELD", as in `trajectories.npz`), or the columns of the table that a study, a
    sweep or a tuning leaves, all of one length. In a `summary` what was not finite is None and
    listed under "non_finite"; in arrays it is what it was.
    """

    folder: Path
    kind: Kind
    summary: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]
    config: Mapping[str, Any]
    config_text: str
    manifest: Mapping[str, Any]


def load(folder: str | Path) -> Results:
    """Read a folder of results, every file held against its hash in the manifest.

    Interrupted runs are read as they are: `summary["partial"]` says which policies have fewer
    rows, and how many. Needs neither JAX nor anything but NumPy.

    Args:
      folder: written by `memoa run`, `memoa sweep` or `memoa tune`.

    Raises:
      ValueError: if it holds no results, or a file is not as it was written; naming it.

    Example:
      >>> load("nowhere")
      Traceback (most recent call last):
      ValueError: nowhere: no such folder: allowed is a folder of results, such as runs/NAME
    """
    path = Path(folder)
    if not path.is_dir():
        found = "is no folder" if path.exists() else "no such folder"
        raise ValueError(f"{path}: {found}: allowed is a folder of results, such as runs/NAME")
    manifest = _parsed(path / "manifest.json", json.loads, _read(path / "manifest.json"))
    hashes = manifest.get("sha256", {}) if isinstance(manifest, dict) else None
    if not isinstance(hashes, dict):
        raise _damaged(path / "manifest.json", "holds no results' facts")
    summary = _file(path, "summary.json", hashes, json.loads)
    kind = _kind(summary)
    if kind is None:
        raise _damaged(path / "summary.json", "is no summary of a run, study, sweep or tuning")
    text: str = _file(path, "config.toml", hashes, bytes.decode)
    return Results(
        folder=path,
        kind=kind,
        summary=summary,
        arrays=_file(path, TABLES[kind], hashes, _npz if TABLES[kind].endswith("npz") else _csv),
        config=_parsed(
            path / "config.toml", lambda raw: tomllib.loads(raw.decode()), text.encode()
        ),
        config_text=text,
        manifest=manifest,
    )


def _kind(summary: Any) -> Kind | None:
    if not isinstance(summary, dict):
        return None
    for key, kind in _MARKS.items():
        if key in summary:
            return kind
    return "study" if isinstance(summary.get("series"), dict) else None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        allowed = "allowed is a folder of results, such as runs/NAME"
        raise ValueError(f"{path.parent}: holds no {path.name}: {allowed}") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None


def _file(folder: Path, name: str, hashes: Mapping[str, Any], parse: Any) -> Any:
    """Return what a file holds, if its hash is the manifest's (or the manifest has none of it)."""
    content = _read(folder / name)
    if name in hashes and hashlib.sha256(content).hexdigest() != hashes[name]:
        raise _damaged(folder / name, "has another SHA-256 than the manifest says")
    return _parsed(folder / name, parse, content)


def _parsed(path: Path, parse: Any, content: bytes) -> Any:
    try:
        return parse(content)
    except _DAMAGES as error:
        raise _damaged(path, " ".join(str(error).split())[:200]) from None


def _damaged(path: Path, how: str) -> ValueError:
    allowed = "allowed is what memoa wrote, or to run it again"
    return ValueError(f"{path} is damaged, or was changed ({how}): {allowed}")


def _npz(content: bytes) -> dict[str, NDArray[Any]]:
    with np.load(io.BytesIO(content), allow_pickle=False) as packed:
        return {name: packed[name] for name in packed.files}


def _csv(content: bytes) -> dict[str, NDArray[Any]]:
    """Return the columns of a table: whole numbers, numbers (empty cells are NaN) or words."""
    header, *rows = csv.reader(io.StringIO(content.decode(), newline=""), strict=True)
    columns = zip(*rows, strict=True) if rows else [() for _ in header]
    return {name: _column(cells) for name, cells in zip(header, columns, strict=True)}


def _column(cells: tuple[str, ...]) -> NDArray[Any]:
    for kind, empty in ((np.int64, ""), (np.float64, "nan")):
        try:
            return np.array([cell or empty for cell in cells], str).astype(kind)
        except (ValueError, OverflowError):
            continue
    return np.array(cells, str)
