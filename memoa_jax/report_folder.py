"""What a folder of results holds: its kind, its files read and held against their hashes."""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

KINDS = {
    "run": ("policies", "baselines", "steps", "partial"),
    "study": ("series", "seeds", "not_run"),
    "sweep": ("method", "axes", "metric", "policies"),
    "tune": ("held_out", "origins", "measure"),
}
"""What tells one summary from another: keys that it holds."""
_ARRAYS = {"run": "trajectories.npz", "sweep": "table.npz"}
_TEXTS = {"tune": "history.csv"}
VERIFICATION, SCALING = "verification.json", "scaling.json"
ROBUSTNESS = "robustness.json"
PAGE = "report.html"
_WRONG = (KeyError, IndexError, TypeError, ValueError, AttributeError)
_DAMAGES = (*_WRONG, OSError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)
"""What JSON, NumPy and zipfile may raise of a file that is none, or no longer one."""


class ReportError(Exception):
    """Why there is no report, in one line."""


@dataclass(frozen=True)
class Folder:
    """A folder's results, as plain data.

    `kind` is one of `KINDS`, or "verify" for a folder that holds a verification alone, or
    "robustness"; `manifest` is then empty, and `summary` the study's report, if there is one.
    `arrays` are those of a run or the table of a sweep, `history` the descents of a tuning.
    `unfinished` says whether a run can be gone on with.
    """

    path: Path
    kind: str
    summary: Mapping[str, Any] = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)
    config: str = ""
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    history: str = ""
    verification: Mapping[str, Any] | None = None
    scaling: Mapping[str, Any] | None = None
    unfinished: bool = False


def read(path: Path, verification: Path | None = None, scaling: Path | None = None) -> Folder:
    """Read a folder of results.

    Args:
      path: written by `memoa run`, `sweep`, `tune`, `robustness` or `verify`.
      verification: a file of `memoa verify`, or its folder; None: what is in the folder.
      scaling: a file of `benchmarks/scaling.py`, likewise.

    Raises:
      ReportError: if it is none, or a file in it is not as it was written.
    """
    if not path.is_dir():
        found = "is no folder" if path.exists() else "no such folder"
        raise ReportError(f"{path}: {found}: allowed is a folder of results, such as runs/NAME")
    unfinished = (path / "checkpoint" / "identity.json").exists()
    verified = _beside(verification, path, VERIFICATION, "statements", "memoa verify")
    scaled = _beside(scaling, path, SCALING, "rows", "benchmarks/scaling.py")
    if not (path / "summary.json").exists():
        if (path / ROBUSTNESS).is_file():
            study = _object(path / ROBUSTNESS, "cells")
            return Folder(path, "robustness", study, verification=verified, scaling=scaled)
        if verified is not None and verification is None:
            return Folder(path, "verify", verification=verified, scaling=scaled)
        rest = f"; memoa run --resume {path} goes on with it" if unfinished else ""
        what = "an unfinished run without results yet" if unfinished else "not a folder of results"
        raise ReportError(f"{path}: {what}: no summary.json{rest}")
    manifest = _object(path / "manifest.json", "sha256")
    contents = _whole(path, manifest)
    summary = _plain(contents["summary.json"], path / "summary.json")
    kind = next((kind for kind, keys in KINDS.items() if set(keys) <= set(summary)), None)
    if kind is None:
        raise ReportError(f"{path / 'summary.json'}: not the summary of a run, sweep or tuning")
    named = _ARRAYS.get(kind)
    return Folder(
        path=path,
        kind=kind,
        summary=summary,
        manifest=manifest,
        config=_text(contents, path, "config.toml"),
        arrays={} if named is None else _arrays(contents, path, named),
        history=_text(contents, path, _TEXTS[kind]) if kind in _TEXTS else "",
        verification=verified,
        scaling=scaled,
        unfinished=unfinished,
    )


@contextmanager
def understood(path: Path, writer: str) -> Iterator[None]:
    """Turn what goes wrong with a file that was written otherwise into one line.

    Raises:
      ReportError: if something did.
    """
    try:
        yield
    except _WRONG as error:
        said = " ".join(str(error).split())[:200]
        raise ReportError(
            f"{path}: not as this version of {writer} writes it ({type(error).__name__}: {said})"
        ) from error


def _whole(path: Path, manifest: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the contents of the files that a manifest names."""
    contents = {}
    if not isinstance(manifest["sha256"], dict):
        raise ReportError(f"{path / 'manifest.json'}: damaged, sha256 names no files")
    for name, digest in manifest["sha256"].items():
        file = path / Path(name).name
        contents[name] = _bytes(file)
        if hashlib.sha256(contents[name]).hexdigest() != digest:
            raise ReportError(
                f"{file}: damaged or changed, not what manifest.json has the hash of: allowed is "
                "a folder as it was written; run again, or wait if a run writes here now"
            )
    for name in ("summary.json", "config.toml"):
        if name not in contents:
            raise ReportError(f"{path / 'manifest.json'}: names no {name}")
    return contents


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ReportError(f"{file}: cannot be read ({error.strerror})") from None


def _plain(content: bytes, file: Path) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{file}: damaged, not JSON ({error})") from None
    if not isinstance(found, dict):
        raise ReportError(f"{file}: damaged, not a JSON object")
    return found


def _object(file: Path, key: str) -> dict[str, Any]:
    found = _plain(_bytes(file), file)
    if not isinstance(found.get(key), dict | list):
        raise ReportError(f"{file}: damaged or of another kind, it holds no {key}")
    return found


def _beside(
    given: Path | None, folder: Path, name: str, key: str, writer: str
) -> dict[str, Any] | None:
    """Return what a file beside the results holds: the one that was named, or the folder's own."""
    if given is None:
        return _object(folder / name, key) if (folder / name).is_file() else None
    file = given / name if given.is_dir() else given
    if not file.is_file():
        raise ReportError(f"{file}: no such file: allowed is a {name} of {writer}")
    return _object(file, key)


def _text(contents: Mapping[str, bytes], path: Path, name: str) -> str:
    try:
        return contents[name].decode()
    except KeyError:
        raise ReportError(f"{path / 'manifest.json'}: names no {name}") from None
    except UnicodeDecodeError:
        raise ReportError(f"{path / name}: damaged, not UTF-8 text") from None


def _arrays(contents: Mapping[str, bytes], path: Path, name: str) -> dict[str, NDArray[Any]]:
    try:
        with np.load(BytesIO(contents[name]), allow_pickle=False) as packed:
            return {key: packed[key] for key in packed.files}
    except KeyError:
        raise ReportError(f"{path / 'manifest.json'}: names no {name}") from None
    except _DAMAGES as error:
        said = " ".join(str(error).split())[:200]
        raise ReportError(f"{path / name}: damaged, not arrays of NumPy ({said})") from None
