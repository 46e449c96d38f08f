"""Checkpoints on disk: arrays and facts, the newest and the one before it.

    NNNNNN.npz    the arrays
    NNNNNN.json   the facts, and the SHA-256 of the arrays' file and of itself

A checkpoint is there when its second file is: that one is written last, and each is written whole
(`memoa_jax.files`). What fails its hash is no checkpoint; the one before it then stands in.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from memoa_jax.files import file_hash, remove, remove_temporaries, replace, replacing

Arrays = Mapping[str, NDArray[Any]]
FORMAT = 1
"""Of the files; another number is another program's."""


class Checkpoint(NamedTuple):
    """What was saved."""

    arrays: dict[str, NDArray[Any]]
    facts: dict[str, Any]


class DamagedError(Exception):
    """A file is not what was written; the message says which and how, in one line."""


@dataclass
class Store:
    """The checkpoints in a folder.

    Example:
      >>> import tempfile
      >>> store = Store(Path(tempfile.mkdtemp()))
      >>> store.save({"state": np.arange(3)}, {"step": 7})
      >>> store.load()[0].facts
      {'step': 7}
    """

    folder: Path
    _whole: int | None = field(default=None, init=False, repr=False, compare=False)
    """The checkpoint that this object wrote or read last: whole, as far as anybody knows."""

    def save(self, arrays: Arrays, facts: Mapping[str, Any]) -> None:
        """Write a checkpoint, and let go of all but the whole one before it.

        Raises:
          OSError: if it could not be written; those before it are as they were.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        numbers = self._numbers()
        number = numbers[-1] + 1 if numbers else 0
        packed = self._path(number, "npz")
        with replacing(packed) as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
            stream.seek(0)
            digest = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
        told = {"format": FORMAT, "arrays": digest, "facts": dict(facts)}
        try:
            replace(self._path(number, "json"), sealed(told))
        except OSError:
            remove(packed)
            raise
        before = numbers[-1:] if self._whole is None else [self._whole]
        self._forget([other for other in numbers if other not in before])
        self._whole = number

    def load(self) -> tuple[Checkpoint, list[str]] | None:
        """Return the newest checkpoint that is whole, and a line for each one that is not.

        None where there never was one.

        Raises:
          DamagedError: if there are some and none of them is whole.
        """
        lines: list[str] = []
        for number in reversed(self._numbers()):
            try:
                found = self._read(number)
            except DamagedError as error:
                lines.append(str(error))
            else:
                self._whole = number
                return found, lines
        if lines:
            raise DamagedError("; ".join(lines))
        return None

    def clear(self) -> None:
        """Remove all checkpoints, and the folder where nothing else is in it."""
        self._forget(self._numbers())
        self._whole = None
        for path in self.folder.glob("*.npz"):  # of a save that was cut off
            if path.stem.isdigit():
                remove(path)
        remove_temporaries(self.folder)
        try:
            self.folder.rmdir()
        except OSError:
            return

    def _read(self, number: int) -> Checkpoint:
        described, packed = self._path(number, "json"), self._path(number, "npz")
        try:
            told = read_sealed(described)
            if told["format"] != FORMAT:
                raise ValueError(f"format {told['format']}: allowed is {FORMAT}")
        except (OSError, ValueError) as error:
            raise DamagedError(f"{described} is damaged ({_reason(error)})") from None
        try:
            if file_hash(packed) != told["arrays"]:
                raise ValueError("its SHA-256 is another")
            with np.load(packed, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise DamagedError(f"{packed} is damaged ({_reason(error)})") from None
        return Checkpoint(arrays, told["facts"])

    def _path(self, number: int, kind: str) -> Path:
        return self.folder / f"{number:06d}.{kind}"

    def _numbers(self) -> list[int]:
        """Return the numbers of the checkpoints there, oldest first."""
        return sorted(int(path.stem) for path in self.folder.glob("*.json") if path.stem.isdigit())

    def _forget(self, numbers: list[int]) -> None:
        # Its description first: arrays alone are no checkpoint.
        for number in numbers:
            remove(self._path(number, "json"))
            remove(self._path(number, "npz"))


def sealed(told: Mapping[str, Any]) -> bytes:
    """Write plain data with its own hash in the last line; NaN and infinity are words of it."""
    text = json.dumps(told, indent=1, sort_keys=True).encode()
    return text + b"\n" + hashlib.sha256(text).hexdigest().encode() + b"\n"


def read_sealed(path: Path) -> dict[str, Any]:
    """Read a file of `sealed`.

    Raises:
      OSError: if it cannot be read.
      ValueError: if it is not as it was written.
    """
    content = path.read_bytes()
    text, _, last = content.removesuffix(b"\n").rpartition(b"\n")
    if not content.endswith(b"\n") or hashlib.sha256(text).hexdigest().encode() != last:
        raise ValueError("its SHA-256 is another")
    told: dict[str, Any] = json.loads(text)
    return told


def _reason(error: Exception) -> str:
    strerror = getattr(error, "strerror", None)
    return strerror or " ".join(str(error).split())[:200]


def to_arrays(tree: Any, under: str) -> dict[str, NDArray[Any]]:
    """Return the leaves of a pytree by name, on the host.

    Example:
      >>> sorted(to_arrays({"a": np.zeros(2), "b": (np.ones(1),)}, "x"))
      ["x['a']", "x['b'][0]"]
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {under + jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def from_arrays(arrays: Arrays, template: Any, under: str) -> Any:
    """Return a pytree like a template (of arrays, or of their shapes) from named arrays.

    Raises:
      DamagedError: if one is not there or has another shape or dtype.
    """

    def find(path: Any, leaf: Any) -> NDArray[Any]:
        name = under + jax.tree_util.keystr(path)
        found = arrays.get(name)
        wanted = f"{np.dtype(leaf.dtype).name} of shape {tuple(leaf.shape)}"
        if found is None:
            raise DamagedError(f"the checkpoint has no {name}: wanted is {wanted}")
        if found.shape != tuple(leaf.shape) or found.dtype != np.dtype(leaf.dtype):
            has = f"{found.dtype.name} of shape {found.shape}"
            raise DamagedError(f"the checkpoint's {name} is {has}: wanted is {wanted}")
        return found

    return jax.tree_util.tree_map_with_path(find, template)
